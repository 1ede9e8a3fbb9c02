package approval

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Standing is a decision that people take in advance: for some rules and agents, one reversible action, so many times an hour, to an
// end. One person proposes it, another signs it. It is how containment becomes fast and stays a human's decision.
type Standing struct {
	ID     string        `json:"id"`
	Rules  []string      `json:"rules"`  // patterns of the rules whose findings propose
	Agents []string      `json:"agents"` // patterns of the agents that it may be used on
	Action string        `json:"action"`
	Lease  time.Duration `json:"lease_ns"` // at most
	// PerHour bounds how often it may be used within any hour.
	PerHour  int       `json:"per_hour"`
	Until    time.Time `json:"until"`
	Reason   string    `json:"reason"`
	Proposer Principal `json:"proposer"`
	Proposed time.Time `json:"proposed"`
	// Signer took the decision; nil until somebody did. Signature is the control plane's over all above and the signer.
	Signer    *Principal `json:"signer,omitempty"`
	Signed    time.Time  `json:"signed,omitzero"`
	Signature []byte     `json:"signature,omitempty"`
	Revoked   time.Time  `json:"revoked,omitzero"`
	RevokedBy string     `json:"revoked_by,omitempty"`
	// Uses is how often it was used; it is not part of what is signed.
	Uses int `json:"uses,omitempty"`
}

// Limits of a standing decision.
const (
	maxStanding     = 90 * 24 * time.Hour
	maxStandingUses = 60
	maxPatterns     = 50
	minLiteral      = 3 // of a pattern, so that it names something
)

// Propose checks a standing decision and gives it its id. Its rules and agents must be named: what fits everything decides nothing.
func (s Standing) Propose(by Principal, now time.Time) (Standing, error) {
	s.Proposer, s.Proposed = by, now.UTC()
	s.ID, s.Signer, s.Signature, s.Uses, s.RevokedBy = "", nil, nil, 0, ""
	s.Signed, s.Revoked = time.Time{}, time.Time{}
	s.Until = s.Until.UTC().Truncate(time.Second)
	switch {
	case !by.Role.AtLeast(Responder):
		return s, Refuse(RefusedRole, "role %q may not propose a standing decision; responder or above may", by.Role)
	case s.Action == "":
		return s, Refuse(RefusedUnknown, "a standing decision names one action")
	case s.Lease < time.Minute || s.Lease > 24*time.Hour:
		return s, Refuse(RefusedUnknown, "its lease lasts between a minute and a day")
	case s.PerHour < 1 || s.PerHour > maxStandingUses:
		return s, Refuse(RefusedUnknown, "it may be used 1 to %d times an hour", maxStandingUses)
	case !s.Until.After(now) || s.Until.Sub(now) > maxStanding:
		return s, Refuse(RefusedUnknown, "it ends at most %d days from now", int(maxStanding.Hours()/24))
	case len([]rune(strings.TrimSpace(s.Reason))) < MinReason:
		return s, Refuse(RefusedReason, "a standing decision needs a reason")
	}
	if err := cmp.Or(named("rules", s.Rules), named("agents", s.Agents)); err != nil {
		return s, err
	}
	text, err := s.signed()
	if err != nil {
		return s, err
	}
	sum := sha256.Sum256(text)
	s.ID = "SD-" + hex.EncodeToString(sum[:6])
	return s, nil
}

// named refuses patterns that nobody can answer for, because they fit nearly everything.
func named(what string, patterns []string) error {
	if len(patterns) == 0 || len(patterns) > maxPatterns {
		return Refuse(RefusedUnknown, "name the %s, 1 to %d of them", what, maxPatterns)
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" || strings.ContainsAny(p, `*?[\`) && literal(p) < minLiteral {
			return Refuse(RefusedUnknown, "%s: %.80q fits too much or nothing: write a name, or a pattern with %d letters or digits in a row before any [, such as payment-*", what, p, minLiteral)
		}
	}
	return nil
}

// literal is how many letters and digits in a row a pattern asks for at the most. What a class such as [a-z] lists, and all behind it, doesn't count.
func literal(pattern string) (most int) {
	before, _, _ := strings.Cut(pattern, "[")
	for run := range strings.FieldsFuncSeq(before, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		most = max(most, utf8.RuneCountInString(run))
	}
	return most
}

// SignStanding takes a proposed decision in a person's name. Who proposed it can't sign it, and only a lead can.
func (s *Signer) SignStanding(d Standing, by Principal, now time.Time) (Standing, error) {
	switch {
	case d.Signer != nil:
		return d, Refuse(RefusedDecided, "%s signed it at %s", d.Signer.ID, d.Signed.Format(time.RFC3339))
	case !d.Revoked.IsZero():
		return d, Refuse(RefusedLate, "%s revoked it", d.RevokedBy)
	case !d.Until.After(now):
		return d, Refuse(RefusedLate, "it ended at %s", d.Until.Format(time.RFC3339))
	case !by.Role.AtLeast(Lead):
		return d, Refuse(RefusedRole, "role %q may not sign a standing decision; lead or above may", by.Role)
	case by.ID == d.Proposer.ID:
		return d, Refuse(RefusedRequester, "%s proposed it and may not sign it", by.ID)
	}
	d.Signer, d.Signed = &by, now.UTC()
	text, err := d.signed()
	if err != nil {
		return d, err
	}
	d.Signature = ed25519.Sign(s.key, text)
	return d, nil
}

// signed is the text under the signature: all that was decided and who did, without what happened to it since.
func (s Standing) signed() ([]byte, error) {
	s.Signature, s.Uses, s.Revoked, s.RevokedBy = nil, 0, time.Time{}, ""
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode standing decision: %w", err)
	}
	return append([]byte("tocsin standing decision v1\n"), text...), nil
}

// InForce reports whether a standing decision was signed by the control plane, has not ended, and was not revoked.
func (s *Standing) InForce(key ed25519.PublicKey, now time.Time) error {
	switch {
	case s.Signer == nil:
		return errors.New("nobody signed it")
	case !s.Revoked.IsZero():
		return fmt.Errorf("%s revoked it", s.RevokedBy)
	case !now.Before(s.Until):
		return fmt.Errorf("it ended at %s", s.Until.Format(time.RFC3339))
	}
	text, err := s.signed()
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, text, s.Signature) {
		return errors.New("the signature is not the control plane's")
	}
	return nil
}

// State is where a standing decision stands, in a word or two.
func (s *Standing) State(now time.Time) string {
	switch {
	case !s.Revoked.IsZero():
		return "revoked"
	case !s.Until.After(now):
		return "ended"
	case s.Signer == nil:
		return "proposed"
	}
	return "in force"
}

// Fits reports whether a standing decision is about a request that one of the rules led to. It is never about what can't be undone,
// what more than one person must approve, or what needs a second factor.
func (s *Standing) Fits(r *Request, rules []string) bool {
	p := r.Plan
	return p.Class == Contain && p.Action == s.Action && p.Lease > 0 && p.Lease <= s.Lease && r.Terms.needs() == 1 && !r.Terms.StepUp &&
		matchesAny(s.Agents, p.Target.Agent) && slices.ContainsFunc(rules, func(rule string) bool { return matchesAny(s.Rules, rule) })
}

// Decide is the decision that a standing decision is on a request: its signer's, with the grant. What Check refuses of the signer, it
// refuses here too.
func (s *Signer) Decide(d Standing, r Request, now time.Time) (*Decision, error) {
	r.Standing = d.ID
	by := *d.Signer
	by.Via = "standing"
	out := &Decision{Request: r.ID, Verb: Approve, Digest: r.Digest, By: by, Reason: fmt.Sprintf("standing decision %s: %s", d.ID, d.Reason), At: now.UTC()}
	if err := Check(&r, *out, now); err != nil {
		return nil, err
	}
	var err error
	out.Grant, err = s.Sign(r, *out)
	return out, err
}

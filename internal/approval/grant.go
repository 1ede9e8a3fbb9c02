package approval

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Grant is the signed permission that follows from an approval. The control plane signs it after it authenticated the human;
// the activity that contains verifies it against exactly the action and target it is about to touch.
type Grant struct {
	Request  string    `json:"request"`
	Incident string    `json:"incident"`
	Digest   string    `json:"digest"`
	Approver string    `json:"approver"`
	Via      string    `json:"via"`
	Issued   time.Time `json:"issued"`
	NotAfter time.Time `json:"not_after"` // the effect must begin before
	// Standing is the standing decision that the grant comes from. BreakGlass is a person who approved alone.
	Standing   string `json:"standing,omitempty"`
	BreakGlass bool   `json:"break_glass,omitempty"`
	Signature  []byte `json:"signature,omitempty"`
}

// grantLife is how long after the decision an effect may begin; after the deadline, where several must decide.
const grantLife = 15 * time.Minute

// Signer signs grants with the control plane's Ed25519 key (RFC 8032). Safe for concurrent use.
type Signer struct{ key ed25519.PrivateKey }

// NewSigner returns a Signer for a private key.
func NewSigner(key ed25519.PrivateKey) *Signer { return &Signer{key: key} }

// Public returns the key that verifies this signer's grants.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// Sign issues the grant for a decision that approves a request. It signs for the plan itself, and takes no record's word for what the
// plan's digest is.
func (s *Signer) Sign(r Request, d Decision) (*Grant, error) {
	if d.Verb != Approve {
		return nil, errors.New("sign grant: the decision does not approve")
	}
	digest, err := DigestOf(r.Plan)
	if err != nil {
		return nil, err
	}
	if digest != r.Digest || digest != d.Digest {
		return nil, errors.New("sign grant: the plan is not the one that the request and the decision name")
	}
	last := d.At // a grant of several waits for the others
	if r.Terms.needs() > 1 {
		last = r.Deadline
	}
	g := Grant{
		Request: r.ID, Incident: r.Incident, Digest: digest, Approver: d.By.ID, Via: d.By.Via,
		Issued: d.At.UTC(), NotAfter: last.UTC().Add(grantLife), Standing: r.Standing, BreakGlass: d.BreakGlass,
	}
	text, err := g.signed()
	if err != nil {
		return nil, err
	}
	g.Signature = ed25519.Sign(s.key, text)
	return &g, nil
}

// signed is the text under the signature: a context, so that no other signature of this key fits, and the grant without it.
func (g Grant) signed() ([]byte, error) {
	g.Signature = nil
	text, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode grant: %w", err)
	}
	return append([]byte("tocsin grant v1\n"), text...), nil
}

// Verify checks that the grant was signed by the control plane for this plan and has not run out.
func (g *Grant) Verify(key ed25519.PublicKey, p Plan, now time.Time) error {
	if g == nil {
		return errors.New("verify grant: there is none")
	}
	text, err := g.signed()
	if err != nil {
		return err
	}
	digest, err := DigestOf(p)
	if err != nil {
		return err
	}
	switch {
	case len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, text, g.Signature):
		return errors.New("verify grant: the signature is not the control plane's")
	case g.Digest != digest:
		return errors.New("verify grant: it is for another action, target or parameters")
	case now.After(g.NotAfter):
		return fmt.Errorf("verify grant: it ran out at %s", g.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Enough checks that the grants verify for a plan and come from as many different people as it needs.
func Enough(grants []Grant, key ed25519.PublicKey, request string, p Plan, now time.Time) error {
	people := make(map[string]bool)
	for i := range grants {
		g := &grants[i]
		if g.Request != request {
			return fmt.Errorf("verify grant: it is for request %q, not %q", g.Request, request)
		}
		if err := g.Verify(key, p, now); err != nil {
			return err
		}
		if people[g.Approver] = true; g.BreakGlass {
			return nil
		}
	}
	if need := max(1, p.Need); len(people) < need {
		return fmt.Errorf("verify grant: %d of %d different people granted request %q", len(people), need, request)
	}
	return nil
}

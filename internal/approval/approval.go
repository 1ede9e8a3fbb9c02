// Package approval holds the rules of asking and deciding: what a request is bound to, who may answer it, why an answer is
// refused, and the grant that follows from an approval. It is pure: it stores nothing, sends nothing and authenticates nobody.
package approval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Class is what an action does; it decides whether a human must be asked. It is a type and not a habit: a contain, destroy or
// speak step without a grant neither compiles in a playbook nor runs in a worker.
type Class string

// The classes of actions.
const (
	Observe Class = "observe" // reads
	Record  Class = "record"  // writes Tocsin's own records
	Contain Class = "contain" // limits an agent, reversibly
	Destroy Class = "destroy" // can't be undone
	Speak   Class = "speak"   // tells somebody outside
)

// Gated reports whether a class needs a human's grant.
func (c Class) Gated() bool { return c != Observe && c != Record }

// Least is the least number of people who must approve an action of the class, whatever a policy says.
func (c Class) Least() int {
	switch c {
	case Observe, Record:
		return 0
	case Contain:
		return 1
	}
	return 2
}

// Plan is exactly what is asked for. Its digest is what a decision is bound to.
type Plan struct {
	Action   string            `json:"action"` // quarantine
	Class    Class             `json:"class"`
	Target   Target            `json:"target"`
	Params   map[string]string `json:"params,omitempty"`
	Lease    time.Duration     `json:"lease_ns"`
	Playbook string            `json:"playbook"` // name@digest
	Evidence []string          `json:"evidence"` // SHA-256 of what was sealed before asking
	// Need is how many different people must approve; an action refuses to act on the grants of fewer. 0 means 1.
	Need int `json:"need,omitempty"`
	// Change is what the action would do, line by line, computed without doing it, and Blast is how many things it touches. An action
	// refuses to act when it would now do something else.
	Change []string `json:"change,omitempty"`
	Blast  int      `json:"blast,omitempty"`
}

// Question is what people are asked, made of nothing but the plan itself.
func (p Plan) Question() string {
	action := incident.Visible(p.Action, 40)
	if action != "" {
		action = strings.ToUpper(action[:1]) + action[1:]
	}
	target := incident.Visible(p.Target.String(), 160)
	switch {
	case p.Class == Record:
		return fmt.Sprintf("%s the baseline of %s?", action, target)
	case p.Lease == 0:
		return fmt.Sprintf("%s %s, for good?", action, target)
	case p.Lease < time.Minute:
		return fmt.Sprintf("%s %s for %d seconds?", action, target, int(p.Lease.Seconds()))
	}
	return fmt.Sprintf("%s %s for %d minutes?", action, target, int(p.Lease.Minutes()))
}

// Target is what an action works on: an agent, and optionally one of its sessions or tools.
type Target struct {
	Agent   string `json:"agent"`
	Session string `json:"session,omitempty"`
	Tool    string `json:"tool,omitempty"`
}

// String names a target for people and logs.
func (t Target) String() string {
	s := "agent " + t.Agent
	if t.Session != "" {
		s += ", session " + t.Session
	}
	if t.Tool != "" {
		s += ", tool " + t.Tool
	}
	return s
}

// Request is the question put to humans.
type Request struct {
	ID       string `json:"id"`
	Incident string `json:"incident"`
	Revision int    `json:"revision"`
	Plan     Plan   `json:"plan"`
	Digest   string `json:"digest"`
	// Requester asked: "playbook:<name>" or a person. Nobody approves what they asked for.
	Requester string `json:"requester"`
	// Agents are the identities of the agent concerned, none of which may decide: its id, name and service.
	Agents   []string  `json:"agents"`
	Asked    time.Time `json:"asked"`
	Deadline time.Time `json:"deadline"`
	// OnExpiry is what silence means: "deny" or "escalate". Silence never approves.
	OnExpiry string `json:"on_expiry"`
	// Question, Effect, Undo and DoesNotStop are what the human reads, all of our own making.
	Question    string `json:"question"`
	Effect      string `json:"effect"`
	Undo        string `json:"undo"`
	DoesNotStop string `json:"does_not_stop"`
	Terms       Terms  `json:"terms,omitzero"`
	Rung        int    `json:"rung,omitempty"` // rungs of the ladder on which people were told
	State       State  `json:"state"`
	// Votes are the approvals so far. Decision is the answer that settled the request.
	Votes    []Decision `json:"votes,omitempty"`
	Decision *Decision  `json:"decision,omitempty"`
	// Due: it is approved, and what was approved is still to be made. Only requests that no workflow asks have it.
	Due bool `json:"due,omitempty"`
	// Standing is the id of the standing decision by which it was approved, if it was.
	Standing string `json:"standing,omitempty"`
}

// State is where a request stands.
type State string

// The states of a request. All but pending are final.
const (
	Pending    State = "pending"
	Approved   State = "approved"
	Denied     State = "denied"
	Expired    State = "expired"
	Superseded State = "superseded"
)

// Verb is a human's answer.
type Verb string

// The answers.
const (
	Approve Verb = "approve"
	Deny    Verb = "deny"
)

// Principal is a person who was authenticated, or the automation itself.
type Principal struct {
	ID   string `json:"id"`
	Role Role   `json:"role"`
	Via  string `json:"via"` // console, cli, slack
	// Groups are those that the person belonged to when they answered: oidc:<group>, slack:<user group>, file:<group>, schedule:<name>.
	Groups []string `json:"groups,omitempty"`
	// Shifts are what put the person into those of the groups that are schedules.
	Shifts []Shift `json:"shifts,omitempty"`
	// Keyed: the person has a security key. It is looked up for breaking the glass alone.
	Keyed bool `json:"keyed,omitempty"`
	// Proved is when the person last gave a second factor; zero if they did not.
	Proved time.Time `json:"proved,omitzero"`
	// ProvedFor is what it was given for: the digest of a request's plan. It stands for nothing else.
	ProvedFor string `json:"proved_for,omitempty"`
}

// Shift is what the feed of a schedule said when a person was found to be on call.
type Shift struct {
	Group string    `json:"group"` // schedule:<name>
	Feed  string    `json:"feed"`  // the SHA-256 of the feed
	Read  time.Time `json:"read"`  // when it was read
	Event string    `json:"event"` // the event's UID in the feed
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Role is what a principal may do; each role may do all that the roles before it may.
type Role string

// Roles in ascending order.
const (
	Viewer    Role = "viewer"    // sees
	Responder Role = "responder" // notices, notes, decides contain
	Lead      Role = "lead"      // closes incidents, lifts leases early
	Admin     Role = "admin"     // changes configuration
)

// AtLeast reports whether r includes the rights of other. An unknown role has none.
func (r Role) AtLeast(other Role) bool {
	order := []Role{Viewer, Responder, Lead, Admin}
	mine, needed := slices.Index(order, r), slices.Index(order, other)
	return mine >= 0 && needed >= 0 && mine >= needed
}

// Decision is a human's recorded answer.
type Decision struct {
	Request string    `json:"request"`
	Verb    Verb      `json:"verb"`
	Digest  string    `json:"digest"` // of the plan that the human saw
	By      Principal `json:"by"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	// BreakGlass approves alone what needs more people, to a review afterwards.
	BreakGlass bool `json:"break_glass,omitempty"`
	// Looked is how long the person had the request open before they answered; zero if it is not known.
	Looked time.Duration `json:"looked_ns,omitempty"`
	// Grant is present on an approval: what the containing activity demands.
	Grant *Grant `json:"grant,omitempty"`
}

// DigestOf returns the SHA-256 of a plan's canonical JSON (object keys in the order of the struct, map keys sorted). Text that is
// not UTF-8 has no digest, because JSON would make two different names equal.
func DigestOf(p Plan) (string, error) {
	words := slices.Concat([]string{p.Action, string(p.Class), p.Target.Agent, p.Target.Session, p.Target.Tool, p.Playbook}, p.Evidence, p.Change)
	// Sorted, so that a workflow that is replayed sees the same error.
	//workflowcheck:ignore
	for _, k := range slices.Sorted(maps.Keys(p.Params)) {
		words = append(words, k, p.Params[k])
	}
	if i := slices.IndexFunc(words, func(w string) bool { return !utf8.ValidString(w) }); i >= 0 {
		return "", fmt.Errorf("digest plan: %q is not UTF-8", words[i])
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("digest plan: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Refusal is why a decision does not count. It is an error whose Kind is stable.
type Refusal struct {
	Kind string
	Text string
}

func (r *Refusal) Error() string { return r.Text }

// Refuse returns a refusal of a kind.
func Refuse(kind, format string, args ...any) error {
	return &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// The kinds of refusals.
const (
	RefusedRequester = "requester" // who asked may not answer
	RefusedAgent     = "agent"     // the agent may not answer for itself
	RefusedDigest    = "digest"    // the plan is not the one that was shown
	RefusedLate      = "late"      // the deadline has passed
	RefusedDecided   = "decided"   // somebody answered before
	RefusedRole      = "role"      // the principal's role may not decide this
	RefusedReason    = "reason"    // an answer needs a reason
	RefusedGrant     = "grant"     // the approval carries no valid grant
	RefusedWaiting   = "waiting"   // a request must be decided first
	RefusedUnknown   = "unknown"   // there is no such request
	RefusedBusy      = "busy"      // somebody else is doing it
	RefusedRules     = "rules"     // the rules can't be read, and those in force stay
	RefusedExcluded  = "excluded"  // the policy names the person as one who may not answer
	RefusedStepUp    = "step_up"   // a second factor is missing
	RefusedIdentity  = "identity"  // nobody knows the sender as one who may answer
	RefusedForged    = "forged"    // Tocsin did not make what was answered
)

// Kind returns the refusal's kind, or "" for another error.
func Kind(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Kind
	}
	return ""
}

// MinReason is the least number of characters of a reason.
const MinReason = 3

// Check returns the Refusal of a decision on a request at a time, or nil if it counts. It is deterministic: the workflow's
// validator and every other place that must agree with it call it.
func Check(r *Request, d Decision, now time.Time) error {
	switch {
	case r == nil || r.ID != d.Request:
		return Refuse(RefusedUnknown, "there is no open request %q", d.Request)
	case r.State == Expired || r.State == Pending && now.After(r.Deadline):
		return Refuse(RefusedLate, "the request expired at %s", r.Deadline.UTC().Format(time.RFC3339))
	case r.State == Superseded:
		return Refuse(RefusedDigest, "the request was replaced by a newer one: the facts changed")
	case r.State != Pending && r.Decision != nil:
		return Refuse(RefusedDecided, "%s already decided: %s, at %s", r.Decision.By.ID, r.State, r.Decision.At.UTC().Format(time.RFC3339))
	case r.State != Pending:
		return Refuse(RefusedDecided, "the request is %s", r.State)
	case d.By.ID == "" || !d.By.Role.AtLeast(Responder):
		return Refuse(RefusedRole, "role %q may not decide; responder or above may", d.By.Role)
	case d.By.ID == r.Requester:
		return Refuse(RefusedRequester, "%s asked for this action and may not approve it", d.By.ID)
	case slices.Contains(r.Agents, d.By.ID):
		return Refuse(RefusedAgent, "%s is the agent's own identity and may not decide about it", d.By.ID)
	case !r.Sound():
		return Refuse(RefusedDigest, "the question and the digest of the request are not its plan's: somebody changed the record")
	case d.Digest != r.Digest:
		return Refuse(RefusedDigest, "the decision is about plan %s, the request is about plan %s", short(d.Digest), short(r.Digest))
	case len([]rune(strings.TrimSpace(d.Reason))) < MinReason:
		return Refuse(RefusedReason, "a decision needs a reason of at least %d characters", MinReason)
	case d.Verb != Approve && d.Verb != Deny:
		return Refuse(RefusedUnknown, "%q is no decision, want approve or deny", d.Verb)
	}
	return r.admits(d, now)
}

// Sound reports whether people are shown the plan that their answer is bound to.
func (r *Request) Sound() bool {
	digest, err := DigestOf(r.Plan)
	return err == nil && digest == r.Digest && r.Question == r.Plan.Question()
}

func short(digest string) string { return digest[:min(8, len(digest))] }

// Package action is the catalogue of response actions: what each does, what it needs, and how its effect is proved and undone.
// One file and one test hold one action. An action refuses to act without grants that verify for exactly its plan, and when it would
// by now do something else than was approved. It decides nothing and retries nothing.
package action

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Lease is a containment in force, with its end. It reverts by itself when it ends. An effect that can't be undone has no end: it is
// recorded as lifted at once.
type Lease struct {
	ID       string        `json:"id"` // the request that led to it
	Incident string        `json:"incident"`
	Plan     approval.Plan `json:"plan"`
	Approver string        `json:"approver"`
	// Applied is when the action said that it acted; zero while that is unknown.
	Applied  time.Time `json:"applied"`
	Ends     time.Time `json:"ends"`
	Verified time.Time `json:"verified,omitzero"` // when the probe first saw the effect
	Lifted   time.Time `json:"lifted,omitzero"`   // when it was undone; zero while it is in force
	LiftedBy string    `json:"lifted_by,omitempty"`
	// Effective is when what was contained can no longer act at all, and Lag why that is later than the proof; zero if it is not.
	Effective time.Time `json:"effective,omitzero"`
	Lag       string    `json:"lag,omitempty"`
	// Snapshot is what Undo needs of how things were before; it holds no secret.
	Snapshot json.RawMessage  `json:"snapshot,omitempty"`
	Grants   []approval.Grant `json:"grants,omitempty"`
}

// InForce reports whether the lease holds at a time.
func (l *Lease) InForce(now time.Time) bool { return l.Lifted.IsZero() && now.Before(l.Ends) }

// Contains reports whether the lease holds at a time and its effect was proved: only then is its target contained.
func (l *Lease) Contains(now time.Time) bool { return l.InForce(now) && !l.Verified.IsZero() }

// Decided is when the last of the people who approved did so; zero without any.
func (l *Lease) Decided() (at time.Time) {
	for _, g := range l.Grants {
		if g.Issued.After(at) {
			at = g.Issued
		}
	}
	return at
}

// Errors that no retry mends.
var (
	ErrLifted  = errors.New("the lease was lifted")
	ErrChanged = errors.New("the action would now do something else than was approved")
	ErrUnknown = errors.New("an earlier try may have acted, the probe does not see its effect, and the action can't be repeated")
	ErrGrants  = errors.New("the grants do not allow it")
	ErrHalted  = errors.New("responses are halted")
	ErrLimit   = errors.New("a limit over all incidents is reached")
	// ErrKept ends a lease without putting everything back: somebody changed it since, and what they made of it stands.
	ErrKept = errors.New("it was changed since and is left as it is")
)

// Action is one kind of effect. An error from Apply or Undo means that the effect is unknown: verify, or ask. All methods are safe for
// concurrent use and bound their own time by the context.
type Action interface {
	// Describe says what the action does, for the catalogue, the compiler of playbooks and the human who is asked.
	Describe() Description
	// Plan resolves the target and computes what the action would do, without doing it. The same state of the world gives the same
	// change.
	Plan(ctx context.Context, in Input) (Change, error)
	// Snapshot captures what Undo needs of how things are now. It is stored before Apply and holds no secret. nil where nothing is needed.
	Snapshot(ctx context.Context, in Input) (json.RawMessage, error)
	// Apply makes the effect of a lease that is stored. An idempotent action applied twice does nothing more.
	Apply(ctx context.Context, l Lease) error
	// Verify probes, as the target would act, whether the effect holds.
	Verify(ctx context.Context, l Lease) (holds bool, err error)
	// Undo puts things back as the snapshot has them, but for what somebody changed since: that is ErrKept. Undoing twice is no error.
	Undo(ctx context.Context, l Lease) error
	// Lag says until when, and why, what was contained can act in spite of the effect; a zero time where the effect is instant.
	Lag(l Lease) (until time.Time, why string)
}

// Description is what people read about an action, and what the compiler checks playbooks against.
type Description struct {
	Name        string
	Class       approval.Class
	Effect      string            // what happens to the target
	Undo        string            // how it ends
	DoesNotStop string            // what it can't do
	Targets     []string          // what it can work on: agent, session, tool
	Params      map[string]string // the parameters that it takes, each with what it means
	Required    []string          // those of them that must be given
	// Additive leases hold beside each other on one target, and their effect ends with the last. Of any other action a target has one.
	Additive bool
	// Idempotent actions may be tried again when an earlier try's outcome is unknown.
	Idempotent bool
	// Irreversible effects can't be undone, and Unverified ones can't be probed; people are told so before they approve.
	Irreversible bool
	Unverified   bool
}

// Descriptions are of all actions that ship, by name, whether or not this deployment has what they need.
func Descriptions() map[string]Description {
	out := make(map[string]Description)
	for _, a := range []Action{&Quarantine{}, &ReadOnly{}, &AskHuman{}, &Throttle{}, &RevokeToken{}, &NotifyWebhook{}, &SendDraft{}, &SessionRevoked{}, &RiskChange{}, &FreezeMemory{}, &StopProcess{}, &RevokeLeases{}, &QuarantineWorkload{}, &ScaleToZero{}, &EndMCPSession{}} {
		out[a.Describe().Name] = a.Describe()
	}
	return out
}

// Change is what an action would do.
type Change struct {
	Lines []string // one for each difference, in the words of people
	Blast int      // how many things it touches
}

// Input is what an action is called with.
type Input struct {
	Request  string
	Incident string
	Plan     approval.Plan
	Grants   []approval.Grant
}

// lease is the lease that an input asks for.
func (in Input) lease(now time.Time) Lease {
	l := Lease{ID: in.Request, Incident: in.Incident, Plan: in.Plan, Grants: in.Grants}
	if in.Plan.Lease > 0 {
		l.Ends = now.Add(in.Plan.Lease)
	}
	for i, g := range in.Grants {
		if i > 0 {
			l.Approver += ", "
		}
		l.Approver += g.Approver
	}
	return l
}

// Book keeps leases over restarts: the gate, which also enforces those of its own actions.
type Book interface {
	// Find returns a lease, lifted or not, if there is one.
	Find(ctx context.Context, id string) (l Lease, found bool, err error)
	// Apply stores a lease unless admit refuses it beside those that began within LimitWindow, or returns the one of that id that is
	// stored already. Leases are admitted and stored one at a time, over all processes. ErrLifted says that it was undone.
	Apply(ctx context.Context, l Lease, admit func(begun []Lease) error) (Lease, error)
	// Update writes a changed lease. A lease that was lifted stays so.
	Update(ctx context.Context, l Lease) error
}

// LimitWindow is how far back a governor sees the leases that began.
const LimitWindow = time.Hour

// Governor bounds what all incidents together may do.
type Governor interface {
	// Halted returns ErrHalted, with why, while no effect may begin.
	Halted(ctx context.Context) error
	// Admit returns ErrLimit, with why, for a lease that must not begin beside those that began before.
	Admit(l Lease, d Description, begun []Lease) error
}

// Catalogue holds the actions and the key by which their grants verify. Safe for concurrent use.
type Catalogue struct {
	actions map[string]Action
	book    Book
	limits  Governor
	key     ed25519.PublicKey
	now     func() time.Time
}

// NewCatalogue returns the catalogue of the given actions.
func NewCatalogue(key ed25519.PublicKey, book Book, limits Governor, now func() time.Time, actions ...Action) *Catalogue {
	c := &Catalogue{actions: make(map[string]Action), book: book, limits: limits, key: key, now: now}
	for _, a := range actions {
		c.actions[a.Describe().Name] = a
	}
	return c
}

// Find returns the action of a name.
func (c *Catalogue) Find(name string) (Action, error) {
	a, ok := c.actions[name]
	if !ok {
		return nil, fmt.Errorf("find action: there is no action %q", name)
	}
	return a, nil
}

// Plan completes a plan with what its action would do now.
func (c *Catalogue) Plan(ctx context.Context, in Input) (approval.Plan, error) {
	a, err := c.Find(in.Plan.Action)
	if err != nil {
		return in.Plan, err
	}
	for _, name := range slices.Sorted(maps.Keys(in.Plan.Params)) {
		if _, ok := a.Describe().Params[name]; !ok {
			return in.Plan, fmt.Errorf("plan %s: it takes no parameter %q", in.Plan.Action, name)
		}
	}
	change, err := a.Plan(ctx, in)
	if err != nil {
		return in.Plan, fmt.Errorf("plan %s: %w", in.Plan.Action, err)
	}
	in.Plan.Change, in.Plan.Blast = change.Lines, change.Blast
	return in.Plan, nil
}

// Apply runs an action that was approved and returns its lease. The class is the action's own, whatever the plan says. Applying twice
// gives the same lease.
func (c *Catalogue) Apply(ctx context.Context, in Input) (l Lease, err error) {
	defer func() {
		if err != nil {
			l, err = Lease{}, fmt.Errorf("apply %s: %w", in.Plan.Action, err)
		}
	}()
	a, err := c.Find(in.Plan.Action)
	if err != nil {
		return l, err
	}
	d := a.Describe()
	if d.Class.Gated() {
		if err := approval.Enough(in.Grants, c.key, in.Request, in.Plan, c.now()); err != nil {
			return l, fmt.Errorf("%w: %w", ErrGrants, err)
		}
		if need := d.Class.Least(); need > max(1, in.Plan.Need) {
			return l, fmt.Errorf("%w: an action of class %s needs %d people", ErrGrants, d.Class, need)
		}
	}
	l, found, err := c.book.Find(ctx, in.Request)
	switch {
	case err != nil:
		return l, err
	case !found:
		if l, err = c.begin(ctx, a, in); err != nil {
			return l, err
		}
	case !l.Lifted.IsZero() && l.Plan.Lease > 0:
		return l, ErrLifted
	case !l.Applied.IsZero():
		return l, nil
	case !d.Idempotent: // an earlier try left its outcome unknown
		if holds, err := a.Verify(ctx, l); err != nil || !holds {
			return l, errors.Join(ErrUnknown, err)
		}
		return l, c.applied(ctx, a, &l)
	}
	if err := a.Apply(ctx, l); err != nil {
		return l, err
	}
	return l, c.applied(ctx, a, &l)
}

// begin stores the lease before anything happens, with what its undo needs, unless the action would now do something else.
func (c *Catalogue) begin(ctx context.Context, a Action, in Input) (Lease, error) {
	now, err := a.Plan(ctx, in)
	if err != nil {
		return Lease{}, err
	}
	if !slices.Equal(now.Lines, in.Plan.Change) || now.Blast != in.Plan.Blast {
		return Lease{}, fmt.Errorf("%w: %q, approved was %q", ErrChanged, now.Lines, in.Plan.Change)
	}
	l := in.lease(c.now().UTC())
	if l.Snapshot, err = a.Snapshot(ctx, in); err != nil {
		return Lease{}, fmt.Errorf("take snapshot: %w", err)
	}
	if err := c.limits.Halted(ctx); err != nil {
		return Lease{}, err
	}
	return c.book.Apply(ctx, l, func(begun []Lease) error { return c.limits.Admit(l, a.Describe(), begun) })
}

// applied writes that the action acted. What can't be undone is no lease any more.
func (c *Catalogue) applied(ctx context.Context, a Action, l *Lease) error {
	l.Applied = c.now().UTC()
	l.Effective, l.Lag = a.Lag(*l)
	if l.Plan.Lease == 0 {
		l.Lifted, l.LiftedBy = l.Applied, "nobody: it can't be undone"
	}
	return c.book.Update(ctx, *l)
}

// Verify probes whether the effect of a lease holds and returns it with the time at which that was first seen; a zero Verified means
// that it does not hold.
func (c *Catalogue) Verify(ctx context.Context, l Lease) (Lease, error) {
	a, err := c.Find(l.Plan.Action)
	if err != nil {
		return l, err
	}
	holds, err := a.Verify(ctx, l)
	switch {
	case err != nil:
		return l, fmt.Errorf("verify %s: %w", l.Plan.Action, err)
	case !holds:
		l.Verified = time.Time{}
		return l, nil
	case !l.Verified.IsZero():
		return l, nil
	}
	l.Verified = c.now().UTC()
	return l, c.book.Update(ctx, l)
}

// Undo removes the effect of a lease and writes who did it. Undoing twice is no error. After ErrKept the lease is over, too.
func (c *Catalogue) Undo(ctx context.Context, l Lease, by string) error {
	a, err := c.Find(l.Plan.Action)
	if err != nil {
		return err
	}
	kept := a.Undo(ctx, l)
	if kept != nil {
		kept = fmt.Errorf("undo %s: %w", l.Plan.Action, kept)
	}
	if kept != nil && !errors.Is(kept, ErrKept) {
		return kept
	}
	l.Lifted, l.LiftedBy = c.now().UTC(), by
	if err := c.book.Update(ctx, l); err != nil {
		return err
	}
	return kept
}

// Package action is the catalogue of response actions: what each does, what it needs, and how its effect is proved and undone.
// One file and one test hold one action. An action refuses to act without a grant that verifies for exactly its plan.
package action

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Lease is a containment in force, with its end. It reverts by itself when it ends.
type Lease struct {
	ID       string          `json:"id"` // the request that led to it
	Incident string          `json:"incident"`
	Plan     approval.Plan   `json:"plan"`
	Approver string          `json:"approver"`
	Applied  time.Time       `json:"applied"`
	Ends     time.Time       `json:"ends"`
	Verified time.Time       `json:"verified,omitzero"` // when the probe first saw the effect
	Lifted   time.Time       `json:"lifted,omitzero"`   // when it was undone; zero while it is in force
	LiftedBy string          `json:"lifted_by,omitempty"`
	Grant    *approval.Grant `json:"grant,omitempty"`
}

// InForce reports whether the lease holds at a time.
func (l *Lease) InForce(now time.Time) bool { return l.Lifted.IsZero() && now.Before(l.Ends) }

// Contains reports whether the lease holds at a time and its effect was proved: only then is its target contained.
func (l *Lease) Contains(now time.Time) bool { return l.InForce(now) && !l.Verified.IsZero() }

// ErrLifted says that a lease was undone, which is final.
var ErrLifted = errors.New("the lease was lifted")

// Action is one kind of effect. An error from Apply or Undo means that the effect is unknown: verify, or ask.
type Action interface {
	// Describe says what the action does, for the catalogue and for the human who is asked.
	Describe() Description
	// Apply makes the effect. It is idempotent by the request's id: applying twice gives the same lease.
	Apply(ctx context.Context, in Input) (Lease, error)
	// Verify probes whether the effect holds and returns the lease with the time at which that was first seen; a zero Verified
	// means that it does not hold.
	Verify(ctx context.Context, l Lease) (Lease, error)
	// Undo removes the effect. Undoing twice is no error.
	Undo(ctx context.Context, l Lease, by string) error
}

// Description is what people read about an action.
type Description struct {
	Name        string
	Class       approval.Class
	Effect      string // what happens to the target
	Undo        string // how it ends
	DoesNotStop string // what it can't do
}

// Input is what an action is called with.
type Input struct {
	Request  string
	Incident string
	Plan     approval.Plan
	Grant    *approval.Grant
}

// Catalogue holds the actions and the key by which their grants verify. It is immutable and safe for concurrent use.
type Catalogue struct {
	actions map[string]Action
	key     ed25519.PublicKey
	now     func() time.Time
}

// NewCatalogue returns the catalogue of the given actions.
func NewCatalogue(key ed25519.PublicKey, now func() time.Time, actions ...Action) *Catalogue {
	c := &Catalogue{actions: make(map[string]Action), key: key, now: now}
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

// Apply runs a gated action, after it checked the grant against the plan. The class is the action's own, whatever the plan says.
func (c *Catalogue) Apply(ctx context.Context, in Input) (Lease, error) {
	a, err := c.Find(in.Plan.Action)
	if err != nil {
		return Lease{}, err
	}
	if a.Describe().Class.Gated() {
		if in.Grant == nil || in.Grant.Request != in.Request {
			return Lease{}, fmt.Errorf("apply %s: there is no grant for request %q", in.Plan.Action, in.Request)
		}
		if err := in.Grant.Verify(c.key, in.Plan, c.now()); err != nil {
			return Lease{}, fmt.Errorf("apply %s: %w", in.Plan.Action, err)
		}
	}
	return a.Apply(ctx, in)
}

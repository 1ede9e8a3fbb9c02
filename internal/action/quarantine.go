package action

import (
	"context"
	"fmt"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Enforcer is what a quarantine is enforced by: the gate.
type Enforcer interface {
	Apply(ctx context.Context, l Lease) (Lease, error)
	Update(ctx context.Context, l Lease) error
	// Denies probes the enforcement point as the target would and reports whether it is denied by this lease.
	Denies(t approval.Target, lease string) bool
}

// Quarantine denies every tool call of an agent, one of its sessions, or one of its tools, until its lease ends.
type Quarantine struct {
	gate Enforcer
	now  func() time.Time
}

// NewQuarantine returns the action.
func NewQuarantine(gate Enforcer, now func() time.Time) *Quarantine {
	return &Quarantine{gate: gate, now: now}
}

// Describe implements Action.
func (q *Quarantine) Describe() Description {
	return Description{
		Name: "quarantine", Class: approval.Contain,
		Effect:      "Every tool call of the target is denied at the gate.",
		Undo:        "By itself when the lease ends, or earlier by a lead.",
		DoesNotStop: "What the agent did before, and calls that never ask the gate.",
	}
}

// Apply implements Action.
func (q *Quarantine) Apply(ctx context.Context, in Input) (Lease, error) {
	if in.Plan.Target.Agent == "" {
		return Lease{}, fmt.Errorf("apply quarantine: the plan names no agent")
	}
	now := q.now().UTC()
	l := Lease{ID: in.Request, Incident: in.Incident, Plan: in.Plan, Grant: in.Grant, Applied: now, Ends: now.Add(in.Plan.Lease)}
	if in.Grant != nil {
		l.Approver = in.Grant.Approver
	}
	return q.gate.Apply(ctx, l)
}

// Verify implements Action: it asks the gate as the agent would.
func (q *Quarantine) Verify(ctx context.Context, l Lease) (Lease, error) {
	switch denied := q.gate.Denies(l.Plan.Target, l.ID); {
	case !denied:
		l.Verified = time.Time{}
		return l, nil
	case !l.Verified.IsZero():
		return l, nil
	}
	l.Verified = q.now().UTC()
	return l, q.gate.Update(ctx, l)
}

// Undo implements Action.
func (q *Quarantine) Undo(ctx context.Context, l Lease, by string) error {
	l.Lifted, l.LiftedBy = q.now().UTC(), by
	return q.gate.Update(ctx, l)
}

package action

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Enforcer is what the gate's own actions are enforced by. To store their lease is to make their effect.
type Enforcer interface {
	// Denies probes the enforcement point as the target would and reports whether it is denied by this lease.
	Denies(t approval.Target, lease string) bool
}

// NameQuarantine is the quarantine's name in playbooks and plans.
const NameQuarantine = "quarantine"

// Quarantine denies every tool call of an agent, one of its sessions, or one of its tools, until its lease ends.
type Quarantine struct{ gate Enforcer }

// NewQuarantine returns the action.
func NewQuarantine(gate Enforcer) *Quarantine { return &Quarantine{gate: gate} }

// Describe implements Action.
func (q *Quarantine) Describe() Description {
	return Description{
		Name: NameQuarantine, Class: approval.Contain, Targets: []string{"agent", "session", "tool"}, Idempotent: true, Additive: true,
		Effect:      "Every tool call of the target is denied at the gate.",
		Undo:        "By itself when the lease ends, or earlier by a lead.",
		DoesNotStop: "What the agent did before, and calls that never ask the gate.",
	}
}

// Plan implements Action.
func (q *Quarantine) Plan(_ context.Context, in Input) (Change, error) {
	if in.Plan.Target.Agent == "" {
		return Change{}, errors.New("the plan names no agent")
	}
	return Change{Lines: []string{"the gate denies every tool call of " + in.Plan.Target.String()}, Blast: 1}, nil
}

// Snapshot implements Action: lifting the lease is all that its undo needs.
func (q *Quarantine) Snapshot(context.Context, Input) (json.RawMessage, error) { return nil, nil }

// Apply implements Action: the stored lease is the effect.
func (q *Quarantine) Apply(context.Context, Lease) error { return nil }

// Verify implements Action: it asks the gate as the agent would.
func (q *Quarantine) Verify(_ context.Context, l Lease) (bool, error) {
	return q.gate.Denies(l.Plan.Target, l.ID), nil
}

// Undo implements Action: a lifted lease denies nothing.
func (q *Quarantine) Undo(context.Context, Lease) error { return nil }

// Lag implements Action: the next call asks the gate.
func (q *Quarantine) Lag(Lease) (time.Time, string) { return time.Time{}, "" }

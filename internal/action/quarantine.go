package action

import "context"

// Quarantine denies every tool call of an agent, one of its sessions, or one of its tools, until its lease ends.
type Quarantine struct{ gated }

// NewQuarantine returns the action.
func NewQuarantine(gate Enforcer) *Quarantine { return &Quarantine{gated{gate}} }

// Describe implements Action.
func (q *Quarantine) Describe() Description {
	return q.describe(Description{Name: NameQuarantine, Effect: "Every tool call of the target is denied at the gate."})
}

// Plan implements Action.
func (q *Quarantine) Plan(_ context.Context, in Input) (Change, error) {
	return change(in, "the gate denies every tool call of %s")
}

// Verify implements Action: it asks the gate as the agent would.
func (q *Quarantine) Verify(_ context.Context, l Lease) (bool, error) {
	return q.gate.Probe(l.ID, "", 1) == Deny, nil
}

package action

import "context"

// ReadOnly denies every tool call of its target that does not surely only read, until its lease ends.
type ReadOnly struct{ gated }

// NewReadOnly returns the action.
func NewReadOnly(gate Enforcer) *ReadOnly { return &ReadOnly{gated{gate}} }

// Describe implements Action.
func (r *ReadOnly) Describe() Description {
	return r.describe(Description{
		Name:        NameReadOnly,
		Effect:      "Tools with effects are denied at the gate; what only reads passes. A tool that nobody knows counts as one with effects.",
		DoesNotStop: "What the agent did before, calls that never ask the gate, and what reading itself gives away.",
	})
}

// Plan implements Action.
func (r *ReadOnly) Plan(_ context.Context, in Input) (Change, error) {
	return change(in, "the gate denies every tool call of %s that does not only read")
}

// writeProbe is a tool of no agent, with an effect by its name.
const writeProbe = "tocsin_probe_write"

// Verify implements Action: a call with an effect must be denied. Of a target that is one tool, that only reads, nothing is denied and
// nothing is proved.
func (r *ReadOnly) Verify(_ context.Context, l Lease) (bool, error) {
	return r.gate.Probe(l.ID, writeProbe, 1) == Deny, nil
}

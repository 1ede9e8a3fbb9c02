package action

import "context"

// AskHuman has every tool call of its target wait for a human at whoever asks the gate, until its lease ends.
type AskHuman struct{ gated }

// NewAskHuman returns the action.
func NewAskHuman(gate Enforcer) *AskHuman { return &AskHuman{gated{gate}} }

// Describe implements Action.
func (a *AskHuman) Describe() Description {
	return a.describe(Description{
		Name:        NameAskHuman,
		Effect:      "The gate answers ask to every tool call of the target: the gateway or the coding agent puts it to its own user, or denies it where it can't ask.",
		DoesNotStop: "What the agent did before, calls that never ask the gate, and calls that a tired user allows.",
	})
}

// Plan implements Action.
func (a *AskHuman) Plan(_ context.Context, in Input) (Change, error) {
	return change(in, "the gate answers ask to every tool call of %s")
}

// Verify implements Action: no way to ask may be answered with allow.
func (a *AskHuman) Verify(_ context.Context, l Lease) (bool, error) {
	return a.gate.Probe(l.ID, "", 1) >= Ask, nil
}

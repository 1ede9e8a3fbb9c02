package action

import (
	"context"
	"fmt"
)

const paramPerMinute = "per_minute"

// Throttle lets a number of tool calls of its target pass in any minute, until its lease ends. The gate forgets what it counted when it
// is opened again.
type Throttle struct{ gated }

// NewThrottle returns the action.
func NewThrottle(gate Enforcer) *Throttle { return &Throttle{gated{gate}} }

// Describe implements Action.
func (t *Throttle) Describe() Description {
	return t.describe(Description{
		Name:        NameThrottle,
		Effect:      "The gate denies tool calls of the target beyond a number in any minute.",
		DoesNotStop: "What the agent did before, calls that never ask the gate, and harm that few calls do.",
		Params:      map[string]string{paramPerMinute: fmt.Sprintf("calls in any minute, 1 to %d", maxPerMinute)}, Required: []string{paramPerMinute},
	})
}

// Plan implements Action.
func (t *Throttle) Plan(_ context.Context, in Input) (Change, error) {
	n := PerMinute(in.Plan)
	if n == 0 {
		return Change{}, fmt.Errorf("%s: %q, want 1 to %d", paramPerMinute, in.Plan.Params[paramPerMinute], maxPerMinute)
	}
	return change(in, fmt.Sprintf("the gate denies tool calls of %%s beyond %d in any minute", n))
}

// Verify implements Action: at one instant, one call more than is allowed must be denied. The probe's calls do not count for the agent.
func (t *Throttle) Verify(_ context.Context, l Lease) (bool, error) {
	return t.gate.Probe(l.ID, "", PerMinute(l.Plan)+1) == Deny, nil
}

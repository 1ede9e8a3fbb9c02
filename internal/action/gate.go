package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Word is the gate's answer to a call, from the mildest to the strictest.
type Word int

// The words.
const (
	Allow Word = iota
	Ask        // a human must allow this very call
	Deny
)

// String names the word.
func (w Word) String() string { return [...]string{"allow", "ask", "deny"}[w] }

// Enforcer is what the gate's own actions are enforced by. To store their lease is to make their effect.
type Enforcer interface {
	// Probe asks as the lease's target would, with a tool where the target names none, times times at one instant, and returns the
	// mildest answer to the last call; Allow when the lease is not in force.
	Probe(lease, tool string, times int) Word
}

// The names of the gate's own actions in playbooks and plans.
const (
	NameQuarantine = "quarantine"
	NameReadOnly   = "read-only"
	NameAskHuman   = "ask-human"
	NameThrottle   = "throttle"
)

// AtGate reports whether the gate itself enforces an action.
func AtGate(name string) bool {
	switch name {
	case NameQuarantine, NameReadOnly, NameAskHuman, NameThrottle:
		return true
	}
	return false
}

// gated is what the gate's own actions have in common: the stored lease is the effect, and lifting it is the undo.
type gated struct{ gate Enforcer }

// Snapshot implements Action: lifting the lease is all that its undo needs.
func (gated) Snapshot(context.Context, Input) (json.RawMessage, error) { return nil, nil }

// Apply implements Action: the stored lease is the effect.
func (gated) Apply(context.Context, Lease) error { return nil }

// Undo implements Action: a lifted lease is not enforced.
func (gated) Undo(context.Context, Lease) error { return nil }

// Lag implements Action: the next call asks the gate.
func (gated) Lag(Lease) (time.Time, string) { return time.Time{}, "" }

// describe completes what is alike in all of them.
func (gated) describe(d Description) Description {
	d.Class, d.Targets, d.Idempotent, d.Additive = approval.Contain, []string{"agent", "session", "tool"}, true, true
	d.Undo = "By itself when the lease ends, or earlier by a lead."
	if d.DoesNotStop == "" {
		d.DoesNotStop = "What the agent did before, and calls that never ask the gate."
	}
	return d
}

// change is the one line of a plan; it needs an agent.
func change(in Input, format string) (Change, error) {
	if in.Plan.Target.Agent == "" {
		return Change{}, errors.New("the plan names no agent")
	}
	return Change{Lines: []string{fmt.Sprintf(format, in.Plan.Target)}, Blast: 1}, nil
}

// maxPerMinute bounds what a throttle remembers. More calls than that are no limit.
const maxPerMinute = 600

// PerMinute is how many calls a throttle's plan allows; 0, which is none, where it does not say.
func PerMinute(p approval.Plan) int {
	n, err := strconv.Atoi(p.Params[paramPerMinute])
	if err != nil || n < 1 || n > maxPerMinute {
		return 0
	}
	return n
}

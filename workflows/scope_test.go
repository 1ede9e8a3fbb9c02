package workflows

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// A containment is narrowed only to what the agent names itself when it asks the gate.
func TestTarget(t *testing.T) {
	r := &run{state: &State{}}
	r.state.Incident = incident.Incident{Session: "s1"}
	for _, tc := range []struct {
		name, narrowed string
		scopes         []string
		want           approval.Target
	}{
		{"agent", "agent", []string{"session", "tool"}, approval.Target{Agent: "a"}},
		{"session", "session", []string{"session"}, approval.Target{Agent: "a", Session: "s1"}},
		{"session that only stands in for one", "session", []string{"tool"}, approval.Target{Agent: "a"}},
		{"tool", "tool", []string{"tool"}, approval.Target{Agent: "a", Tool: "send"}},
		{"tool whose name is hidden", "tool", nil, approval.Target{Agent: "a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, r.target(tc.narrowed, &Run{Agent: "a", Tool: "send", Scopes: tc.scopes}, "")); diff != "" {
				t.Error(diff)
			}
		})
	}
	if r.asksUnder("session") {
		t.Error("a session is known without a finding that says so")
	}
	r.state.Raised = []pipeline.Raised{{Scopes: []string{"session"}}}
	if !r.asksUnder("session") {
		t.Error("the session that a finding names is not known")
	}
}

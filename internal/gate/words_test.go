package gate

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// leaseOf is a lease of one of the gate's actions.
func leaseOf(id, name string, target approval.Target, perMinute string) action.Lease {
	l := lease(id, target)
	l.Plan.Action = name
	if perMinute != "" {
		l.Plan.Params = map[string]string{"per_minute": perMinute}
	}
	return l
}

func TestWords(t *testing.T) {
	agent := approval.Target{Agent: "a"}
	for _, tt := range []struct {
		name, action string
		target       approval.Target
		query        Query
		want         action.Word
	}{
		{"a read", action.NameReadOnly, agent, Query{Agent: "a", Tool: "read_file"}, action.Allow},
		{"a read of a server", action.NameReadOnly, agent, Query{Agent: "a", Tool: "mcp__crm__list_customers"}, action.Allow},
		{"a read, said to be one", action.NameReadOnly, agent, Query{Agent: "a", Tool: "read_file", Effect: event.EffectRead}, action.Allow},
		{"a read that writes, as its asker knows", action.NameReadOnly, agent, Query{Agent: "a", Tool: "read_file", Effect: event.EffectWrite}, action.Deny},
		{"a read that is no effect of ours", action.NameReadOnly, agent, Query{Agent: "a", Tool: "read_file", Effect: "harmless"}, action.Deny},
		{"a write said to be a read", action.NameReadOnly, agent, Query{Agent: "a", Tool: "send_money", Effect: event.EffectRead}, action.Deny},
		{"an unknown tool said to be a read", action.NameReadOnly, agent, Query{Agent: "a", Tool: "frobnicate", Effect: event.EffectRead}, action.Deny},
		{"no tool", action.NameReadOnly, agent, Query{Agent: "a", Effect: event.EffectRead}, action.Deny},
		{"a read and more", action.NameReadOnly, agent, Query{Agent: "a", Tool: "get_and_delete"}, action.Deny},
		{"a name in doubt", action.NameReadOnly, agent, Query{Agent: "a", Tool: "get_email"}, action.Deny},
		{"a name in doubt, in the table", action.NameReadOnly, agent, Query{Agent: "a", Tool: "mcp__mail__get_message"}, action.Allow},
		{"what can carry data out", action.NameReadOnly, agent, Query{Agent: "a", Tool: "WebFetch"}, action.Deny},
		{"a read that the table knows better", action.NameReadOnly, agent, Query{Agent: "a", Tool: "show"}, action.Deny},
		{"one server's, of which the table knows", action.NameReadOnly, agent, Query{Agent: "a", Tool: "mcp__ads__show"}, action.Allow},
		{"another agent", action.NameReadOnly, agent, Query{Agent: "b", Tool: "send_money"}, action.Allow},
		{"another tool", action.NameReadOnly, approval.Target{Agent: "a", Tool: "t"}, Query{Agent: "a", Tool: "send_money"}, action.Allow},
		{"each call", action.NameAskHuman, agent, Query{Agent: "a", Tool: "read_file"}, action.Ask},
		{"by the service", action.NameAskHuman, approval.Target{Agent: "bank/payer"}, Query{Agent: "bank"}, action.Ask},
		{"first of one", action.NameThrottle, agent, Query{Agent: "a", Tool: "t"}, action.Allow},
		{"an action elsewhere", "revoke-token", agent, Query{Agent: "a", Tool: "t"}, action.Allow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.tools = map[string]event.Effect{"get_message": event.EffectRead, "show": event.EffectEgress, "mcp__ads__show": event.EffectRead}
			f.open(t)
			if _, err := f.Apply(t.Context(), leaseOf("r1", tt.action, tt.target, "1")); err != nil {
				t.Fatal(err)
			}
			if got := f.Check(tt.query); got.Word() != tt.want || got.Allow && got.Ask {
				t.Errorf("%+v, want %s", got, tt.want)
			}
		})
	}
	reasons := []string{}
	for _, name := range []string{action.NameReadOnly, action.NameAskHuman, action.NameThrottle} {
		f := newFixture(t, leaseOf("r1", name, agent, "1"))
		f.Check(Query{Agent: "a"})
		reasons = append(reasons, f.Check(Query{Agent: "a"}).Reason)
	}
	const end = " until 2026-03-01T13:00:00Z by decision of ada (incident INC-1)"
	if diff := cmp.Diff([]string{"agent a may only read" + end, "agent a needs a human's word for each call" + end, "agent a may make 1 calls a minute, and made them," + end}, reasons); diff != "" {
		t.Error(diff)
	}
}

var gateActions = []string{action.NameQuarantine, action.NameReadOnly, action.NameAskHuman, action.NameThrottle}

// The word about a call is the strictest of what each lease alone would say, in whatever order they came.
func TestNoLeaseHidesAStricterOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		any := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(rt, label) }
		target := func() approval.Target {
			return approval.Target{Agent: any("agent", "s", "s/a", "s/b"), Session: any("session", "", "1", "2"), Tool: any("tool", "", "read_file", "send", "mcp__x__send")}
		}
		all := newFixture(t)
		q := Query{Agent: any("asks as", "s", "s/a"), Session: any("in", "", "1"), Tool: any("calls", "", "read_file", "mcp__x__send")}
		want := action.Allow
		for i := range rapid.IntRange(0, 6).Draw(rt, "leases") {
			l := leaseOf(fmt.Sprint(i), any("action", gateActions...), target(), any("per minute", "0", "1"))
			if _, err := all.Apply(t.Context(), l); err != nil {
				rt.Fatal(err)
			}
			want = max(want, newFixture(t, l).Check(q).Word())
		}
		if got := all.Check(q); got.Word() != want {
			rt.Fatalf("%+v is answered with %s, want %s", q, got.Word(), want)
		}
	})
}

// Whatever the times of the calls, no minute has more than were allowed, and a call is denied only where a minute would have more.
func TestThrottleCountsAnyMinute(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(rt, "most")
		f := newFixture(t, leaseOf("r1", action.NameThrottle, approval.Target{Agent: "a"}, fmt.Sprint(most)))
		var passed []time.Time
		for range rapid.IntRange(1, 40).Draw(rt, "calls") {
			f.now = f.now.Add(time.Duration(rapid.IntRange(0, 30_000).Draw(rt, "ms later")) * time.Millisecond)
			recent := 0
			for _, at := range passed {
				if f.now.Sub(at) < time.Minute {
					recent++
				}
			}
			if !f.now.Before(noon.Add(time.Hour)) {
				return
			}
			// The index is made anew now and then; what was counted stays.
			if rapid.Bool().Draw(rt, "another lease") {
				if _, err := f.Apply(t.Context(), lease(fmt.Sprint(f.now), approval.Target{Agent: "other"})); err != nil {
					rt.Fatal(err)
				}
			}
			got := f.Check(Query{Agent: "a", Tool: "t"}).Allow
			if got != (recent < most) {
				rt.Fatalf("%d calls within a minute before, of %d: allowed %v", recent, most, got)
			}
			if got {
				passed = append(passed, f.now)
			}
		}
	})
}

// Calls that are denied anyway, and probes, use up nothing.
func TestThrottleCountsOnlyWhatPasses(t *testing.T) {
	agent := approval.Target{Agent: "a"}
	f := newFixture(t, leaseOf("r1", action.NameThrottle, agent, "2"), leaseOf("r2", action.NameReadOnly, agent, ""))
	for range 9 {
		f.Check(Query{Agent: "a", Tool: "send"})
	}
	if f.Probe("r1", "read_file", 2) != action.Allow || f.Probe("r1", "read_file", 3) != action.Deny {
		t.Error("the probe does not see the limit")
	}
	q := Query{Agent: "a", Tool: "read_file"}
	for i, want := range []bool{true, true, false} {
		if f.Check(q).Allow != want {
			t.Errorf("call %d: want allowed %v", i+1, want)
		}
	}
}

func TestThrottleConcurrently(t *testing.T) {
	f := newFixture(t, leaseOf("r1", action.NameThrottle, approval.Target{Agent: "a"}, "100"))
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if f.Check(Query{Agent: "a"}).Allow {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 100 {
		t.Errorf("%d calls passed, want 100", passed.Load())
	}
}

// Each of the gate's actions proves its own lease at the real gate, and no other's.
func TestActionsAtTheGate(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(action.Enforcer) action.Action
	}{
		{action.NameQuarantine, func(e action.Enforcer) action.Action { return action.NewQuarantine(e) }},
		{action.NameReadOnly, func(e action.Enforcer) action.Action { return action.NewReadOnly(e) }},
		{action.NameAskHuman, func(e action.Enforcer) action.Action { return action.NewAskHuman(e) }},
		{action.NameThrottle, func(e action.Enforcer) action.Action { return action.NewThrottle(e) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, target := range []approval.Target{{Agent: "s/a"}, {Agent: "s/a", Session: "1"}, {Agent: "s/a", Tool: "send"}} {
				f := newFixture(t)
				a := tt.make(f)
				l := leaseOf("r1", tt.name, target, "3")
				if holds, err := a.Verify(t.Context(), l); err != nil || holds {
					t.Errorf("%s: proved before it was applied: %v", target, err)
				}
				if _, err := f.Apply(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				if holds, err := a.Verify(t.Context(), l); err != nil || !holds {
					t.Errorf("%s: not proved: %v", target, err)
				}
				l.Lifted = noon
				if err := f.Update(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				if holds, err := a.Verify(t.Context(), l); err != nil || holds {
					t.Errorf("%s: proved after it was lifted: %v", target, err)
				}
			}
		})
	}
}

func BenchmarkThrottle(b *testing.B) {
	for _, most := range []string{"10", "600"} {
		b.Run(most, func(b *testing.B) {
			f := newFixture(b, leaseOf("r1", action.NameThrottle, approval.Target{Agent: "a"}, most))
			b.ReportAllocs()
			for b.Loop() {
				f.now = f.now.Add(100 * time.Millisecond)
				if f.now.Sub(noon) > 30*time.Minute {
					f.now = noon
				}
				f.Check(Query{Agent: "a"})
			}
		})
	}
}

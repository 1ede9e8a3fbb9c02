package detect_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// A meter adds up what each rule takes that is asked, on one event in 64, spread over all of them when it is drained.
func TestMeter(t *testing.T) {
	var rules []detect.Rule
	for _, name := range []string{"first", "second"} {
		r, err := detect.ParseRule("r.yaml", []byte(written(name+"-rule", onResult+"when: tool.name == \"x\" && lower(tool.args) != \""+name+"\"", "kind: prompt")), library(t))
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	set, err := detect.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Unix(0, 0)
	meter := detect.NewMeter(func() time.Time { clock = clock.Add(time.Millisecond); return clock }) // each look takes 1 ms
	env, st := detect.NewEnv(), detect.NewState()
	env.Measure(meter)
	plainEnv, plain := detect.NewEnv(), detect.NewState()
	const events = 64*15 + 2
	for i := range events {
		e := event.Event{ID: fmt.Sprint(i), Kind: event.KindToolResult, Time: detect.StreamStart, Agent: event.Agent{ID: "a"}, Session: event.Session{ID: "s"}, Tool: &event.Tool{Name: "x"}}
		meter.Begin(i)
		env.Fill(&e, detect.SessionFacts{}, detect.BaselineEnv{})
		got := set.Evaluate(env, &e, st)
		meter.End()
		plainEnv.Fill(&e, detect.SessionFacts{}, detect.BaselineEnv{})
		if diff := cmp.Diff(set.Evaluate(plainEnv, &e, plain), got); diff != "" {
			t.Fatalf("measured, the rules find otherwise (-plain +measured):\n%s", diff)
		}
	}
	var got detect.Costs
	meter.AddTo(&got)
	// Of an event there is a look at its beginning, before each set of rules, after each rule, and at the end.
	want := detect.Costs{Events: 16, Total: 16 * 5 * time.Millisecond, Rules: map[string]time.Duration{"first-rule": 16 * time.Millisecond, "second-rule": 16 * time.Millisecond}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, want := range []time.Duration{64 * 16 * time.Millisecond, 0} {
		sum := time.Duration(0)
		meter.Drain(func(rule string, took time.Duration) {
			if rule == "first-rule" {
				sum += took
			}
		})
		if sum != want {
			t.Errorf("drained %s, want %s", sum, want)
		}
	}
	meter.Reset()
	got = detect.Costs{}
	meter.AddTo(&got)
	if got.Events != 0 || len(got.Rules) != 0 {
		t.Errorf("after a reset: %+v", got)
	}
}

package detect_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// statefulSet holds 100 rules of which 30 keep state: counts, distinct values, sums, sequences and suppressions over each agent.
func statefulSet(b *testing.B) *detect.Set {
	b.Helper()
	var list []detect.Rule
	add := func(id, detection string) {
		list = append(list, mustLoad(b, written(id, onResult+"key: agent\n"+detection, "kind: prompt")).Rules()...)
	}
	for i := range 70 {
		add(fmt.Sprintf("match-%02d", i), fmt.Sprintf("when: tool.name == \"rare_%d\" && arg(\"x\") contains \"needle-%d\"", i, i))
	}
	for i := range 30 {
		// A sixth of the events matches a rule of each kind.
		when := fmt.Sprintf("tool.name == \"tool_%d\"", i%6)
		switch i % 5 {
		case 0:
			add(fmt.Sprintf("count-%02d", i), "when: "+when+"\ncount: {at_least: 50, within: 1h}")
		case 1:
			add(fmt.Sprintf("distinct-%02d", i), "when: "+when+"\ndistinct: {of: arg(\"to\"), at_least: 100, within: 1h}")
		case 2:
			add(fmt.Sprintf("sum-%02d", i), "when: "+when+"\nsum: {of: number(\"n\"), at_least: 1e12, within: 1h}")
		case 3:
			add(fmt.Sprintf("sequence-%02d", i), fmt.Sprintf("sequence: {within: 1h, steps: [{as: first, when: '%s'}, {as: second, when: 'tool.name == \"rare_0\"'}]}", strings.ReplaceAll(when, "'", "''")))
		case 4:
			add(fmt.Sprintf("first-%02d", i), "when: "+when+"\nfirst_seen: {of: arg(\"to\"), within: 24h, after: 1000}")
		}
	}
	set, err := detect.Compile(list)
	if err != nil {
		b.Fatal(err)
	}
	return set
}

func agentEvents(b *testing.B, n, agents int) []event.Event {
	b.Helper()
	out := make([]event.Event, n)
	for i := range out {
		out[i] = event.Event{
			ID: fmt.Sprint(i), Kind: event.KindToolResult, Time: detect.StreamStart.Add(time.Duration(i) * time.Millisecond),
			Agent: event.Agent{ID: fmt.Sprint("agent-", (i*7919)%agents), Class: "bench"}, Session: event.Session{ID: fmt.Sprint("s-", i%agents)},
			Tool: &event.Tool{Name: fmt.Sprint("tool_", i%6), Args: []event.Arg{{Path: "to", Value: fmt.Sprint(i % 50)}, {Path: "n", Value: "7"}}},
		}
		if err := out[i].Check(); err != nil {
			b.Fatal(err)
		}
	}
	return out
}

// BenchmarkStateful judges events with 100 rules of which 30 hold state, once 100,000 keys are live, and says what a key costs.
func BenchmarkStateful(b *testing.B) {
	set := statefulSet(b)
	const agents = 20_000 // each has keys in the five rules that its events match
	events := agentEvents(b, 120_000, agents)
	env, st := detect.NewEnv(), detect.NewState()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	judge := func(e *event.Event) {
		env.Fill(e, detect.SessionFacts{}, detect.BaselineEnv{P: 1})
		set.Evaluate(env, e, st)
	}
	for i := range events {
		judge(&events[i])
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	keys := st.Keys()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		judge(&events[i%len(events)])
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(keys), "live-keys")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(keys), "B/key")
}

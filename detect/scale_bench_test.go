//go:build unix

package detect_test

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
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

// stateAgents use three of six tools each and so have 15 keys: 100,020 together.
const stateAgents = 6_668

// agentEvents makes calls of all agents in turn, and renewed moves them on in time: 200 calls a second, 36 a key and hour.
func agentEvents(b *testing.B) []event.Event {
	b.Helper()
	out := make([]event.Event, 18*stateAgents)
	for i := range out {
		out[i] = event.Event{
			ID: "e", Kind: event.KindToolResult, Time: detect.StreamStart,
			Agent: event.Agent{ID: fmt.Sprint("agent-", (i*7919)%stateAgents), Class: "bench"}, Session: event.Session{ID: fmt.Sprint("s-", i%stateAgents)},
			Tool: &event.Tool{Name: fmt.Sprint("tool_", i%6), Args: []event.Arg{{Path: "to", Value: fmt.Sprint(i % 50)}, {Path: "n", Value: "7"}}},
		}
		if err := out[i].Check(); err != nil {
			b.Fatal(err)
		}
	}
	return out
}

func renewed(events []event.Event, pass int) {
	for i := range events {
		n := pass*len(events) + i
		events[i].ID, events[i].Time = fmt.Sprintf("%024x", n), detect.StreamStart.Add(time.Duration(n)*5*time.Millisecond)
	}
}

// BenchmarkStateful judges events with 100 rules of which 30 hold state, once 100,000 keys are live and their windows of an hour are
// full, and says what a key costs. Time is the processor's.
func BenchmarkStateful(b *testing.B) {
	set := statefulSet(b)
	events := agentEvents(b)
	env, st := detect.NewEnv(), detect.NewState()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	judge := func(e *event.Event) {
		env.Fill(e, detect.SessionFacts{}, detect.BaselineEnv{P: 1})
		set.Evaluate(env, e, st)
	}
	const passes = 6 // an hour
	for pass := range passes {
		renewed(events, pass)
		for i := range events {
			judge(&events[i])
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	keys := float64(st.Keys())
	b.ReportAllocs()
	i, spent := 0, time.Duration(0)
	begin := processTime(b)
	for b.Loop() {
		if i%len(events) == 0 {
			spent += processTime(b) - begin
			b.StopTimer()
			renewed(events, passes+i/len(events))
			b.StartTimer()
			begin = processTime(b)
		}
		judge(&events[i%len(events)])
		i++
	}
	spent += processTime(b) - begin
	b.ReportMetric(float64(b.N)/spent.Seconds(), "events/s")
	b.ReportMetric(keys, "live-keys")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "B/key")
	for rule, stats := range st.Stats {
		if stats.Evicted > 0 {
			b.Fatalf("%s had to forget %d", rule, stats.Evicted)
		}
	}
}

// processTime is the processor time of the process, the collector's included.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

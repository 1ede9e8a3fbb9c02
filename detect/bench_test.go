package detect_test

import (
	"strings"
	"testing"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// The ordinary case: the whole shipped set, and nothing matches.
func BenchmarkEvaluate(b *testing.B) {
	shipped, err := detect.ReadRules(rules.FS, shippedLibrary(b))
	if err != nil {
		b.Fatal(err)
	}
	set, err := detect.Compile(shipped)
	if err != nil {
		b.Fatal(err)
	}
	for _, bm := range []struct {
		name string
		tool event.Tool
	}{
		{"read", event.Tool{Name: "read_file", Args: []event.Arg{{Path: "path", Value: "docs/plan.txt"}}, Result: event.Content{Text: strings.Repeat("The plan for the week. ", 90)}}},
		{"shell", event.Tool{Name: "Bash", Args: []event.Arg{{Path: "command", Value: "cd /srv/app && go test ./... 2>&1 | tail -20"}}, Result: event.Content{Text: strings.Repeat("ok  	example 0.1s\n", 50)}}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			e := event.Event{ID: "e", Kind: event.KindToolResult, Time: detect.StreamStart, Agent: event.Agent{ID: "a"}, Session: event.Session{ID: "s"}, Tool: &bm.tool}
			if err := e.Check(); err != nil {
				b.Fatal(err)
			}
			env, st := detect.NewEnv(), detect.NewState()
			b.ReportAllocs()
			for b.Loop() {
				env.Fill(&e, detect.SessionFacts{}, detect.BaselineEnv{P: 1})
				if f := set.Evaluate(env, &e, st); len(f) > 0 && f[0].Rule != "repeated-call" {
					b.Fatalf("%s fired", f[0].Rule)
				}
			}
		})
	}
}

// largestEvent is as large as Check lets an event be.
func largestEvent(t testing.TB) event.Event {
	t.Helper()
	long := strings.Repeat("a1 $(b ", event.MaxContentBytes)
	e := event.Event{
		ID: "e", Kind: event.KindToolResult, Time: detect.StreamStart, Agent: event.Agent{ID: "a"},
		Tool: &event.Tool{Name: "bash", Result: event.Content{Text: long}},
	}
	for i := range event.MaxArgs {
		path := []string{"command", "url", "path", "to"}[i%4]
		e.Tool.Args = append(e.Tool.Args, event.Arg{Path: path, Value: long})
	}
	for range event.MaxContents {
		e.Content = append(e.Content, event.Content{Role: event.RolePrompt, Text: long})
	}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	return e
}

// The worst case: the largest event, and an expression close to the most that the guard lets through, whose patterns stay alive
// on every byte of the longest text. The unit of maxCost comes from here.
func BenchmarkLargestEvent(b *testing.B) {
	set := mustLoad(b, withWhen(b, strings.Repeat(`text matches "(?i)(a|b)[a-z0-9 $(]{40}zz" || `, 5)+"false"))
	env, e, st := detect.NewEnv(), largestEvent(b), detect.NewState()
	for b.Loop() {
		env.Fill(&e, detect.SessionFacts{}, detect.BaselineEnv{P: 1})
		set.Evaluate(env, &e, st)
	}
}

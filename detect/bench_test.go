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
	shipped, err := detect.ReadRules(rules.FS, detect.DefaultCatalogue())
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

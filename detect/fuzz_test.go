package detect_test

import (
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Whatever parses and compiles can judge an empty event of each kind.
func FuzzParseRule(f *testing.F) {
	f.Add([]byte(ruleText))
	for _, name := range []string{"reverse-shell.yaml", "repeated-call.yaml"} {
		text, err := rules.FS.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	against := library(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := detect.ParseRule("fuzz.yaml", text, against)
		if err != nil {
			return
		}
		set, err := detect.Compile([]detect.Rule{r})
		if err != nil {
			return
		}
		var events []event.Event
		for _, k := range event.Kinds() {
			events = append(events, event.Event{ID: string(k), Kind: k, Time: detect.StreamStart})
		}
		evaluate(set, events)
	})
}

func FuzzStream(f *testing.F) {
	f.Add("- {at: 1s, kind: tool.result, tool: mcp__a__b, args: {a: [1, {b: true}]}, result: x, repeat: 3, every: 2s}\n- {kind: prompt, text: hi}")
	set := mustLoad(f, ruleText)
	f.Fuzz(func(t *testing.T, text string) {
		var nodes []yaml.Node
		if yaml.Unmarshal([]byte(text), &nodes) != nil {
			return
		}
		events, _, err := detect.Test{Name: "fuzz", Events: nodes}.Stream("fuzz.yaml")
		if err != nil {
			return
		}
		for i := range events {
			if err := events[i].Check(); err != nil {
				t.Fatalf("event %d of the stream is no event: %v", i, err)
			}
		}
		evaluate(set, events)
	})
}

package detect

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// testEvent is the short form in which a rule's tests write an event. What is left out has a default that is the same for all
// events of the stream: one agent, one session.
type testEvent struct {
	At       Duration          `yaml:"at"` // offset from the start of the stream
	Kind     event.Kind        `yaml:"kind"`
	Agent    string            `yaml:"agent"`
	Session  string            `yaml:"session"`
	Tool     string            `yaml:"tool"`
	Server   string            `yaml:"server"`
	Args     map[string]any    `yaml:"args"`
	Result   string            `yaml:"result"`
	Text     string            `yaml:"text"`
	Outcome  event.Outcome     `yaml:"outcome"`
	Error    string            `yaml:"error"`
	Decision *testDecision     `yaml:"decision"`
	Model    string            `yaml:"model"`
	Tokens   int64             `yaml:"tokens"`
	Attrs    map[string]string `yaml:"attrs"`
}

type testDecision struct {
	Effect string `yaml:"effect"`
	By     string `yaml:"by"`
	Mode   string `yaml:"mode"`
}

// StreamStart is the event time at which the streams of rule tests start. Any fixed time would do.
var StreamStart = time.Date(2026, time.January, 5, 9, 0, 0, 0, time.UTC)

// Stream returns the events of a test, checked. Errors name the line.
func (t Test) Stream(file string) ([]event.Event, error) {
	out := make([]event.Event, 0, len(t.Events))
	for i := range t.Events {
		node := &t.Events[i]
		var te testEvent
		if err := decodeStrict(node, &te); err != nil {
			return nil, fmt.Errorf("%s:%d: test %q: %s", file, node.Line, t.Name, explainYAML(err))
		}
		e := te.event(i)
		if err := e.Check(); err != nil {
			return nil, fmt.Errorf("%s:%d: test %q: %w", file, node.Line, t.Name, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// decodeStrict decodes a node and refuses unknown keys, which yaml.Node.Decode alone does not.
func decodeStrict(node *yaml.Node, into *testEvent) error {
	known := map[string]bool{"at": true, "kind": true, "agent": true, "session": true, "tool": true, "server": true, "args": true, "result": true,
		"text": true, "outcome": true, "error": true, "decision": true, "model": true, "tokens": true, "attrs": true}
	for i := 0; i+1 < len(node.Content) && node.Kind == yaml.MappingNode; i += 2 {
		if key := node.Content[i].Value; !known[key] {
			return fmt.Errorf("field %s not found in type detect.testEvent", key)
		}
	}
	return node.Decode(into)
}

func (te testEvent) event(i int) event.Event {
	e := event.Event{
		Kind: te.Kind, Time: StreamStart.Add(time.Duration(te.At)), Seq: int64(i + 1), Outcome: te.Outcome, Error: te.Error, Attrs: te.Attrs,
		Agent: event.Agent{ID: te.Agent, Basis: "client"}, Session: event.Session{ID: te.Session},
		Source: event.Source{Dialect: "test"},
	}
	if e.Agent.ID == "" {
		e.Agent.ID = "agent-1"
	}
	if e.Session.ID == "" {
		e.Session.ID = "session-1"
	}
	e.ID = event.NewID("", e.Kind, e.Agent.ID, e.Session.ID, fmt.Sprint(i))
	if te.Tool != "" {
		args, state := event.FlattenArgs(normalise(te.Args))
		e.Tool = &event.Tool{Name: te.Tool, Server: te.Server, Args: args, ArgsState: state, Result: event.Content{Text: te.Result}}
	}
	if te.Text != "" {
		role := event.RolePrompt
		if te.Kind == event.KindResponse {
			role = event.RoleResponse
		}
		e.Content = []event.Content{{Role: role, Text: te.Text}}
	}
	if te.Decision != nil {
		e.Decision = &event.Decision{Effect: te.Decision.Effect, By: te.Decision.By, Mode: te.Decision.Mode}
	}
	if te.Model != "" {
		e.Model = &event.Model{Name: te.Model, InputTokens: te.Tokens}
	}
	return e
}

// normalise turns YAML's integers into the float64 that FlattenArgs, which speaks JSON, knows.
func normalise(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = normalise(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = normalise(item)
		}
		return out
	case int:
		return float64(v)
	}
	return v
}

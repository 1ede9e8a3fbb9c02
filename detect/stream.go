package detect

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// testEvent is the short form in which a rule's tests write an event. What is left out has a default that is the same for all
// events of the stream: one agent, one session.
type testEvent struct {
	At     time.Duration `yaml:"at"`      // offset from the start of the stream
	LateBy time.Duration `yaml:"late_by"` // it arrives that much later than it happened
	Repeat int           `yaml:"repeat"`  // how many such events there are; 0 is one
	Every  time.Duration `yaml:"every"`   // time between them
	Kind   event.Kind    `yaml:"kind"`    // must be there
	Agent  string        `yaml:"agent"`   // id; agent-1 where it is left out
	Parent string        `yaml:"parent"`  // id of the agent that delegated to it
	// Class is that of the agent; test where it is left out.
	Class string `yaml:"class"`
	// Principal is on whose behalf it acts.
	Principal string            `yaml:"principal"`
	Session   string            `yaml:"session"`  // id; session-1 where it is left out
	Tool      string            `yaml:"tool"`     // name, from which the effect follows
	Server    string            `yaml:"server"`   // tool server
	Call      string            `yaml:"call"`     // the client's id of the call
	Args      map[string]any    `yaml:"args"`     // the tool's arguments
	Result    string            `yaml:"result"`   // the tool's output
	Text      string            `yaml:"text"`     // of a prompt, response or document
	Outcome   event.Outcome     `yaml:"outcome"`  // success, failure, denied
	Error     string            `yaml:"error"`    // the error's text
	Decision  *testDecision     `yaml:"decision"` // a map of effect, by and mode
	Model     string            `yaml:"model"`    // name
	Provider  string            `yaml:"provider"` // of the model
	Tokens    int64             `yaml:"tokens"`   // input tokens of the model call
	Attrs     map[string]string `yaml:"attrs"`    // attributes that no field takes
}

type testDecision struct {
	Effect string `yaml:"effect"`
	By     string `yaml:"by"`
	Mode   string `yaml:"mode"`
}

// StreamStart is the event time at which the streams of rule tests start. Any fixed time would do.
var StreamStart = time.Date(2026, time.January, 5, 9, 0, 0, 0, time.UTC)

// outcomes are those that events have, the unknown one first.
var outcomes = []string{string(event.OutcomeUnknown), string(event.OutcomeSuccess), string(event.OutcomeFailure), string(event.OutcomeDenied)}

// maxStream bounds the events of one test.
const maxStream = 10_000

// Stream returns the events of a test, checked and in the order in which they arrive: that of the list, but for those that come late.
// Restart is the number of events before the restart that the test asks for, 0 for none. Errors name the line.
func (t Test) Stream(file string) (events []event.Event, restart int, err error) {
	type arrival struct {
		at    time.Duration
		event event.Event
	}
	var all []arrival
	var now time.Duration
	for i := range t.Events {
		node := &t.Events[i]
		var te testEvent
		if err := strict.Node(file, node, &te); err != nil {
			return nil, 0, fmt.Errorf("%w (test %q)", err, t.Name)
		}
		if te.Repeat < 0 || len(all)+max(1, te.Repeat) > maxStream {
			return nil, 0, fmt.Errorf("%s:%d: test %q: repeat is %d, want 0 or more, and at most %d events together", file, node.Line, t.Name, te.Repeat, maxStream)
		}
		if te.LateBy < 0 || te.Every < 0 {
			return nil, 0, fmt.Errorf("%s:%d: test %q: late_by is %s and every %s, want 0s or more", file, node.Line, t.Name, te.LateBy, te.Every)
		}
		if !slices.Contains(outcomes, string(te.Outcome)) {
			return nil, 0, fmt.Errorf("%s:%d: test %q: outcome: %w", file, node.Line, t.Name, choice{"outcome", string(te.Outcome), outcomes[1:]}.check())
		}
		for n := range max(1, te.Repeat) {
			e := te.event(len(all))
			happened := te.At + time.Duration(n)*te.Every
			e.Time = StreamStart.Add(happened)
			if err := e.Check(); err != nil {
				return nil, 0, fmt.Errorf("%s:%d: test %q: %w", file, node.Line, t.Name, err)
			}
			now = max(now, happened)
			all = append(all, arrival{now + te.LateBy, e})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	for i, a := range all {
		events = append(events, a.event)
		if t.RestartAt > 0 && a.at <= t.RestartAt {
			restart = i + 1
		}
	}
	if t.RestartAt != 0 && (restart == 0 || restart == len(events)) {
		return nil, 0, fmt.Errorf("%s: test %q: restart_at is %s, want a time between two events: elsewhere it shows nothing", file, t.Name, t.RestartAt)
	}
	return events, restart, nil
}

func (te testEvent) event(i int) event.Event {
	e := event.Event{
		Kind: te.Kind, Seq: int64(i + 1), Outcome: te.Outcome, Error: te.Error, Attrs: te.Attrs,
		Agent: event.Agent{ID: te.Agent, Parent: te.Parent, Class: cmp.Or(te.Class, "test"), Basis: "client"}, Session: event.Session{ID: te.Session},
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
		e.Tool = &event.Tool{Name: te.Tool, Server: te.Server, CallID: te.Call, Args: args, ArgsState: state, Result: event.Content{Text: te.Result}}
	}
	if te.Text != "" {
		role := event.RolePrompt
		switch te.Kind {
		case event.KindResponse:
			role = event.RoleResponse
		case event.KindRetrieval, event.KindMemory:
			role = event.RoleDocument
		}
		e.Content = []event.Content{{Role: role, Text: te.Text}}
	}
	if te.Decision != nil {
		e.Decision = &event.Decision{Effect: te.Decision.Effect, By: te.Decision.By, Mode: te.Decision.Mode}
	}
	e.Principal.ID = te.Principal
	if te.Model != "" {
		e.Model = &event.Model{Provider: te.Provider, Name: te.Model, InputTokens: te.Tokens}
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

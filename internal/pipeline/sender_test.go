package pipeline_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// by is an event that one sender's credential delivered, all senders being of one class.
func by(sender string, e event.Event) event.Event {
	e.Source.Authn, e.Agent.Class = sender, "money"
	return e
}

// unnamed is a call under a trace by an agent of which only the service is known.
func unnamed(service, trace string) event.Event {
	return event.Event{
		Agent: event.Agent{Service: service, Basis: "service"}, Trace: event.Trace{TraceID: trace, SpanID: "2", ParentID: "1"}, Tool: tool("pay", "to", "x1"),
	}
}

func named(service, name, trace string) event.Event {
	return event.Event{Kind: event.KindAgentInvoke, Agent: event.Agent{Service: service, Name: name}, Trace: event.Trace{TraceID: trace, SpanID: "1"}}
}

// A trace id, a session id or a service that another sender uses too binds nothing of this one's: an attacker must be able neither to
// act as an agent that its token may not speak for, nor to give its own name to another's calls.
func TestSendersAreKeptApart(t *testing.T) {
	tests := []struct {
		name   string
		before []event.Event
		call   event.Event
		want   string // agent of the call
	}{
		{"evil takes the bank's trace", []event.Event{by("bank", named("bank", "payer", "t"))}, by("evil", unnamed("evil", "t")), "evil"},
		{"evil gives its name to the bank's trace", []event.Event{by("evil", named("evil", "x", "t"))}, by("bank", unnamed("bank", "t")), "bank"},
		{"evil names the bank's only agent", []event.Event{by("evil", named("bank", "x", "t1"))}, by("bank", unnamed("bank", "t2")), "bank"},
		{"evil hides the bank's only agent", []event.Event{by("bank", named("bank", "payer", "t1")), by("evil", named("bank", "x", "t2"))}, by("bank", unnamed("bank", "t3")), "bank/payer"},
		{"one sender's trace is stitched", []event.Event{by("bank", named("bank", "payer", "t"))}, by("bank", unnamed("bank", "t")), "bank/payer"},
		{"without tokens all are one sender", []event.Event{by("", named("bank", "payer", "t"))}, by("", unnamed("bank", "t")), "bank/payer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFeed(t, "false")
			for _, e := range tt.before {
				f.send(0, e)
			}
			if got, _ := f.send(1, tt.call); got.Agent.ID != tt.want {
				t.Errorf("the call is %s's, want %s", got.Agent.ID, tt.want)
			}
		})
	}
}

// A call that waits for its root is judged again when its own sender names the agent, and not when another does.
func TestAnothersRootWakesNothing(t *testing.T) {
	f := newFeed(t, `tool.name == "pay"`)
	f.send(0, by("bank", unnamed("bank", "t")))
	if _, raised := f.send(1, by("evil", named("evil", "x", "t"))); len(raised) > 0 {
		t.Errorf("evil's root raised %v", raised)
	}
	if _, raised := f.send(2, by("bank", named("bank", "payer", "t"))); len(raised) != 1 || raised[0][:len("bank/payer ")] != "bank/payer " {
		t.Errorf("the bank's root raised %v", raised)
	}
}

// What another sender says in a session of the same id neither makes a value known nor taints.
func TestAnothersSessionTeachesNothing(t *testing.T) {
	const account = "DE89370400440532013000"
	provenance := func(sender string) (out []event.Provenance) {
		f := newFeed(t, "session.tainted")
		prompt := event.Event{Kind: event.KindPrompt, Agent: event.Agent{Service: "evil"}, Session: event.Session{ID: "s"}, Content: []event.Content{{Role: event.RolePrompt, Text: "pay " + account}}}
		f.send(0, by(sender, prompt))
		read := event.Event{Agent: event.Agent{Service: "evil"}, Session: event.Session{ID: "s"}, Tool: &event.Tool{Name: "read_file", Result: event.Content{Text: "an invoice"}}}
		f.send(1, by(sender, read))
		call, raised := f.send(2, by("bank", event.Event{Agent: event.Agent{Service: "bank"}, Session: event.Session{ID: "s"}, Tool: tool("pay", "to", account)}))
		if tainted := len(raised) > 0; tainted != (sender == "bank") {
			t.Errorf("%s tainted the session of bank: %v", sender, tainted)
		}
		return append(out, call.Tool.Args[0].Provenance)
	}
	if diff := cmp.Diff([]event.Provenance{event.ProvenanceNowhere, event.ProvenancePrompt}, append(provenance("evil"), provenance("bank")...)); diff != "" {
		t.Error(diff)
	}
}

// A containment may be narrowed to what the agent says when it asks, and to nothing that stands in for it.
func TestScopes(t *testing.T) {
	conversation, trace := event.Session{ID: "s"}, event.Trace{TraceID: "t", SpanID: "1"}
	tests := []struct {
		name string
		e    event.Event
		want []string
	}{
		{"session and tool", event.Event{Session: conversation, Trace: trace, Tool: tool("pay", "to", "x")}, []string{"session", "tool"}},
		{"the trace's id for a session", event.Event{Trace: trace, Tool: tool("pay", "to", "x")}, []string{"tool"}},
		{"the trace's id, says the decoder", event.Event{Session: event.Session{ID: "t", Basis: event.SessionOfTrace}, Trace: trace, Tool: tool("pay", "to", "x")}, []string{"tool"}},
		{"the agent's id for a session", event.Event{Tool: tool("pay", "to", "x")}, []string{"tool"}},
		{"a tool whose name the client hid", event.Event{Session: conversation, Tool: &event.Tool{Name: "mcp_tool", Redacted: true}}, []string{"session"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			shard := newFeed(t, "'true'").shard
			e := tt.e
			e.ID, e.Kind, e.Time, e.Agent = "e", event.KindToolResult, detect.StreamStart, event.Agent{ID: "svc/bot"}
			if err := e.Check(); err != nil {
				t.Fatal(err)
			}
			raised := shard.Process(&e, pipeline.Position{})
			if len(raised) != 1 {
				t.Fatalf("raised %v", raised)
			}
			if diff := cmp.Diff(tt.want, raised[0].Scopes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A conversation that is named after its trace was seen does not change whose id the trace's session has.
func TestLateConversationIsNoScope(t *testing.T) {
	f := newFeed(t, "false")
	f.send(0, child("t", tool("pay", "to", "x1")))
	late := root("t", "a")
	late.Session.ID = "conversation"
	if e, _ := f.send(1, late); e.Session.ID != "t" || e.Session.Basis != event.SessionOfTrace {
		t.Errorf("session %+v", e.Session)
	}
}

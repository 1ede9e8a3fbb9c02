package pipeline_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// ruleSet compiles one rule that fires on each tool result for which the expression holds.
func ruleSet(t testing.TB, when string) *detect.Set {
	t.Helper()
	r, err := detect.ParseRule("r.yaml", []byte("id: the-rule\nversion: 1.0.0\ntitle: x\nseverity: low\non: [tool.result]\nwhen: "+when+"\ntags: {asi: [ASI10]}\ntriage: x\n"), library(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// feed is a shard with a stream of events: what the caller does not say has a default.
type feed struct {
	t     *testing.T
	shard *pipeline.Shard
	n     int
}

func newFeed(t *testing.T, when string) *feed {
	return &feed{t: t, shard: pipeline.New(ruleSet(t, when), event.NewHasher(nil), pipeline.Options{})}
}

// send processes an event and returns it as the shard left it, with what it raised as "agent id".
func (f *feed) send(at time.Duration, e event.Event) (event.Event, []string) {
	f.t.Helper()
	f.n++
	if e.ID == "" {
		e.ID = fmt.Sprint("e", f.n)
	}
	e.Time = detect.StreamStart.Add(at)
	if e.Agent.ID == "" && e.Agent.Service == "" {
		e.Agent = event.Agent{Service: "svc", Name: "bot"}
	}
	if e.Kind == "" {
		e.Kind = event.KindToolResult
	}
	if err := e.Check(); err != nil {
		f.t.Fatal(err)
	}
	var raised []string
	for _, r := range f.shard.Process(&e, pipeline.Position{Sequence: uint64(f.n)}) {
		raised = append(raised, r.Finding.Agent.ID+" "+r.Finding.ID)
	}
	return e, raised
}

func tool(name, arg, value string) *event.Tool {
	return &event.Tool{Name: name, Args: []event.Arg{{Path: arg, Value: value}}}
}

func TestProvenance(t *testing.T) {
	tests := []struct {
		name, value string
		want        event.Provenance
		origin      string
	}{
		{"account of the prompt", "DE89370400440532013000", event.ProvenancePrompt, ""},
		{"word of the prompt", "Hotel", event.ProvenancePrompt, ""},
		{"account of an earlier session", "CH9300762011623852957", event.ProvenanceHistory, ""},
		{"prompt and history", "DE89370400440532013000 CH9300762011623852957", event.ProvenanceHistory, ""},
		{"account of a tool's output", "GB29NWBK60161331926819", event.ProvenanceToolOutput, "bill"},
		{"prompt and output: the output is to look at", "DE89370400440532013000 GB29NWBK60161331926819", event.ProvenanceToolOutput, "bill"},
		{"made up", "FR7630006000011234567890189", event.ProvenanceNowhere, ""},
		{"made up, and of the output", "FR7630006000011234567890189 GB29NWBK60161331926819", event.ProvenanceToolOutput, "bill"},
		{"words of the output", "quarterly consulting", event.ProvenanceToolOutput, "bill"},
		{"few words of the output", "please send quarterly flowers today", event.ProvenanceNowhere, ""},
		{"both, in the prompt first", "twice5", event.ProvenancePrompt, ""},
		{"nothing to look at", " - ", event.ProvenanceUnknown, ""},
	}
	for _, hashed := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/hashed=%v", tt.name, hashed), func(t *testing.T) {
				h, f := event.NewHasher(nil), newFeed(t, "false")
				hide := func(text *string, tokens *event.Hashes) {
					if hashed {
						*tokens, *text = h.Hash(*text), ""
					}
				}
				send := func(at time.Duration, id, session, prompt, value, result string) event.Event {
					e := event.Event{ID: id, Session: event.Session{ID: session}, Content: []event.Content{{Role: event.RolePrompt, Text: prompt}}, Tool: tool("read_file", "v", value)}
					e.Tool.Result.Text = result
					hide(&e.Content[0].Text, &e.Content[0].Tokens)
					hide(&e.Tool.Args[0].Value, &e.Tool.Args[0].Tokens)
					hide(&e.Tool.Result.Text, &e.Tool.Result.Tokens)
					e, _ = f.send(at, e)
					return e
				}
				send(0, "old", "old", "", "CH9300762011623852957", "")
				send(time.Hour, "bill", "s", "Pay the hotel to DE89 3704 0044 0532 0130 00, twice5", "", "quarterly consulting invoice GB29NWBK60161331926819 twice5")
				e := send(time.Hour+time.Second, "call", "s", "", tt.value, "FR7630006000011234567890189")
				if a := e.Tool.Args[0]; a.Provenance != tt.want || a.Origin != tt.origin {
					t.Errorf("provenance %q from %q, want %q from %q", a.Provenance, a.Origin, tt.want, tt.origin)
				}
			})
		}
	}
}

// A span that ended before its root does not know its agent.
func child(trace string, t *event.Tool) event.Event {
	return event.Event{ID: "child-" + trace, Agent: event.Agent{Service: "svc", Basis: "service"}, Trace: event.Trace{TraceID: trace, SpanID: "2", ParentID: "1"}, Tool: t}
}

func root(trace, name string) event.Event {
	return event.Event{ID: "root-" + trace, Kind: event.KindAgentInvoke, Agent: event.Agent{Service: "svc", Name: name}, Trace: event.Trace{TraceID: trace, SpanID: "1"}}
}

func TestLateRoot(t *testing.T) {
	f := newFeed(t, `tool.name == "pay"`)
	id := func(trace string) string { return detect.FindingID("", "svc", "the-rule", []string{"child-" + trace}) }
	var got []string
	send := func(at time.Duration, e event.Event) {
		_, raised := f.send(at, e)
		got = append(got, e.ID)
		got = append(got, raised...)
	}
	send(0, child("t1", tool("pay", "to", "x1"))) // nobody knows the service's agents yet
	send(1, root("t1", "a"))
	send(2, child("t2", tool("pay", "to", "x1"))) // the service runs one agent
	send(3, root("t2", "b"))                      // it runs two
	send(4, child("t3", tool("pay", "to", "x1")))
	send(5, root("t3", "b"))
	send(6, root("t3", "b"))
	late := child("t3", tool("pay", "to", "x1"))
	late.ID = "late"
	send(7, late) // its trace is known
	want := []string{
		"child-t1", "svc " + id("t1"), "root-t1", "svc/a " + id("t1"),
		"child-t2", "svc/a " + id("t2"), "root-t2",
		"child-t3", "svc " + id("t3"), "root-t3", "svc/b " + id("t3"), "root-t3",
		"late", "svc/b " + detect.FindingID("", "svc", "the-rule", []string{"late"}),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Agents are listed from their first event on. A service whose agent was unknown is not listed beside it.
func TestAgentsFromTheirFirstEvent(t *testing.T) {
	f := newFeed(t, "false")
	f.send(0, child("t1", tool("pay", "to", "x1")))
	listed := func() []string {
		var out []string
		for _, l := range f.shard.Agents() {
			out = append(out, fmt.Sprintf("%s %s: %s, %d events, last %s", l.Class, l.Agent, l.Why, l.Events, l.LastSeen.Sub(detect.StreamStart)))
		}
		return out
	}
	if diff := cmp.Diff([]string{"svc svc: 0 of 10 sessions learned, 1 events, last 0s"}, listed()); diff != "" {
		t.Error(diff)
	}
	f.send(time.Second, root("t1", "a"))
	f.send(time.Second, root("t1", "a")) // a repeat
	f.send(2*time.Second, event.Event{Agent: event.Agent{Service: "other"}})
	if diff := cmp.Diff([]string{"other other: 0 of 10 sessions learned, 1 events, last 2s", "svc svc/a: 0 of 10 sessions learned, 2 events, last 1s"}, listed()); diff != "" {
		t.Error(diff)
	}
}

// Once an event that waited is known to be an agent's, that agent's history counts, and what came after the event does not.
func TestLateRootBringsHistory(t *testing.T) {
	f := newFeed(t, `provenance("to") == "nowhere"`)
	learned := root("t0", "a")
	learned.Kind, learned.Tool = event.KindToolResult, tool("pay", "to", "CH9300762011623852957")
	learned.Content = []event.Content{{Role: event.RolePrompt, Text: learned.Tool.Args[0].Value}}
	f.send(0, learned)
	f.send(time.Hour, root("t1", "b"))
	for trace, value := range map[string]string{"t2": "CH9300762011623852957", "t3": "FR7630006000011234567890189"} {
		c := child(trace, tool("pay", "to", value))
		c.Tool.Result.Text = "paid " + value
		if _, raised := f.send(time.Hour+1, c); len(raised) != 1 {
			t.Fatalf("%s: raised %v under the service, which has no history", trace, raised)
		}
		_, raised := f.send(time.Hour+2, root(trace, "a"))
		if want := map[string]int{"t2": 0, "t3": 1}[trace]; len(raised) != want {
			t.Errorf("%s: raised %v under the agent, want %d", trace, raised, want)
		}
	}
}

func TestSessionsEndWhenIdle(t *testing.T) {
	f := newFeed(t, "false")
	sessions := func() int {
		l, _ := f.shard.Learned("svc", "svc/bot")
		return l.Sessions
	}
	call := func(at time.Duration, session string) {
		f.send(at, event.Event{Session: event.Session{ID: session}, Tool: tool("read_file", "path", "x1")})
	}
	call(0, "s1")
	call(5*time.Minute, "s1")
	call(14*time.Minute+59*time.Second, "s2")
	if sessions() != 0 {
		t.Error("a session that is not idle yet was learned")
	}
	call(16*time.Minute, "s2")
	if sessions() != 1 {
		t.Errorf("%d sessions learned after 11 idle minutes, want 1", sessions())
	}
	call(15*time.Minute, "s3") // late: time does not run backwards
	if got := f.shard.Watermark(); !got.Equal(detect.StreamStart.Add(16 * time.Minute)) {
		t.Errorf("watermark %s", got)
	}
	if l := f.shard.Agents(); len(l) != 1 || l[0].Agent != "svc/bot" {
		t.Errorf("%+v", l)
	}
}

// Without session state, the order of arrival changes no finding, and a repeat raises none.
func TestOutOfOrderDelivery(t *testing.T) {
	set := ruleSet(t, `outcome == "failure"`)
	rapid.Check(t, func(t *rapid.T) {
		var events []event.Event
		for i := range 20 {
			e := event.Event{
				ID: fmt.Sprint(i), Kind: event.KindToolResult, Time: detect.StreamStart.Add(time.Duration(i) * time.Second), Agent: event.Agent{ID: "a"},
				Session: event.Session{ID: "s"}, Tool: &event.Tool{Name: "t"}, Outcome: rapid.SampledFrom([]event.Outcome{event.OutcomeSuccess, event.OutcomeFailure}).Draw(t, "outcome"),
			}
			if err := e.Check(); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		ids := func(events []event.Event) (out []string) {
			shard := pipeline.New(set, event.NewHasher(nil), pipeline.Options{})
			for i := range events {
				e := events[i]
				for _, r := range shard.Process(&e, pipeline.Position{}) {
					out = append(out, r.Finding.ID)
				}
			}
			slices.Sort(out)
			return out
		}
		want := ids(events)
		repeated := append(slices.Clone(events), rapid.SliceOfN(rapid.SampledFrom(events), 0, 10).Draw(t, "repeated")...)
		if diff := cmp.Diff(want, ids(rapid.Permutation(repeated).Draw(t, "order"))); diff != "" {
			t.Fatal(diff)
		}
	})
}

func library(t testing.TB) *detect.Library {
	t.Helper()
	l, err := detect.ReadLibrary()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The result of a call that was asked for is judged by what was known when it was: what another tool returned in between is not where
// its arguments came from, and rules on results get the baseline's answer.
func TestResultIsJudgedAsAskedFor(t *testing.T) {
	for _, id := range []string{"", "c7"} {
		t.Run("id "+id, func(t *testing.T) {
			f := newFeed(t, `baseline.ready && tool.name == "pay"`)
			for n := range 3 {
				f.work(n)
			}
			pay := func() *event.Tool {
				call := tool("pay", "to", "GB29NWBK60161331926819")
				call.CallID = id
				return call
			}
			at, s := 4*day, event.Session{ID: "s"}
			f.send(at, event.Event{Session: s, Kind: event.KindToolRequest, Tool: pay()})
			read := tool("read_file", "path", "bill.txt")
			read.Result.Text = "Pay GB29NWBK60161331926819"
			f.send(at+time.Second, event.Event{Session: s, Tool: read})
			e, raised := f.send(at+2*time.Second, event.Event{Session: s, Tool: pay()})
			if a := e.Tool.Args[0]; a.Provenance != event.ProvenanceNowhere || a.Origin != "" {
				t.Errorf("provenance %q from %q, want nowhere", a.Provenance, a.Origin)
			}
			if len(raised) != 1 {
				t.Errorf("raised %v: want the rule, which asks the baseline", raised)
			}
			if e, _ := f.send(at+3*time.Second, event.Event{Session: s, Tool: tool("pay", "to", "GB29NWBK60161331926819")}); e.Tool.Args[0].Provenance != event.ProvenanceToolOutput {
				t.Errorf("provenance of another call %q, want tool_output", e.Tool.Args[0].Provenance)
			}
		})
	}
}

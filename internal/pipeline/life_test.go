package pipeline_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

const day = 24 * time.Hour

// change puts a person's decision into the log, as the control plane does.
func (f *feed) change(attrs ...string) {
	f.n++
	e := event.Event{ID: fmt.Sprint("baseline-", f.n), Kind: event.KindBaseline, Time: time.Unix(1767225600, 0), Agent: event.Agent{ID: "svc/bot", Class: "svc"}, Attrs: map[string]string{event.AttrBy: "ada", event.AttrReason: "a test"}}
	for i := 0; i < len(attrs); i += 2 {
		e.Attrs[attrs[i]] = attrs[i+1]
	}
	f.shard.Process(&e, pipeline.Position{Sequence: uint64(f.n)})
}

// work is a day's work of the agent: ten sessions of two calls.
func (f *feed) work(n int) {
	for i := range 10 {
		for j := range 2 {
			f.send(time.Duration(n)*day+time.Duration(i)*time.Hour+time.Duration(j)*time.Second, event.Event{
				Session: event.Session{ID: fmt.Sprint("d", n, "s", i)}, Tool: tool("get_page", "id", fmt.Sprint("A17-", i)),
				Content: []event.Content{{Role: event.RolePrompt, Text: fmt.Sprint("Get A17-", i)}},
			})
		}
	}
}

func (f *feed) learned() baselines.Learned {
	l, _ := f.shard.Learned("svc", "svc/bot")
	return l
}

// A decision is in the log: a shard that was restored in between, or reads the log again, stands where the other does.
func TestChangesAreReplayed(t *testing.T) {
	play := func(restore bool) *feed {
		f := newFeed(t, `tool.name == "pay"`)
		step := func(n int) {
			if restore {
				saved, err := f.shard.Snapshot(uint64(n))
				if err != nil {
					t.Fatal(err)
				}
				f = &feed{t: t, n: f.n, shard: pipeline.New(ruleSet(t, `tool.name == "pay"`), event.NewHasher(nil), pipeline.Options{})}
				if _, _, err := f.shard.Restore(saved); err != nil {
					t.Fatal(err)
				}
			}
		}
		for n := range 4 {
			f.work(n)
			step(n)
		}
		f.change(event.AttrChange, baselines.Freeze)
		if l := f.learned(); l.Life != baselines.Frozen || l.Sessions == 0 {
			t.Errorf("stage %s after %d sessions, want frozen", l.Life, l.Sessions)
		}
		before := f.learned().Sessions
		f.work(4)
		step(4)
		f.work(5)
		if n := f.learned().Sessions; n != before {
			t.Errorf("%d sessions learned, and %d while frozen", before, n)
		}
		f.change(event.AttrChange, baselines.Unfreeze)
		f.work(6)
		f.work(7)
		step(7)
		if n := f.learned().Sessions; n <= before {
			t.Errorf("%d sessions learned, and %d after it was unfrozen", before, n)
		}
		before = f.learned().Sessions
		f.change(event.AttrChange, baselines.Rollback)
		if n := f.learned().Sessions; n >= before || n == 0 {
			t.Errorf("%d sessions learned, and %d after it was rolled back", before, n)
		}
		step(8)
		f.work(8)
		return f
	}
	straight, restored := play(false), play(true)
	a, b := snapshot(t, straight.shard, 1), snapshot(t, restored.shard, 1)
	if !bytes.Equal(a, b) {
		t.Error("a shard that was restored knows something else")
	}
}

// What a session did in which something was found is held, and teaches once a person expects it.
func TestExpectedSessionTeaches(t *testing.T) {
	f := newFeed(t, `tool.name == "pay"`)
	f.work(0)
	pay := func(session string, at time.Duration) {
		f.send(at, event.Event{Session: event.Session{ID: session}, Tool: tool("pay", "to", "GB29NWBK60161331926819")})
	}
	pays := func() int {
		for _, c := range f.learned().Tools {
			if c.Text == "pay" {
				return c.N
			}
		}
		return 0
	}
	pay("found", day)
	f.work(2)
	if n := pays(); n != 0 {
		t.Errorf("what was found taught %d calls", n)
	}
	f.change(event.AttrChange, baselines.Expected, event.AttrSender, "another", event.AttrSession, "found")
	if n := pays(); n != 0 {
		t.Errorf("another sender's session taught %d calls", n)
	}
	for range 2 { // told twice, it teaches once
		f.change(event.AttrChange, baselines.Expected, event.AttrSession, "found")
		if n := pays(); n != 1 {
			t.Errorf("an expected session taught %d calls, want 1", n)
		}
	}
	pay("open", 3*day)
	f.change(event.AttrChange, baselines.Expected, event.AttrSession, "open")
	f.work(4)
	if n := pays(); n != 2 {
		t.Errorf("a session that was expected before it ended left %d calls, want 2", n)
	}
}

// A sender can't decide about a baseline.
func TestSendersCannotChangeBaselines(t *testing.T) {
	line := `{"id":"x","kind":"baseline","time":"2026-01-05T10:00:00Z","agent":{"id":"svc/bot","class":"svc"},"attrs":{"change":"rebase"}}`
	events, rejected, err := ingest.NewMapper(ingest.Options{Hasher: event.NewHasher(nil)}).JSON(bytes.NewReader([]byte(line)), ingest.Receipt{})
	if err != nil || len(events) != 0 || len(rejected) != 1 {
		t.Errorf("%v, %v, %v: want it to be rejected", events, rejected, err)
	}
}

// A change of the model, the version or the operator's words opens a re-baseline that people see.
func TestRebaselineOpens(t *testing.T) {
	for name, change := range map[string]event.Event{
		"model":   {Kind: event.KindModelCall, Model: &event.Model{Name: "m-2"}},
		"version": {Agent: event.Agent{Service: "svc", Name: "bot", Version: "2"}, Tool: tool("get_page", "id", "A17-1")},
		"prompt":  {Tool: tool("get_page", "id", "A17-1"), Content: []event.Content{{Role: event.RoleSystem, Text: "Sell."}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t, `tool.name == "pay"`)
			for n := range 5 {
				f.work(n)
			}
			for at := range 2 {
				f.send(5*day+time.Duration(at)*time.Second, event.Event{
					Session: event.Session{ID: "s"}, Kind: event.KindModelCall, Model: &event.Model{Name: "m-1"}, Agent: event.Agent{Service: "svc", Name: "bot", Version: "1"},
					Content: []event.Content{{Role: event.RoleSystem, Text: "Help."}},
				})
			}
			if l := f.learned(); l.Life != baselines.Active {
				t.Fatalf("stage %s: %s", l.Life, l.Why)
			}
			change.Session.ID = "s"
			f.send(6*day, change)
			if l := f.learned(); l.Life != baselines.Drifted || l.WayOut == "" {
				t.Errorf("stage %s: %s; want drifted", l.Life, l.Why)
			}
		})
	}
}

// Spans that came before their root in another request are in the counts of the agent that it names.
func TestOrphansAreCounted(t *testing.T) {
	f := newFeed(t, `tool.name == "pay"`)
	for n := range 6 {
		f.work(n)
	}
	calls := func(n int, trace string, parent string) {
		for i := range n {
			f.send(6*day+time.Duration(i)*time.Second, event.Event{
				Agent: event.Agent{ID: "svc", Service: "svc", Class: "svc", Basis: "service"}, Trace: event.Trace{TraceID: trace, SpanID: fmt.Sprint(i), ParentID: parent},
				Tool: tool("get_page", "id", "A17-1"),
			})
		}
	}
	f.send(6*day, event.Event{Agent: event.Agent{Service: "svc", Name: "another"}, Tool: tool("get_page", "id", "A17-1")}) // the service runs two
	calls(200, "t", "root")
	_, raised := f.send(6*day+200*time.Second, event.Event{Trace: event.Trace{TraceID: "t", SpanID: "root"}, Kind: event.KindAgentInvoke, Session: event.Session{Root: true}})
	rates := 0
	for _, line := range raised {
		if bytes.Contains([]byte(line), []byte("svc/bot")) {
			rates++
		}
	}
	if rates == 0 {
		t.Errorf("200 calls in three minutes, where two are usual: raised %v", raised)
	}
}

// A session teaches each call once, with what its arguments hold: a request and its result are one call, by its id, or where there is
// none by its arguments.
func TestEachCallTeachesOnce(t *testing.T) {
	paid := func(id, amount string) *event.Tool {
		call := tool("pay", "amount", amount)
		call.CallID = id
		return call
	}
	for name, steps := range map[string]struct {
		calls []event.Event
		want  int
	}{
		"request and result with an id": {[]event.Event{
			{Kind: event.KindToolRequest, Tool: paid("1", "20")}, {Tool: paid("1", "20")},
		}, 1},
		"without": {[]event.Event{
			{Kind: event.KindToolRequest, Tool: paid("", "20")}, {Tool: paid("", "20")},
		}, 1},
		"without, asked again": {[]event.Event{
			{Kind: event.KindToolRequest, Tool: paid("", "20")},
			{Tool: paid("", "20")},
			{Kind: event.KindToolRequest, Tool: paid("", "20")},
			{Tool: paid("", "20")},
		}, 2},
		"results alone": {[]event.Event{{Tool: paid("", "20")}, {Tool: paid("", "20")}}, 2},
		"another's":     {[]event.Event{{Kind: event.KindToolRequest, Tool: paid("", "20")}, {Tool: paid("", "30")}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t, `tool.name == "none"`)
			for i, e := range steps.calls {
				e.Session.ID = "s"
				f.send(time.Duration(i)*time.Second, e)
			}
			f.work(1)
			tools := f.learned().Tools
			if i := slices.IndexFunc(tools, func(c baselines.Count) bool { return c.Text == "pay" }); i < 0 || tools[i].N != steps.want {
				t.Errorf("learned %+v, want pay %d times", tools, steps.want)
			}
			if h, _ := f.shard.Habits("svc/bot"); len(h.Amounts) != 1 || h.Amounts[0].N != steps.want {
				t.Errorf("amounts %+v, want %d of pay", h.Amounts, steps.want)
			}
		})
	}
}

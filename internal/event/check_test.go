package event

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, time.March, 1, 12, 0, 0, 123456789, time.UTC)

// valid is the least that Check accepts.
func valid() Event {
	return Event{ID: "e1", Kind: KindPrompt, Time: noon, Agent: Agent{ID: "billing/bot"}}
}

func TestCheckRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(e *Event)
		want   string
	}{
		{"other schema", func(e *Event) { e.Schema = 2 }, "schema: version 2 is not known, want 1"},
		{"no id", func(e *Event) { e.ID = "" }, "id: is empty"},
		{"no kind", func(e *Event) { e.Kind = "" }, "kind: is empty"},
		{"unknown kind", func(e *Event) { e.Kind = "tool.reslut" }, `kind: "tool.reslut" is not known, want one of ` + kindList()},
		{"no time", func(e *Event) { e.Time = time.Time{} }, "time: is empty, want RFC 3339"},
		{"early time", func(e *Event) { e.Time = time.Unix(0, 0) }, "time: 1970-01-01T00:00:00Z is out of range"},
		{"late time", func(e *Event) { e.Time = time.Date(2200, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200)) }, "time: 2201-01-01T01:00:00Z is out of range"},
		{"no agent", func(e *Event) { e.Agent = Agent{} }, "agent.id: is empty, and there is no agent.name or agent.service to make it from"},
		{"agent not UTF-8", func(e *Event) { e.Agent = Agent{ID: "\xff"} }, "agent.id: is empty, and there is no agent.name or agent.service to make it from"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := valid()
			tt.change(&e)
			if err := e.Check(); err == nil || err.Error() != tt.want {
				t.Errorf("Check = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestCheckAgent(t *testing.T) {
	tests := []struct {
		name     string
		in, want Agent
	}{
		{"id alone", Agent{ID: "billing/bot"}, Agent{ID: "billing/bot", Service: "billing", Class: "billing"}},
		{"service and name", Agent{Service: "billing", Name: "bot"}, Agent{ID: "billing/bot", Name: "bot", Service: "billing", Class: "billing"}},
		{"service alone", Agent{Service: "billing"}, Agent{ID: "billing", Service: "billing", Class: "billing"}},
		{"name alone", Agent{Name: "bot"}, Agent{ID: "bot", Name: "bot", Service: "bot", Class: Unclassed}},
		{"id without a service", Agent{ID: "bot-7"}, Agent{ID: "bot-7", Service: "bot-7", Class: Unclassed}},
		{"name that is its service", Agent{Service: "bot", Name: "bot"}, Agent{ID: "bot", Name: "bot", Service: "bot", Class: "bot"}},
		{"class kept", Agent{ID: "a", Class: "payments"}, Agent{ID: "a", Service: "a", Class: "payments"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := valid()
			e.Agent = tt.in
			if err := e.Check(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, e.Agent); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An id is shown and quoted where texts are not, so it holds nothing that could be taken for something else; two that differ still do.
func TestCheckIDs(t *testing.T) {
	long := strings.Repeat("x", MaxIDBytes)
	plain := []string{"e1", "9024686b0aa87359c830a273feb76080", "https://x.example/a@b+c=d.e-f", long}
	for _, id := range plain {
		e := valid()
		e.ID, e.Trace = id, Trace{TraceID: id, SpanID: id, ParentID: id}
		if err := e.Check(); err != nil || e.ID != id || e.Trace != (Trace{TraceID: id, SpanID: id, ParentID: id}) {
			t.Errorf("%q became %q, trace %+v: %v", id, e.ID, e.Trace, err)
		}
	}
	seen := make(map[string]bool)
	for _, id := range []string{"a b", "a\x00", "a\n", "a\x1b[31m", "a\u202eb", "a\u200bb", "a`b", "<b>", "a\xff", "a\xfe", "é", "[x](y)", "a'b", "a|b", long + "x", long + "y", " "} {
		e := valid()
		e.ID, e.Trace = id, Trace{TraceID: id, SpanID: id, ParentID: id}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		if len(e.ID) != 32 || strings.Trim(e.ID, "0123456789abcdef") != "" || seen[e.ID] || e.Trace != (Trace{TraceID: e.ID, SpanID: e.ID, ParentID: e.ID}) {
			t.Errorf("%q became %q, trace %+v", id, e.ID, e.Trace)
		}
		seen[e.ID] = true
	}
	e := valid()
	if err := e.Check(); err != nil || e.Trace != (Trace{}) {
		t.Errorf("no trace became %+v: %v", e.Trace, err)
	}
}

func TestCheckClips(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n-1) + "é" } // one byte too long, in the middle of a rune
	e := valid()
	e.Error = long(MaxValueBytes)
	e.Content = make([]Content, MaxContents+1)
	e.Content[0] = Content{Text: long(MaxContentBytes), Tokens: make(Hashes, MaxTokens+1)}
	e.Content[1] = Content{Text: "short"}
	e.Destinations = make([]Destination, MaxDestinations+1)
	e.Attrs = map[string]string{"a": long(MaxAttrBytes)}
	for i := range MaxAttrs + 9 {
		e.Attrs[fmt.Sprintf("k%03d", i)] = ""
	}
	e.Tool = &Tool{Name: "t", Args: make([]Arg, MaxArgs+1), Result: Content{Text: "\xffok"}}
	e.Tool.Args[0] = Arg{Path: "a", Value: long(MaxValueBytes), Provenance: ProvenancePrompt, Origin: "forged"}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	last := 0
	for k := range e.Attrs {
		var n int
		_, _ = fmt.Sscanf(k, "k%d", &n)
		last = max(last, n)
	}
	got := []any{
		len(e.Error), len(e.Content), len(e.Content[0].Text), e.Content[0].Size, e.Content[0].State, len(e.Content[0].Tokens),
		e.Content[1].State, len(e.Destinations), len(e.Attrs), len(e.Attrs["a"]), last, len(e.Tool.Args), e.Tool.ArgsState, len(e.Tool.Args[0].Value),
		e.Tool.Args[0].Provenance, e.Tool.Args[0].Origin, e.Tool.Result.Text,
	}
	want := []any{
		MaxValueBytes - 1, MaxContents, MaxContentBytes - 1, MaxContentBytes + 1, StateTruncated, MaxTokens,
		StateFull, MaxDestinations, MaxAttrs, MaxAttrBytes - 1, MaxAttrs - 2, MaxArgs, StateTruncated, MaxValueBytes - 1,
		ProvenanceUnknown, "", "ok",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// text draws what attackers send: any bytes, long runs, and the words that the code looks for.
func text() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.StringN(0, 40, -1), rapid.Just(""), rapid.Just("\xffbad\x80"), rapid.Just(strings.Repeat("é", 200)),
		rapid.SampledFrom([]string{"mcp__crm__export", "mcp____mcp__a__b", "mcp_\xff_a__b", "send_money", "to", "url", "a@B.example", "https://X.example/p"}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(b []byte) string { return string(b) }))
}

func content() *rapid.Generator[Content] {
	return rapid.Custom(func(t *rapid.T) Content {
		return Content{
			Role: text().Draw(t, "role"), State: State(text().Draw(t, "state")), Text: text().Draw(t, "text"), Size: rapid.IntRange(0, 99).Draw(t, "size"),
			Tokens: rapid.SliceOfN(rapid.Map(rapid.Uint64(), func(n uint64) Hash { return Hash(n) }), 0, 3).Draw(t, "tokens"),
		}
	})
}

func anyEvent() *rapid.Generator[Event] {
	return rapid.Custom(func(t *rapid.T) Event {
		s := func(label string) string { return text().Draw(t, label) }
		e := Event{
			ID: s("id"), Kind: rapid.SampledFrom(Kinds()).Draw(t, "kind"), Outcome: Outcome(s("outcome")), Seq: rapid.Int64().Draw(t, "seq"),
			Time:     time.Unix(rapid.Int64Range(946684800, 7258118400).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).In(time.FixedZone("", 3600)),
			Duration: time.Duration(rapid.Int64().Draw(t, "duration")), Tenant: s("tenant"), Error: s("error"),
			Source: Source{Dialect: s("dialect"), Authn: s("authn")}, Session: Session{ID: s("session"), Root: rapid.Bool().Draw(t, "root")},
			Agent:  Agent{ID: s("agent"), Name: s("name"), Service: s("service"), Class: s("class")},
			Trace:  Trace{TraceID: s("trace"), Name: s("span")},
			Labels: rapid.MapOfN(text(), text(), 0, 3).Draw(t, "labels"), Attrs: rapid.MapOfN(text(), text(), 0, 3).Draw(t, "attrs"),
			Content: rapid.SliceOfN(content(), 0, 3).Draw(t, "content"),
		}
		if rapid.Bool().Draw(t, "has tool") {
			e.Tool = &Tool{Name: s("tool"), Server: s("server"), Effect: Effect(s("effect")), Result: content().Draw(t, "result"), Command: s("command"), Path: s("path"), URL: s("url")}
			for range rapid.IntRange(0, 3).Draw(t, "args") {
				e.Tool.Args = append(e.Tool.Args, Arg{Path: s("arg"), Value: s("value")})
			}
			e.Decision = &Decision{Effect: s("decision"), Reason: s("reason")}
			e.Model = &Model{Name: s("model"), InputTokens: rapid.Int64().Draw(t, "input")}
		}
		for range rapid.IntRange(0, 2).Draw(t, "destinations") {
			e.Destinations = append(e.Destinations, Destination{Kind: s("dest kind"), Value: s("dest"), Arg: s("dest arg")})
		}
		return e
	})
}

// What Check accepted once it accepts again and leaves as it is: a log that is read back is checked by nobody.
func TestCheckIsIdempotent(t *testing.T) {
	codec, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		if e.Check() != nil {
			return
		}
		once, err := codec.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Check(); err != nil {
			t.Fatalf("the second Check refuses: %v", err)
		}
		twice, err := codec.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if string(once) != string(twice) {
			t.Fatalf("the second Check changed the event: %+v", e)
		}
	})
}

func TestNewID(t *testing.T) {
	const golden = "9024686b0aa87359c830a273feb76080"
	if got := NewID("acme", KindToolResult, "session-1", "call-1"); got != golden {
		t.Errorf("NewID = %s, want %s: stored ids must keep their meaning", got, golden)
	}
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.StringOf(rapid.RuneFrom([]rune("ab\x00"))), 1, 4)
		a, b := keys.Draw(t, "a"), keys.Draw(t, "b")
		if same := cmp.Equal(a, b); same != (NewID("", KindAuth, a...) == NewID("", KindAuth, b...)) {
			t.Fatalf("keys %q and %q: equal %v", a, b, same)
		}
		if NewID(a[0], KindAuth, b...) == NewID("", KindAuth, append(a[:1:1], b...)...) && a[0] != "" {
			t.Fatal("a tenant can be taken for a key")
		}
	})
}

func TestCodec(t *testing.T) {
	codec, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		if e.Check() != nil {
			return
		}
		data, err := codec.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var back Event
		if err := codec.Unmarshal(data, &back); err != nil {
			t.Fatalf("what Check accepted can't be read back: %v", err)
		}
		if !back.Time.Equal(e.Time) {
			t.Fatalf("time %s came back as %s", e.Time, back.Time)
		}
		again, err := codec.Marshal(back)
		if err != nil || string(again) != string(data) {
			t.Fatalf("equal values give other bytes: %v\n%s", err, cmp.Diff(e, back))
		}
	})
	var v any
	if err := codec.Unmarshal([]byte(strings.Repeat("\x81", 40)+"\x00"), &v); err == nil {
		t.Error("40 levels of nesting are decoded, want at most 32")
	}
}

func TestAgentID(t *testing.T) {
	for _, tt := range []struct{ service, name, want string }{{"s", "n", "s/n"}, {"s", "", "s"}, {"", "n", "n"}, {"s", "s", "s"}, {"", "", ""}} {
		if got := AgentID(tt.service, tt.name); got != tt.want {
			t.Errorf("AgentID(%q, %q) = %q, want %q", tt.service, tt.name, got, tt.want)
		}
	}
}

// Many texts of one event share the room for hashes; the arguments, which come first, keep theirs.
func TestTokensOfAnEventAreBounded(t *testing.T) {
	hashes := make(Hashes, MaxTokens)
	e := Event{ID: "e", Kind: KindToolResult, Time: time.Unix(1772323200, 0), Agent: Agent{ID: "a"}, Tool: &Tool{Name: "t", Args: []Arg{{Path: "p", Tokens: hashes}}, Result: Content{Tokens: hashes}}}
	for range MaxContents {
		e.Content = append(e.Content, Content{Tokens: hashes})
	}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	n := len(e.Tool.Args[0].Tokens) + len(e.Tool.Result.Tokens)
	for _, c := range e.Content {
		n += len(c.Tokens)
	}
	if n != MaxEventTokens || len(e.Tool.Args[0].Tokens) != MaxTokens {
		t.Errorf("%d hashes, of them %d of the argument", n, len(e.Tool.Args[0].Tokens))
	}
}

package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Whatever agents send, the state of a class stays within its bounds and says what it had to drop.
func TestStateIsBounded(t *testing.T) {
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := New(set, event.NewHasher(nil), Options{MaxBytes: 4 << 30})
	words := strings.Repeat("w", 8)
	send := func(i int, session, trace string, at time.Duration) {
		e := event.Event{
			ID: fmt.Sprint(i), Kind: event.KindToolResult, Time: detect.StreamStart.Add(at), Agent: event.Agent{Service: "svc", Basis: "service"},
			Session: event.Session{ID: session}, Trace: event.Trace{TraceID: trace, ParentID: "p"}, Content: []event.Content{{Role: event.RolePrompt, Text: fmt.Sprint(words, i, " xxx", i, " yyy", i, " zzz", i, " vvv", i)}},
			Tool: &event.Tool{Name: "read_file", CallID: fmt.Sprint(i), Result: event.Content{Text: fmt.Sprint("rrr", i, " qqq", i, " ppp", i, " ooo", i, " nnn", i)}},
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		s.Process(&e, Position{Sequence: uint64(i)})
	}
	n := 0
	for range maxPositions + 50 { // one endless session and trace
		n++
		send(n, "endless", "endless", 0)
	}
	c := s.classes["svc"]
	ses := c.Sessions["\x00endless"]
	got := []int{len(ses.Pending.list()), len(ses.Positions), len(ses.Calls), len(c.Traces["\x00endless"].Orphans)}
	if want := []int{maxPending, maxPositions, maxCalls, maxOrphans}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("one session holds %v, want %v", got, want)
	}
	for _, set := range []*tokenSet{&ses.Prompt, &ses.Output} {
		if n := len(set.Identifying.Tokens); n < maxTokens || n > tokensRoom || set.index.used != n+len(set.Words.Tokens) {
			t.Errorf("one session holds %d tokens, and %d are indexed", n, set.index.used)
		}
	}
	for i := range maxSessions + 20 { // many of them
		n++
		send(n, fmt.Sprint("s", i), fmt.Sprint("t", i), time.Duration(i)*time.Millisecond)
	}
	waiting := 0
	for _, tr := range c.Traces {
		waiting += len(tr.Orphans)
	}
	const eighth = maxSessions / 8
	if len(c.Sessions) != maxSessions-eighth+21 || len(c.Traces) != maxTraces-eighth+21 || waiting != c.Waiting || waiting > maxWaiting {
		t.Errorf("%d sessions, %d traces, %d events wait and %d are counted", len(c.Sessions), len(c.Traces), waiting, c.Waiting)
	}
	if got := s.Evicted(); got["sessions"] != eighth || got["traces"] != eighth || got["orphans"] == 0 {
		t.Errorf("evicted %v", got)
	}
	n++
	n++
	send(n, "idle", "idle", time.Hour) // nobody's name comes any more
	if len(c.Sessions) != maxSessions-eighth+22 || len(c.Traces) != maxTraces-eighth+22 || c.Waiting != 1 {
		t.Errorf("%d sessions, %d traces, %d events wait after an hour", len(c.Sessions), len(c.Traces), c.Waiting)
	}
	n++
	send(n, "end", "end", 2*time.Hour+keptFor)
	if len(c.Sessions) != 1 || len(c.Traces) != 1 || c.Waiting != 1 {
		t.Errorf("%d sessions, %d traces, %d events wait after a day", len(c.Sessions), len(c.Traces), c.Waiting)
	}
}

func TestRepeatsAreRemembered(t *testing.T) {
	c := (&Shard{classes: make(map[string]*class)}).class("c")
	for i := range 3 * maxSeen {
		id := fmt.Sprint(i)
		if c.repeated("", id) || !c.repeated("", id) {
			t.Fatalf("event %d", i)
		}
		if i >= maxSeen/2-1 && !c.repeated("", fmt.Sprint(i-maxSeen/2+1)) {
			t.Fatalf("event %d is forgotten after half as many as are remembered", i-maxSeen/2+1)
		}
		if len(c.Seen) > maxSeen {
			t.Fatalf("%d ids", len(c.Seen))
		}
	}
}

// A session with more messages than are remembered keeps its beginning and its end.
func TestLongSessionKeepsBothEnds(t *testing.T) {
	var list []Position
	for i := range 3 * maxPositions {
		list = appendPosition(list, Position{Sequence: uint64(i)})
	}
	if first, last := list[0].Sequence, list[len(list)-1].Sequence; len(list) != maxPositions || first != 0 || last != 3*maxPositions-1 {
		t.Errorf("%d positions from %d to %d, want %d with both ends", len(list), first, last, maxPositions)
	}
}

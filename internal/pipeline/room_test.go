package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

func newShard(t testing.TB, bytes int) *Shard {
	t.Helper()
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	return New(set, event.NewHasher(nil), Options{MaxBytes: bytes})
}

// big is an event that a session remembers many bytes of.
func big(id, class, session string, words int) event.Event {
	text := strings.Repeat("x", 8)
	for i := range words {
		text += fmt.Sprint(" w", id, "q", i)
	}
	return event.Event{
		ID: id, Kind: event.KindToolResult, Time: detect.StreamStart, Agent: event.Agent{Service: "svc" + id, Class: class, Basis: "service"},
		Session: event.Session{ID: session}, Trace: event.Trace{TraceID: "t" + id, SpanID: "1", ParentID: "2"},
		Tool: &event.Tool{Name: "read_file", CallID: id, Args: []event.Arg{{Path: "p", Value: text}}, Result: event.Content{Text: text}},
	}
}

func take(t testing.TB, s *Shard, e event.Event) {
	t.Helper()
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	s.Process(&e, Position{Sequence: uint64(s.events)})
}

// weights counts the bytes of a shard anew.
func weights(s *Shard) (total int) {
	for _, c := range s.classes {
		bytes, waiting, waitingBytes := 0, 0, 0
		for _, ses := range c.Sessions {
			bytes += sessionBytes + positionBytes*len(ses.Positions) + agentBytes*len(ses.Agents)
			for _, set := range []tokenSet{ses.Prompt, ses.Output} {
				bytes += tokenBytes * (len(set.Identifying.Tokens) + len(set.Words.Tokens))
				for _, origin := range set.Origins {
					bytes += originBytes + len(origin.Event)
				}
			}
			bytes += 2 * len(ses.Pending.Data)
			for _, c := range ses.Calls {
				bytes += callBytes + len(c.Event)
			}
		}
		for _, tr := range c.Traces {
			bytes += traceBytes
			for i := range tr.Orphans {
				waiting, waitingBytes = waiting+1, waitingBytes+eventBytes(&tr.Orphans[i])
			}
		}
		if bytes+waitingBytes != c.Bytes || waiting != c.Waiting || waitingBytes != c.WaitingBytes {
			return -1
		}
		total += c.Bytes + c.rest()
	}
	return total
}

// Whatever comes in, the shard knows its weight, keeps within its room, and has the same after a restart.
func TestWeightIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const room = 1 << 19
		s := newShard(t, room)
		for i := range rapid.IntRange(1, 120).Draw(rt, "events") {
			e := big(fmt.Sprint(i), rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(rt, "class"), fmt.Sprint(rapid.IntRange(0, 9).Draw(rt, "session")), rapid.IntRange(0, 300).Draw(rt, "words"))
			e.Time = e.Time.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "hours")*i) * time.Hour)
			if rapid.Bool().Draw(rt, "named") {
				e.Agent = event.Agent{Service: "svc", Name: "bot", Class: e.Agent.Class}
				e.Trace.TraceID = fmt.Sprint("t", rapid.IntRange(0, i).Draw(rt, "of"))
			}
			take(t, s, e)
			if w := weights(s); w != s.bytes || w > room {
				rt.Fatalf("the shard weighs %d and says %d, at most %d", w, s.bytes, room)
			}
			for name, c := range s.classes {
				if c.counted > room/4 {
					rt.Fatalf("class %s weighs %d of %d", name, c.counted, room)
				}
			}
		}
		data, err := s.Snapshot(1)
		if err != nil {
			rt.Fatal(err)
		}
		again := newShard(t, room)
		if _, _, err := again.Restore(data); err != nil || again.bytes != s.bytes || again.events != s.events || !maps.Equal(again.Evicted(), s.Evicted()) {
			rt.Fatalf("restored at %d bytes and %d events, want %d and %d: %v", again.bytes, again.events, s.bytes, s.events, err)
		}
	})
}

// What was touched last stays, in its own class and in those that a flood does not come from.
func TestStalestMakesRoom(t *testing.T) {
	const room = 1 << 20
	s := newShard(t, room)
	take(t, s, big("quiet", "bank", "quiet", 100))
	for i := range 200 {
		take(t, s, big(fmt.Sprint("f", i), "flood", fmt.Sprint("s", i), 100))
		take(t, s, big(fmt.Sprint("k", i), "flood", "kept", 1))
	}
	flood, got := s.classes["flood"], s.Evicted()
	if s.classes["bank"].Sessions["\x00quiet"] == nil || flood.Sessions["\x00kept"] == nil || flood.Sessions["\x00s199"] == nil || flood.Sessions["\x00s0"] != nil {
		t.Errorf("kept %v", slices.Sorted(maps.Keys(flood.Sessions)))
	}
	if len(flood.Sessions)+got["sessions"] < 201 || len(flood.Traces)+got["traces"] != 400 || got["orphans"] == 0 {
		t.Errorf("%d sessions and %d traces, evicted %v", len(flood.Sessions), len(flood.Traces), got)
	}
	for i := range 20 { // many classes together fill the shard: what was silent longest goes, and its class stays
		for j := range 20 {
			take(t, s, big(fmt.Sprint("c", i, "-", j), fmt.Sprint("class", i), fmt.Sprint(j), 20))
		}
	}
	bank := s.classes["bank"]
	if bank == nil || len(bank.Sessions) != 0 || len(bank.Seen) != 0 || s.classes["class19"].Sessions["\x0019"] == nil || s.Evicted()["ids"] == 0 {
		t.Errorf("evicted %v", s.Evicted())
	}
}

// What a class that made room had evicted is still counted: the count never falls.
func TestEvictedClassIsCounted(t *testing.T) {
	s := newShard(t, 0)
	take(t, s, big("first", "first", "s", 1))
	s.classes["first"].Evicted["sessions"] = 7
	for i := range maxClasses {
		take(t, s, big(fmt.Sprint(i), fmt.Sprint("class", i), "s", 0))
	}
	if diff := cmp.Diff(map[string]int{"baselines": 0, "classes": 1, "sessions": 7}, s.Evicted()); diff != "" || s.classes["first"] != nil || s.bytes != weights(s) {
		t.Errorf("%s, %d bytes", diff, s.bytes)
	}
}

// A class that is full takes new sessions at the price of those it had room for.
func BenchmarkFullClass(b *testing.B) {
	s := newShard(b, 1<<30)
	for i := range maxSessions {
		e := big(fmt.Sprint(i), "c", fmt.Sprint(i), 1)
		e.Agent = event.Agent{Service: "svc", Name: "bot", Class: "c"}
		take(b, s, e)
	}
	i := maxSessions
	for b.Loop() {
		i++
		e := big(fmt.Sprint(i), "c", fmt.Sprint(i), 1)
		e.Agent = event.Agent{Service: "svc", Name: "bot", Class: "c"}
		take(b, s, e)
	}
}

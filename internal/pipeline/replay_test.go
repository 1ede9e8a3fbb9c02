package pipeline_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/testdata"
)

// recorded returns the events of captures, each trace a quarter of an hour after the one before, so that sessions end and are
// learned. Within a trace times and order of arrival are as they were.
func recorded(t testing.TB, names ...string) []event.Event {
	t.Helper()
	mapper, shift := ingest.NewMapper(ingest.Options{}), make(map[string]time.Duration)
	byTrace := make(map[string][]event.Event)
	var order []string
	for _, name := range names {
		text, err := testdata.Captures.ReadFile("captures/" + name + ".jsonl")
		if err != nil {
			t.Fatal(err)
		}
		err = ingest.ReadCapture(bytes.NewReader(text), func(req ingest.Request) error {
			events, _, err := mapper.Capture(req, ingest.Receipt{})
			for _, e := range events {
				key := name + e.Trace.TraceID
				if byTrace[key] == nil {
					shift[key] = detect.StreamStart.Add(15 * time.Minute * time.Duration(len(order))).Sub(e.Time)
					order = append(order, key)
				}
				e.Time = e.Time.Add(shift[key])
				byTrace[key] = append(byTrace[key], e)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []event.Event
	for _, key := range order {
		out = append(out, byTrace[key]...)
	}
	return out
}

var payments = []string{"billing-bot", "refund-bot", "billing-bot-control", "billing-bot-hijacked"}

// player replays events that are encoded, because a shard changes those it is given.
type player struct {
	codec *event.Codec
	set   *detect.Set
	log   [][]byte
}

func newPlayer(t testing.TB, events []event.Event) *player {
	t.Helper()
	codec, err := event.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	p := &player{codec: codec, set: shippedSet(t)}
	for i := range events {
		data, err := codec.Marshal(events[i])
		if err != nil {
			t.Fatal(err)
		}
		p.log = append(p.log, data)
	}
	return p
}

func (p *player) shard() *pipeline.Shard {
	return pipeline.New(p.set, event.NewHasher(nil), pipeline.Options{})
}

// play processes the events at these places of the log and returns what was raised as lines of JSON.
func (p *player) play(t testing.TB, shard *pipeline.Shard, places ...int) (out []string) {
	t.Helper()
	for _, i := range places {
		var e event.Event
		if err := p.codec.Unmarshal(p.log[i], &e); err != nil {
			t.Fatal(err)
		}
		for _, r := range shard.Process(&e, pipeline.Position{Sequence: uint64(i)}) {
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(line))
		}
	}
	return out
}

func (p *player) places() []int {
	out := make([]int, len(p.log))
	for i := range out {
		out[i] = i
	}
	return out
}

func snapshot(t testing.TB, s *pipeline.Shard, last uint64) []byte {
	t.Helper()
	data, err := s.Snapshot(last)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReplaysAreEqual(t *testing.T) {
	p := newPlayer(t, recorded(t, append(payments, "research-crew")...))
	a, b := p.shard(), p.shard()
	first, second := p.play(t, a, p.places()...), p.play(t, b, p.places()...)
	if len(first) == 0 {
		t.Fatal("nothing was raised")
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(snapshot(t, a, 7), snapshot(t, b, 7)) {
		t.Error("equal states have snapshots of other bytes")
	}
	c := p.shard()
	last, dropped, err := c.Restore(snapshot(t, a, 7))
	if err != nil || last != 7 || len(dropped) > 0 || !bytes.Equal(snapshot(t, a, 7), snapshot(t, c, 7)) {
		t.Errorf("restored at %d, dropped %v: %v", last, dropped, err)
	}
}

// A shard that was stopped anywhere and restored raises what one raises that never stopped, to the letter. A tail that is
// processed twice, and repeats of single events, raise nothing more.
func TestRestoreAnywhere(t *testing.T) {
	p := newPlayer(t, recorded(t, append(payments, "research-crew")...))
	straight := p.shard()
	want := p.play(t, straight, p.places()...)
	state := snapshot(t, straight, uint64(len(p.log)))
	rapid.Check(t, func(rt *rapid.T) {
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(p.log)), 1, 3).Draw(rt, "cuts")
		slices.Sort(cuts)
		shard, from := p.shard(), 0
		var got []string
		for _, cut := range append(cuts, len(p.log)) {
			for i := from; i < cut; i++ {
				got = append(got, p.play(t, shard, i)...)
				if i%7 == 0 {
					got = append(got, p.play(t, shard, rapid.IntRange(0, i).Draw(rt, "repeat"))...)
				}
			}
			data := snapshot(t, shard, uint64(cut))
			shard, from = p.shard(), cut
			if last, _, err := shard.Restore(data); err != nil || last != uint64(cut) {
				rt.Fatal(last, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatal(diff)
		}
		if !bytes.Equal(state, snapshot(t, shard, uint64(len(p.log)))) {
			rt.Fatal("the state at the end is another")
		}
	})
}

// A session that was found out is not learned, and a call that was reported is not scored again, wherever the shard stopped.
func TestRestoreWithinASession(t *testing.T) {
	events := recorded(t, "billing-bot-hijacked", "billing-bot-control")
	for i := range len(events) { // reported a second time, under another id
		e := events[2*i]
		e.ID += "'"
		events = append(events[:2*i+1], append([]event.Event{e}, events[2*i+1:]...)...)
	}
	p := newPlayer(t, events)
	straight := p.shard()
	want := p.play(t, straight, p.places()...)
	for cut := range p.log {
		before, after := p.shard(), p.shard()
		got := p.play(t, before, p.places()[:cut]...)
		if _, _, err := after.Restore(snapshot(t, before, 1)); err != nil {
			t.Fatal(err)
		}
		got = append(got, p.play(t, after, p.places()[cut:]...)...)
		if !slices.Equal(want, got) || !bytes.Equal(snapshot(t, straight, 1), snapshot(t, after, 1)) {
			t.Errorf("stopped at event %d, the shard finds or knows something else", cut)
		}
	}
}

// All state is kept by class, so that it does not matter which shard a class lives in.
func TestNumberOfShards(t *testing.T) {
	events := recorded(t, append(payments, "research-crew", "support-desk")...)
	slices.SortStableFunc(events, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
	p := newPlayer(t, events)
	want, perClass := p.play(t, p.shard(), p.places()...), make(map[string]*pipeline.Shard)
	var got []string
	for i := range events {
		class := events[i].Agent.Class
		if perClass[class] == nil {
			perClass[class] = p.shard()
		}
		got = append(got, p.play(t, perClass[class], i)...)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(perClass) < 3 {
		t.Errorf("%d shards: %s", len(perClass), diff)
	}
}

// What was found is not learned: an attack that is repeated day by day is found day by day.
func TestRepeatedAttackStaysAnomalous(t *testing.T) {
	events := recorded(t, payments...)
	attack := recorded(t, "billing-bot-hijacked")
	benign := len(events)
	for day := range 12 {
		for _, e := range attack {
			e.ID, e.Trace.TraceID, e.Session.ID = fmt.Sprint(e.ID, day), fmt.Sprint(e.Trace.TraceID, day), fmt.Sprint(e.Session.ID, day)
			e.Time = e.Time.Add(time.Duration(day+20) * 24 * time.Hour)
			events = append(events, e)
		}
	}
	p := newPlayer(t, events)
	shard := p.shard()
	p.play(t, shard, p.places()[:benign]...)
	before, _ := shard.Learned("payments", "billing/billing-bot")
	var first []string
	for day := range 12 {
		var rules []string
		for _, line := range p.play(t, shard, p.places()[benign+day*len(attack):benign+(day+1)*len(attack)]...) {
			var r pipeline.Raised
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			// These two add up what was found over days.
			if rule := r.Finding.Rule; rule != "agent-drifts" && rule != "weak-signs-add-up" {
				rules = append(rules, rule)
			}
		}
		if day == 0 {
			first = rules
		}
		if diff := cmp.Diff(first, rules); diff != "" || !strings.Contains(strings.Join(rules, " "), "baseline-argument") {
			t.Errorf("day %d: raised %v %s", day, rules, diff)
		}
	}
	if after, _ := shard.Learned("payments", "billing/billing-bot"); before.Sessions == 0 || after.Sessions != before.Sessions {
		t.Errorf("%d sessions learned, then %d", before.Sessions, after.Sessions)
	}
}

func sealed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(slices.Clone(body), sum[:]...)
}

func TestRestoreRefuses(t *testing.T) {
	p := newPlayer(t, recorded(t, "billing-bot-hijacked"))
	shard := p.shard()
	p.play(t, shard, p.places()...)
	good := snapshot(t, shard, 5)
	bad := map[string][]byte{"empty": nil, "checksum alone": sealed(nil), "cut": good[:len(good)-1], "longer": append(slices.Clone(good), 0)}
	for i := 0; i < len(good); i += 997 {
		flipped := slices.Clone(good)
		flipped[i] ^= 1
		bad[fmt.Sprint("bit flipped in byte ", i)] = flipped
	}
	class := func(key string) map[string]any {
		return map[string]any{"version": 4, "classes": map[string]any{"c": map[string]any{"model": map[string]any{}, "rules": map[string]any{}, key: map[string]any{"x": nil}}}}
	}
	for name, v := range map[string]any{"session without state": class("sessions"), "trace without state": class("traces"), "other version": map[string]any{"version": 3}, "no CBOR map": 5, "class without state": map[string]any{"version": 4, "classes": map[string]any{"c": map[string]any{}}}} {
		body, err := p.codec.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		bad[name] = sealed(body)
	}
	for name, data := range bad {
		if _, _, err := shard.Restore(data); err == nil || !strings.HasPrefix(err.Error(), "restore snapshot: ") {
			t.Errorf("%s: Restore = %v", name, err)
		}
		if !bytes.Equal(good, snapshot(t, shard, 5)) {
			t.Fatalf("%s: a refused snapshot changed the shard", name)
		}
	}
}

// The operator of a rule that changed starts afresh and is named; the rest of the state stays.
func TestRestoreUnderOtherRules(t *testing.T) {
	p := newPlayer(t, recorded(t, "billing-bot-hijacked"))
	p.set = ruleSet(t, "'true'\nsuppress: 1h")
	shard := p.shard()
	if raised := p.play(t, shard, p.places()...); len(raised) == 0 {
		t.Fatal("nothing was raised")
	}
	p.set = ruleSet(t, "'true'\nsuppress: 2h")
	other := p.shard()
	_, dropped, err := other.Restore(snapshot(t, shard, 1))
	if err != nil || len(dropped) != 1 || !strings.HasPrefix(dropped[0], "the-rule@") || other.Watermark() != shard.Watermark() {
		t.Errorf("dropped %v: %v", dropped, err)
	}
	if raised := p.play(t, other, p.places()...); len(raised) != 0 {
		t.Error("with a rule, the memory of repeated events was dropped")
	}
}

func FuzzRestore(f *testing.F) {
	p := newPlayer(f, recorded(f, "billing-bot-hijacked"))
	shard := p.shard()
	p.play(f, shard, p.places()...)
	good := snapshot(f, shard, 5)
	f.Add(good)
	f.Add(good[:len(good)-sha256.Size])
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, data []byte) {
		fresh := p.shard()
		empty := snapshot(t, fresh, 0)
		if _, _, err := fresh.Restore(data); err == nil && !bytes.Equal(data, sealed(data[:len(data)-sha256.Size])) {
			t.Fatal("a snapshot whose checksum does not match is restored")
		} else if err != nil && !bytes.Equal(empty, snapshot(t, fresh, 0)) {
			t.Fatal("a refused snapshot changed the shard")
		}
		fresh = p.shard()
		if _, _, err := fresh.Restore(sealed(data)); err != nil && !bytes.Equal(empty, snapshot(t, fresh, 0)) {
			t.Fatal("a refused snapshot changed the shard")
		}
	})
}

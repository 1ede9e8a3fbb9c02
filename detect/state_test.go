package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// hitsAt feeds matching events at the given seconds and returns at which of them, counted from 0, the window was full.
func hitsAt(st *State, n int, within time.Duration, seconds ...int) []int {
	var full []int
	for i, s := range seconds {
		at := StreamStart.Add(time.Duration(s) * time.Second)
		if st.hit("rule", "key", hit{At: at, Event: fmt.Sprint(i)}, n, within) != nil {
			full = append(full, i)
		}
	}
	return full
}

func TestWindow(t *testing.T) {
	const farFuture = 10 * 365 * 24 * 3600
	for _, tc := range []struct {
		name    string
		seconds []int
		want    []int
	}{
		{"in order", []int{0, 1, 2}, []int{2}},
		{"too slow", []int{0, 5, 10, 15}, nil},
		{"the window is open at its end", []int{0, 5, 10}, nil},
		{"each further event", []int{0, 1, 2, 3, 20}, []int{2, 3}},
		{"out of order", []int{2, 0, 1}, []int{2}},
		{"all at once", []int{7, 7, 7}, []int{2}},
		{"late, and complete only with what is past", []int{0, 1, 30, 2}, []int{3}},
		{"late and outside of the window", []int{20, 21, 5}, nil},
		{"false time in the future", []int{0, farFuture, 1, farFuture, 2}, []int{4}},
		{"false times fill the window", []int{farFuture, 2 * farFuture, 3 * farFuture, 4 * farFuture, 5 * farFuture, 6 * farFuture, 0, 1, 2}, []int{8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, hitsAt(NewState(), 3, 10*time.Second, tc.seconds...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWindowCountsAnEventOnce(t *testing.T) {
	st := NewState()
	for range 5 {
		if st.hit("rule", "key", hit{At: StreamStart, Event: "same"}, 2, time.Minute) != nil {
			t.Fatal("one event filled a window of two")
		}
	}
}

func TestWindowKeepsBound(t *testing.T) {
	st := NewState()
	for i := range 1000 {
		st.hit("rule", "key", hit{At: StreamStart.Add(time.Duration(i*7919%1000) * time.Second), Event: fmt.Sprint(i)}, 5, time.Second)
	}
	if n := len(st.Windows["rule"]["key"].Hits); n > 10 {
		t.Errorf("a window of 5 keeps %d events, want at most 10", n)
	}
}

// A burst that lies in one window is found in whatever order it is delivered, with as many older events between.
func TestShuffledBurst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "n")
		burst := rapid.SliceOfN(rapid.IntRange(0, 59), n, n).Draw(t, "burst")
		noise := rapid.SliceOfN(rapid.IntRange(-100_000, -61), 0, n).Draw(t, "noise")
		seconds := append(burst, noise...)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(seconds), func(i, j int) { seconds[i], seconds[j] = seconds[j], seconds[i] })
		if hitsAt(NewState(), n, time.Minute, seconds...) == nil {
			t.Fatalf("no full window in %v", seconds)
		}
	})
}

func TestAllow(t *testing.T) {
	for _, tc := range []struct {
		name    string
		minutes []int
		want    []bool
	}{
		{"silent, then not", []int{0, 1, 9, 10}, []bool{true, false, false, true}},
		{"silence is not prolonged", []int{0, 6, 12}, []bool{true, false, true}},
		{"late by less than the silence", []int{20, 15}, []bool{true, false}},
		{"late by more", []int{20, 5}, []bool{true, true}},
		{"a false time in the future silences nothing of today", []int{1_000_000, 0, 1}, []bool{true, true, false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := NewState()
			var got []bool
			for _, m := range tc.minutes {
				got = append(got, st.Allow("rule", "key", StreamStart.Add(time.Duration(m)*time.Minute), 10*time.Minute))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEviction(t *testing.T) {
	st := NewState()
	// A window of 1000 may keep 2000 events, so the bound on events allows fewer keys than maxKeys.
	const n = 1000
	limit := maxHits / (2 * n)
	for i := range limit {
		// Times run backwards: what was touched first has the newest time, and must go all the same.
		st.hit("rule", fmt.Sprint(i), hit{At: StreamStart.Add(-time.Duration(i) * time.Hour), Event: "e"}, n, time.Second)
	}
	if got := st.Evicted["rule"]; got != 0 {
		t.Fatalf("evicted %d keys below the limit", got)
	}
	st.hit("rule", "one more", hit{At: StreamStart, Event: "e"}, n, time.Second)
	if got, want := st.Evicted["rule"], limit/8; got != want {
		t.Errorf("evicted %d keys, want %d", got, want)
	}
	if _, ok := st.Windows["rule"]["0"]; ok {
		t.Error("the stalest key is still there")
	}
	if _, ok := st.Windows["rule"][fmt.Sprint(limit-1)]; !ok {
		t.Error("the freshest key is gone")
	}
	for i := range maxKeys + 1 {
		st.Allow("rule", fmt.Sprint(i), StreamStart.Add(time.Duration(i)*time.Second), time.Hour)
	}
	if got, want := len(st.Silent["rule"]), maxKeys-maxKeys/8+1; got != want {
		t.Errorf("%d keys are silent, want %d", got, want)
	}
}

func TestEvictionIsAFinding(t *testing.T) {
	set, err := Compile([]Rule{{
		ID: "many", On: []event.Kind{event.KindPrompt}, Key: "session", When: "true",
		Count: &Count{AtLeast: 1000, Within: time.Hour},
	}})
	if err != nil {
		t.Fatal(err)
	}
	st, env := NewState(), NewEnv()
	var got []Finding
	for i := range maxHits/2000 + 300 {
		e := event.Event{ID: fmt.Sprint(i), Kind: event.KindPrompt, Time: StreamStart.Add(time.Duration(i) * time.Second), Session: event.Session{ID: fmt.Sprint(i)}}
		env.Fill(&e, SessionFacts{}, BaselineEnv{})
		got = append(got, set.Evaluate(env, &e, st)...)
	}
	if len(got) != 1 || got[0].Source != SourceHealth || got[0].Reason != "The rule reached its limit of keys and forgot the 131 stalest." {
		t.Errorf("got %+v, want one finding within the hour", got)
	}
}

func TestPrune(t *testing.T) {
	base := Rule{
		ID: "example-rule", Title: "Before", On: []event.Kind{event.KindPrompt}, Key: "session", When: "true",
		Count: &Count{AtLeast: 2, Within: time.Minute}, Suppress: time.Minute,
	}
	change := func(edit func(*Rule)) Rule {
		r := base
		count := *base.Count
		r.Count = &count
		edit(&r)
		return r
	}
	for _, tc := range []struct {
		name string
		rule Rule
		keep bool
	}{
		{"nothing", base, true},
		{"title", change(func(r *Rule) { r.Title = "After" }), true},
		{"severity, lane and version", change(func(r *Rule) { r.Severity, r.Lane, r.Version = High, Hunt, "2.0.0" }), true},
		{"threshold", change(func(r *Rule) { r.Count.AtLeast = 3 }), false},
		{"window", change(func(r *Rule) { r.Count.Within++ }), false},
		{"same", change(func(r *Rule) { r.Count.Same = "tool.name" }), false},
		{"suppression", change(func(r *Rule) { r.Suppress++ }), false},
		{"key", change(func(r *Rule) { r.Key = "agent" }), false},
		{"expression", change(func(r *Rule) { r.When = "outcome == \"\"" }), false},
		{"kinds", change(func(r *Rule) { r.On = []event.Kind{event.KindSession} }), false},
		{"id", change(func(r *Rule) { r.ID = "another-rule" }), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st, env := NewState(), NewEnv()
			for i := range 3 {
				e := event.Event{ID: fmt.Sprint(i), Kind: event.KindPrompt, Time: StreamStart}
				env.Fill(&e, SessionFacts{}, BaselineEnv{})
				mustCompile(t, base).Evaluate(env, &e, st)
			}
			st.Allow("baseline-tool", "key", StreamStart, time.Hour)
			dropped := st.Prune(mustCompile(t, tc.rule))
			if kept := len(st.Windows) == 1 && len(st.Silent) == 2 && len(dropped) == 0; kept != tc.keep {
				t.Errorf("kept: %v, want %v; dropped %v", kept, tc.keep, dropped)
			}
			if len(st.Silent["baseline-tool"]) != 1 {
				t.Error("the state of a baseline was dropped")
			}
		})
	}
}

func mustCompile(t testing.TB, rules ...Rule) *Set {
	t.Helper()
	set, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

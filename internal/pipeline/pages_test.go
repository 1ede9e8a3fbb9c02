package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/shelf"
)

// fleetEvents are what a dozen agents of two classes do, with a person's changes between.
func fleetEvents(seed uint64, n int) (out []event.Event) {
	r, at := rand.New(rand.NewPCG(seed, 1)), detect.StreamStart
	for i := range n {
		at = at.Add(time.Duration(r.IntN(90)) * time.Minute)
		agent, class := fmt.Sprint("svc/", r.IntN(12)), fmt.Sprint("class", r.IntN(2))
		e := event.Event{
			ID: fmt.Sprint("e", i), Kind: event.KindToolResult, Time: at, Agent: event.Agent{ID: agent, Name: agent, Class: class, Version: fmt.Sprint(i / 150)},
			Session: event.Session{ID: fmt.Sprint("s", i/2)}, Content: []event.Content{{Role: event.RolePrompt, Text: fmt.Sprint("page ", r.IntN(9), "1234")}},
			Tool:         &event.Tool{Name: fmt.Sprint("tool", r.IntN(3)), Args: []event.Arg{{Path: "id", Value: fmt.Sprint(r.IntN(9), "1234")}}, Effect: event.EffectEgress},
			Destinations: []event.Destination{{Kind: "host", Value: fmt.Sprint("host", r.IntN(4))}},
		}
		switch r.IntN(40) {
		case 0:
			e.Kind, e.Tool, e.Attrs = event.KindBaseline, nil, map[string]string{event.AttrChange: []string{baselines.Freeze, baselines.Unfreeze, baselines.Rebase, baselines.Rollback}[r.IntN(4)], event.AttrBy: "bob"}
		case 1:
			e.Tool.Name, e.Destinations[0].Value = "never seen", fmt.Sprint("host", i)
		}
		out = append(out, e)
	}
	return out
}

func text(v ...any) string {
	out, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// judged is what became of events, in words.
type judged struct {
	shard *Shard
	lines []string
}

func newJudged(set *detect.Set, o Options) *judged {
	j := &judged{}
	o.Alpha = 0.2 // so that something is found
	o.Scored = func(e *event.Event, a baselines.Anomaly) { j.lines = append(j.lines, text(e.ID, a, a.Assumed, a.Bits)) }
	j.shard = New(set, event.NewHasher(nil), o)
	return j
}

func (j *judged) process(events []event.Event) {
	for i := range events {
		e := events[i].Clone()
		for _, r := range j.shard.Process(&e, Position{}) {
			j.lines = append(j.lines, text(e.ID, r))
		}
	}
}

// known is all that is known of agents.
func known(s *Shard) (out []string) {
	for _, l := range s.Agents() {
		full := s.classes[l.Class].Model.Learned(l.Agent)
		full.OnDisk = false // that is what differs
		habits, _ := s.classes[l.Class].Model.Habits(l.Agent)
		out = append(out, text(full, habits))
	}
	return out
}

func openShelf(t rapid.TB, dir string) *shelf.Shelf {
	t.Helper()
	s, err := shelf.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func written(t rapid.TB, write func(*bytes.Buffer) error) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A shard with room for three pages, which crashes at any time, goes on from its last snapshot and reads the log again from there, finds what
// one finds that has room for all and never stopped. Nothing but what was synced for a snapshot is left of the files at a crash.
func TestPagesOnDisk(t *testing.T) {
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "pages")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		events := fleetEvents(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(50, 160).Draw(t, "events"))
		ample := newJudged(set, Options{})
		ample.process(events)

		disk := openShelf(t, dir)
		restart := func() *judged {
			return newJudged(set, Options{AgentsInMemory: 3, Shelf: disk})
		}
		j, from := restart(), 0
		var whole, changes []byte
		lines, marks := make([][]string, len(events)), 0 // by event, as they were judged last
		for at := 0; at < len(events); at++ {
			j.lines = nil
			j.process(events[at : at+1])
			lines[at] = j.lines
			if n := j.shard.Stored().InMemory; n > 3 {
				t.Fatalf("%d pages in memory", n)
			}
			switch rapid.IntRange(0, 30).Draw(t, "then") {
			case 0:
				whole, changes, from = written(t, func(w *bytes.Buffer) error { return j.shard.WriteSnapshot(w, uint64(at)) }), nil, at+1
				if err := j.shard.Kept(); err != nil {
					t.Fatal(err)
				}
			case 1:
				if j.shard.Based() {
					changes, from = written(t, func(w *bytes.Buffer) error { return j.shard.WriteChanges(w, uint64(at)) }), at+1
				}
			case 2: // a snapshot that was written and never kept, and then a crash
				written(t, func(w *bytes.Buffer) error { return j.shard.WriteSnapshot(w, uint64(at)) })
				fallthrough
			case 3:
				if marks++; marks > 4 {
					continue
				}
				if err := disk.Close(); err != nil {
					t.Fatal(err)
				}
				disk = openShelf(t, dir)
				j = restart()
				if whole == nil {
					at = -1
					continue
				}
				if _, _, err := j.shard.Restore(whole); err != nil {
					t.Fatal(err)
				}
				if changes != nil {
					if _, _, ok, err := j.shard.RestoreChanges(changes); err != nil || !ok {
						t.Fatalf("%t: %v", ok, err)
					}
				}
				at = from - 1
			}
		}
		if diff := cmp.Diff(ample.lines, slices.Concat(lines...)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(known(ample.shard), known(j.shard)); diff != "" {
			t.Fatal(diff)
		}
		if got, want := j.shard.CountAgents(), len(j.shard.Agents()); got != want {
			t.Fatalf("%d agents are counted, %d listed", got, want)
		}
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// An agent whose file is damaged is told by name, and all others go on as they were.
func TestDamagedPageIsTold(t *testing.T) {
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk := openShelf(t, dir)
	j := newJudged(set, Options{AgentsInMemory: 3, Shelf: disk})
	events := fleetEvents(1, 600)
	j.process(events[:500])
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 0); err != nil {
		t.Fatal(err)
	}
	told := make(map[string]bool)
	for i := range events[500:] {
		e := events[500+i].Clone()
		for _, r := range j.shard.Process(&e, Position{}) {
			if f := r.Finding; f.Rule == "baseline-pages" {
				if f.Source != detect.SourceHealth || !strings.Contains(f.Reason, "could not be read back") || told[f.Agent.Class+f.Agent.ID] {
					t.Errorf("%s: %s", f.Source, f.Reason)
				}
				told[f.Agent.Class+f.Agent.ID] = true
			}
		}
	}
	if len(told) < 10 {
		t.Errorf("%d agents are told of", len(told))
	}
}

// Agents that are too many are forgotten by name, those of the largest class, and one class may not have more than a quarter.
func TestTooManyAgents(t *testing.T) {
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := New(set, event.NewHasher(nil), Options{Agents: 400})
	named := 0
	for class := range 6 {
		for i := range 120 {
			c := s.class(fmt.Sprint("class", class))
			work(c, rand.New(rand.NewPCG(1, 1)), fmt.Sprint("svc/", class, "/", i), 0)
			e := event.Event{ID: "x", Time: detect.StreamStart}
			for _, r := range s.troubles(&e, append(s.settleAgents(c), c)...) {
				named += strings.Count(r.Finding.Reason, "was forgotten")
			}
			if st := s.Stored(); st.Agents > 400 || c.Model.Known() > 100 {
				t.Fatalf("%d agents, %d of the class", st.Agents, c.Model.Known())
			}
		}
	}
	if n := s.Evicted()["baselines"]; n == 0 || n != named || s.Stored().Agents != 720-n {
		t.Errorf("%d agents forgotten, %d named, %d left", n, named, s.Stored().Agents)
	}
	if n := s.class("class0").Model.Known(); n < 20 {
		t.Errorf("%d agents left of a class", n)
	}
}

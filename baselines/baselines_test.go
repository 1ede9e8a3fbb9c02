package baselines

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

func TestColdStartIsSilent(t *testing.T) {
	clerk, r := shapes()[0], rand.New(rand.NewPCG(1, 1))
	strange := call("wire_abroad", 99, ArgObservation{Path: "iban", Value: 99, Provenance: event.ProvenanceToolOutput})
	m := NewModel("class")
	for sessions := 0; ; sessions++ {
		a := scored(m, "svc/0", &strange)
		if a.Life == Active {
			if sessions < minSessions || m.Scores[FeatureTool].N < minCalibration || a.P > 0.05 {
				t.Errorf("active after %d sessions and %d scores with p = %g", sessions, m.Scores[FeatureTool].N, a.P)
			}
			break
		}
		if a.P != 1 || a.Features != nil || a.Life != Learning || a.Version != Version || !strings.Contains(a.Why, " of ") {
			t.Fatalf("after %d sessions: %+v", sessions, a)
		}
		if sessions > 100 {
			t.Fatal("it never gets active")
		}
		m.Learn(clerk.session(r))
	}
	if a := scored(m, "svc/new", &strange); a.P != 1 || a.Life != Learning {
		t.Errorf("a new agent of a known class is judged: %+v", a)
	}
	m.Learn("svc/empty", nil)
	if m.Agents["svc/empty"] != nil {
		t.Error("a session without calls makes a page")
	}
}

func TestExplanation(t *testing.T) {
	m := shapes()[0].trained(rand.New(rand.NewPCG(1, 2)), 300)
	o := call("send_money", 9999, ArgObservation{Path: "amount", Value: 1, Provenance: event.ProvenancePrompt},
		ArgObservation{Path: "to", Value: 9999, Provenance: event.ProvenanceToolOutput})
	a := scored(m, "svc/0", &o)
	if len(a.Features) != 3 || a.P > 0.05 {
		t.Fatalf("%+v", a)
	}
	for _, f := range a.Features {
		want := map[string][3]string{
			FeatureTool:        {"send_money", "used by this agent in ", "usual tools: read_file "},
			FeatureDestination: {"d9999", "reached by this agent in 0 of ", "usual destinations: d1 "},
			FeatureArgument:    {"to", "the value came from a tool's output, not from the user; used by this agent in 0 of ", "it usually comes from: prompt "},
		}[f.Name]
		if f.About != want[0] || !strings.HasPrefix(f.Got, want[1]) || !strings.HasPrefix(f.Want, want[2]) {
			t.Errorf("%s: about %q, got %q, want %q", f.Name, f.About, f.Got, f.Want)
		}
	}
	if l := m.Learned("svc/0"); l.Life != Active || l.Sessions != 300 || l.Peers != 0 || len(l.Provenance["send_money to"]) != 3 || len(l.Destinations) < 10 {
		t.Errorf("%+v", l)
	}
	if l := m.Learned("nobody"); l.Life != Learning || l.Sessions != 0 || l.Provenance == nil {
		t.Errorf("%+v", l)
	}
}

// A value of the prompt, or of the agent's own history, was asked for: it may be new without being surprising.
func TestAskedForIsNoSurprise(t *testing.T) {
	m := shapes()[0].trained(rand.New(rand.NewPCG(1, 3)), 300)
	for p, want := range map[event.Provenance]bool{
		event.ProvenancePrompt: false, event.ProvenanceHistory: false, event.ProvenanceUnknown: false,
		event.ProvenanceToolOutput: true, event.ProvenanceNowhere: true,
	} {
		if got := m.argScore(m.Agents["svc/0"], "send_money", &ArgObservation{Path: "to", Value: 1 << 40, Provenance: p}) > 0; got != want {
			t.Errorf("a new value of provenance %q is surprising: %v", p, got)
		}
	}
}

func TestObserve(t *testing.T) {
	h := event.NewHasher(nil)
	e := event.Event{
		Kind: event.KindToolResult, Destinations: []event.Destination{{Kind: "email", Value: "a@b.example", Arg: "to"}},
		Tool: &event.Tool{Name: "send", Args: []event.Arg{{Path: "to", Value: "a@b.example and you", Provenance: event.ProvenancePrompt}, {Path: "empty"}}},
	}
	full, ok := Observe(&e, h)
	if !ok || len(full.Args) != 1 || len(full.Dests) != 1 || len(full.Args[0].Tokens) != 1 || full.Args[0].Provenance != event.ProvenancePrompt {
		t.Fatalf("%+v", full)
	}
	e.Tool.Args[0].Tokens, e.Tool.Args[0].Value = h.Hash(e.Tool.Args[0].Value), ""
	if hashed, _ := Observe(&e, h); !cmp.Equal(full, hashed) {
		t.Error(cmp.Diff(full, hashed))
	}
	long := event.Event{Kind: event.KindToolRequest, Tool: &event.Tool{Args: []event.Arg{{Path: "a", Value: strings.Repeat("x12 ", 2*maxKept)}}}}
	if o, _ := Observe(&long, h); len(o.Args[0].Tokens) != maxKept {
		t.Errorf("%d tokens are kept, want %d", len(o.Args[0].Tokens), maxKept)
	}
	for _, e := range []event.Event{{Kind: event.KindToolResult}, {Kind: event.KindToolDecision, Tool: &event.Tool{}}, {Kind: event.KindPrompt}} {
		if _, ok := Observe(&e, h); ok {
			t.Errorf("%+v is observed", e)
		}
	}
}

// Two sessions of different agents, and the calls of one session, may come in either order.
func TestOrderOfLearning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		team := shapes()[2]
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		m := team.trained(r, 60)
		var session []Observation
		for range 5 {
			session = append(session, team.call(r, 1))
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		shuffled := NewModel("class")
		if err := json.Unmarshal(text, shuffled); err != nil {
			t.Fatal(err)
		}
		m.Learn("svc/1", session)
		shuffled.Learn("svc/1", rapid.Permutation(session).Draw(t, "order"))
		for range 20 {
			agent, calls := team.session(r)
			if a, b := scored(m, agent, &calls[0]), scored(shuffled, agent, &calls[0]); !cmp.Equal(a, b) {
				t.Fatal(cmp.Diff(a, b))
			}
		}
	})
}

func TestRoundTrip(t *testing.T) {
	codec, err := event.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shapes() {
		r := rand.New(rand.NewPCG(1, 4))
		m := s.trained(r, 300)
		fromJSON, fromCBOR := NewModel(""), NewModel("")
		text, err := json.Marshal(m)
		if err == nil {
			err = json.Unmarshal(text, fromJSON)
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := codec.Marshal(m)
		if err == nil {
			err = codec.Unmarshal(data, fromCBOR)
		}
		if err != nil {
			t.Fatal(err)
		}
		if again, err := codec.Marshal(fromCBOR); err != nil || string(again) != string(data) {
			t.Errorf("%s: a model that was read back has other bytes: %v", s.name, err)
		}
		for range 50 {
			agent, calls := s.session(r)
			for _, back := range []*Model{fromJSON, fromCBOR} {
				if diff := cmp.Diff(scored(m, agent, &calls[0]), scored(back, agent, &calls[0])); diff != "" {
					t.Fatal(s.name, diff)
				}
				back.Learn(agent, calls)
			}
			m.Learn(agent, calls)
		}
	}
}

func TestKnows(t *testing.T) {
	m := NewModel("class")
	o := call("send", 0, ArgObservation{Path: "to", Value: 1, Tokens: event.Hashes{7}, Provenance: event.ProvenancePrompt})
	m.Learn("a", []Observation{o})
	if !m.Knows("a", 7) || m.Knows("a", 8) || m.Knows("b", 7) {
		t.Error("an agent knows the tokens of its own sessions, and nothing else")
	}
}

// A page can't grow without end, whatever agents send.
func TestBounds(t *testing.T) {
	m := NewModel("class")
	for i := range uint64(600) {
		o := call(fmt.Sprint("tool", i), i+1)
		for k := range uint64(40) {
			o.Args = append(o.Args, ArgObservation{Path: fmt.Sprint("arg", k), Value: 1000*i + k, Tokens: event.Hashes{event.Hash(1000*i + k)}, Provenance: event.ProvenanceNowhere})
		}
		m.Learn("svc/0", []Observation{o, call("tool0", 0, ArgObservation{Path: "arg0", Value: i, Provenance: event.Provenance(fmt.Sprint("p", i))})})
	}
	for name, p := range map[string]*page{"agent": m.Agents["svc/0"], "class": &m.Peers} {
		got := []int{len(p.Tools.Counts), len(p.Values), len(p.Origins), len(p.Dests.Counts), len(p.Values["tool0\x00arg0"].Counts), len(p.Origins["tool0\x00arg0"].Counts)}
		if diff := cmp.Diff([]int{maxTools, maxContexts, maxContexts, maxValues, maxValues, maxValues}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if len(p.Known) > maxKnown {
			t.Errorf("%s: %d known tokens", name, len(p.Known))
		}
	}
	if m.Knows("svc/0", 1001) || !m.Knows("svc/0", 599039) {
		t.Error("the tokens of the oldest sessions must go first")
	}
	for _, feature := range []string{FeatureTool, FeatureDestination, FeatureArgument} {
		if m.Scores[feature] == nil {
			t.Errorf("%s is not calibrated", feature)
		}
	}
	if len(m.Scores) > maxContexts+3 {
		t.Errorf("%d calibrations", len(m.Scores))
	}
}

// A class whose arguments filled all calibrations before its first destination must not be blind to destinations.
func TestArgumentsDoNotCrowdOutFeatures(t *testing.T) {
	m := NewModel("class")
	for i := range 400 {
		m.Learn("svc/0", []Observation{call("t", 0, ArgObservation{Path: fmt.Sprint(i), Value: 1, Provenance: event.ProvenanceNowhere})})
	}
	m.Learn("svc/0", []Observation{call("t", 1)})
	if m.Scores[FeatureDestination] == nil {
		t.Error("destinations are not calibrated")
	}
}

func TestAgentsAreBounded(t *testing.T) {
	m := NewModel("class")
	session := []Observation{call("t", 0)}
	for i := range maxAgents {
		m.Learn(fmt.Sprint("svc/", i), session)
	}
	m.Learn("svc/0", session)
	m.Learn("svc/new", session)
	if len(m.Agents) != maxAgents || m.Evicted != 1 || m.Agents["svc/0"] == nil || m.Agents["svc/1"] != nil || m.Agents["svc/new"] == nil {
		t.Errorf("%d agents, %d evicted: want the one that was idle longest to go", len(m.Agents), m.Evicted)
	}
}

func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const bound = 4
		values := rapid.SliceOfN(rapid.Uint64Range(1, 9), 1, 60).Draw(t, "values")
		var a, b table
		for _, v := range values {
			a.add(v, fmt.Sprint(v), bound)
			b.add(v, fmt.Sprint(v), bound)
			if a.count(v) == 0 || len(a.Counts) > bound {
				t.Fatalf("%d entries, the newest is counted %d times", len(a.Counts), a.count(v))
			}
		}
		if !cmp.Equal(a, b) {
			t.Fatal("the same values leave other tables")
		}
		if p := a.probability(100) + a.novelty(); a.Total != len(values) || p <= 0 || p > 2 || bits(&a, &b, 100) < 0 {
			t.Fatalf("total %d, p %g", a.Total, p)
		}
	})
	var kept table
	for _, v := range []uint64{1, 1, 2, 3, 4} { // 2 and 3 were seen once, 2 longer ago
		kept.add(v, fmt.Sprint(v), 3)
	}
	if diff := cmp.Diff([]Count{{"1", 2}, {"3", 1}, {"4", 1}}, kept.top(9)); diff != "" {
		t.Error(diff)
	}
	if kept.Distinct != 4 || kept.count(2) != 0 {
		t.Errorf("%d distinct values, 2 is counted %d times", kept.Distinct, kept.count(2))
	}
	var none *table
	if none.count(1) != 0 || none.total() != 0 || none.novelty() != 1 || none.top(1) != nil || bits(nil, nil, 1) != 0 {
		t.Error("a table that is not there counts something")
	}
}

// The class's word weighs less, the more the agent itself has done.
func TestShrinkage(t *testing.T) {
	var class, young, old table
	for range 100 {
		class.add(1, "", 9)
	}
	for i := range 100 {
		class.add(2, "", 9)
		if old.add(1, "", 9); i < 2 {
			young.add(1, "", 9)
		}
	}
	if y, o := bits(&young, &class, 2), bits(&old, &class, 2); y >= o || y <= 0 {
		t.Errorf("what peers do costs a young agent %.2f bits, an old one %.2f; want less for the young", y, o)
	}
	if own, new := bits(&old, &class, 1), bits(&old, &class, 3); own >= new {
		t.Errorf("what the agent does costs %.2f bits, what nobody does %.2f", own, new)
	}
}

func BenchmarkScore(b *testing.B) {
	s, r := shapes()[0], rand.New(rand.NewPCG(1, 5))
	m := s.trained(r, 600)
	_, calls := s.session(r)
	e := event.Event{Agent: event.Agent{ID: "svc/0"}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Score(&e, &calls[i%len(calls)])
	}
}

func BenchmarkLearn(b *testing.B) {
	s, r := shapes()[0], rand.New(rand.NewPCG(1, 6))
	m := s.trained(r, 600)
	var sessions [][]Observation
	for range 64 {
		sessions = append(sessions, []Observation{s.call(r, 0)})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Learn("svc/0", sessions[i%len(sessions)])
	}
}

package baselines

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// shape is a kind of benign agent: the sessions that it makes depend on the generator alone.
type shape struct {
	name   string
	agents int
	call   func(r *rand.Rand, agent int) Observation
	// limit is how many times alpha the share of p <= alpha may be.
	limit float64
	// routine: what is new comes from tools' outputs day by day, so that no single call can give an attack away.
	routine bool
}

// ranked draws a rank from 0 on, each next one less often by the factor.
func ranked(r *rand.Rand, factor float64, ranks int) uint64 {
	for i := range ranks {
		if r.Float64() > factor {
			return uint64(i)
		}
	}
	return uint64(ranks)
}

// from draws a provenance: a number in 100 comes from a tool's output and as many from nowhere, the rest from the prompt.
func from(r *rand.Rand, percent int) event.Provenance {
	switch n := r.IntN(100); {
	case n < percent:
		return event.ProvenanceToolOutput
	case n < 2*percent:
		return event.ProvenanceNowhere
	}
	return event.ProvenancePrompt
}

func call(tool string, dest uint64, args ...ArgObservation) Observation {
	o := Observation{Tool: tool, Args: args}
	if dest > 0 {
		o.Dests = []DestObservation{{Key: dest, Text: fmt.Sprint("d", dest), Arg: "to"}}
	}
	return o
}

func shapes() []shape {
	return []shape{
		{name: "clerk", agents: 1, limit: 1.5, call: func(r *rand.Rand, _ int) Observation { // few payees, and now and then a new one
			if r.IntN(3) > 0 {
				return call("read_file", 0, ArgObservation{Path: "path", Value: ranked(r, 0.8, 60), Provenance: from(r, 5)})
			}
			to := 1 + ranked(r, 0.7, 40)
			return call("send_money", to, ArgObservation{Path: "to", Value: to, Provenance: from(r, 8)}, ArgObservation{Path: "amount", Value: r.Uint64N(500), Provenance: from(r, 10)})
		}},
		{name: "crawler", agents: 1, limit: 1.5, routine: true, call: func(r *rand.Rand, _ int) Observation { // every tenth page is new
			host := 1 + ranked(r, 0.9, 200)
			if r.IntN(10) == 0 {
				host = r.Uint64()
			}
			return call("fetch", host, ArgObservation{Path: "url", Value: host, Provenance: from(r, 40)})
		}},
		// Peers, each with its own customers and only some 30 sessions old: what is new surprises a page the more, the more it has
		// learned, and scores of younger days calibrate it.
		{name: "team", agents: 20, limit: 2, call: func(r *rand.Rand, agent int) Observation {
			to := uint64(100*agent) + 1 + ranked(r, 0.6, 30)
			tools := []string{"search", "reply", "close", "escalate"}
			return call(tools[ranked(r, 0.4, 3)], to, ArgObservation{Path: "customer", Value: to, Provenance: from(r, 20)})
		}},
		{name: "clockwork", agents: 2, limit: 1.5, call: func(r *rand.Rand, _ int) Observation { // the same thing day by day, 1 call in 200 differs
			if r.IntN(200) == 0 {
				to := 2 + r.Uint64N(20)
				return call("report", to, ArgObservation{Path: "to", Value: to, Provenance: event.ProvenanceToolOutput})
			}
			return call("report", 1, ArgObservation{Path: "to", Value: 1, Provenance: event.ProvenancePrompt})
		}},
		{name: "many arguments", agents: 3, limit: 1.5, call: func(r *rand.Rand, _ int) Observation {
			o := Observation{Tool: "book"}
			for _, path := range []string{"from", "to", "date", "seat", "meal", "note"} {
				o.Args = append(o.Args, ArgObservation{Path: path, Value: ranked(r, 0.85, 80), Provenance: from(r, 15)})
			}
			return o
		}},
	}
}

func (s shape) session(r *rand.Rand) (agent string, calls []Observation) {
	n := r.IntN(s.agents)
	for range 2 + r.IntN(8) {
		calls = append(calls, s.call(r, n))
	}
	return fmt.Sprint("svc/", n), calls
}

func (s shape) trained(r *rand.Rand, sessions int) *Model {
	m := NewModel("class")
	for range sessions {
		m.Learn(s.session(r))
	}
	return m
}

func scored(m *Model, agent string, o *Observation) Anomaly {
	return m.Score(&event.Event{Agent: event.Agent{ID: agent}}, o)
}

// The promise of a p-value: unremarkable traffic gets one of at most alpha in at most about alpha of its calls.
func TestBenignTrafficIsCalibrated(t *testing.T) {
	alphas := []float64{0.05, 0.01, 0.005}
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			below, calls := make([]int, len(alphas)), 0
			for seed := range uint64(5) {
				r := rand.New(rand.NewPCG(seed, 1))
				m := s.trained(r, 600)
				for range 600 {
					agent, session := s.session(r)
					for i := range session {
						a := scored(m, agent, &session[i])
						if a.Life != Active {
							t.Fatal(a.Why)
						}
						calls++
						for k, alpha := range alphas {
							if a.P <= alpha {
								below[k]++
							}
						}
					}
				}
			}
			for k, alpha := range alphas {
				share := float64(below[k]) / float64(calls)
				t.Logf("share of p <= %.3f: %.4f of %d calls, %.2f times alpha", alpha, share, calls, share/alpha)
				if share > s.limit*alpha {
					t.Errorf("share of p <= %.3f is %.4f, want at most %.1f times alpha", alpha, share, s.limit)
				}
			}
		})
	}
}

// A value out of a tool's output that nobody used before, sent where nobody sent before, is less probable than what agents do.
func TestAttackIsLessProbable(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 7))
			m := s.trained(r, 600)
			pairs, smaller, found := 0, 0, 0
			for range 500 {
				agent, session := s.session(r)
				attack := attacked(r, &session[0])
				bad := scored(m, agent, &attack).P
				if bad <= 0.005 { // the default of the pipeline
					found++
				}
				for i := range session[1:] {
					if pairs++; bad < scored(m, agent, &session[1+i]).P {
						smaller++
					}
				}
			}
			t.Logf("the attack is less probable than a benign call in %d of %d pairs; p <= 0.005 in %d of 500", smaller, pairs, found)
			if !s.routine && smaller*3 < pairs*2 {
				t.Errorf("the attack is less probable in %d of %d pairs, want two in three", smaller, pairs)
			}
		})
	}
}

// attacked is a call like the given one whose values and destinations are an attacker's.
func attacked(r *rand.Rand, o *Observation) Observation {
	out := Observation{Tool: o.Tool}
	for _, a := range o.Args {
		out.Args = append(out.Args, ArgObservation{Path: a.Path, Value: r.Uint64(), Provenance: event.ProvenanceToolOutput})
	}
	for _, d := range o.Dests {
		out.Dests = append(out.Dests, DestObservation{Key: r.Uint64(), Arg: d.Arg})
	}
	return out
}

func TestPValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c calibration
		for _, s := range rapid.SliceOfN(rapid.Float64Range(0, 60), 0, 3*tailSize/2).Draw(t, "scores") {
			c.add(s)
		}
		a, b := rapid.Float64Range(0, 1e6).Draw(t, "a"), rapid.Float64Range(0, 1e6).Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		pa, pb := c.p(a), c.p(b)
		if !(pb > 0 && pb <= pa && pa <= 1) {
			t.Fatalf("p(%g) = %g, p(%g) = %g", a, pa, b, pb)
		}
		if len(c.Top) > tailSize {
			t.Fatalf("%d scores are kept", len(c.Top))
		}
	})
}

func TestCombine(t *testing.T) {
	names := []string{FeatureTool, FeatureDestination, FeatureArgument}
	rapid.Check(t, func(t *rapid.T) {
		var in []Feature
		least := 1.0
		for _, name := range names[:rapid.IntRange(1, 3).Draw(t, "features")] {
			p := max(minP, math.Pow(10, -rapid.Float64Range(0, 320).Draw(t, "exponent")))
			least = min(least, p)
			in = append(in, Feature{Name: name, P: p})
		}
		out, p := combine(in)
		shares := 0.0
		for i, f := range out {
			shares += f.Share
			if i > 0 && f.Share > out[i-1].Share {
				t.Fatal("features are not in the order of their shares")
			}
		}
		if !(p > 0 && p <= 1 && p >= least*(1-1e-9)) || math.Abs(shares-1) > 1e-9 {
			t.Fatalf("p = %g of %g at least, shares sum to %g", p, least, shares)
		}
	})
	if _, p := combine(nil); p != 1 {
		t.Errorf("p of nothing is %g", p)
	}
}

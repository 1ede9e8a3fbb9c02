package baselines

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// counter feeds calls of one agent to a model.
type counter struct {
	m      *Model
	at     time.Time
	lowest float64 // p-value so far
}

func newCounter() *counter {
	m := NewModel("class")
	m.page("svc/a")
	return &counter{m, seriesStart, 1}
}

func (c *counter) call(at time.Time) (Anomaly, bool) {
	a, ok := c.m.Count(&event.Event{Kind: event.KindToolResult, Time: at, Agent: event.Agent{ID: "svc/a"}, Tool: &event.Tool{Name: "t"}})
	if ok {
		c.lowest = min(c.lowest, a.P)
	}
	return a, ok
}

// window sends so many calls spread over ten minutes.
func (c *counter) window(n int) {
	for i := range n {
		c.call(c.at.Add(time.Duration(i) * RateWindow / time.Duration(n+1)))
	}
	c.at = c.at.Add(RateWindow)
}

func TestNoAlertFromAColdStart(t *testing.T) {
	c := newCounter()
	c.window(10_000)
	if c.lowest < 1 {
		t.Errorf("p = %g in the first window", c.lowest)
	}
}

// An agent that does the same in every window and then ten times as much is told at once, and by the evidence of words.
func TestConstantRateThatBursts(t *testing.T) {
	c := newCounter()
	for range 100 {
		c.window(20)
	}
	if c.lowest < 0.01 {
		t.Fatalf("p = %g while nothing changes", c.lowest)
	}
	for i := range 200 {
		a, ok := c.call(c.at.Add(time.Duration(i) * time.Second))
		if !ok || a.P > 1e-6 {
			continue
		}
		if i > 80 {
			t.Errorf("the burst was told at call %d", i)
		}
		want := Feature{Name: FeatureRate, About: "tool calls", Want: "20.0 on average, give or take 4.5, in 100 such windows", Share: 1}
		got := a.Features[0]
		if got.N != i+1 || got.Band == nil || got.Band.Low > 20 || got.Band.High < 20 || got.Band.High > 40 {
			t.Errorf("the count is %d with the band %+v, want %d and a band around 20", got.N, got.Band, i+1)
		}
		got.Got, got.Score, got.P, got.N, got.Band = "", 0, 0, 0, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		return
	}
	t.Errorf("the burst was not told: p = %g", c.lowest)
}

// Traffic of independent calls, and one that comes in bursts, get a p-value of at most alpha in about alpha of the windows.
func TestRatesAreCalibrated(t *testing.T) {
	for _, tt := range []struct {
		name string
		draw func(r *rand.Rand) int
	}{
		{"Poisson", func(r *rand.Rand) int { return 1 + int(distuv.Poisson{Lambda: 30, Src: r}.Rand()) }},
		{"few", func(r *rand.Rand) int { return 1 + int(distuv.Poisson{Lambda: 1.5, Src: r}.Rand()) }},
		{"bursts", func(r *rand.Rand) int { return 1 + int(distuv.LogNormal{Mu: 3, Sigma: 0.8, Src: r}.Rand()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			windows, below := 0, map[float64]int{0.01: 0, 0.001: 0}
			for seed := range uint64(10) {
				rng, c := rand.New(rand.NewPCG(seed, 3)), newCounter()
				for i := range 2000 {
					c.lowest = 1
					c.window(tt.draw(rng))
					if i < 200 {
						continue
					}
					windows++
					for alpha := range below {
						if c.lowest <= alpha {
							below[alpha]++
						}
					}
				}
			}
			for alpha, n := range below {
				share := float64(n) / float64(windows) / alpha
				t.Logf("p <= %g in %d of %d windows, %.2f times alpha", alpha, n, windows, share)
				if share > 1.25 {
					t.Errorf("p <= %g in %.2f times alpha of the windows", alpha, share)
				}
			}
		})
	}
}

// Silence, a clock that jumps and comes back, events out of order: none of it is told, and none makes a burst go unseen.
func TestDisorderDoesNoHarm(t *testing.T) {
	for _, tt := range []struct {
		name    string
		disturb func(c *counter)
	}{
		{"a day of silence", func(c *counter) { c.at = c.at.Add(24 * time.Hour) }},
		{"a clock that jumps ahead and comes back", func(c *counter) { c.call(c.at.AddDate(1, 0, 0)) }},
		{"a clock that jumps back and comes back", func(c *counter) { c.call(c.at.AddDate(-1, 0, 0)) }},
		{"events out of order", func(c *counter) {
			rng := rand.New(rand.NewPCG(5, 5))
			for range 20 {
				order := rng.Perm(20)
				for _, i := range order {
					c.call(c.at.Add(time.Duration(i) * 29 * time.Second))
				}
				c.at = c.at.Add(RateWindow)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCounter()
			for range 100 {
				c.window(20)
			}
			tt.disturb(c)
			for range 30 {
				c.window(20)
			}
			if c.lowest < 1e-3 {
				t.Errorf("p = %g for it", c.lowest)
			}
			c.window(200)
			if c.lowest > 1e-6 {
				t.Errorf("a burst after it: p = %g", c.lowest)
			}
		})
	}
}

// A rate that rises by little is told in the end, though no window is remarkable, and before what rises becomes usual.
func TestDriftIsTold(t *testing.T) {
	found := 0
	for seed := range uint64(10) {
		rng, c := rand.New(rand.NewPCG(seed, 9)), newCounter()
		for range 400 {
			c.window(1 + int(distuv.Poisson{Lambda: 30, Src: rng}.Rand()))
		}
		for range 60 {
			c.at = c.at.Add(RateWindow)
			a, _ := c.call(c.at)
			if len(a.Features) > 0 && a.Features[0].Name == FeatureDrift {
				found++
				break
			}
			c.window(1 + int(distuv.Poisson{Lambda: 42, Src: rng}.Rand()))
		}
	}
	if found < 9 {
		t.Errorf("%d of 10 drifts were told", found)
	}
}

// A page that was saved and read back counts as the one that was not, whenever that happens.
func TestRatesInASnapshot(t *testing.T) {
	rng, c := rand.New(rand.NewPCG(4, 4)), newCounter()
	var want, got []float64
	saved := newCounter()
	for i := range 3000 {
		at := seriesStart.Add(time.Duration(i) * time.Minute)
		for range rng.IntN(4) {
			a, _ := c.call(at)
			b, _ := saved.call(at)
			want, got = append(want, a.P), append(got, b.P)
		}
		if rng.IntN(100) == 0 {
			p, err := saved.m.Agents["svc/a"].pack().unpack()
			if err != nil {
				t.Fatal(err)
			}
			saved.m.Agents["svc/a"] = p
		}
	}
	if !slices.Equal(want, got) {
		t.Error("p-values differ after a snapshot")
	}
}

func BenchmarkCount(b *testing.B) {
	c := newCounter()
	for range 100 {
		c.window(20)
	}
	e := &event.Event{Kind: event.KindToolResult, Time: c.at, Agent: event.Agent{ID: "svc/a"}, Tool: &event.Tool{Name: "t"}}
	b.ReportAllocs()
	for b.Loop() {
		e.Time = e.Time.Add(30 * time.Second)
		c.m.Count(e)
	}
}

func TestCheckRefusesRates(t *testing.T) {
	for name, spoil := range map[string]func(*Model){
		"":                         func(*Model) {},
		"no number":                func(m *Model) { m.Peers.Rates[rateCalls].Mean = math.NaN() },
		"endless":                  func(m *Model) { m.Peers.Rates[rateSends].Fano = math.Inf(1) },
		"fewer than no windows":    func(m *Model) { m.Peers.Rates[rateModels].Windows = -1 },
		"a tail out of order":      func(m *Model) { m.Peers.Rates[rateCalls].Tail = surprises{N: 9, Top: []float64{2, 1}} },
		"more scores than it took": func(m *Model) { m.Peers.Rates[rateCalls].Tail = surprises{N: 1, Top: []float64{1, 2}} },
	} {
		m := NewModel("class")
		m.page("a")
		if spoil(m); (m.Check() == nil) != (name == "") {
			t.Errorf("%q: %v", name, m.Check())
		}
	}
}

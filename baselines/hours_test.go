package baselines

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// monday is where a week of hours begins.
var monday = time.Date(2026, 9, 7, 0, 0, 0, 0, time.UTC)

const clerk = "svc/clerk"

// office is a model of one agent that makes n calls in each hour of office days from 9 to 17, over some weeks from a Monday on.
func office(weeks, n int) *Model {
	m := NewModel("class")
	m.page(clerk)
	for day := range 7 * weeks {
		for hour := 9; hour < 17 && day%7 < 5; hour++ {
			for i := range n {
				m.call1(clerk, monday.AddDate(0, 0, day).Add(time.Duration(hour)*time.Hour+time.Duration(i)*time.Minute))
			}
		}
	}
	return m
}

func (m *Model) call1(agent string, at time.Time) {
	m.Count(&event.Event{Kind: event.KindToolResult, Time: at, Agent: event.Agent{ID: agent}, Tool: &event.Tool{Name: "t"}})
}

func habitsOf(t *testing.T, m *Model) Habits {
	t.Helper()
	h, ok := m.Habits(clerk)
	if !ok {
		t.Fatal("the agent has no habits")
	}
	return h
}

// An agent that works on office days is expected to, and to rest at night and on Sundays; what it did is inside the band.
func TestWeekIsLearned(t *testing.T) {
	h := habitsOf(t, office(10, 12))
	for _, c := range []struct {
		name      string
		cell      int
		low, high float64 // of the mean
	}{
		{"Monday at 10", 10, 11, 13},
		{"Friday at 16", 4*24 + 16, 11, 13},
		{"Monday at 3", 3, 0, 0.5},
		{"Sunday at 10", 6*24 + 10, 0, 0.5},
	} {
		got := h.Week[c.cell]
		if got.Mean < c.low || got.Mean > c.high || got.Low > got.Mean || got.High < math.Floor(got.Mean) {
			t.Errorf("%s: expects %+v, want a mean from %g to %g within its band", c.name, got.Band, c.low, c.high)
		}
	}
	for _, l := range h.Latest {
		if float64(l.N) < l.Low || float64(l.N) > l.High {
			t.Errorf("%s: %d calls are outside %+v", l.At, l.N, l.Band)
		}
	}
	// From the first Monday at 10, after the hour that was not counted from its start, to the last Friday at 15, which is over.
	if want := 67*24 + 6; h.Hours != want {
		t.Errorf("%d hours were learned, want %d", h.Hours, want)
	}
}

// Hours that were not counted from their start to their end teach nothing.
func TestPartialHoursDontTeach(t *testing.T) {
	hour := func(n int) time.Time { return monday.Add(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		name string
		do   func(m *Model)
		want int // hours learned
	}{
		{"first hour", func(m *Model) { m.call1(clerk, hour(0)); m.call1(clerk, hour(1)) }, 0},
		{"second hour", func(m *Model) { m.call1(clerk, hour(0)); m.call1(clerk, hour(1)); m.call1(clerk, hour(2)) }, 1},
		{"open hour", func(m *Model) {
			m.call1(clerk, hour(0))
			m.call1(clerk, hour(1))
			m.call1(clerk, hour(1).Add(59*time.Minute))
		}, 0},
		{"silence", func(m *Model) { m.call1(clerk, hour(0)); m.call1(clerk, hour(5)) }, 4},
		{"long silence", func(m *Model) { m.call1(clerk, hour(0)); m.call1(clerk, hour(5000)) }, hourCells},
		{"clock set back", func(m *Model) {
			for _, n := range []int{10, 11, 2, 3} {
				m.call1(clerk, hour(n))
			}
		}, 0},
		{"late call", func(m *Model) {
			for _, n := range []int{10, 11, 10, 12} {
				m.call1(clerk, hour(n))
			}
		}, 1},
		{"hour of a finding", func(m *Model) {
			m.call1(clerk, hour(0))
			m.call1(clerk, hour(1))
			m.Doubt(clerk)
			m.call1(clerk, hour(2))
		}, 0},
		{"frozen", func(m *Model) {
			m.Change(clerk, Change{Kind: Freeze})
			m.call1(clerk, hour(0))
			m.call1(clerk, hour(5))
			m.call1(clerk, hour(6))
		}, 0},
	} {
		m := NewModel("class")
		m.page(clerk)
		c.do(m)
		if got := habitsOf(t, m).Hours; got != c.want {
			t.Errorf("%s: %d hours were learned, want %d", c.name, got, c.want)
		}
	}
}

// A flood in a quiet hour is outside its band, and does not become usual.
func TestFloodIsOutsideItsBand(t *testing.T) {
	m := office(10, 12)
	before := habitsOf(t, m).Week[6*24+3]
	sunday := monday.AddDate(0, 0, 69).Add(3 * time.Hour)
	for i := range 300 {
		m.call1(clerk, sunday.Add(time.Duration(i)*time.Second))
	}
	m.call1(clerk, sunday.Add(30*time.Hour))
	h := habitsOf(t, m)
	if after := h.Week[6*24+3]; after.Mean > before.Mean+0.1 {
		t.Errorf("the flood taught: %.2f calls were expected, now %.2f", before.Mean, after.Mean)
	}
	for _, l := range h.Latest {
		if l.At.Equal(sunday) {
			if float64(l.N) <= l.High || l.N != 300 {
				t.Errorf("%d calls, want 300 outside %+v", l.N, l.Band)
			}
			return
		}
	}
	t.Error("the hour of the flood is not among the latest")
}

// Whatever comes in whatever order, bands are ordered, the mean is within the counts that came, and a copy that was read back goes on alike.
func TestHoursHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewModel("class")
		m.page(clerk)
		steps := rapid.SliceOfN(rapid.IntRange(-3*3600, 9*24*3600), 2, 60).Draw(t, "seconds")
		cut := rapid.IntRange(0, len(steps)).Draw(t, "cut")
		at, other := monday, (*Model)(nil)
		for i, s := range steps {
			if i == cut {
				other = copied(t, m)
			}
			at = at.Add(time.Duration(s) * time.Second)
			m.call1(clerk, at)
			if other != nil {
				other.call1(clerk, at)
			}
		}
		h, _ := m.Habits(clerk)
		for cell, w := range h.Week {
			if !(w.Low <= w.High) || !(w.Mean > 0) || w.Mean > float64(len(steps))+1 || w.Weeks > hourWeeks {
				t.Fatalf("hour %d: %+v of %d calls", cell, w, len(steps))
			}
		}
		if other != nil {
			back, _ := other.Habits(clerk)
			if diff := cmp.Diff(h, back); diff != "" {
				t.Fatalf("a model that was read back went on differently:\n%s", diff)
			}
		}
	})
}

// The counts of an hour of Poisson calls lie in the band about as often as it says.
func TestBandHoldsItsShare(t *testing.T) {
	r, m, in, all := rand.New(rand.NewPCG(3, 4)), NewModel("class"), 0, 0
	m.page(clerk)
	for hour := range 40 * hourCells {
		at := monday.Add(time.Duration(hour) * time.Hour)
		n, rate := 0, 4.0
		if hour%24 < 12 {
			rate = 20
		}
		for t := r.ExpFloat64() / rate; t < 1; t += r.ExpFloat64() / rate {
			m.call1(clerk, at.Add(time.Duration(t*float64(time.Hour))))
			n++
		}
		if hour >= 20*hourCells {
			h := hours{p: m.Agents[clerk], peers: &m.Peers.Week}
			band := countBand(h.expects(cellOf(hourOf(at))))
			all++
			if float64(n) >= band.Low && float64(n) <= band.High {
				in++
			}
		}
	}
	if part := float64(in) / float64(all); part < 0.94 || part > 0.99 {
		t.Errorf("%.3f of %d hours were in the band of %g", part, all, bandShare)
	}
}

// Numbers are expected about as large as they were; an agent without a history is expected to do as its class.
func TestAmounts(t *testing.T) {
	r, m := rand.New(rand.NewPCG(1, 2)), NewModel("class")
	pay := func(agent string, day int, typical float64) {
		o := Observation{Tool: "pay", At: monday.AddDate(0, 0, day), Args: []ArgObservation{{Path: "amount", Value: r.Uint64(), Number: typical * math.Exp(0.3*r.NormFloat64())}}}
		m.take(agent, m.page(agent), []Observation{o})
	}
	for day := range 60 {
		pay(clerk, day, 100)
		pay("svc/chief", day, 5000)
	}
	pay("svc/new", 60, 100)
	of := func(agent string) Amount {
		h, _ := m.Habits(agent)
		if len(h.Amounts) != 1 {
			t.Fatalf("%s has %d amounts, want 1", agent, len(h.Amounts))
		}
		return h.Amounts[0]
	}
	own, chief, young := of(clerk), of("svc/chief"), of("svc/new")
	if own.N != 60 || own.Text != "pay amount" || own.Mean < 85 || own.Mean > 115 || own.High > 300 || own.Low < 30 {
		t.Errorf("the clerk pays %+v", own)
	}
	if chief.Low < 1500 || chief.High < 5000 {
		t.Errorf("the chief pays %+v", chief)
	}
	if young.High < chief.Mean {
		t.Errorf("one payment said more than the class: %+v", young)
	}
}

func TestNumberIn(t *testing.T) {
	for text, want := range map[string]float64{
		"12.5": 12.5, " -3 ": -3, "1e3": 1000, "": 0, "NaN": 0, "Inf": 0, "twelve": 0, "1,204.00": 0, "0": 0, "000000000000000000000000000000000001": 0,
	} {
		if got := numberIn(text); got != want {
			t.Errorf("%q is %g, want %g", text, got, want)
		}
	}
}

// A page keeps the amounts that come often, whatever else comes.
func TestAmountsMakeRoom(t *testing.T) {
	m := NewModel("class")
	p := m.page(clerk)
	for n := range 50 {
		m.learnAmount(p, 7, sized(100))
		m.learnAmount(p, uint32(1000+n), sized(1))
	}
	if at := p.amountAt(7); at < 0 || p.amount(at).N != 50 {
		t.Error("what came often made room for what came once")
	}
	if len(m.Peers.Amounts) != 51 {
		t.Errorf("the class knows %d amounts, want 51", len(m.Peers.Amounts))
	}
}

// What an agent became another with is told: the tools that are new since, and how much more it calls.
func TestTurns(t *testing.T) {
	m := NewModel("class")
	day, began := 0, monday
	work := func(tool string, calls int) {
		at := began.AddDate(0, 0, day)
		day++
		var session []Observation
		for i := range calls {
			session = append(session, Observation{Tool: tool, At: at})
			m.call1(clerk, at.Add(time.Duration(i)*time.Second))
		}
		m.take(clerk, m.page(clerk), session)
	}
	for range 20 {
		work("read", 4)
	}
	m.Trait(clerk, TraitVersion, "1", began)
	at := began.AddDate(0, 0, day)
	m.Trait(clerk, TraitVersion, "2", at)
	for range 400 {
		work("read", 8)
	}
	work("send", 8)
	want := []Turn{{Kind: TraitVersion, From: "1", To: "2", At: at, Sessions: 401, Tools: []string{"send"}}}
	got := habitsOf(t, m).Turns
	if len(got) != 1 || got[0].Calls < 1.7 || got[0].Calls > 2.1 {
		t.Fatalf("%+v, want one turn with twice the calls", got)
	}
	got[0].Calls = 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for n := range 20 {
		m.care(clerk).turn(turn{Kind: TraitVersion, To: fmt.Sprint(n)})
	}
	if n := len(m.Cares[clerk].Turns); n != maxTurns {
		t.Errorf("%d turns are kept, want %d", n, maxTurns)
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

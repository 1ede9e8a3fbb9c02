package baselines

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var seriesStart = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// A series of days with a rhythm and noise; change is applied from the tenth day on.
func seriesOf(seed uint64, change func(v float64, i int) float64) (least float64, at int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	s, least := NewSeries(), 1.0
	for i := range 14 * 288 {
		t := seriesStart.Add(time.Duration(i) * 5 * time.Minute)
		v := 50 + 20*math.Sin(2*math.Pi*float64(i)/288) + 3*rng.NormFloat64()
		if i >= 10*288 {
			v = change(v, i-10*288)
		}
		if p := s.Score(t, v); i >= 10*288 && p < least {
			least, at = p, i-10*288
		}
	}
	return least, at
}

func TestSeries(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(v float64, i int) float64
		found  bool
		within int // points
	}{
		{"as ever", func(v float64, _ int) float64 { return v }, false, 0},
		{"a spike", func(v float64, i int) float64 {
			if i == 100 {
				return v + 60
			}
			return v
		}, true, 101},
		{"a flood by night", func(v float64, i int) float64 {
			if i%288 > 200 && i%288 < 230 { // when it is quiet
				return v + 45
			}
			return v
		}, true, 240},
		{"silence", func(v float64, i int) float64 {
			if i > 288 {
				return 0
			}
			return v
		}, true, 320},
		{"a mean that moved", func(v float64, i int) float64 {
			if i > 100 {
				return v + 30
			}
			return v
		}, true, 130},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(5) {
				p, at := seriesOf(seed, tt.change)
				if tt.found && (p > 1e-4 || at > tt.within) || !tt.found && p < 1e-5 { // of 1,152 values
					t.Errorf("seed %d: p = %.2g at %d, want found: %v within %d", seed, p, at, tt.found, tt.within)
				}
			}
		})
	}
}

// A series that never varied and then does is told.
func TestConstantSeriesThatBursts(t *testing.T) {
	s := NewSeries()
	at := seriesStart
	for range 500 {
		at = at.Add(10 * time.Minute)
		if p := s.Score(at, 7); p < 1e-4 {
			t.Fatalf("p = %g while nothing changes", p)
		}
	}
	if p := s.Score(at.Add(10*time.Minute), 70); p > 1e-6 {
		t.Errorf("p = %g for the burst", p)
	}
}

// Whatever comes, a p-value is one.
func TestSeriesIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, at := NewSeries(), seriesStart
		for _, v := range rapid.SliceOfN(rapid.Float64(), 0, 300).Draw(t, "values") {
			at = at.Add(time.Duration(rapid.Int64Range(-1e13, 1e13).Draw(t, "step")))
			if p := s.Score(at, v); !(p > 0 && p <= 1) {
				t.Fatalf("p = %g", p)
			}
		}
	})
}

func BenchmarkSeries(b *testing.B) {
	s, rng := NewSeries(), rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Score(seriesStart.Add(time.Duration(i)*time.Minute), rng.NormFloat64())
		i++
	}
}

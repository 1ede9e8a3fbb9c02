package measure

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

func clock() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// unnoticedFor makes an incident whose unnoticed time ends when the clock is read.
func unnoticedFor(d time.Duration, f fate) incident.Incident {
	i := incident.Incident{Status: incident.Open, Times: incident.Times{FirstBad: clock().Add(-d)}}
	switch f {
	case noticed:
		i.Times.Noticed = clock()
	case closed:
		i.Times.Closed = clock()
	}
	return i
}

func TestDwellOf(t *testing.T) {
	got := DwellOf([]incident.Incident{
		unnoticedFor(50, censored), unnoticedFor(10, censored), unnoticedFor(40, noticed), unnoticedFor(5, noticed),
		unnoticedFor(20, closed), unnoticedFor(30, censored), unnoticedFor(10, noticed),
	}, clock())
	p50 := time.Duration(40)
	want := Dwell{
		N: 7, Noticed: 3, Closed: 1, Censored: 3, P50: &p50, Within15m: 0.55357, Within1h: 0.55357, Within24h: 0.55357,
		Curve: []Point{{5, 0.14286}, {10, 0.28571}, {40, 0.55357}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-5)); diff != "" {
		t.Errorf("the published vector (want -, got +):\n%s", diff)
	}
}

func TestDwellOfEnds(t *testing.T) {
	at := func(minutes int) time.Time { return clock().Add(time.Duration(minutes) * time.Minute) }
	tests := []struct {
		name  string
		times incident.Times
		want  Dwell
	}{
		{"nobody noticed", incident.Times{FirstBad: at(-9)}, Dwell{Censored: 1}},
		{"noticed", incident.Times{FirstBad: at(-9), Noticed: at(-5)}, Dwell{Noticed: 1}},
		{"closed unnoticed", incident.Times{FirstBad: at(-9), Closed: at(-5)}, Dwell{Closed: 1}},
		{"contained in advance, then noticed", incident.Times{FirstBad: at(-9), Contained: at(-8), Noticed: at(-5)}, Dwell{Closed: 1}},
		{"noticed by closing", incident.Times{FirstBad: at(-9), Noticed: at(-5), Closed: at(-5)}, Dwell{Noticed: 1}},
		{"noticed, contained, closed", incident.Times{FirstBad: at(-9), Noticed: at(-7), Contained: at(-6), Closed: at(-5)}, Dwell{Noticed: 1}},
		{"noticed before it happened", incident.Times{FirstBad: at(-9), Noticed: at(-10)}, Dwell{Skewed: 1}},
		{"has not happened yet", incident.Times{FirstBad: at(9)}, Dwell{Skewed: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := DwellOf([]incident.Incident{{Times: tt.times}}, clock())
			tt.want.N = 1
			if diff := cmp.Diff(tt.want, Dwell{N: got.N, Noticed: got.Noticed, Closed: got.Closed, Censored: got.Censored, Skewed: got.Skewed}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDwellHalf reaches a quantile exactly, whatever sums of shares round to.
func TestDwellHalf(t *testing.T) {
	for n := 2; n <= 200; n += 2 {
		var incidents []incident.Incident
		for i := range n {
			f := noticed
			if i >= n/2 {
				f = censored
			}
			incidents = append(incidents, unnoticedFor(time.Duration(i+1), f))
		}
		d := DwellOf(incidents, clock())
		if d.P50 == nil || *d.P50 != time.Duration(n/2) {
			t.Fatalf("half of %d noticed: p50 = %v, want %d", n, d.P50, n/2)
		}
	}
}

func drawIncidents(t *rapid.T) []incident.Incident {
	within := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "never") {
			return time.Time{}
		}
		return clock().Add(-time.Duration(rapid.IntRange(0, 50).Draw(t, "minutes")) * time.Minute)
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) incident.Incident {
		return incident.Incident{ID: rapid.StringN(1, 3, -1).Draw(t, "id"), Times: incident.Times{
			FirstBad: clock().Add(-time.Duration(rapid.IntRange(-2, 50).Draw(t, "first")) * time.Minute),
			Noticed:  within.Draw(t, "noticed"), Contained: within.Draw(t, "contained"), Closed: within.Draw(t, "closed"),
		}}
	}), 0, 60).Draw(t, "incidents")
}

func TestDwellProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		incidents := drawIncidents(t)
		d := DwellOf(incidents, clock())
		if d.Noticed+d.Closed+d.Censored+d.Skewed != d.N || d.N != len(incidents) {
			t.Fatalf("%+v: the parts don't sum to the whole", d)
		}
		last := Point{After: -1}
		for _, p := range d.Curve {
			if p.After <= last.After || p.Share <= last.Share || p.Share > 1 {
				t.Fatalf("the curve leaves its path at %v after %v", p, last)
			}
			last = p
		}
		if max := float64(d.Noticed) / float64(d.N-d.Skewed); d.Censored == 0 && d.N > d.Skewed && (last.Share-max > 1e-9 || max-last.Share > 1e-9) {
			t.Fatalf("without censoring the curve ends at %v, want the plain share %v", last.Share, max)
		}
		shuffled := rapid.Permutation(incidents).Draw(t, "shuffled")
		if diff := cmp.Diff(d, DwellOf(shuffled, clock()), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Fatalf("the order of the incidents matters:\n%s", diff)
		}
	})
}

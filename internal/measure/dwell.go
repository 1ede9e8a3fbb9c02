package measure

import (
	"cmp"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

// fate is how an incident's unnoticed time ended.
type fate int

const (
	censored fate = iota // it didn't end yet
	noticed
	closed // closed or contained while nobody was aware
)

// span is one incident's contribution: how long it was unnoticed, and how that ended.
type span struct {
	length time.Duration
	fate   fate
}

// rounding is what sums of shares may lack to a quantile: 5 of 10 must reach one half.
const rounding = 1e-9

// DwellOf estimates the distribution of dwell time by the cumulative incidence of Aalen and Johansen. An incident that was
// closed or contained before anybody noticed is a competing event: to count it as censored would promise that somebody would
// have noticed. Events come before censorings of the same length. The order of the incidents doesn't matter.
func DwellOf(incidents []incident.Incident, now time.Time) Dwell {
	d := Dwell{N: len(incidents)}
	spans := make([]span, 0, len(incidents))
	for _, i := range incidents {
		s := spanOf(i.Times, now)
		switch {
		case s.length < 0:
			d.Skewed++
			continue
		case s.fate == noticed:
			d.Noticed++
		case s.fate == closed:
			d.Closed++
		default:
			d.Censored++
		}
		spans = append(spans, s)
	}
	d.Curve = incidence(spans)
	d.P50, d.P75, d.P90 = d.quantile(0.5), d.quantile(0.75), d.quantile(0.9)
	d.Within15m, d.Within1h, d.Within24h = d.within(15*time.Minute), d.within(time.Hour), d.within(24*time.Hour)
	return d
}

// spanOf takes what happened first; who closes an incident at the moment of noticing it has noticed it.
func spanOf(t incident.Times, now time.Time) span {
	end, f := now, censored
	for _, at := range []time.Time{t.Closed, t.Contained} {
		if !at.IsZero() && (f == censored || at.Before(end)) {
			end, f = at, closed
		}
	}
	if !t.Noticed.IsZero() && (f == censored || !t.Noticed.After(end)) {
		end, f = t.Noticed, noticed
	}
	return span{end.Sub(t.FirstBad), f}
}

// incidence returns the steps of the cumulative incidence of being noticed.
func incidence(spans []span) []Point {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.length, b.length) })
	var curve []Point
	share, unnoticed := 0.0, 1.0
	for at := 0; at < len(spans); {
		risk := float64(len(spans) - at)
		length := spans[at].length
		counts := [3]int{}
		for ; at < len(spans) && spans[at].length == length; at++ {
			counts[spans[at].fate]++
		}
		if counts[noticed] > 0 {
			share += unnoticed * float64(counts[noticed]) / risk
			curve = append(curve, Point{After: length, Share: min(share, 1)})
		}
		unnoticed *= 1 - float64(counts[noticed]+counts[closed])/risk
	}
	return curve
}

func (d *Dwell) quantile(q float64) *time.Duration {
	for _, p := range d.Curve {
		if p.Share >= q-rounding {
			return &p.After
		}
	}
	return nil
}

func (d *Dwell) within(after time.Duration) float64 {
	share := 0.0
	for _, p := range d.Curve {
		if p.After <= after {
			share = p.Share
		}
	}
	return share
}

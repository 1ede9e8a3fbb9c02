package baselines

import (
	"math"
	"sort"
	"time"
)

// Calls are counted by the hour of the week, in UTC. Other than the windows of rates, an hour counts whether or not anything happens in
// it: that an agent rests on Sundays is what is learned. An hour teaches when it was counted from its start to its end: the one in which
// a page begins, or an agent's clock was set back, does not, nor does one in which something was found.
const (
	hourCells   = 168
	hourWeeks   = 15     // weeks that an hour's own word is worth at most: four bits
	hourPrior   = 2.0    // weeks that the level and the class's week are worth beside it
	hourPeers   = 24.0   // hours that the class's level is worth beside the agent's
	hourKnows   = 1000.0 // hours that an agent's level is worth at most
	classForget = 0.001  // the weight of an hour in what a class shows
	hourLeast   = 1e-3   // calls that an hour has at least: what never happened may
	hourHeld    = 1e-4   // the p-value below which an hour does not teach
	minHours    = hourCells
	latestHours = 48 // that are kept as they were, for people
)

// peerHours is what a class shows of its week.
type peerHours struct {
	Week   [hourCells]weekHour `json:"week"`
	Hours  int                 `json:"hours"`
	Level  float64             `json:"level"`
	Spread float64             `json:"spread"`
}

type weekHour struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
}

// check refuses a class's week that no hours can have left.
func (w *peerHours) check() bool {
	finite := func(v float64) bool { return v >= 0 && !math.IsInf(v, 0) } // not NaN either
	for _, h := range w.Week {
		if h.N < 0 || !finite(h.Mean) {
			return false
		}
	}
	return w.Hours >= 0 && finite(w.Level) && finite(w.Spread)
}

// factor is how much more the class does in an hour of the week than in an average one.
func (w *peerHours) factor(cell int) float64 {
	h := &w.Week[cell]
	if w.Level <= 0 {
		return 1
	}
	n := min(float64(h.N), hourWeeks)
	return (n*h.Mean/w.Level + hourPrior) / (n + hourPrior)
}

// hours is one agent's week.
type hours struct {
	p      *page
	peers  *peerHours
	care   *care // nil where there is none
	frozen bool
}

func hourOf(t time.Time) uint32    { return uint32(min(max(t.Unix()/3600, 0), math.MaxUint32-hourCells)) }
func timeOf(hour uint32) time.Time { return time.Unix(int64(hour)*3600, 0).UTC() }

// cellOf is an hour's place in the week, which begins on Monday. 1970 began on a Thursday.
func cellOf(hour uint32) int { return int((hour + 3*24) % hourCells) }

func (h hours) float(at int) float64       { return float64(math.Float32frombits(h.p.u32(at))) }
func (h hours) setFloat(at int, v float64) { h.p.set32(at, math.Float32bits(float32(v))) }

// mean is kept as a logarithm, in steps of 0.03 %, up to four million calls.
func (h hours) mean(cell int) float64 {
	return (math.Exp2(float64(h.p.u16(atHours+2*cell))/meanStep) - 1) / meanUnit
}

func (h hours) setMean(cell int, v float64) {
	h.p.set16(atHours+2*cell, uint16(min(math.MaxUint16, math.Round(math.Log2(1+v*meanUnit)*meanStep))))
}

const meanUnit, meanStep = 1024, 2048

// weeks are four bits: how many weeks of an hour taught.
func (h hours) weeks(cell int) int {
	return int(h.p[atHours+2*hourCells+cell/2] >> (cell % 2 * 4) & hourWeeks)
}

func (h hours) setWeeks(cell, n int) {
	b, shift := &h.p[atHours+2*hourCells+cell/2], cell%2*4
	*b = *b&^(hourWeeks<<shift) | byte(n)<<shift
}

// count takes one call into its hour.
func (h hours) count(at time.Time) {
	hour, open := hourOf(at), h.p.u32(hOpen)
	switch {
	case open == 0 || hour+1 < open: // the clock was set back
		h.open(hour, 1)
	case hour < open: // late: its hour is closed
		return
	case hour > open:
		h.close(hour)
		h.open(hour, 0)
	}
	h.p.set32(hCounted, min(h.p.u32(hCounted), math.MaxUint32-1)+1)
}

func (h hours) open(hour uint32, partial uint16) {
	h.p.set32(hOpen, hour)
	h.p.set32(hCounted, 0)
	h.p.set16(hPartial, partial)
}

// close learns the open hour and the silent ones behind it, a week of these at most: an agent that was away for longer did not rest.
func (h hours) close(next uint32) {
	open, n := h.p.u32(hOpen), h.p.u32(hCounted)
	h.care.latest(open, n, next)
	if h.frozen {
		return
	}
	if mean, variance := h.expects(cellOf(open)); h.p.u16(hPartial) == 0 && (!h.known() || math.Exp2(-overBits(n, mean, variance)) >= hourHeld) {
		h.learn(cellOf(open), float64(n))
	}
	for hour := max(open+1, next-min(next, hourCells)); hour < next; hour++ {
		h.learn(cellOf(hour), 0)
	}
}

func (h hours) known() bool {
	return h.p.u32(hHours) >= minHours && h.peers.Hours >= minHours
}

func (h hours) learn(cell int, n float64) {
	mean, _ := h.expects(cell)
	off, all := (n-mean)*(n-mean), h.p.u32(hHours)+1
	h.p.set32(hHours, all)
	weight := max(1/hourKnows, 1/float64(all))
	h.setFloat(hLevel, h.float(hLevel)+weight*(n-h.float(hLevel)))
	h.setFloat(hSpread, h.float(hSpread)+weight*(off-h.float(hSpread)))
	weeks := min(h.weeks(cell)+1, hourWeeks)
	h.setMean(cell, h.mean(cell)+(n-h.mean(cell))/float64(weeks))
	h.setWeeks(cell, weeks)
	c := h.peers
	c.Hours++
	weight = max(classForget, 1/float64(c.Hours))
	c.Level += weight * (n - c.Level)
	c.Spread += weight * (off - c.Spread)
	w := &c.Week[cell]
	w.N++
	w.Mean += max(classForget, 1/float64(w.N)) * (n - w.Mean)
}

// expects is the mean and the variance of the calls of an hour of the week: the posterior of a Poisson rate whose prior is Gamma, with
// the agent's level in the shape of its class's week for a mean. What agents do comes in bursts; the variance is that of its own hours.
func (h hours) expects(cell int) (mean, variance float64) {
	own, weeks := min(float64(h.p.u32(hHours)), hourKnows), float64(h.weeks(cell))
	level := (own*h.float(hLevel) + hourPeers*h.peers.Level) / (own + hourPeers)
	mean = max(hourLeast, (weeks*h.mean(cell)+hourPrior*level*h.peers.factor(cell))/(weeks+hourPrior))
	bursts := (own*h.float(hSpread)/max(h.float(hLevel), hourLeast) + hourPeers*h.peers.Spread/max(h.peers.Level, hourLeast)) / (own + hourPeers)
	return mean, mean * max(1, bursts) * (1 + 1/(weeks+hourPrior))
}

// latest keeps the counts of the latest hours as they were.
func (c *care) latest(hour, n, next uint32) {
	if c == nil {
		return
	}
	c.Hour = next - 1
	for silent := min(next-hour-1, latestHours); ; silent-- {
		if len(c.Hourly) >= latestHours {
			c.Hourly = append(c.Hourly[:0], c.Hourly[1:]...)
		}
		c.Hourly = append(c.Hourly, n)
		if n = 0; silent == 0 {
			return
		}
	}
}

// Doubt keeps an agent's open hour from teaching: something was found in it.
func (m *Model) Doubt(agent string) {
	if p := m.find(agent); p != nil {
		m.touch(agent)
		p.set16(hPartial, 1)
	}
}

// bandShare is the share of values that a band is to hold.
const bandShare = 0.95

// Band is what is expected of a number: its mean, and between what bounds 95 in 100 lie.
type Band struct {
	Low  float64 `json:"low"`
	Mean float64 `json:"mean"`
	High float64 `json:"high"`
}

// countBand is the band of a count.
func countBand(mean, variance float64) Band {
	const tail = (1 - bandShare) / 2
	least := func(holds func(n uint32) bool) float64 { // the first count that something holds of, of an order that keeps holding
		to := 1
		for to < math.MaxInt32/2 && !holds(uint32(to)) {
			to *= 2
		}
		return float64(sort.Search(to, func(n int) bool { return holds(uint32(n)) }))
	}
	over := func(n uint32) float64 { return math.Exp2(-overBits(n, mean, variance)) }
	return Band{
		Low:  least(func(n uint32) bool { return over(n+1) < 1-tail }),
		Mean: mean,
		High: least(func(n uint32) bool { return over(n+1) <= tail }),
	}
}

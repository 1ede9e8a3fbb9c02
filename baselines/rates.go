package baselines

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"gonum.org/v1/gonum/mathext"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// RateWindow is how long counts are taken. An event opens a window, so that silence is in none: an agent that rests teaches nothing about
// how busy it is when it works.
const RateWindow = 10 * time.Minute

// Bounds and weights of counts.
const (
	rateJump     = time.Hour // an event older than its window by more sets the clock back
	rateForgets  = 0.005     // the weight of a window in an agent's mean and variance
	ratePeers    = 4.0       // windows that the class's word is worth beside the agent's own
	rateKnows    = 50.0      // windows that an agent's own word is worth at most
	minWindows   = 12        // of an agent, before its counts are judged
	classWindows = 30        // of its class
	rateHeld     = 1e-4      // the p-value below which a window does not teach
	driftAfter   = 1e5       // the evidence that is told: one false alarm in so many windows at the most (Shin et al., 2022)
)

// What is counted.
const (
	rateCalls = iota
	rateSends
	rateFailures
	rateModels
	rateCount
)

// rateNames say what is counted, for people.
var rateNames = [rateCount]string{"tool calls", "calls that send", "failures", "model calls"}

// The features that counts are told as.
const (
	FeatureRate  = "rate"  // more in ten minutes than this agent does
	FeatureDrift = "drift" // a little more, for long
)

// Fields of a rate on a page.
const (
	rMean     = 0  // float32
	rVariance = 4  // float32
	rWindows  = 8  // uint32, that taught
	rCounted  = 12 // uint32, in the open window
	rStart    = 16 // int64, second at which it opened
	rEvidence = 24 // float32, natural logarithm
)

// peerRate is what a class shows of one count.
type peerRate struct {
	Windows int       `json:"windows"`
	Mean    float64   `json:"mean"`
	Fano    float64   `json:"fano"` // variance over mean within an agent, averaged
	Tail    surprises `json:"tail"`
}

// Count takes an event into the counts of its agent and returns the count that is most improbable, if any is. It must be told each event
// once, in the order of the log.
func (m *Model) Count(e *event.Event) (worst Anomaly, ok bool) {
	p := m.find(e.Agent.ID)
	if p == nil {
		return Anomaly{}, false
	}
	m.touch(e.Agent.ID)
	c := m.Cares[e.Agent.ID]
	frozen := c != nil && c.Frozen != nil
	counted := countsOf(e)
	if counted[rateCalls] {
		hours{p, &m.Peers.Week, m.care(e.Agent.ID), frozen}.count(e.Time)
	}
	for i, counts := range counted {
		if !counts {
			continue
		}
		r := rate{b: p[atRates+i*rateSize : atRates+(i+1)*rateSize], peers: &m.Peers.Rates[i], name: rateNames[i], frozen: frozen}
		if a, found := r.count(e.Time); found && (!ok || a.P < worst.P) {
			worst, ok = a, true
		}
	}
	return worst, ok
}

func countsOf(e *event.Event) (out [rateCount]bool) {
	call := e.Tool != nil && e.Kind == event.KindToolResult
	out[rateCalls] = call
	out[rateSends] = call && e.Tool.Effect == event.EffectEgress
	out[rateFailures] = e.Outcome == event.OutcomeFailure || e.Outcome == event.OutcomeDenied
	out[rateModels] = e.Kind == event.KindModelCall
	return out
}

// rate is one count of one agent.
type rate struct {
	b      []byte
	peers  *peerRate
	name   string
	frozen bool // nothing is learned
}

// check refuses a class's word that no windows can have left.
func (r *peerRate) check() bool {
	finite := func(v float64) bool { return v >= 0 && !math.IsInf(v, 0) } // not NaN either
	return r.Windows >= 0 && finite(r.Mean) && finite(r.Fano) && r.Tail.check()
}

func (r rate) float(at int) float64 {
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(r.b[at:])))
}

func (r rate) setFloat(at int, v float64) {
	binary.LittleEndian.PutUint32(r.b[at:], math.Float32bits(float32(v)))
}
func (r rate) windows() int { return int(getU32(r.b, rWindows)) }

// known reports whether enough windows taught to judge one.
func (r rate) known() bool { return r.windows() >= minWindows && r.peers.Windows >= classWindows }

// p is the p-value of a surprise: by the distribution, or by what the class's windows showed where that is more cautious.
func (r rate) p(bits float64) float64 {
	return math.Exp2(-min(bits, r.peers.Tail.peek(bits, minWindows)))
}

// count takes one event at a time into its window.
func (r rate) count(t time.Time) (a Anomaly, ok bool) {
	at, start := t.Unix(), int64(binary.LittleEndian.Uint64(r.b[rStart:]))
	drifts := false
	switch {
	case start == 0 || at < start-int64(rateJump/time.Second):
		r.open(at)
	case at < start: // late: its window is closed
		return Anomaly{}, false
	case at >= start+int64(RateWindow/time.Second):
		drifts = r.close()
		r.open(at)
	}
	n := getU32(r.b, rCounted) + 1
	putU32(r.b, rCounted, n)
	if !r.known() {
		return Anomaly{}, false
	}
	if drifts {
		r.setFloat(rEvidence, 0)
		return r.anomaly(FeatureDrift, 1/driftAfter, n, fmt.Sprintf("more %s than usual in window after window", r.name)), true
	}
	p := min(1, rateCount*r.p(r.bits(n)))
	if p > notable { // nobody asks why
		return Anomaly{P: p, Life: Active, Version: Version}, true
	}
	return r.anomaly(FeatureRate, p, n, fmt.Sprintf("%d %s within 10 minutes", n, r.name)), true
}

func (r rate) anomaly(feature string, p float64, n uint32, got string) Anomaly {
	mean, variance := r.expects()
	band := countBand(mean, variance)
	want := fmt.Sprintf("%.1f on average, give or take %.1f, in %d such windows", mean, math.Sqrt(variance), r.windows())
	return Anomaly{
		P: p, Life: Active, Version: Version, Why: fmt.Sprintf("%d windows of ten minutes", r.windows()),
		Features: []Feature{{Name: feature, About: r.name, Got: got, Want: want, Score: -math.Log2(p), P: p, Share: 1, N: int(n), Band: &band}},
	}
}

func (r rate) open(at int64) {
	binary.LittleEndian.PutUint64(r.b[rStart:], uint64(at))
	putU32(r.b, rCounted, 0)
}

// close learns the open window and reports whether the evidence for a drift is enough. A window that nearly can't be teaches nothing.
func (r rate) close() (drifts bool) {
	n := getU32(r.b, rCounted)
	if r.known() {
		bits := r.bits(n)
		p := r.p(bits)
		evidence := max(0, r.float(rEvidence)) + math.Log(evidenceOf(p))
		r.setFloat(rEvidence, evidence)
		if drifts = evidence >= math.Log(driftAfter); p < rateHeld || r.frozen {
			return drifts
		}
		r.peers.Tail.bits(bits)
	}
	if !r.frozen {
		r.learn(float64(n))
	}
	return drifts
}

// evidenceOf is the e-value of a p-value: the mixture of all bets k·p^(k-1) (Vovk and Wang, 2021).
func evidenceOf(p float64) float64 {
	if p > 0.999 {
		return 0.5 // the limit at 1
	}
	l := math.Log(max(p, minP))
	return (1 - p + p*l) / (p * l * l)
}

func (r rate) learn(n float64) {
	windows := r.windows() + 1
	weight := max(rateForgets, 1/float64(windows))
	mean, variance := r.float(rMean), r.float(rVariance)
	d := n - mean
	mean += weight * d
	variance = (1 - weight) * (variance + weight*d*d)
	r.setFloat(rMean, mean)
	r.setFloat(rVariance, variance)
	putU32(r.b, rWindows, uint32(windows))
	c := r.peers
	c.Windows++
	w := max(rateForgets, 1/float64(c.Windows))
	c.Mean += w * (n - c.Mean)
	if windows >= minWindows {
		c.Fano += w * (variance/max(mean, 1e-9) - c.Fano)
	}
}

// expects is the mean and the variance of the next window's count. Counts of independent events have a variance of their mean; what
// agents do comes in bursts and has more, but never less than a promise can be made on.
func (r rate) expects() (mean, variance float64) {
	own := min(float64(r.windows()), rateKnows)
	mean = (own*r.float(rMean) + ratePeers*r.peers.Mean) / (own + ratePeers)
	fano := (own*r.float(rVariance)/max(r.float(rMean), 1e-9) + ratePeers*r.peers.Fano) / (own + ratePeers)
	return mean, mean * max(1, fano) * (1 + 1/(own+ratePeers)) // the mean itself is only known so well
}

func (r rate) bits(n uint32) float64 {
	mean, variance := r.expects()
	return overBits(n, mean, variance)
}

// overBits is the surprise of n events or more: the tail of a negative binomial distribution, the predictive one of a Poisson rate that is
// itself Gamma-distributed.
func overBits(n uint32, mean, variance float64) float64 {
	if n == 0 {
		return 0
	}
	tail := 0.0
	if excess := variance - mean; excess > 1e-3*mean {
		shape := mean * mean / excess
		tail = mathext.RegIncBeta(float64(n), shape, mean/(mean+shape))
	} else {
		tail = mathext.GammaIncReg(float64(n), mean)
	}
	return min(-math.Log2(max(tail, math.SmallestNonzeroFloat64)), maxSurprise)
}

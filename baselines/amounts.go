package baselines

import (
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/gonum/stat/distuv"
)

// Numbers in arguments are learned by their size, on a logarithmic scale, for each argument of each tool: the mean and the variance are
// unknown and have a normal-inverse-gamma prior, so that the next number has a Student distribution (Gelman et al., Bayesian Data
// Analysis, 3rd ed., 3.3). The prior is what the class shows.
const (
	pageAmounts   = 8 // arguments of one agent; the one with the least numbers makes room
	amountSize    = 16
	amountForgets = 0.005
	amountPeers   = 1.0 // numbers that the class's mean is worth beside the agent's own
	amountShape   = 2.0 // half the numbers that its variance is
	amountSpread  = 1.0 // variance of what nobody has seen: a factor of e, or of 1/e
	maxAmounts    = 512 // arguments of one class
	maxNumber     = 32  // bytes of the text of one
)

// Fields of an amount on a page, after its argument's fingerprint.
const (
	aN        = 4  // float32
	aMean     = 8  // float32
	aVariance = 12 // float32
)

// amount is what numbers of one argument were.
type amount struct {
	N        float64 `json:"n"`
	Mean     float64 `json:"mean"`
	Variance float64 `json:"variance"`
}

func (a *amount) check() bool {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	return a != nil && a.N >= 0 && finite(a.N) && finite(a.Mean) && a.Variance >= 0 && finite(a.Variance)
}

func (a *amount) add(x float64) {
	a.N++
	weight := max(amountForgets, 1/a.N)
	d := x - a.Mean
	a.Mean += weight * d
	a.Variance = (1 - weight) * (a.Variance + weight*d*d)
}

// numberIn is the number that an argument's text is; 0 is for none, and is no size.
func numberIn(text string) float64 {
	if len(text) > maxNumber {
		return 0
	}
	text = strings.TrimSpace(text)
	if text == "" || !strings.ContainsRune("+-.0123456789", rune(text[0])) { // most texts are none, and what ParseFloat says of them is for nobody
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// sized is a number on the scale that it is learned on, and number the way back.
func sized(v float64) float64  { return math.Copysign(math.Log1p(math.Abs(v)), v) }
func number(x float64) float64 { return math.Copysign(math.Expm1(math.Abs(x)), x) }

// amountAt is the place of an argument's amount on a page, or -1.
func (p *page) amountAt(print uint32) int {
	for at := atAmounts; at < atAmounts+pageAmounts*amountSize; at += amountSize {
		if p.u32(at) == print {
			return at
		}
	}
	return -1
}

func (p *page) amount(at int) amount {
	f := func(field int) float64 { return float64(math.Float32frombits(p.u32(at + field))) }
	return amount{f(aN), f(aMean), f(aVariance)}
}

// takeAmount returns the place of an argument's amount, making room for a new one.
func (p *page) takeAmount(print uint32) int {
	if at := p.amountAt(print); at >= 0 {
		return at
	}
	weakest, least := 0, math.Inf(1)
	for at := atAmounts; at < atAmounts+pageAmounts*amountSize; at += amountSize {
		if n := p.amount(at).N; n < least {
			weakest, least = at, n
		}
	}
	clear(p[weakest : weakest+amountSize])
	p.set32(weakest, print)
	return weakest
}

// learnAmount takes in the number of an argument.
func (m *Model) learnAmount(p *page, print uint32, x float64) {
	at := p.takeAmount(print)
	a := p.amount(at)
	a.add(x)
	p.set32(at+aN, math.Float32bits(float32(a.N)))
	p.set32(at+aMean, math.Float32bits(float32(a.Mean)))
	p.set32(at+aVariance, math.Float32bits(float32(a.Variance)))
	if m.Peers.Amounts == nil {
		m.Peers.Amounts = make(map[uint32]*amount)
	}
	c := m.Peers.Amounts[print]
	if c == nil {
		if len(m.Peers.Amounts) >= maxAmounts {
			clear(m.Peers.Amounts) // what is used comes back
		}
		c = &amount{}
		m.Peers.Amounts[print] = c
	}
	c.add(x)
}

// next is the distribution of an argument's next number.
func (m *Model) next(own amount, print uint32) distuv.StudentsT {
	mean, variance := own.Mean, amountSpread
	if c := m.Peers.Amounts[print]; c != nil && c.N > 0 {
		mean, variance = c.Mean, (c.N*c.Variance+amountSpread)/(c.N+1)
	}
	k, a := own.N+amountPeers, amountShape+own.N/2
	off := own.Mean - mean
	b := (amountShape-1)*variance + own.N*own.Variance/2 + amountPeers*own.N*off*off/(2*k)
	return distuv.StudentsT{Mu: (own.N*own.Mean + amountPeers*mean) / k, Sigma: math.Sqrt(b * (k + 1) / (a * k)), Nu: 2 * a}
}

func band(d distuv.StudentsT) Band {
	const tail = (1 - bandShare) / 2
	return Band{Low: number(d.Quantile(tail)), Mean: number(d.Mu), High: number(d.Quantile(1 - tail))}
}

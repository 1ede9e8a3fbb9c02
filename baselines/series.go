package baselines

import (
	"math"
	"slices"
	"time"
)

// Bounds and weights of a Series. They were chosen on the series of the Numenta Anomaly Benchmark that are for development, so its score
// on these flatters.
const (
	seriesBins     = 48             // of a day, each with what is usual at that time
	binForgets     = 0.1            // the weight of a day's value in its bin
	binDoubt       = 20.0           // days that the day's level is worth beside a bin's own
	levelForgets   = 0.005          // the weight of a value in the level
	spreadForgets  = 0.0015         // the weight of a value in spreads
	recentForgets  = 1.0 / 24       // the weight of a value in what is recent
	winsor         = 4.0            // spreads beyond which a value teaches no more
	seriesYoung    = 20             // values before a spread means anything
	seriesSample   = 64             // largest surprises that are kept
	seriesLearning = 200            // values before p-values are told
	incidentLasts  = 12 * time.Hour // how long a surprise silences lesser ones
	incidentExceed = 0.2            // the part of its p-value below which another one counts all the same
	notable        = 0.05           // the p-value that begins an incident
)

// Series judges a series of numbers, a volume by the hour for example, one after the other in constant memory. It looks for values that
// are unusual for the time of day, for a mean that moved and for a spread that changed, and turns their surprises, which depend on each
// other, into one p-value by what the series showed before. A surprise that follows another within half a day is told only if it is
// much greater: the open incident has it. The zero value is not usable; not safe for concurrent use.
type Series struct {
	n             int
	bins          [seriesBins]running
	level, spread running
	recent        running // residuals' mean lately
	usual         running // of recent
	calm          running // residuals' logarithmic size lately
	usualCalm     running // of calm
	lately        running // surprise lately
	value         surprises
	mean          surprises
	size          surprises
	all           surprises
	incident      float64 // the p-value of the open incident, 1 without one
	since         time.Time
}

// NewSeries returns a Series that has seen nothing.
func NewSeries() *Series {
	s := &Series{
		level: running{rate: levelForgets}, spread: running{rate: spreadForgets}, recent: running{rate: recentForgets}, usual: running{rate: spreadForgets},
		calm: running{rate: recentForgets}, usualCalm: running{rate: spreadForgets}, lately: running{rate: recentForgets}, incident: 1,
	}
	for i := range s.bins {
		s.bins[i].rate = binForgets
	}
	return s
}

// Score returns the probability that an unremarkable value of this series is at least as surprising, and learns the value. It is 1 while
// there is too little to compare with. A value that is no number is not learned.
func (s *Series) Score(at time.Time, value float64) float64 {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return 1
	}
	s.n++
	bin := &s.bins[(at.Hour()*60+at.Minute())*seriesBins/(24*60)]
	residual := value - s.level.mean - bin.mean*bin.n/(bin.n+binDoubt)
	least := 1e-9 + 1e-6*math.Abs(s.level.mean) // a series that never varied has a spread of 0
	spread := math.Sqrt(s.spread.variance) + least
	learned := residual
	young := s.n < seriesYoung
	if !young {
		learned = max(-winsor*spread, min(winsor*spread, residual))
	}
	s.recent.add(learned)
	s.calm.add(math.Log(learned*learned + 1e-4*s.spread.variance + 1e-12))
	p := 1.0
	if !young {
		surprise := s.value.bits(math.Abs(residual)/spread) +
			s.mean.bits(math.Abs(s.recent.mean-s.usual.mean)/(math.Sqrt(s.usual.variance)+least)) +
			s.size.bits(math.Abs(s.calm.mean-s.usualCalm.mean)/(math.Sqrt(s.usualCalm.variance)+least))/4
		s.lately.add(surprise)
		p = math.Exp2(-s.all.bits(max(surprise, s.lately.mean)))
	}
	s.level.add(s.level.mean + learned)
	bin.add(value - s.level.mean)
	s.spread.add(learned)
	s.usual.add(s.recent.mean)
	s.usualCalm.add(s.calm.mean)
	return s.told(at, p)
}

// told keeps lesser surprises with the incident that is open.
func (s *Series) told(at time.Time, p float64) float64 {
	if at.Sub(s.since) > incidentLasts {
		s.incident = 1
	}
	if p >= s.incident*incidentExceed {
		return 1
	}
	if p < notable {
		s.incident, s.since = p, at
	}
	return p
}

// running is an exponentially weighted mean and variance; the first values weigh as in an ordinary mean.
type running struct{ n, mean, variance, rate float64 }

func (r *running) add(v float64) {
	r.n++
	rate := max(r.rate, 1/r.n)
	d := v - r.mean
	r.mean += rate * d
	r.variance = (1 - rate) * (r.variance + rate*d*d)
}

// surprises turns a score into a p-value by the scores before it: within the largest ones by their rank, beyond by an exponential tail
// over the upper half of these.
type surprises struct {
	N   int       `json:"n"`
	Top []float64 `json:"top"` // ascending
}

// check refuses scores that can't have been taken in.
func (t *surprises) check() bool {
	return len(t.Top) <= seriesSample && t.N >= len(t.Top) && slices.IsSorted(t.Top) &&
		!slices.ContainsFunc(t.Top, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// bits is -log2 of the p-value of a score, which it takes in.
func (t *surprises) bits(score float64) float64 {
	bits := t.peek(score, seriesLearning)
	i, _ := slices.BinarySearch(t.Top, score)
	t.N++
	if len(t.Top) < seriesSample {
		t.Top = slices.Insert(t.Top, i, score)
	} else if i > 0 {
		copy(t.Top, t.Top[1:i])
		t.Top[i-1] = score
	}
	return bits
}

// peek is the same and takes nothing in. It is 0 before so many scores.
func (t *surprises) peek(score float64, least int) float64 {
	i, _ := slices.BinarySearch(t.Top, score)
	switch reached := len(t.Top) - i; {
	case t.N < least || i == 0 && len(t.Top) < t.N: // below the least that is kept nothing is surprising
		return 0
	case reached > 0:
		return -math.Log2(float64(reached+1) / float64(t.N+1))
	}
	return min(math.Log2(float64(t.N+1))+(score-t.Top[len(t.Top)-1])/t.scale()*math.Log2E, maxSurprise)
}

// leastScale is the least scale of a tail, in spreads or bits: a series that hardly varied has shown little of what it may do.
const leastScale = 1

// maxSurprise keeps p-values above the smallest number.
const maxSurprise = 900

func (t *surprises) scale() float64 {
	upper := t.Top[len(t.Top)/2:]
	sum := 0.0
	for _, s := range upper {
		sum += s - upper[0]
	}
	return max(sum/float64(len(upper)), leastScale)
}

package baselines

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// tailSize is how many of the largest scores a calibration keeps. Below the smallest kept one a p-value is only known to be
// larger than tailSize/N, which no alert needs to know better.
const tailSize = 512

// minTailScale is the least scale of the extrapolated tail, in bits. If the model's probabilities were exact, a score of s bits
// would be reached with probability 2^-s, an exponential tail of scale 1/ln 2.
const minTailScale = 1 / math.Ln2

// minP is the least p-value. Its reciprocal, which combine adds up, is still a finite number.
const minP = 1e-300

// calibration turns scores into p-values by what the same score did on traffic that raised no finding: split-conformal
// (Vovk et al., 2005) inside the sample, and beyond its largest score an exponential tail, whose scale is the mean excess over
// the sample's 90th percentile (a generalised Pareto tail with shape 0).
type calibration struct {
	N   int       `json:"n"`
	Top []float64 `json:"top"` // the largest scores, ascending
}

func (c *calibration) add(score float64) {
	c.N++
	i, _ := slices.BinarySearch(c.Top, score)
	if len(c.Top) < tailSize {
		c.Top = slices.Insert(c.Top, i, score)
		return
	}
	if i > 0 {
		copy(c.Top, c.Top[1:i])
		c.Top[i-1] = score
	}
}

// p is the probability that unremarkable traffic scores at least this much. It is never 0.
func (c *calibration) p(score float64) float64 {
	if c.N == 0 || score <= 0 {
		return 1
	}
	i, _ := slices.BinarySearch(c.Top, score)
	reached := len(c.Top) - i
	if i == 0 {
		reached = c.N
	}
	p := float64(reached+1) / float64(c.N+1)
	if reached > 0 {
		return p
	}
	largest := c.Top[len(c.Top)-1]
	tail := distuv.Exponential{Rate: 1 / c.tailScale()}
	return max(p*tail.Survival(score-largest), minP)
}

func (c *calibration) tailScale() float64 {
	start := len(c.Top) * 9 / 10
	threshold := c.Top[start]
	excess := make([]float64, 0, len(c.Top)-start)
	for _, s := range c.Top[start:] {
		excess = append(excess, s-threshold)
	}
	return max(minTailScale, stat.Mean(excess, nil))
}

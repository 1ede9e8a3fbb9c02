package eval

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Number is a measure. NaN means that it is not defined on the data, and is null in JSON.
type Number float64

// Defined reports whether there is a value.
func (n Number) Defined() bool { return !math.IsNaN(float64(n)) && !math.IsInf(float64(n), 0) }

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Defined() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// scored is one case of which the truth is known.
type scored struct {
	score    float64 // larger is more suspicious
	positive bool
	weight   float64
}

// auc is the probability that a positive scores more than a negative, ties counting half (Mann and Whitney, 1947); NaN without
// one of each.
func auc(cases []scored) float64 {
	sorted := slices.SortedFunc(slices.Values(cases), func(a, b scored) int { return cmp.Compare(a.score, b.score) })
	below, won, positives := 0.0, 0.0, 0.0
	for i := 0; i < len(sorted); {
		tiedPositive, tiedNegative, j := 0.0, 0.0, i
		for ; j < len(sorted) && sorted[j].score == sorted[i].score; j++ {
			if sorted[j].positive {
				tiedPositive += sorted[j].weight
			} else {
				tiedNegative += sorted[j].weight
			}
		}
		won += tiedPositive * (below + tiedNegative/2)
		below, positives, i = below+tiedNegative, positives+tiedPositive, j
	}
	return won / (positives * below)
}

// thresholdAt is the score that reaches the most positives while it reaches at most a share of the negatives; ok is false where no
// score does, or one of the two is missing.
func thresholdAt(cases []scored, fpr float64) (threshold float64, ok bool) {
	sorted := slices.SortedFunc(slices.Values(cases), func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	_, negatives := weigh(cases)
	wrong, hit := 0.0, false
	for i, c := range sorted {
		if c.positive {
			hit = true
		} else {
			wrong += c.weight
		}
		if wrong > fpr*negatives {
			break
		}
		if hit && (i+1 == len(sorted) || sorted[i+1].score != c.score) {
			threshold, ok = c.score, true
		}
	}
	return threshold, ok && negatives > 0
}

// tprAt is the largest share of positives that a threshold reaches while it reaches at most a share of the negatives. The
// threshold is set on the cases themselves: it is a point of their ROC curve.
func tprAt(cases []scored, fpr float64) float64 {
	positives, negatives := weigh(cases)
	if positives == 0 || negatives == 0 {
		return math.NaN()
	}
	threshold, ok := thresholdAt(cases, fpr)
	if !ok {
		return 0
	}
	hits := 0.0
	for _, c := range cases {
		if c.positive && c.score >= threshold {
			hits += c.weight
		}
	}
	return hits / positives
}

func weigh(cases []scored) (positives, negatives float64) {
	for _, c := range cases {
		if c.positive {
			positives += c.weight
		} else {
			negatives += c.weight
		}
	}
	return positives, negatives
}

// Interval is a range by bootstrap, 95 %.
type Interval [2]Number

// interval returns the middle 95 % of a measure's replicates; those in which it is not defined are left out.
func interval(replicates []float64) Interval {
	replicates = slices.DeleteFunc(slices.Clone(replicates), math.IsNaN)
	if len(replicates) == 0 {
		return Interval{Number(math.NaN()), Number(math.NaN())}
	}
	slices.Sort(replicates)
	return Interval{Number(stat.Quantile(0.025, stat.Empirical, replicates, nil)), Number(stat.Quantile(0.975, stat.Empirical, replicates, nil))}
}

// median of values; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return stat.Quantile(0.5, stat.Empirical, slices.Sorted(slices.Values(values)), nil)
}

// share is a part of a whole; NaN of nothing.
func share(part, whole float64) float64 { return part / whole } // 0/0 is NaN

// mean of the values that are defined; NaN if none is.
func mean(values []float64) float64 {
	values = slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(values) == 0 {
		return math.NaN()
	}
	return stat.Mean(values, nil)
}

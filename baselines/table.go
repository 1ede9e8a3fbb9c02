package baselines

import (
	"math"
	"slices"
)

// table counts the values seen in one context (the tools of an agent, the values of one argument) within a fixed number of
// entries. When it is full the rarest, then stalest, entry makes room; Total and Distinct keep counting, so that the rate of
// novelty stays right.
type table struct {
	Counts   map[uint64]entry `json:"counts"`
	Total    int              `json:"total"`
	Distinct int              `json:"distinct"`
}

// entry is the count of one value and when it was last counted, in table totals.
type entry struct {
	N    int    `json:"n"`
	Last int    `json:"last"`
	Text string `json:"text,omitempty"` // what people see on the agent's page; hostile
}

func (t *table) add(value uint64, text string, bound int) {
	if t.Counts == nil {
		t.Counts = make(map[uint64]entry)
	}
	e, seen := t.Counts[value]
	if !seen {
		t.Distinct++
		if len(t.Counts) >= bound {
			t.evict()
		}
	}
	t.Total++
	t.Counts[value] = entry{N: e.N + 1, Last: t.Total, Text: text}
}

func (t *table) evict() {
	var victim uint64
	worst := entry{N: math.MaxInt}
	for value, e := range t.Counts {
		// The value breaks ties, so that a replay evicts the same entry whatever the order of the map.
		if e.N < worst.N || e.N == worst.N && (e.Last < worst.Last || e.Last == worst.Last && value < victim) {
			victim, worst = value, e
		}
	}
	delete(t.Counts, victim)
}

func (t *table) count(value uint64) int {
	if t == nil {
		return 0
	}
	return t.Counts[value].N
}

func (t *table) total() int {
	if t == nil {
		return 0
	}
	return t.Total
}

// novelty is the probability that the next value is one not seen before: PPM method C (Moffat, 1990), distinct over total plus
// distinct. In an empty table everything is new.
func (t *table) novelty() float64 {
	if t == nil || t.Total == 0 {
		return 1
	}
	return float64(t.Distinct) / float64(t.Total+t.Distinct)
}

// probability of a value: its share beside the mass kept for new ones, or all of that mass for a new one.
func (t *table) probability(value uint64) float64 {
	if n := t.count(value); n > 0 {
		return float64(n) / float64(t.Total+t.Distinct)
	}
	return t.novelty()
}

// bits is the surprise of a value to an agent whose class is the prior: -log2 of the agent's probability shrunk towards the
// class's with the weight of priorWeight observations.
func bits(agent, class *table, value uint64) float64 {
	own := 0.0
	switch {
	case agent.count(value) > 0:
		own = agent.probability(value)
	case class.count(value) == 0:
		own = agent.novelty()
	}
	n := float64(agent.total())
	p := (n*own + priorWeight*class.probability(value)) / (n + priorWeight)
	return max(0, -math.Log2(p))
}

// Count is one value with how often it was seen, for people.
type Count struct {
	Text string `json:"text"`
	N    int    `json:"n"`
}

// top returns the n most frequent values, ties in the order of their text.
func (t *table) top(n int) []Count {
	if t == nil {
		return nil
	}
	out := make([]Count, 0, len(t.Counts))
	for _, e := range t.Counts {
		out = append(out, Count{Text: e.Text, N: e.N})
	}
	slices.SortFunc(out, func(a, b Count) int {
		if a.N != b.N {
			return b.N - a.N
		}
		if a.Text < b.Text {
			return -1
		}
		return 1
	})
	return out[:min(n, len(out))]
}

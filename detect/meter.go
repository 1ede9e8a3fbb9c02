package detect

import "time"

// meterEvery is how many events there are to one that is timed.
const meterEvery = 64

// Meter measures what rules cost in time, on one event in meterEvery. It is told what happens and tells nothing to those who judge: no
// finding depends on its clock. A nil Meter measures nothing. Not safe for concurrent use.
type Meter struct {
	now         func() time.Time
	on          bool
	start, last time.Time
	laps        []lap // of the event at hand
	costs       Costs
	fresh       map[string]time.Duration // since they were drained
}

type lap struct {
	rule string
	took time.Duration
}

// Costs are what events took that were timed.
type Costs struct {
	Events int           // that were timed
	Total  time.Duration // that the shard took for them
	Rules  map[string]time.Duration
}

// NewMeter returns a meter with a clock.
func NewMeter(now func() time.Time) *Meter {
	m := &Meter{now: now, fresh: make(map[string]time.Duration)}
	m.Reset()
	return m
}

// Reset forgets what was measured: other rules are judged with.
func (m *Meter) Reset() {
	if m != nil {
		m.on, m.costs = false, Costs{Rules: make(map[string]time.Duration)}
	}
}

// Begin starts with an event, by its number, and End ends with it.
func (m *Meter) Begin(event int) {
	if m != nil && event%meterEvery == 1 {
		m.on, m.start, m.laps = true, m.now(), m.laps[:0]
	}
}

// End adds what the event took.
func (m *Meter) End() {
	if m == nil || !m.on {
		return
	}
	m.on = false
	m.costs.Events, m.costs.Total = m.costs.Events+1, m.costs.Total+m.now().Sub(m.start)
	for _, l := range m.laps {
		m.costs.Rules[l.rule] += l.took
		m.fresh[l.rule] += l.took
	}
}

// mark starts the time of the rule that is judged next.
func (m *Meter) mark() {
	if m != nil && m.on {
		m.last = m.now()
	}
}

// lap ends the time of a rule and starts that of the next.
func (m *Meter) lap(c *compiled) {
	if m != nil && m.on {
		now := m.now()
		m.laps, m.last = append(m.laps, lap{c.ID, now.Sub(m.last)}), now
	}
}

// drop leaves out the event at hand, on which rules run that no other event would ask.
func (m *Meter) drop() {
	if m != nil {
		m.on = false
	}
}

// Drain calls fn with about how long each rule took on all events since it was drained before.
func (m *Meter) Drain(fn func(rule string, took time.Duration)) {
	if m == nil {
		return
	}
	for rule, took := range m.fresh {
		fn(rule, meterEvery*took)
	}
	clear(m.fresh)
}

// AddTo adds what was measured to other costs.
func (m *Meter) AddTo(to *Costs) {
	if m == nil {
		return
	}
	to.Events, to.Total = to.Events+m.costs.Events, to.Total+m.costs.Total
	for rule, took := range m.costs.Rules {
		if to.Rules == nil {
			to.Rules = make(map[string]time.Duration)
		}
		to.Rules[rule] += took
	}
}

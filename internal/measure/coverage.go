package measure

import (
	"cmp"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Alerted is what coverage must know of one raised finding.
type Alerted struct {
	ID       string
	Rule     string
	Incident string // empty where it belongs to none
	Lane     detect.Lane
	Raised   time.Time
	// Acts are when humans did something at the finding or its incident that shows that they looked; see ActsOf.
	Acts []time.Time
	// Disposed: a human gave the finding or its incident a disposition.
	Disposed bool
	// Triaged: Tocsin's first pass gave it a disposition.
	Triaged bool
	// ByRule is AutoClosed or Suppressed where a rule did that, else empty.
	ByRule Band
}

// ActsOf returns when humans looked at an incident.
func ActsOf(timeline []incident.Entry) []time.Time {
	var acts []time.Time
	for _, e := range timeline {
		if e.Looked() {
			acts = append(acts, e.At)
		}
	}
	return acts
}

// Group is a number of alerts that all fall into one band: Alerted describes any of them.
type Group struct {
	Alerted
	Repeated bool // an earlier alert of the same rule is in the incident
	N        int
}

// Groups returns each alert as a group of its own.
func Groups(alerts []Alerted) []Group {
	firsts := firstOfRule(alerts)
	groups := make([]Group, 0, len(alerts))
	for _, a := range alerts {
		groups = append(groups, Group{Alerted: a, Repeated: firsts[a.thread()] != a.ID, N: 1})
	}
	return groups
}

// CoverageOf puts each alert in exactly one band. Findings of the lanes hunt and shadow never reach a human and are left out.
// An act investigates what was raised before it; a later alert is covered only as a repetition: of the same rule, in an incident
// that was investigated. The order of the alerts doesn't matter.
func CoverageOf(groups []Group, now time.Time, sla time.Duration) Coverage {
	c := Coverage{Counts: make(map[Band]int)}
	for _, b := range Bands() {
		c.Counts[b] = 0
	}
	for _, g := range groups {
		if g.Lane == detect.Hunt || g.Lane == detect.Shadow {
			continue
		}
		c.N += g.N
		c.Counts[g.band(g.Repeated, now, sla)] += g.N
	}
	if matured := float64(c.N - c.Counts[Pending]); matured > 0 {
		c.Known = true
		c.Strict = float64(c.Counts[Investigated]) / matured
		c.Ratio = float64(c.Counts[Investigated]+c.Counts[Duplicate]) / matured
	}
	return c
}

func (a Alerted) band(repeated bool, now time.Time, sla time.Duration) Band {
	looked := slices.ContainsFunc(a.Acts, func(at time.Time) bool { return !at.Before(a.Raised) })
	switch {
	case repeated && len(a.Acts) > 0:
		return Duplicate
	case looked:
		return Investigated
	case a.Disposed:
		return Dispositioned
	case a.ByRule == AutoClosed, a.ByRule == Suppressed:
		return a.ByRule
	// Tocsin triages everything at once; that must neither hide nor count against an alert that a human still has time for.
	case now.Sub(a.Raised) <= sla:
		return Pending
	case a.Triaged:
		return Machine
	}
	return Untouched
}

// thread is what repetitions have in common; a finding without an incident repeats nothing.
type thread struct{ incident, rule, id string }

func (a Alerted) thread() thread {
	if a.Incident == "" {
		return thread{id: a.ID}
	}
	return thread{incident: a.Incident, rule: a.Rule}
}

func firstOfRule(alerts []Alerted) map[thread]string {
	firsts := make(map[thread]Alerted)
	for _, a := range alerts {
		first, ok := firsts[a.thread()]
		if !ok || cmp.Or(a.Raised.Compare(first.Raised), cmp.Compare(a.ID, first.ID)) < 0 {
			firsts[a.thread()] = a
		}
	}
	ids := make(map[thread]string, len(firsts))
	for t, a := range firsts {
		ids[t] = a.ID
	}
	return ids
}

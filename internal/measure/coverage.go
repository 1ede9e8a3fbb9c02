package measure

import (
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
)

// Alerted is what coverage must know of one raised finding.
type Alerted struct {
	ID       string
	Rule     string
	Incident string // empty where it belongs to none
	Lane     detect.Lane
	Raised   time.Time
	// Acts are when humans did something at the finding or its incident that shows that they looked; see incident.Entry.Looked.
	Acts []time.Time
	// Disposed: a human gave the finding or its incident a disposition.
	Disposed bool
	// Triaged: Tocsin's first pass gave it a disposition.
	Triaged bool
	// ByRule is AutoClosed or Suppressed where a rule did that, else empty.
	ByRule Band
}

// Group is a number of alerts that all fall into one band: Alerted describes any of them.
type Group struct {
	Alerted
	Repeated bool // an earlier alert of the same rule is in the incident
	N        int
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

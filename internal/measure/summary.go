package measure

import (
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Facts are the recorded facts that a Summary is made of.
type Facts struct {
	// Incidents are those of the window and every one that is still open, however old.
	Incidents []incident.Incident
	Alerts    []Group            // those raised in the window
	Requests  []approval.Request // those that wait, and those of the window
	// Reviewed are the requests whose broken glass a lead reviewed.
	Reviewed map[string]bool
	Leases   []action.Lease
}

// Summarise computes the summary at a time: dwell time of the incidents whose first bad event lies in the window
// before it, and coverage of the alerts. The rest is about now and has no window.
func Summarise(f Facts, now time.Time, window, sla time.Duration) Summary {
	s := Summary{At: now, Window: window, Incidents: make(map[incident.Status]int)}
	since := now.Add(-window)
	var cohort []incident.Incident
	for _, i := range f.Incidents {
		s.Incidents[i.Status]++
		if !i.Times.FirstBad.Before(since) {
			cohort = append(cohort, i)
		}
		if i.Status != incident.Closed && i.Times.Noticed.IsZero() {
			s.unnoticed(i, now)
		}
	}
	s.Dwell, s.Coverage = DwellOf(cohort, now), CoverageOf(f.Alerts, now, sla)
	s.Deciding = DecidingOf(f.Requests, since)
	for _, r := range f.Requests {
		if OutcomeOf(r) == ByBreakGlass && !r.Asked.Before(since) && !f.Reviewed[r.ID] {
			s.ReviewsDue++
		}
		if r.State != approval.Pending {
			continue
		}
		s.ApprovalsPending++
		if s.NextDeadline.IsZero() || r.Deadline.Before(s.NextDeadline) {
			s.NextDeadline = r.Deadline
		}
	}
	for i := range f.Leases {
		if f.Leases[i].InForce(now) {
			s.Contained++
		}
	}
	return s
}

func (s *Summary) unnoticed(i incident.Incident, now time.Time) {
	s.Unnoticed++
	age := max(0, now.Sub(i.Times.FirstBad))
	if s.OldestIncident == "" || age > s.OldestUnnoticed || age == s.OldestUnnoticed && i.ID < s.OldestIncident {
		s.OldestUnnoticed, s.OldestIncident = age, i.ID
	}
}

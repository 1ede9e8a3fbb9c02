package measure

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Watch exposes the gauges of a summary. It asks for one at most every five seconds, however often it is scraped; without one
// the gauges are absent, which an alert on absence sees, and tocsin_summary_errors_total counts it.
func (m *Metrics) Watch(summary func(ctx context.Context) (Summary, error), now func() time.Time) {
	m.registry.MustRegister(&watcher{summary: summary, now: now, failures: m.summaryFailure, gauges: newGauges()})
}

const (
	summaryAge     = 5 * time.Second
	summaryTimeout = 5 * time.Second
)

// watcher is the Prometheus collector of the summary's gauges.
type watcher struct {
	summary  func(ctx context.Context) (Summary, error)
	now      func() time.Time
	failures prometheus.Counter
	gauges   gauges

	mu   sync.Mutex
	last Summary
	read time.Time // when last was read; zero never
}

type gauges struct {
	dwell, coverageRatio, coverageAlerts, incidents                      *prometheus.Desc
	unnoticed, oldest, pending, deadline, leases, skewed, cohort, window *prometheus.Desc
	settled, approveRatio, look, quickRatio, personDay, reviews          *prometheus.Desc

	all []*prometheus.Desc
}

func newGauges() gauges {
	var all []*prometheus.Desc
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		all = append(all, prometheus.NewDesc(name, help, labels, nil))
		return all[len(all)-1]
	}
	g := gauges{
		dwell:          desc("tocsin_dwell_seconds", "Dwell time by quantile q, unnoticed incidents counted; absent while a quantile is not reached.", "q"),
		coverageRatio:  desc("tocsin_coverage_ratio", "Share of alerts that humans investigated: strict, or with duplicates; absent without alerts.", "kind"),
		coverageAlerts: desc("tocsin_coverage_alerts", "Alerts of the window by what became of them.", "band"),
		incidents:      desc("tocsin_incidents", "Incidents of the window, and the open ones before it.", "status"),
		unnoticed:      desc("tocsin_unnoticed_incidents", "Open incidents that no human is aware of."),
		oldest:         desc("tocsin_oldest_unnoticed_seconds", "Running dwell time of the oldest of them; 0 without any."),
		pending:        desc("tocsin_approvals_pending", "Approval requests that wait for a human."),
		deadline:       desc("tocsin_approval_deadline_timestamp_seconds", "Deadline of the request that expires next; absent without any."),
		leases:         desc("tocsin_leases_in_force", "Containments in force."),
		skewed:         desc("tocsin_dwell_skewed_incidents", "Incidents kept out of the dwell time, because the clocks make it negative."),
		cohort:         desc("tocsin_dwell_incidents", "Incidents that the dwell time is made of, by how their unnoticed time ended.", "end"),
		settled:        desc("tocsin_requests_settled", "Approval requests of the window by how they were settled.", "outcome"),
		approveRatio:   desc("tocsin_decisions_approved_ratio", "Share of people's decisions that approve; absent without any."),
		look:           desc("tocsin_decision_look_seconds", "Median time from opening a request to answering it; absent where none is known."),
		quickRatio:     desc("tocsin_decisions_quick_ratio", "Share of the decisions with a known look that took under five seconds; absent where none is known."),
		personDay:      desc("tocsin_decisions_per_person_day", "Decisions of a person on a day on which they decided, in the mean; absent without any."),
		reviews:        desc("tocsin_reviews_due", "Decisions of the window that broke the glass and wait for another lead's review."),
		window:         desc("tocsin_summary_window_seconds", "The window of dwell time and coverage."),
	}
	g.all = all
	return g
}

// Describe implements prometheus.Collector.
func (w *watcher) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range w.gauges.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w *watcher) Collect(ch chan<- prometheus.Metric) {
	s, ok := w.current()
	if !ok {
		return
	}
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	g := w.gauges
	for q, d := range map[string]*time.Duration{"0.5": s.Dwell.P50, "0.75": s.Dwell.P75, "0.9": s.Dwell.P90} {
		if d != nil {
			set(g.dwell, d.Seconds(), q)
		}
	}
	set(g.cohort, float64(s.Dwell.Noticed), "noticed")
	set(g.cohort, float64(s.Dwell.Closed), "closed")
	set(g.cohort, float64(s.Dwell.Censored), "censored")
	set(g.skewed, float64(s.Dwell.Skewed))
	set(g.window, s.Window.Seconds())
	if s.Coverage.Known {
		set(g.coverageRatio, s.Coverage.Strict, "strict")
		set(g.coverageRatio, s.Coverage.Ratio, "with_duplicates")
	}
	for _, b := range Bands() {
		set(g.coverageAlerts, float64(s.Coverage.Counts[b]), string(b))
	}
	for _, status := range incident.Statuses() {
		set(g.incidents, float64(s.Incidents[status]), string(status))
	}
	set(g.unnoticed, float64(s.Unnoticed))
	set(g.oldest, s.OldestUnnoticed.Seconds())
	set(g.pending, float64(s.ApprovalsPending))
	if !s.NextDeadline.IsZero() {
		set(g.deadline, float64(s.NextDeadline.UnixNano())/1e9)
	}
	set(g.leases, float64(s.Contained))
	for _, o := range Outcomes() {
		set(g.settled, float64(s.Deciding.Outcomes[o]), string(o))
	}
	if d := s.Deciding; d.Known {
		set(g.approveRatio, d.ApproveRate)
		set(g.personDay, d.PerPersonDay)
	}
	if d := s.Deciding; d.MedianLook != nil {
		set(g.look, d.MedianLook.Seconds())
		set(g.quickRatio, d.QuickShare)
	}
	set(g.reviews, float64(s.ReviewsDue))
}

// current returns the summary, at most summaryAge old. Scrapes wait for one another rather than compute it twice.
func (w *watcher) current() (Summary, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if age := now.Sub(w.read); !w.read.IsZero() && age >= 0 && age < summaryAge {
		return w.last, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), summaryTimeout)
	defer cancel()
	s, err := w.summary(ctx)
	if err != nil {
		w.failures.Inc()
		return Summary{}, false
	}
	w.last, w.read = s, now
	return s, true
}

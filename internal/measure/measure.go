// Package measure computes the two numbers that Tocsin answers for: dwell time, from the first bad event to the first human
// awareness, and coverage, the share of raised alerts that were really investigated. It works on recorded facts and has no clock
// of its own. It also declares the metrics that Prometheus scrapes.
package measure

import (
	"time"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Summary is what the overview shows and /metrics exposes.
type Summary struct {
	At     time.Time     `json:"at"`
	Window time.Duration `json:"window_ns"` // cohort: first bad event within this long before At

	Dwell    Dwell    `json:"dwell"`
	Coverage Coverage `json:"coverage"`

	// Deciding is about the requests that were asked in the window.
	Deciding Deciding `json:"deciding"`
	// ReviewsDue are decisions of the window that broke the glass, and that no other lead has reviewed.
	ReviewsDue int `json:"reviews_due"`

	// Unnoticed counts the open incidents that no human is aware of; OldestUnnoticed is the running dwell time of the oldest.
	Unnoticed       int           `json:"unnoticed"`
	OldestUnnoticed time.Duration `json:"oldest_unnoticed_ns"`
	OldestIncident  string        `json:"oldest_incident,omitempty"`

	ApprovalsPending int       `json:"approvals_pending"`
	NextDeadline     time.Time `json:"next_deadline,omitzero"`
	Contained        int       `json:"contained"` // leases in force

	Incidents map[incident.Status]int `json:"incidents"` // by status: the cohort, and the open ones before it
}

// Dwell is the distribution of dwell time over a cohort, with incidents nobody noticed yet counted as what they are: censored.
// N is the sum of Noticed, Closed, Censored and Skewed.
type Dwell struct {
	N        int `json:"n"`
	Noticed  int `json:"noticed"`
	Closed   int `json:"closed"`   // closed or contained by automation before anybody noticed: a competing event
	Censored int `json:"censored"` // still unnoticed
	// Quantiles of the cumulative incidence (Aalen and Johansen, 1978); nil where it never gets there: "not reached".
	P50 *time.Duration `json:"p50_ns"`
	P75 *time.Duration `json:"p75_ns"`
	P90 *time.Duration `json:"p90_ns"`
	// Within are the shares noticed within 15 minutes, an hour and a day.
	Within15m float64 `json:"within_15m"`
	Within1h  float64 `json:"within_1h"`
	Within24h float64 `json:"within_24h"`
	Curve     []Point `json:"curve,omitempty"`
	// Skewed counts incidents whose dwell time is negative by the clocks: kept out of the quantiles.
	Skewed int `json:"skewed"`
}

// Point is a step of the cumulative incidence curve.
type Point struct {
	After time.Duration `json:"after_ns"`
	Share float64       `json:"share"`
}

// Band is what became of an alert. Each alert is in exactly one.
type Band string

// The bands, in the order in which they are shown.
const (
	Investigated  Band = "investigated"  // a human did something that shows they looked at it or its incident
	Dispositioned Band = "dispositioned" // a human closed it without opening it
	Machine       Band = "machine"       // past its time with Tocsin's first pass alone
	AutoClosed    Band = "auto_closed"   // closed by a rule
	Suppressed    Band = "suppressed"    // suppressed by a rule
	Duplicate     Band = "duplicate"     // of an investigated incident
	Pending       Band = "pending"       // within its time, and no human looked yet
	Untouched     Band = "untouched"     // past its time
)

// Bands lists the bands in order.
func Bands() []Band {
	return []Band{Investigated, Dispositioned, Machine, AutoClosed, Suppressed, Duplicate, Pending, Untouched}
}

// Coverage is how many alerts of a cohort are in each band. The bands sum to N.
type Coverage struct {
	N      int          `json:"n"`
	Counts map[Band]int `json:"counts"`
	// Ratio is (investigated + duplicate) over all but pending; Strict leaves duplicates out of the numerator. NaN never: 0 of 0
	// is reported as Known false.
	Ratio  float64 `json:"ratio"`
	Strict float64 `json:"strict"`
	Known  bool    `json:"known"`
}

package measure

import (
	"cmp"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// RuleReport is a rule's report card: what became of its work, and what people said of it.
type RuleReport struct {
	ID       string          `json:"id"`
	Version  string          `json:"version"`
	Title    string          `json:"title"`
	Severity detect.Severity `json:"severity"`
	Lane     detect.Lane     `json:"lane"`
	Operator string          `json:"operator"`
	Capture  string          `json:"capture"`
	Tests    int             `json:"tests"`
	// Stats count since the detectors' state began. Judged is the rule's cost: how often its expression ran.
	Stats detect.Stats `json:"stats"`
	// Cost is what it takes of the detectors' time; nil before anything was measured.
	Cost *RuleCost `json:"cost,omitempty"`
	// Verdicts are those of people who closed incidents in which the rule fired, one for each incident.
	Verdicts map[incident.Verdict]int `json:"verdicts,omitempty"`
	// Since is when it came into its lane.
	Since time.Time `json:"since,omitzero"`
	// Exceptions are those that name the rule.
	Exceptions []ExceptionReport `json:"exceptions,omitempty"`
}

// RuleCost is a rule's cost in time since it was loaded, measured on one event in 64. Micros spread it over all events, those too for
// which the rule was not asked.
type RuleCost struct {
	Events int     `json:"events"` // that were measured
	Micros float64 `json:"us_per_event"`
	Share  float64 `json:"share"` // of all that the detectors do with an event
}

// CostOf is the cost of a rule among those of all; nil where nothing was measured.
func CostOf(rule string, all *detect.Costs) *RuleCost {
	if all.Events == 0 {
		return nil
	}
	took := all.Rules[rule]
	return &RuleCost{
		Events: all.Events, Micros: float64(took.Nanoseconds()) / 1000 / float64(all.Events),
		Share: float64(took) / float64(max(1, all.Total)),
	}
}

// Slowest returns the rules that cost most, the slowest first, without those that were not asked.
func Slowest(all []RuleReport, most int) []RuleReport {
	out := slices.DeleteFunc(slices.Clone(all), func(r RuleReport) bool { return r.Cost == nil || r.Cost.Micros == 0 })
	slices.SortStableFunc(out, func(a, b RuleReport) int { return cmp.Compare(b.Cost.Micros, a.Cost.Micros) })
	return out[:min(most, len(out))]
}

// ExceptionReport says how many events an exception kept from a rule, since the detectors' state began.
type ExceptionReport struct {
	ID      string    `json:"id"`
	Owner   string    `json:"owner"`
	Expires time.Time `json:"expires"`
	Events  int       `json:"events"`
}

// Excepted is how many events all exceptions kept from the rule.
func (r *RuleReport) Excepted() (n int) {
	for _, x := range r.Exceptions {
		n += x.Events
	}
	return n
}

// minVerdicts are how many verdicts a ratio needs to mean anything.
const minVerdicts = 5

// FalsePositives is the share of incidents with the rule that people called false or expected; known is false below five verdicts.
func (r *RuleReport) FalsePositives() (share float64, known bool) {
	all, wrong := 0, 0
	for verdict, n := range r.Verdicts {
		all += n
		if verdict == incident.FalsePositive || verdict == incident.Expected {
			wrong += n
		}
	}
	if all < minVerdicts {
		return 0, false
	}
	return float64(wrong) / float64(all), true
}

// Judged is how many incidents with the rule people closed with a verdict.
func (r *RuleReport) Judged() (n int) {
	for _, count := range r.Verdicts {
		n += count
	}
	return n
}

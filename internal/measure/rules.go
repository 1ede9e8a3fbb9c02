package measure

import (
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
	// Verdicts are those of people who closed incidents in which the rule fired, one for each incident.
	Verdicts map[incident.Verdict]int `json:"verdicts,omitempty"`
	// Since is when it came into its lane.
	Since time.Time `json:"since,omitzero"`
	// Exceptions are those that name the rule.
	Exceptions []ExceptionReport `json:"exceptions,omitempty"`
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

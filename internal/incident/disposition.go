package incident

import (
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
)

// Verdict is the outcome of triage.
type Verdict string

// The verdicts. Expected means that it happened as detected and was wanted: the baseline may learn it.
const (
	TruePositive  Verdict = "true_positive"
	FalsePositive Verdict = "false_positive"
	Expected      Verdict = "expected"
	Unclear       Verdict = "unclear"
)

// Verdicts lists the verdicts in order.
func Verdicts() []Verdict { return []Verdict{TruePositive, FalsePositive, Expected, Unclear} }

// Disposition is the outcome of triage of one finding or of a whole incident.
type Disposition struct {
	Verdict    Verdict           `json:"verdict"`
	Confidence detect.Confidence `json:"confidence"`
	Reasoning  string            `json:"reasoning"`
	Refs       []string          `json:"refs,omitempty"`
	By         string            `json:"by"` // "tocsin" for the first pass, or a person
	At         time.Time         `json:"at"`
}

// What a disposition quotes of the tracks' facts. All of them count; it is written for every finding, and an agent decides how many
// facts there are.
const (
	maxReasons = 12
	maxRefs    = 20
)

// FirstPass triages a finding by what rules, baselines and the investigation's tracks say, without a model. It is a proposal:
// only a human's disposition closes an incident.
func FirstPass(f detect.Finding, tracks []Track, at time.Time) Disposition {
	pro, contra := 0, 0
	var reasons, refs []string
	add := func(weight int, why string) {
		if weight > 0 {
			pro += weight
		} else {
			contra -= weight
		}
		reasons = append(reasons, why)
	}
	switch {
	case f.Source == detect.SourceHealth:
		add(0, "the finding is about Tocsin's own sight, not about the agent")
	case f.Confidence == detect.HighConfidence:
		add(2, "the rule is precise")
	default:
		add(1, "a detection fired")
	}
	if f.Chain != nil {
		add(2, "an argument's value came from a tool's output and not from the user")
	}
	if f.Anomaly != nil && f.Anomaly.P < 1e-4 {
		add(1, fmt.Sprintf("the baseline gives p = %.2g", f.Anomaly.P))
	}
	for _, t := range tracks {
		for _, fact := range t.Facts {
			weight := -1
			if fact.Suspicious {
				weight = 1
			}
			add(weight, fact.Text)
			refs = append(refs, fact.Refs...)
		}
		if t.Err != "" {
			add(0, "the "+t.Name+" track failed and says nothing")
		}
	}
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more facts", more))
	}
	d := Disposition{Reasoning: sentence(strings.Join(reasons, "; ")), By: "tocsin", At: at, Refs: append(refs[:min(len(refs), maxRefs)], f.ID)}
	d.Verdict, d.Confidence = weigh(pro, contra)
	return d
}

// weigh is the verdict on what speaks for a finding and against it.
func weigh(pro, contra int) (Verdict, detect.Confidence) {
	switch {
	case pro >= contra+4:
		return TruePositive, detect.HighConfidence
	case pro >= contra+2:
		return TruePositive, detect.MediumConfidence
	case contra > pro:
		return FalsePositive, detect.LowConfidence
	}
	return Unclear, detect.LowConfidence
}

func sentence(s string) string {
	if s == "" {
		return "Nothing speaks for or against it."
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

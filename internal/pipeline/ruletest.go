package pipeline

import (
	"fmt"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// TestResult is the outcome of one test of a rule.
type TestResult struct {
	Rule string `json:"rule"`
	Test string `json:"test"`
	Want int    `json:"want"`
	Got  int    `json:"got"`
	OK   bool   `json:"ok"`
	Err  string `json:"error,omitempty"`
}

// TestRule runs a rule's own tests through a fresh shard each: the code that runs live.
func TestRule(r detect.Rule) []TestResult {
	out := make([]TestResult, 0, len(r.Tests))
	for _, t := range r.Tests {
		res := TestResult{Rule: r.ID, Test: t.Name, Want: t.Fires}
		got, err := countFindings(r, t)
		if err != nil {
			res.Err = err.Error()
		}
		res.Got, res.OK = got, err == nil && got == t.Fires
		out = append(out, res)
	}
	return out
}

func countFindings(r detect.Rule, t detect.Test) (int, error) {
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		return 0, err
	}
	events, err := t.Stream(r.File)
	if err != nil {
		return 0, err
	}
	shard := New(set, event.NewHasher(nil), Options{})
	n := 0
	for i := range events {
		for _, raised := range shard.Process(&events[i], Position{}) {
			if raised.Finding.Source == detect.SourceHealth {
				return n, fmt.Errorf("event %d: %s", i+1, raised.Finding.Reason)
			}
			n++
		}
	}
	return n, nil
}

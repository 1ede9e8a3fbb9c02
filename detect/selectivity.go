package detect

import (
	"math"
	"slices"
	"strings"
)

// estimate guesses the share of events on which an atom holds, from what such fields hold as a rule. A wrong guess costs time and
// no finding.
func (a atom) estimate() float64 {
	switch a.op {
	case opIs:
		return a.ref.estimateIs(a.text)
	case opHolds:
		return a.literal.estimate(a.ref)
	case opEquals:
		if a.number == 0 {
			return 0.5
		}
		return 0.03
	case opTrue:
		if a.ref.name == "baseline.ready" {
			return 0.8
		}
		return 0.05
	}
	if a.ref.name == "baseline.p" && a.op == opBelow {
		return min(1, a.number*1.1)
	}
	return 0.3
}

// estimateIs guesses how often a value is just this text.
func (r ref) estimateIs(text string) float64 {
	if text == "" {
		return 0.5
	}
	switch r.String() {
	case "kind":
		return 1
	case "outcome":
		return map[string]float64{"success": 0.7, "failure": 0.05, "denied": 0.02}[text]
	case "tool.effect":
		return map[string]float64{"read": 0.5, "write": 0.2, "egress": 0.1, "exec": 0.2}[text]
	case "agent.framework", "agent.class", "agent.service", "model.provider", "model.name", "decision.effect", "decision.by", "decision.mode":
		return 0.2
	case "destinations[].kind":
		return 0.3
	case "destinations[].provenance", "provenance of any argument":
		return 0.15
	case "tool.name", "tool.server", "tool.commands[].name":
		return 0.04
	}
	if r.origin == fromProvenance {
		return 0.15
	}
	return 0.01
}

// estimate guesses how often a literal is in a text: the rarer the longer it is, and the more often the longer the text.
func (l literal) estimate(r ref) float64 {
	n := float64(len(l.text))
	if l.start || l.end {
		n += 2
	}
	share := math.Pow(0.45, n)
	if slices.Contains([]string{"text", "tool.args", "tool.result", "tool.command"}, r.name) || r.origin == fromCommand {
		share *= 8
	}
	if strings.Trim(l.text, " \t\n.,:;/-_=()[]{}'\"") == "" { // punctuation is everywhere
		share *= 8
	}
	return min(0.9, max(share, 0.004))
}

package detect

import (
	"math"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// rates are the shares of one kind's events on which atoms hold. A nil map estimates them all.
type rates map[atom]observed

type observed struct{ hits, events int }

// doubt is how many events of a sample an estimate weighs as much as.
const doubt = 32

func (r rates) of(a atom) float64 {
	o := r[a]
	return (float64(o.hits) + doubt*a.estimate()) / float64(o.events+doubt)
}

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

// sample counts on how many of the events it is shown each atom holds that a rule could be filed under.
type sample struct {
	hits   map[event.Kind]map[atom]int
	events map[event.Kind]int
	fields *fieldTable
}

func newSample(rules []indexed) *sample {
	s := &sample{hits: make(map[event.Kind]map[atom]int), events: make(map[event.Kind]int), fields: newFieldTable()}
	for _, r := range rules {
		for _, c := range r.conditions {
			for _, k := range c.on {
				if s.hits[k] == nil {
					s.hits[k] = make(map[atom]int)
				}
				note := func(a atom) { s.hits[k][a] = 0 }
				(&chooser{fields: s.fields, note: note}).necessary(c.when)
			}
		}
	}
	return s
}

// observe counts one event. It costs what its kind's atoms cost one by one, so a sample is a few thousand events.
func (s *sample) observe(env *Env, k event.Kind) {
	env.completeMore(^lazy(0), 0)
	s.events[k]++
	for a := range s.hits[k] {
		if a.holds(s.fields, env) {
			s.hits[k][a]++
		}
	}
}

func (s *sample) ratesOf(k event.Kind) rates {
	if s == nil || s.events[k] == 0 {
		return nil
	}
	out := make(rates, len(s.hits[k]))
	for a, n := range s.hits[k] {
		out[a] = observed{n, s.events[k]}
	}
	return out
}

// holds evaluates an atom by itself, as the index does for many at once.
func (a atom) holds(fields *fieldTable, env *Env) bool {
	switch a.ref.origin {
	case fromArg:
		return a.holdsText(env.Arg(a.ref.name))
	case fromAttr:
		return a.holdsText(env.Attr(a.ref.name))
	case fromProvenance:
		return a.holdsText(env.Provenance(a.ref.name))
	case fromAnyArg:
		return env.ArgFrom(a.text)
	case fromNumber:
		return a.holdsNumber(env.Number(a.ref.name))
	case fromCommand:
		return slices.ContainsFunc(env.Tool.Commands, func(c CommandEnv) bool { return a.holdsText(fields.command[a.ref.name](&c)) })
	case fromDestination:
		return slices.ContainsFunc(env.Destinations, func(d DestinationEnv) bool { return a.holdsText(fields.dest[a.ref.name](&d)) })
	}
	switch name := a.ref.name; {
	case fields.texts[name] != nil:
		return a.holdsText(fields.texts[name](env))
	case fields.floats[name] != nil:
		return a.holdsNumber(fields.floats[name](env))
	case fields.ints[name] != nil:
		return a.holdsNumber(float64(fields.ints[name](env)))
	}
	return fields.flags[a.ref.name](env)
}

func (a atom) holdsText(text string) bool {
	if a.op == opIs {
		return text == a.text
	}
	if a.fold != foldNone {
		text = foldASCII(text)
	}
	return slices.ContainsFunc(a.variants(), func(v string) bool {
		switch {
		case a.start && a.end:
			return text == v
		case a.start:
			return strings.HasPrefix(text, v)
		case a.end:
			return strings.HasSuffix(text, v)
		}
		return strings.Contains(text, v)
	})
}

func (a atom) holdsNumber(n float64) bool {
	switch a.op {
	case opAbove:
		return !(n < a.number)
	case opBelow:
		return !(n > a.number)
	}
	return n == a.number || math.IsNaN(n)
}

package detect

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// KindFinding is the kind under which rules see the findings of other rules.
const KindFinding event.Kind = "finding"

// Count fires on the Nth matching event within a sliding window of event time.
type Count struct {
	AtLeast int           `yaml:"at_least"`
	Within  time.Duration `yaml:"within"`
}

// Distinct fires when a text took that many different values within a sliding window. Up to maxCount values, or limits.events, they
// are counted exactly; a higher bound is compared with an estimate.
type Distinct struct {
	Of      string        `yaml:"of"` // a text expression; an event for which it is empty is not counted
	AtLeast int           `yaml:"at_least"`
	Within  time.Duration `yaml:"within"`
}

// Sum fires when a number adds up to at least a bound within a sliding window. Negative numbers add nothing.
type Sum struct {
	Of      string        `yaml:"of"` // a number expression
	AtLeast float64       `yaml:"at_least"`
	Within  time.Duration `yaml:"within"`
}

// Rate fires when matching events come faster than a bound. It is measured over the whole of Within, never over a window that has
// just begun, so that two quick events are no rate.
type Rate struct {
	Above  float64       `yaml:"above"` // events for each Per
	Per    time.Duration `yaml:"per"`
	Within time.Duration `yaml:"within"`
}

// FirstSeen fires on a text that the key did not show before.
type FirstSeen struct {
	Of     string        `yaml:"of"`     // a text expression; an event for which it is empty is not counted
	Within time.Duration `yaml:"within"` // how long a text is remembered
	After  int           `yaml:"after"`  // events that the key must have shown before the rule speaks
}

// Deviation fires when the agent's baseline is active and finds the event at most that likely.
type Deviation struct {
	P float64 `yaml:"p"`
}

// RiskThreshold fires when the findings of a key add up to that much risk within a sliding window. It looks at findings.
type RiskThreshold struct {
	AtLeast int           `yaml:"at_least"`
	Within  time.Duration `yaml:"within"`
	Rules   int           `yaml:"rules"` // from at least that many different rules; default 1
}

// Sequence fires when its steps happen in order of event time, the last within a span of the first.
type Sequence struct {
	Within time.Duration `yaml:"within"`
	// Order is any where the steps may happen in any order, or in one event; by default it is theirs.
	Order string `yaml:"order" json:",omitempty"`
	Steps []Step `yaml:"steps"`
}

// anyOrder is the order of a sequence without one.
const anyOrder = "any"

// Step is one event of a sequence. Its expressions may name what earlier steps' events held: read.tool.host.
type Step struct {
	As   string       `yaml:"as"`
	On   []event.Kind `yaml:"on"` // default: the rule's
	When string       `yaml:"when"`
	By   string       `yaml:"by"` // default: the rule's
}

// Absence fires on the rule's event when another event is missing: before it, which is known at once, or after it, which is known
// when event time has passed.
type Absence struct {
	On     []event.Kind  `yaml:"on"` // default: the rule's
	When   string        `yaml:"when"`
	By     string        `yaml:"by"` // default: the rule's
	Before time.Duration `yaml:"before"`
	After  time.Duration `yaml:"after"`
}

// Limits lower what the engine allows a rule to hold; 0 is the engine's limit.
type Limits struct {
	Keys   int `yaml:"keys"`
	Events int `yaml:"events"` // of one key
}

const (
	maxSteps      = 8
	maxDistinct   = 1_000_000 // beyond maxCount by estimate
	maxKeyEvents  = 1000      // matching events, values or step matches of one key
	minSteps      = 2
	maxFirstAfter = 100_000
)

// Operator names what the rule does with matching events: match, count, distinct and so on.
func (r *Rule) Operator() string {
	if names := r.operators(); len(names) > 0 {
		return names[0]
	}
	return "match"
}

func (r *Rule) operators() (names []string) {
	for _, o := range []struct {
		name string
		set  bool
	}{
		{"count", r.Count != nil},
		{"distinct", r.Distinct != nil},
		{"sum", r.Sum != nil},
		{"rate", r.Rate != nil},
		{"first_seen", r.FirstSeen != nil},
		{"deviation", r.Deviation != nil},
		{"risk_threshold", r.RiskThreshold != nil},
		{"sequence", r.Sequence != nil},
		{"absence", r.Absence != nil},
	} {
		if o.set {
			names = append(names, o.name)
		}
	}
	return names
}

// checkOperator checks the operator and sets what follows from it.
func (r *Rule) checkOperator() error {
	if names := r.operators(); len(names) > 1 {
		return r.locate(names[1], fmt.Errorf("stands beside %s, a rule has one operator", names[0]))
	}
	if err := r.checkTimes(); err != nil {
		return err
	}
	if blank := strings.TrimSpace(r.When) == ""; blank == (r.Sequence == nil) {
		if blank {
			return r.locate("when", errors.New("is missing"))
		}
		return r.locate("when", errors.New("does not go with a sequence: its steps say when"))
	}
	if r.By != "" && (r.Operator() == "match" || r.Operator() == "deviation") {
		return r.locate("by", errors.New("goes with an operator that holds state"))
	}
	if err := r.checkOf(); err != nil {
		return err
	}
	switch r.Operator() {
	case "count":
		return r.checkWindow("count", &r.Count.AtLeast, maxCount, r.Count.Within)
	case "distinct":
		return r.checkWindow("distinct", &r.Distinct.AtLeast, maxDistinct, r.Distinct.Within)
	case "sum":
		if !(r.Sum.AtLeast > 0) || math.IsInf(r.Sum.AtLeast, 0) {
			return r.locate("sum.at_least", fmt.Errorf("%g: want more than 0", r.Sum.AtLeast))
		}
		return r.checkWindow("sum", nil, 0, r.Sum.Within)
	case "rate":
		return r.checkRate()
	case "first_seen":
		return r.checkFirstSeen()
	case "deviation":
		if p := r.Deviation.P; !(p > 0 && p < 1) {
			return r.locate("deviation.p", fmt.Errorf("%g: want more than 0 and less than 1", p))
		}
	case "risk_threshold":
		return r.checkRiskThreshold()
	case "sequence":
		return r.checkSequence()
	case "absence":
		return r.checkAbsence()
	}
	return nil
}

// checkOf demands of an operator that looks at a value the expression for it.
func (r *Rule) checkOf() error {
	of := "none"
	switch {
	case r.Distinct != nil:
		of = r.Distinct.Of
	case r.Sum != nil:
		of = r.Sum.Of
	case r.FirstSeen != nil:
		of = r.FirstSeen.Of
	}
	if strings.TrimSpace(of) == "" {
		return r.locate(r.Operator()+".of", errors.New("is missing: the expression for what is looked at"))
	}
	return nil
}

func (r *Rule) checkTimes() error {
	if r.Suppress < 0 || r.Suppress > maxWindow {
		return r.locate("suppress", fmt.Errorf("%s: want 0s to %s", r.Suppress, maxWindow))
	}
	if r.Lateness < 0 || r.Lateness > maxLateness {
		return r.locate("lateness", fmt.Errorf("%s: want 0s to %s", r.Lateness, maxLateness))
	}
	if r.Limits.Keys < 0 || r.Limits.Keys > maxKeys {
		return r.locate("limits.keys", fmt.Errorf("%d: want 1 to %d", r.Limits.Keys, maxKeys))
	}
	if r.Limits.Events < 0 || r.Limits.Events > maxKeyEvents {
		return r.locate("limits.events", fmt.Errorf("%d: want 1 to %d", r.Limits.Events, maxKeyEvents))
	}
	return nil
}

// checkWindow checks the number and the span of a counting operator; the span is also how long it is silent after a finding.
func (r *Rule) checkWindow(name string, n *int, most int, within time.Duration) error {
	if n != nil && (*n < 2 || *n > most) {
		return r.locate(name+".at_least", fmt.Errorf("%d: want 2 to %d", *n, most))
	}
	if within < time.Second || within > maxWindow {
		return r.locate(name+".within", fmt.Errorf("%s: want 1s to %s", within, maxWindow))
	}
	if r.Suppress == 0 {
		r.Suppress = within
	}
	return nil
}

func (r *Rule) checkRate() error {
	o := r.Rate
	switch {
	case !(o.Above > 0) || math.IsInf(o.Above, 0):
		return r.locate("rate.above", fmt.Errorf("%g: want more than 0", o.Above))
	case o.Per < time.Second || o.Per > o.Within:
		return r.locate("rate.per", fmt.Errorf("%s: want 1s to within, which is %s", o.Per, o.Within))
	case o.threshold() < 2:
		return r.locate("rate.above", fmt.Errorf("%g for each %s is less than two events within %s", o.Above, o.Per, o.Within))
	}
	return r.checkWindow("rate", nil, 0, o.Within)
}

// threshold is the number of events within the window that exceeds the rate.
func (o *Rate) threshold() float64 {
	return math.Floor(o.Above*float64(o.Within)/float64(o.Per)) + 1
}

func (r *Rule) checkFirstSeen() error {
	o := r.FirstSeen
	if o.Within < time.Second || o.Within > maxMemory {
		return r.locate("first_seen.within", fmt.Errorf("%s: want 1s to %s", o.Within, maxMemory))
	}
	if o.After < 1 || o.After > maxFirstAfter {
		return r.locate("first_seen.after", fmt.Errorf("%d: want 1 to %d: to a key without a past everything is new", o.After, maxFirstAfter))
	}
	return nil
}

func (r *Rule) checkRiskThreshold() error {
	o := r.RiskThreshold
	if len(r.On) != 1 || r.On[0] != KindFinding {
		return r.locate("on", fmt.Errorf("want [%s]: risk_threshold adds up findings", KindFinding))
	}
	if o.Rules < 0 || o.Rules > 100 {
		return r.locate("risk_threshold.rules", fmt.Errorf("%d: want 1 to 100", o.Rules))
	}
	return r.checkWindow("risk_threshold", &o.AtLeast, 100_000, o.Within)
}

func (r *Rule) checkSequence() error {
	o := r.Sequence
	if len(o.Steps) < minSteps || len(o.Steps) > maxSteps {
		return r.locate("sequence.steps", fmt.Errorf("there are %d, want %d to %d", len(o.Steps), minSteps, maxSteps))
	}
	if o.Order != "" && o.Order != anyOrder {
		return r.locate("sequence.order", fmt.Errorf("%q: want any, or leave it out", o.Order))
	}
	seen := make(map[string]bool)
	for i := range o.Steps {
		s, at := &o.Steps[i], fmt.Sprintf("sequence.steps.%d", i)
		if !stepName.MatchString(s.As) || seen[s.As] {
			return r.locate(at+".as", fmt.Errorf("%q: want a name of lower-case letters and digits that no other step has", s.As))
		}
		if slices.Contains(envFields()["Env"], s.As) || r.library.Macros[s.As] != nil {
			return r.locate(at+".as", fmt.Errorf("%q is the name of a field or macro", s.As))
		}
		seen[s.As] = true
		if strings.TrimSpace(s.When) == "" {
			return r.locate(at+".when", errors.New("is missing"))
		}
		if len(s.On) == 0 {
			s.On = r.On
		}
		if s.By == "" {
			s.By = r.By
		}
		if err := r.checkKinds(at+".on", s.On); err != nil {
			return err
		}
	}
	if o.Within < time.Second || o.Within > maxWindow {
		return r.locate("sequence.within", fmt.Errorf("%s: want 1s to %s", o.Within, maxWindow))
	}
	if r.Suppress == 0 {
		r.Suppress = o.Within
	}
	return nil
}

func (r *Rule) checkAbsence() error {
	o := r.Absence
	if (o.Before > 0) == (o.After > 0) {
		return r.locate("absence", errors.New("want either before or after"))
	}
	if span := o.span(); span < time.Second || span > maxWindow {
		return r.locate("absence", fmt.Errorf("%s: want 1s to %s", span, maxWindow))
	}
	if strings.TrimSpace(o.When) == "" {
		return r.locate("absence.when", errors.New("is missing"))
	}
	if len(o.On) == 0 {
		o.On = r.On
	}
	if o.By == "" {
		o.By = r.By
	}
	return r.checkKinds("absence.on", o.On)
}

func (o *Absence) span() time.Duration { return max(o.Before, o.After) }

// kinds lists every kind of event that the rule must see.
func (r *Rule) kinds() []event.Kind {
	var out []event.Kind
	add := func(kinds []event.Kind) {
		for _, k := range kinds {
			if !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	if r.Sequence == nil {
		add(r.On)
	} else {
		for _, s := range r.Sequence.Steps {
			add(s.On)
		}
	}
	if r.Absence != nil {
		add(r.Absence.On)
	}
	return out
}

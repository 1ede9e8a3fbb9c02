// Package detect evaluates written detections: it reads rule files, compiles their expressions against a typed environment,
// and says which rules fire on an event. An expression decides about one event; declared operators hold all state. The package
// does no I/O beyond reading rules, has no clock but event time, and never acts.
package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Set is a compiled set of rules. It is immutable and safe for concurrent use; evaluation state lives in a State.
type Set struct {
	rules  []*compiled
	byKind map[event.Kind][]*compiled
	timed  []*compiled // rules that speak when time has passed
	index  *index
	tables map[string]*Table
	digest string
}

type compiled struct {
	Rule
	when, by, of *vm.Program
	steps        []step
	other        *step // the event whose absence matters
	kept         []keep
	exceptions   []exception
	named        map[string]bool // the fields of Env that it uses
	needs        lazy            // those among them that are completed for it
	place        int             // in the set
	operator     string

	n       int           // of count and distinct
	sum     float64       // of sum, rate and risk_threshold
	within  time.Duration // how long a matching event matters
	events  int           // matching events that one key holds
	maxKeys int
	version string // digest of the library
	// state names the rule's part of a State. It changes with the operator and the expressions, and with nothing else: a new title
	// keeps the windows, a new threshold starts them afresh.
	state string
}

// step is an event that an operator looks for, beside a rule's own.
type step struct {
	on       []event.Kind
	when, by *vm.Program
	refers   []int // slots that its expression takes from earlier steps
}

// exception is one that is for the rule.
type exception struct {
	*Exception
	when *vm.Program
}

// Compile compiles rules that were read against the same library. All errors are returned, joined; a set with one bad rule does not
// compile.
func Compile(rules []Rule) (*Set, error) {
	s := &Set{byKind: make(map[event.Kind][]*compiled)}
	sum := sha256.New()
	errs := []error{CheckIDs(rules)}
	for _, r := range rules {
		c, err := compileRule(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.add(c)
		fmt.Fprintln(sum, r.ID, r.Digest, c.version)
	}
	s.digest = hex.EncodeToString(sum.Sum(nil))
	s.buildIndex()
	return s, errors.Join(errs...)
}

// CheckIDs refuses rules of which two have one id. All errors are returned together.
func CheckIDs(rules []Rule) error {
	seen := make(map[string]string)
	var errs []error
	for _, r := range rules {
		if other, ok := seen[r.ID]; ok {
			errs = append(errs, r.locate("id", fmt.Errorf("%q is taken by %s", r.ID, other)))
			continue
		}
		seen[r.ID] = r.File
	}
	return errors.Join(errs...)
}

// buildIndex files each rule under what must hold of an event that it could match.
func (s *Set) buildIndex() {
	var list []indexed
	for i, c := range s.rules {
		c.place = i
		r := indexed{at: i}
		if c.when != nil {
			r.conditions = append(r.conditions, condition{c.On, c.when.Node()})
		}
		if c.other != nil {
			r.conditions = append(r.conditions, condition{c.other.on, c.other.when.Node()})
		}
		for _, step := range c.steps {
			r.conditions = append(r.conditions, condition{step.on, step.when.Node()})
		}
		list = append(list, r)
	}
	s.index = newIndex(list)
}

func (s *Set) add(c *compiled) {
	s.rules, s.tables = append(s.rules, c), c.library.Tables
	for _, k := range c.kinds() {
		s.byKind[k] = append(s.byKind[k], c)
	}
	for name, field := range lazyFields() {
		if c.named[name] {
			c.needs |= field
		}
	}
	if c.Absence != nil && c.Absence.After > 0 {
		s.timed = append(s.timed, c)
	}
}

// Rules returns the rules in load order.
func (s *Set) Rules() []Rule {
	out := make([]Rule, 0, len(s.rules))
	for _, c := range s.rules {
		out = append(out, c.Rule)
	}
	return out
}

// CheckRule refuses the id of no rule of the set.
func (s *Set) CheckRule(id string) error {
	var ids []string
	for _, c := range s.rules {
		ids = append(ids, c.ID)
	}
	if slices.Contains(ids, id) {
		return nil
	}
	return fmt.Errorf("there is no rule %q%s", id, strict.Suggest(id, ids))
}

// Digest is the SHA-256 over all rules' digests: the version of the set.
func (s *Set) Digest() string { return s.digest }

func compileRule(r Rule) (*compiled, error) {
	c := &compiled{Rule: r, named: make(map[string]bool), version: r.library.Digest()}
	in := scope{library: r.library, params: r.params, named: c.named}
	var err error
	compile := func(field, text string, result expr.Option, in scope) (program *vm.Program) {
		if text == "" || err != nil {
			return nil
		}
		if program, err = compileExpr(text, in, result); err != nil {
			err = r.locate(field, err)
		}
		return program
	}
	c.when = compile("when", r.When, expr.AsBool(), in)
	c.by = compile("by", r.By, expr.AsKind(reflect.String), in)
	switch {
	case r.Distinct != nil:
		c.of = compile("distinct.of", r.Distinct.Of, expr.AsKind(reflect.String), in)
	case r.FirstSeen != nil:
		c.of = compile("first_seen.of", r.FirstSeen.Of, expr.AsKind(reflect.String), in)
	case r.Sum != nil:
		c.of = compile("sum.of", r.Sum.Of, expr.AsFloat64(), in)
	case r.Absence != nil:
		c.other = &step{
			on: r.Absence.On, when: compile("absence.when", r.Absence.When, expr.AsBool(), in),
			by: compile("absence.by", r.Absence.By, expr.AsKind(reflect.String), in),
		}
	case r.Sequence != nil:
		for i, s := range r.Sequence.Steps {
			at := fmt.Sprintf("sequence.steps.%d", i)
			in.kept, in.refers = &c.kept, make(map[int]bool)
			when := compile(at+".when", s.When, expr.AsBool(), in)
			by := compile(at+".by", s.By, expr.AsKind(reflect.String), scope{library: in.library, params: in.params, named: in.named})
			c.steps = append(c.steps, step{on: s.On, when: when, by: by, refers: slices.Sorted(maps.Keys(in.refers))})
			if r.Sequence.Order != anyOrder { // else no step is earlier than another
				in.earlier = append(in.earlier, s.As)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := c.compileExceptions(in); err != nil {
		return nil, err
	}
	c.bounds()
	c.state, err = c.fingerprint()
	return c, err
}

// fingerprint names the rule's state after everything that decides what the state means. What came to operators later is left out where it
// is not set, so that states which were saved before are still found.
func (c *compiled) fingerprint() (string, error) {
	text, err := json.Marshal([]any{
		c.On, c.Key, c.By, c.When, c.Suppress, c.SuppressBy, c.Count, c.Distinct, c.Sum, c.Rate, c.FirstSeen, c.Deviation, c.RiskThreshold, c.Sequence, c.Absence, c.params,
	})
	if err != nil {
		return "", fmt.Errorf("fingerprint rule %s: %w", c.ID, err)
	}
	sum := sha256.Sum256(text)
	return c.ID + "@" + hex.EncodeToString(sum[:6]), nil
}

// bounds derives from the operator how long and how much a key is remembered.
func (c *compiled) bounds() {
	c.events, c.operator = maxKeyEvents, c.Operator()
	switch c.operator {
	case "count":
		c.n, c.within, c.events = c.Count.AtLeast, c.Count.Within, 2*c.Count.AtLeast
	case "distinct":
		c.n, c.within, c.events = c.Distinct.AtLeast, c.Distinct.Within, 2*c.Distinct.AtLeast
		if c.n > maxCount {
			c.events = maxCount
		}
	case "sum":
		c.sum, c.within = c.Sum.AtLeast, c.Sum.Within
	case "rate":
		c.sum, c.within = c.Rate.threshold(), c.Rate.Within
	case "risk_threshold":
		c.sum, c.within = float64(c.RiskThreshold.AtLeast), c.RiskThreshold.Within
	case "first_seen":
		c.within = c.FirstSeen.Within
	case "sequence":
		c.within, c.events = c.Sequence.Within, maxStepMatches
	case "absence":
		c.within, c.events = c.Absence.span(), maxStepMatches
	}
	if c.Limits.Events > 0 {
		c.events = min(c.events, c.Limits.Events)
	}
	c.maxKeys = maxKeys
	if c.Limits.Keys > 0 {
		c.maxKeys = min(c.maxKeys, c.Limits.Keys)
	}
}

// forgotten reports whether a group was silent so long that nothing it holds can matter to an event that is less than lateFor late. A key's
// past, without which all is new to first_seen, never is.
func (c *compiled) forgotten(g *group, watermark time.Time) bool {
	return c.FirstSeen == nil && g.Class.time().Add(c.within+max(c.Lateness, lateFor)).Before(watermark)
}

// expired reports whether a group holds nothing that could still matter.
func (c *compiled) expired(g *group, watermark time.Time) bool {
	last := c.within
	if c.Sequence != nil && c.Sequence.Order != anyOrder && (len(g.Steps) == 0 || len(g.Steps[0]) == 0) { // waits for a first step that is late
		last = 0
	}
	return g.Last.time().Add(last + c.Lateness).Before(watermark)
}

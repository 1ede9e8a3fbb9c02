// Package detect evaluates written detections: it reads rule files, compiles their expressions against a typed environment,
// and says which rules fire on an event. An expression decides about one event; declared operators hold all state. The package
// does no I/O beyond reading rules, has no clock but event time, and never acts.
package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Set is a compiled set of rules. It is immutable and safe for concurrent use; evaluation state lives in a State.
type Set struct {
	rules  []*compiled
	byKind map[event.Kind][]*compiled
	named  map[event.Kind]map[string]bool // the fields of Env that a kind's rules use
	digest string
}

type compiled struct {
	Rule
	when  *vm.Program
	same  *vm.Program
	named map[string]bool // the fields of Env that it uses
	// state names the rule's windows in a State. It changes with the operator and the expression, and with nothing else: a new
	// title keeps the windows, a new threshold starts them afresh.
	state string
}

// Compile compiles rules. All errors are returned, joined; a set with one bad rule does not compile.
func Compile(rules []Rule) (*Set, error) {
	s := &Set{byKind: make(map[event.Kind][]*compiled), named: make(map[event.Kind]map[string]bool)}
	seen := make(map[string]string)
	sum := sha256.New()
	var errs []error
	for _, r := range rules {
		if other, ok := seen[r.ID]; ok {
			errs = append(errs, r.locate("id", fmt.Errorf("%q is taken by %s", r.ID, other)))
			continue
		}
		seen[r.ID] = r.File
		c, err := compileRule(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.rules = append(s.rules, c)
		for _, k := range r.On {
			s.byKind[k] = append(s.byKind[k], c)
			if s.named[k] == nil {
				s.named[k] = make(map[string]bool)
			}
			maps.Copy(s.named[k], c.named)
		}
		fmt.Fprintln(sum, r.ID, r.Digest)
	}
	s.digest = hex.EncodeToString(sum.Sum(nil))
	return s, errors.Join(errs...)
}

// Rules returns the rules in load order.
func (s *Set) Rules() []Rule {
	out := make([]Rule, 0, len(s.rules))
	for _, c := range s.rules {
		out = append(out, c.Rule)
	}
	return out
}

// Digest is the SHA-256 over all rules' digests: the version of the set.
func (s *Set) Digest() string { return s.digest }

func compileRule(r Rule) (*compiled, error) {
	named := make(map[string]bool)
	when, err := compileExpr(r.When, expr.AsBool(), named)
	if err != nil {
		return nil, r.locate("when", err)
	}
	c := &compiled{Rule: r, when: when, named: named}
	operator := fmt.Sprintf("%v|%s|%s|%s", r.On, r.Key, r.When, r.Suppress)
	if r.Count != nil {
		operator += fmt.Sprintf("|%d|%s|%s", r.Count.AtLeast, time.Duration(r.Count.Within), r.Count.Same)
		if r.Count.Same != "" {
			if c.same, err = compileExpr(r.Count.Same, expr.AsKind(reflect.String), named); err != nil {
				return nil, r.locate("count.same", err)
			}
		}
	}
	sum := sha256.Sum256([]byte(operator))
	c.state = r.ID + "@" + hex.EncodeToString(sum[:6])
	return c, nil
}

// Evaluate runs the rules that look at this kind of event. Each rule sees the event whatever the others do: a rule whose
// expression fails, or that had to forget keys, raises a finding about itself, at most one an hour of event time.
func (s *Set) Evaluate(env *Env, e *event.Event, st *State) []Finding {
	var out []Finding
	env.complete(s.named[e.Kind])
	for _, c := range s.byKind[e.Kind] {
		evicted := st.Evicted[c.state]
		f, err := c.evaluate(env, e, st)
		if err != nil {
			st.Errors[c.ID]++
			text, _, _ := strings.Cut(err.Error(), "\n")
			f = c.health(e, st, "error", "fails and is blind to some events",
				"The rule's expression failed on this event, which it therefore did not judge: "+text)
		}
		if f != nil {
			out = append(out, *f)
		}
		if n := st.Evicted[c.state] - evicted; n > 0 {
			f = c.health(e, st, "evicted", "forgot what it had counted", fmt.Sprintf("The rule reached its limit of keys and forgot the %d stalest.", n))
			if f != nil {
				out = append(out, *f)
			}
		}
	}
	return out
}

func (c *compiled) evaluate(env *Env, e *event.Event, st *State) (*Finding, error) {
	matched, err := run[bool](st, c.when, env)
	if err != nil || !matched {
		return nil, err
	}
	key := c.key(e)
	if c.Count == nil {
		return c.fire(e, st, key, []hit{{At: e.Time, Event: e.ID}}), nil
	}
	counted := key
	if c.same != nil {
		same, err := run[string](st, c.same, env)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(same))
		counted += "\x00" + hex.EncodeToString(sum[:8])
	}
	hits := st.hit(c.state, counted, hit{At: e.Time, Event: e.ID}, c.Count.AtLeast, time.Duration(c.Count.Within))
	if hits == nil {
		return nil, nil
	}
	return c.fire(e, st, counted, hits), nil
}

// run evaluates a program and insists on the type of its result.
func run[T any](st *State, program *vm.Program, env *Env) (zero T, err error) {
	v, err := st.vm.Run(program, env)
	if err != nil {
		return zero, err
	}
	t, ok := v.(T)
	if !ok {
		return zero, fmt.Errorf("result is a %T", v)
	}
	return t, nil
}

func (c *compiled) key(e *event.Event) string {
	key := e.Tenant + "\x00" + e.Agent.ID
	if c.Key == "session" {
		key += "\x00" + e.Session.ID
	}
	return key
}

// fire returns the finding, or nil while the rule is suppressed for the key.
func (c *compiled) fire(e *event.Event, st *State, key string, hits []hit) *Finding {
	if !st.Allow(c.state, key, e.Time, c.Suppress) {
		return nil
	}
	ids := make([]string, 0, min(len(hits), MaxEvents))
	for i, h := range hits {
		if i < MaxEvents/2 || i >= len(hits)-MaxEvents/2 {
			ids = append(ids, h.Event)
		}
	}
	reason := describe(e)
	if c.Count != nil {
		reason = fmt.Sprintf("%d matching events within %s.", len(hits), time.Duration(c.Count.Within))
	}
	f := c.finding(SourceRule, e, ids, reason)
	f.First = hits[0].At
	f.Chain = chain(e)
	return f
}

// describe says in a sentence of our own which event matched. Names in it may be an agent's text.
func describe(e *event.Event) string {
	switch ch := chain(e); {
	case ch != nil:
		return fmt.Sprintf("A call of %s, whose argument %s came from a tool's output and not from the user.", e.Tool.Name, ch.Arg)
	case e.Tool != nil:
		return fmt.Sprintf("A call of %s.", e.Tool.Name)
	}
	return fmt.Sprintf("One event of kind %s.", e.Kind)
}

func (c *compiled) finding(source Source, e *event.Event, ids []string, reason string) *Finding {
	f := &Finding{
		Source: source, Rule: c.ID, Version: c.Version, Digest: c.Digest, Title: c.Title, Severity: c.Severity,
		Confidence: c.Confidence, Lane: c.Lane, Playbook: c.Playbook, Tags: c.Tags, Triage: c.Triage,
		Tenant: e.Tenant, Agent: e.Agent, Session: e.Session.ID, First: e.Time, Time: e.Time, Events: ids, Reason: reason,
	}
	if e.Tool != nil {
		f.Tool = e.Tool.Name
	}
	f.ID = FindingID(e.Tenant, e.Agent.Class, c.ID, ids)
	return f
}

// health returns a finding about the rule itself, or nil if it spoke of the same trouble within the hour.
func (c *compiled) health(e *event.Event, st *State, trouble, title, reason string) *Finding {
	if !st.Allow(trouble+"@"+c.ID, "", e.Time, time.Hour) {
		return nil
	}
	f := c.finding(SourceHealth, e, []string{e.ID}, reason)
	f.Title = "Rule " + c.ID + " " + title
	f.ID = FindingID(e.Tenant, e.Agent.Class, "rule-"+trouble+"/"+c.ID, f.Events)
	f.Severity, f.Confidence, f.Lane, f.Playbook = Medium, HighConfidence, Alert, ""
	return f
}

// chain picks the argument whose value gave an action away: the first that came from a tool's output, one that says where data goes
// before any other.
func chain(e *event.Event) *Chain {
	if e.Tool == nil {
		return nil
	}
	fromOutput := func(a event.Arg) bool { return a.Provenance == event.ProvenanceToolOutput }
	i := slices.IndexFunc(e.Tool.Args, func(a event.Arg) bool {
		return fromOutput(a) && slices.ContainsFunc(e.Destinations, func(d event.Destination) bool { return d.Arg == a.Path })
	})
	if i < 0 {
		i = slices.IndexFunc(e.Tool.Args, fromOutput)
	}
	if i < 0 {
		return nil
	}
	a := e.Tool.Args[i]
	return &Chain{Origin: a.Origin, Arg: a.Path, Value: a.Value, Provenance: a.Provenance}
}

// ChainOf is the chain of an event's most telling argument, or nil. Baselines' findings use it as rules' do.
func ChainOf(e *event.Event) *Chain { return chain(e) }

package detect

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expr-lang/expr"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Check refuses an exception or an overlay for a rule that is not among the rules, disabled ones included: it would silently do
// nothing.
func (l *Library) Check(rules []Rule) error {
	var known []string
	for i := range rules {
		known = append(known, rules[i].ID)
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(l.Overlays)) {
		if !slices.Contains(known, id) {
			o := l.Overlays[id]
			errs = append(errs, fmt.Errorf("%s: there is no rule %q%s", o.place(id, ""), id, strict.Suggest(id, known)))
		}
	}
	for _, x := range l.Exceptions {
		for i, id := range x.Rules {
			if !slices.Contains(known, id) {
				errs = append(errs, fmt.Errorf("%s: %s: rules: there is no rule %q%s", x.within(fmt.Sprint("rules.", i)), x.ID, id, strict.Suggest(id, known)))
			}
		}
	}
	return errors.Join(errs...)
}

func (c *compiled) compileExceptions(in scope) error {
	for i := range c.library.Exceptions {
		x := &c.library.Exceptions[i]
		if !slices.Contains(x.Rules, c.ID) {
			continue
		}
		when, err := compileExpr(x.When, scope{library: in.library, named: in.named}, expr.AsBool())
		if err != nil {
			return fmt.Errorf("%s: %s: when: %w", x.source.place(fmt.Sprint(x.at, ".when"), err), x.ID, err)
		}
		c.exceptions = append(c.exceptions, exception{x, when})
	}
	return nil
}

// WithoutExceptions returns the set as it would be if there were none.
func (s *Set) WithoutExceptions() *Set {
	return s.with(func(c *compiled) { c.exceptions = nil })
}

// with returns the set with each rule changed.
func (s *Set) with(change func(*compiled)) *Set {
	out := *s
	out.rules, out.timed, out.byKind = nil, nil, make(map[event.Kind][]*compiled)
	for _, c := range s.rules {
		other := *c
		change(&other)
		out.add(&other)
	}
	out.buildIndex()
	return &out
}

// WithParams returns the set with other values of one rule's parameters, as an overlay would set them.
func (s *Set) WithParams(rule string, params map[string]any) (*Set, error) {
	i := slices.IndexFunc(s.rules, func(c *compiled) bool { return c.ID == rule })
	if i < 0 {
		return nil, fmt.Errorf("set parameters: there is no rule %q", rule)
	}
	old := s.rules[i]
	library := *old.library
	overlay := library.Overlays[rule]
	merged := make(map[string]any)
	maps.Copy(merged, overlay.Params)
	maps.Copy(merged, params)
	overlay.Params, library.Overlays = merged, maps.Clone(library.Overlays)
	library.Overlays[rule] = overlay
	r, err := ParseRule(old.File, []byte(strings.Join(old.source.lines, "\n")), &library)
	if err != nil {
		return nil, err
	}
	fresh, err := compileRule(r)
	if err != nil {
		return nil, err
	}
	if len(old.exceptions) == 0 { // a set without exceptions stays one
		fresh.exceptions = nil
	}
	return s.with(func(c *compiled) {
		if c.ID == rule {
			*c = *fresh
		}
	}), nil
}

// Excepted returns the rules that have exceptions.
func (s *Set) Excepted() (out []Rule) {
	for _, c := range s.rules {
		if len(c.exceptions) > 0 {
			out = append(out, c.Rule)
		}
	}
	return out
}

// Exceptions returns the exceptions that name a rule, those that have ended too.
func (s *Set) Exceptions(rule string) (out []*Exception) {
	for _, c := range s.rules {
		if c.ID == rule {
			for _, x := range c.exceptions {
				out = append(out, x.Exception)
			}
		}
	}
	return out
}

// excepted reports whether an exception in force covers the event, and counts it.
func (c *compiled) excepted(env *Env, e *event.Event, st *State) (bool, error) {
	for _, x := range c.exceptions {
		if !x.inForce(e.Time) {
			continue
		}
		covered, err := eval[bool](st, x.when, env)
		if err != nil {
			return false, fmt.Errorf("exception %s: %w", x.ID, err)
		}
		if covered {
			if st.Excepted == nil { // an empty one is left out of a snapshot
				st.Excepted = make(map[string]map[string]int)
			}
			if st.Excepted[c.ID] == nil {
				st.Excepted[c.ID] = make(map[string]int)
			}
			st.Excepted[c.ID][x.ID]++
			return true, nil
		}
	}
	return false, nil
}

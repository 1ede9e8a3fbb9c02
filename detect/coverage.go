package detect

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Coverage counts what a set of rules can see in the events of each source. Not safe for concurrent use.
type Coverage struct {
	set    *Set
	env    *Env
	fields map[string][]string // by rule
	// seen counts, by source and rule, the events of its kinds, and by field those in which the field holds something.
	seen map[string]map[string]*sight
}

type sight struct {
	events int
	filled map[string]int
}

// Blind says that a rule sees nothing in a source: no event of its kinds, or never a value in a field that it names.
type Blind struct {
	Rule   string   `json:"rule"`
	Source string   `json:"source"`           // the dialect that the sender speaks
	Events int      `json:"events"`           // of the rule's kinds
	Fields []string `json:"fields,omitempty"` // that never held anything
}

// Technique is an entry of a catalogue with the rules that cover it.
type Technique struct {
	ID    string   `json:"id"`
	Title string   `json:"title"`
	Rules []string `json:"rules,omitempty"`
}

// NewCoverage returns counts of nothing yet.
func NewCoverage(set *Set) *Coverage {
	c := &Coverage{set: set, env: NewEnv(), fields: make(map[string][]string), seen: make(map[string]map[string]*sight)}
	for _, r := range set.rules {
		c.fields[r.ID] = set.Fields(r.ID)
	}
	return c
}

// Event counts one event, checked.
func (c *Coverage) Event(e *event.Event) {
	c.env.Fill(e, SessionFacts{}, BaselineEnv{})
	c.env.completeMore(^lazy(0), 0)
	source := e.Source.Dialect
	if c.seen[source] == nil {
		c.seen[source] = make(map[string]*sight)
	}
	for _, r := range c.set.rules {
		s := c.seen[source][r.ID]
		if s == nil {
			s = &sight{filled: make(map[string]int)}
			c.seen[source][r.ID] = s
		}
		if !slices.Contains(r.kinds(), e.Kind) {
			continue
		}
		s.events++
		for _, f := range c.fields[r.ID] {
			if c.env.holds(f) {
				s.filled[f]++
			}
		}
	}
}

// Blind lists what rules can't see, by source and rule. Facts of sessions, of baselines and of findings come from Tocsin itself and
// don't count, nor does an outcome, which is empty where all went well.
func (c *Coverage) Blind() (out []Blind) {
	for _, source := range slices.Sorted(maps.Keys(c.seen)) {
		for _, r := range c.set.rules {
			s := c.seen[source][r.ID]
			b := Blind{Rule: r.ID, Source: source, Events: s.events}
			for _, f := range c.fields[r.ID] {
				if s.events > 0 && s.filled[f] == 0 && fromSender(f) {
					b.Fields = append(b.Fields, f)
				}
			}
			if (s.events == 0 && !slices.Contains(r.kinds(), KindFinding)) || len(b.Fields) > 0 {
				out = append(out, b)
			}
		}
	}
	return out
}

func fromSender(field string) bool {
	part, _, _ := strings.Cut(field, ".")
	return !slices.Contains([]string{"session", "baseline", "finding", "param", "listed", "lookup", "outcome", "error", "number"}, part) &&
		!slices.Contains([]string{"tool.hidden", "tool.instructs", "tool.private_path", "tool.redacted"}, field)
}

// holds reports whether a field, by its dotted path, is not empty in the event that the Env shows.
func (env *Env) holds(field string) bool {
	switch field {
	case "arg", "number", "provenance", "arg_from":
		return env.event.Tool != nil && len(env.event.Tool.Args) > 0
	case "attr":
		return len(env.event.Attrs)+len(env.event.Labels) > 0
	}
	if strings.HasPrefix(field, "delegation") {
		return env.event.Agent.Parent != ""
	}
	v := reflect.ValueOf(env).Elem()
	for _, name := range strings.Split(field, ".") {
		if v.Kind() != reflect.Struct {
			break
		}
		next := reflect.Value{}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("expr") == name {
				next = v.Field(i)
			}
		}
		if !next.IsValid() {
			return true // no field: a builtin
		}
		v = next
	}
	if v.Kind() == reflect.Slice {
		return v.Len() > 0
	}
	return !v.IsZero()
}

// Techniques lists the catalogues' entries with the rules that are tagged with each.
func (s *Set) Techniques(c Catalogue) (out []Technique) {
	for _, list := range []struct {
		known map[string]string
		of    func(Tags) []string
	}{{c.ASI, func(t Tags) []string { return t.ASI }}, {c.ATLAS, func(t Tags) []string { return t.ATLAS }}} {
		for _, id := range slices.Sorted(maps.Keys(list.known)) {
			t := Technique{ID: id, Title: list.known[id]}
			for _, r := range s.rules {
				if slices.Contains(list.of(r.Tags), id) {
					t.Rules = append(t.Rules, r.ID)
				}
			}
			out = append(out, t)
		}
	}
	return out
}

package sigma

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// operator is the operator of a correlation: count, distinct, sum or sequence.
type operator struct {
	name    string
	of      string // an expression
	atLeast int
	within  string
	steps   []step
	// anyOrder is for steps that may happen in any order.
	anyOrder bool
}

type step struct {
	name, by string
	on       []event.Kind
	when     *logic
}

// Limits of the engine on what correlations ask for, so that the message can name the field.
const (
	maxCount  = 1000
	maxWindow = 7 * 24 * time.Hour
	maxSteps  = 8
)

// correlation is a correlation that is being translated.
type correlation struct {
	doc      *document
	node     *yaml.Node
	rules    []*document
	names    []string // as the correlation names them
	parts    []*outcome
	problems []*Problem
}

func (c *correlation) fail(field, format string, args ...any) {
	at := child(c.node, field)
	if at == nil {
		at = c.node
	}
	c.problems = append(c.problems, c.doc.problem(at, "correlation."+field, ReasonCorrelation, format, args...))
}

// correlate translates a correlation and the rules it refers to.
func (im *importer) correlate(d *document, compact bool) (*outcome, []*Problem) {
	c := &correlation{doc: d, node: d.get("correlation")}
	if c.node.Kind != yaml.MappingNode {
		return nil, []*Problem{d.problem(c.node, "correlation", ReasonFormat, "is no map")}
	}
	im.refer(c, compact)
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	o := c.merge()
	c.group(o)
	c.operate(o)
	return o, c.problems
}

// refer finds and translates the rules of a correlation.
func (im *importer) refer(c *correlation, compact bool) {
	c.names = list(child(c.node, "rules"))
	if len(c.names) == 0 || len(c.names) > maxSteps {
		c.fail("rules", "names %d rules, want 1 to %d", len(c.names), maxSteps)
	}
	for _, name := range c.names {
		d := im.byName[name]
		switch {
		case d == nil:
			c.fail("rules", "names %q, which is neither id nor name of a rule among the files", name)
		case d.get("correlation") != nil:
			c.fail("rules", "names the correlation %q: an operator can't be an event of another", name)
		default:
			o, problems := compile(d, compact)
			c.problems = append(c.problems, problems...)
			c.rules, c.parts = append(c.rules, d), append(c.parts, o)
		}
	}
}

// merge joins the rules: an event of any of them is one of the correlation's.
func (c *correlation) merge() *outcome {
	out := &outcome{source: c.parts[0].source, capture: "metadata"}
	for _, p := range c.parts {
		out.on = addNew(out.on, p.on)
		out.notes = addNew(out.notes, p.notes)
		out.capture = wider(out.capture, p.capture)
	}
	var whens []*logic
	for _, p := range c.parts {
		if len(p.on) == len(out.on) {
			whens = append(whens, p.when)
		} else {
			whens = append(whens, allOf(ofKind(p.on), p.when))
		}
	}
	out.when = oneOf(whens...)
	return out
}

// addNew appends what is not there yet.
func addNew[T comparable](to, from []T) []T {
	for _, v := range from {
		if !slices.Contains(to, v) {
			to = append(to, v)
		}
	}
	return to
}

// wider is the capture level that records more.
func wider(a, b string) string {
	levels := []string{"metadata", "arguments", "content"}
	return levels[max(0, slices.Index(levels, a), slices.Index(levels, b))]
}

func ofKind(kinds []event.Kind) *logic {
	var names []string
	for _, k := range kinds {
		names = append(names, quote(string(k)))
	}
	return equals("kind", names)
}

// identities are the fields that are a key of the engine, from wide to narrow. Each key holds those before it.
var identities = map[string]string{"agent.class": "class", "agent.id": "agent", "session.id": "session"}

// group turns group-by into the key, and into a text for the fields that are none.
func (c *correlation) group(o *outcome) {
	fields := list(child(c.node, "group-by"))
	by := make([][]string, len(c.parts)) // expressions, for each rule
	for _, name := range fields {
		key := ""
		for i := range c.parts {
			expr, why := c.textField(i, name)
			if why != "" {
				c.fail("group-by", "has %s, of which %s %s", name, c.names[i], why)
				return
			}
			if identities[expr] != "" {
				key = identities[expr]
			} else {
				by[i] = append(by[i], expr)
			}
		}
		widths := []string{"", "class", "agent", "session"}
		if slices.Index(widths, key) > slices.Index(widths, o.key) {
			o.key = key
		}
	}
	if o.key == "" {
		c.fail("group-by", "has none of %s: without one it groups over all agents, and the widest key is the class",
			strings.Join(slices.Sorted(maps.Keys(identities)), ", "))
		return
	}
	c.setBy(o, by)
}

// setBy gives the rule, or each step of a sequence, the text by which it is grouped.
func (c *correlation) setBy(o *outcome, by [][]string) {
	steps := strings.HasPrefix(scalar(child(c.node, "type")), "temporal")
	for i, exprs := range by {
		text := strings.Join(exprs, ` + "\n" + `)
		if !steps && i > 0 && text != o.by {
			c.fail("group-by", "means another field for %s than for %s, and an operator has one", c.names[i], c.names[0])
			return
		}
		guards := []*logic{}
		if len(exprs) > 1 { // one that is empty leaves the text of all not empty
			for _, e := range exprs {
				guards = append(guards, atom(e+` != ""`))
			}
		}
		c.parts[i].by, c.parts[i].when = text, allOf(append(guards, c.parts[i].when)...)
		if i == 0 {
			o.by = text
			o.when = allOf(append(guards, o.when)...)
		}
	}
}

// textField resolves a field, or an alias of one, of the i-th rule to an expression about the whole event.
func (c *correlation) textField(i int, name string) (string, string) {
	if alias := child(child(c.node, "aliases"), name); alias != nil {
		target := scalar(child(alias, c.names[i]))
		for _, other := range []string{c.rules[i].text("name"), c.rules[i].text("id")} {
			if target == "" && other != "" {
				target = scalar(child(alias, other))
			}
		}
		if target == "" {
			return "", "has no field in the alias"
		}
		name = target
	}
	if identities[name] != "" {
		return name, ""
	}
	s := c.parts[i].source
	f, why := s.field(name)
	switch {
	case why != "":
		return "", "knows nothing: " + why
	case s.each != "":
		return "", "has several in one event, and a key is one text"
	case f.kind != plainText || f.guard != "":
		return "", "has no text that stands for it alone"
	}
	return f.expr, ""
}

// operate chooses the operator.
func (c *correlation) operate(o *outcome) {
	within, err := timespan(scalar(child(c.node, "timespan")))
	if err != nil {
		c.fail("timespan", "%s", err)
		return
	}
	o.operator = &operator{within: within}
	switch kind := scalar(child(c.node, "type")); kind {
	case "event_count":
		o.operator.name = "count"
		if o.operator.atLeast = c.atLeast(2, maxCount); o.operator.atLeast == 1 {
			o.operator = nil // each event is enough
		}
	case "value_count":
		o.operator.name, o.operator.atLeast = "distinct", c.atLeast(2, maxCount)
		o.operator.of = c.value(false)
	case "value_sum":
		o.operator.name, o.operator.atLeast = "sum", c.atLeast(1, 1<<40)
		o.operator.of = c.value(true)
		if strings.HasPrefix(o.operator.of, "number(") && child(child(c.node, "condition"), "gt") != nil {
			c.fail("condition", "has gt over values that may be fractions, and a sum has a bound that it reaches: write gte")
		}
	case "temporal_ordered", "temporal":
		o.operator.name, o.operator.anyOrder = "sequence", kind == "temporal"
		c.sequence(o)
	case "value_avg", "value_percentile", "value_median":
		c.fail("type", "is %s, and no operator keeps more of the values than their number and sum", kind)
	default:
		c.fail("type", "%q is no type of correlation", kind)
	}
}

// atLeast reads the one condition that an operator can hold: a lower bound of a whole number.
func (c *correlation) atLeast(least, most int) int {
	condition := child(c.node, "condition")
	if condition == nil || condition.Kind != yaml.MappingNode {
		c.fail("condition", "is missing, or no map")
		return 0
	}
	found, n := 0, 0
	for i := 0; i+1 < len(condition.Content); i += 2 {
		key, value := condition.Content[i].Value, condition.Content[i+1]
		if key == "field" || key == "percentile" {
			continue
		}
		v, err := strconv.Atoi(scalar(value))
		switch {
		case key == "lt" || key == "lte" || key == "eq" || key == "neq":
			c.fail("condition", "has %s: an operator fires when enough was seen, and can't know that no more will come", key)
			return 0
		case key != "gt" && key != "gte":
			c.fail("condition", "has %q, want gt or gte", key)
			return 0
		case err != nil:
			c.fail("condition", "wants a whole number for %s, got %q", key, scalar(value))
			return 0
		}
		if found, n = found+1, v; key == "gt" {
			n++
		}
	}
	if one := least == 2 && n == 1 && scalar(child(c.node, "type")) == "event_count"; found != 1 || n < least && !one || n > most {
		c.fail("condition", "has %d bounds and asks for %d, want one bound of %d to %d", found, n, least, most)
		return 0
	}
	return n
}

// value is the expression for the field whose values are counted or added.
func (c *correlation) value(numeric bool) string {
	name := scalar(child(child(c.node, "condition"), "field"))
	if name == "" {
		c.fail("condition", "has no field")
		return ""
	}
	out := ""
	for i := range c.parts {
		expr, why := c.valueField(i, name, numeric)
		if why == "" && i > 0 && expr != out {
			why = "means another field than " + c.names[0]
		}
		if why != "" {
			c.fail("condition", "has the field %s, of which %s %s", name, c.names[i], why)
			return ""
		}
		out = expr
	}
	return out
}

func (c *correlation) valueField(i int, name string, numeric bool) (string, string) {
	if !numeric {
		return c.textField(i, name)
	}
	f, why := c.parts[i].source.field(name)
	if why != "" {
		return "", "knows nothing: " + why
	}
	f, ok := f.numeric()
	if !ok || c.parts[i].source.each != "" {
		return "", "has no number"
	}
	return f.expr, ""
}

// sequence makes the steps of a temporal or temporal_ordered correlation.
func (c *correlation) sequence(o *outcome) {
	if condition := child(c.node, "condition"); condition != nil {
		if n := c.atLeast(1, maxSteps); n != 0 && n != len(c.parts) {
			c.fail("condition", "asks for %d of %d rules, and a sequence has all of its steps", n, len(c.parts))
		}
	}
	if len(c.parts) < 2 {
		c.fail("rules", "names one rule, and a sequence has two at least")
	}
	for i, p := range c.parts {
		s := step{name: fmt.Sprintf("step%d", i+1), on: p.on, when: p.when}
		if p.by != c.parts[0].by {
			s.by = p.by
		}
		o.operator.steps = append(o.operator.steps, s)
	}
}

// timespan turns 90s, 10m, 1h or 7d into a duration of a rule file.
func timespan(text string) (string, error) {
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	if text == "" {
		return "", fmt.Errorf("is missing")
	}
	unit := units[text[len(text)-1:]]
	n, err := strconv.Atoi(text[:len(text)-1])
	if err != nil || unit == 0 || n < 1 || n > int(maxWindow/time.Second) {
		return "", fmt.Errorf("%q: want a number and s, m, h or d", text)
	}
	d := time.Duration(n) * unit
	if d > maxWindow {
		return "", fmt.Errorf("%q: a window has at most 7d", text)
	}
	for _, u := range []string{"h", "m", "s"} {
		if d%units[u] == 0 {
			return fmt.Sprintf("%d%s", d/units[u], u), nil
		}
	}
	return d.String(), nil
}

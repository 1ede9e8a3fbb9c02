package sigma

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// outcome is what a document means here, before it is written as a rule.
type outcome struct {
	on      []event.Kind
	when    *logic
	source  *source
	capture string
	notes   []string
	// operator, key and by are set for correlations.
	operator *operator
	key, by  string
}

// compiler translates the detections of one rule.
type compiler struct {
	doc      *document
	source   *source
	compact  bool
	negated  bool // under an odd number of nots
	whole    bool // of the record that an event is as a whole; see wholeLine
	unsure   bool // the whole record can't be judged
	lost     bool // a value can be in no command's text
	spans    bool // a value may be in no single command's text
	on       []event.Kind
	capture  string
	used     map[string]bool // fields that are not under a not
	negates  map[string]bool // fields under a not
	problems []*Problem
}

// compile translates a rule without correlation.
func compile(d *document, compact bool) (*outcome, []*Problem) {
	s, problem := sourceOf(d)
	if problem != nil {
		return nil, []*Problem{problem}
	}
	c := &compiler{doc: d, source: s, compact: compact, capture: s.capture, used: make(map[string]bool), negates: make(map[string]bool)}
	body := c.conditions()
	c.checkRenamed()
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	switch s.each {
	case "destinations":
		body = anyElement(s.each, allOf(atom(`.kind == "host"`), body))
	case "tool.commands":
		body = oneOf(anyElement(s.each, body), c.wholeLine())
	}
	at := child(d.get("detection"), "condition")
	switch {
	case body.op == "false" && c.lost:
		return nil, []*Problem{d.problem(d.get("detection"), "detection", ReasonValue, "%s", unseen)}
	case body.op == "true":
		return nil, []*Problem{d.problem(at, "condition", ReasonCondition, "holds for every event")}
	case body.op == "false":
		return nil, []*Problem{d.problem(at, "condition", ReasonCondition, "never holds for an agent's event")}
	}
	o := &outcome{on: s.on, source: s, capture: c.capture, notes: slices.Clone(s.notes)}
	if len(o.on) == 0 {
		if o.on = c.on; len(o.on) == 0 {
			return nil, []*Problem{d.problem(d.get("logsource"), "logsource", ReasonSource, "does not say which kind of event: name it as the service, such as tool.result")}
		}
	}
	if c.used["OriginalFileName"] {
		o.notes = append(o.notes, "OriginalFileName is compared with the name of the program: a renamed program is not seen.")
	}
	guards := make([]*logic, 0, len(s.guard)+1)
	for _, g := range s.guard {
		guards = append(guards, atom(g))
	}
	o.when = allOf(append(guards, body)...)
	return o, nil
}

// wholeLine translates a rule on processes once more, for the shell that runs the whole command line: its own command line is all
// of that, and which shell it is nobody knows. A rule on "| sh" or on a path of Windows is about this process. A rule whose values
// fit single commands is left to these, so that what two commands have together is no match.
func (c *compiler) wholeLine() *logic {
	if !c.spans && !c.lost {
		return constant(false)
	}
	c.whole = true
	defer func() { c.whole = false }()
	body := c.conditions()
	if c.unsure {
		return constant(false)
	}
	if text := body.flat(); body.op == "true" || strings.Contains(text, "!") || strings.Contains(text, `== ""`) {
		return allOf(atom(`tool.command != ""`), body)
	}
	return body
}

// checkRenamed refuses rules that look for renamed programs: the name in the file and the name of the file are one here.
func (c *compiler) checkRenamed() {
	if c.used["OriginalFileName"] && c.negates["Image"] && !c.used["Image"] {
		c.fail(c.doc.get("detection"), "OriginalFileName", ReasonField, "no source of agents sends it, and without it a renamed program can't be told")
	}
}

func (c *compiler) fail(at *yaml.Node, field string, reason Reason, format string, args ...any) *logic {
	c.problems = append(c.problems, c.doc.problem(at, field, reason, format, args...))
	return atom("false")
}

// conditions translates the condition, or the list of them, of which one must hold.
func (c *compiler) conditions() *logic {
	detection := c.doc.get("detection")
	at := child(detection, "condition")
	texts := list(at)
	if len(texts) == 0 {
		return c.fail(detection, "condition", ReasonFormat, "is missing")
	}
	if child(detection, "timeframe") != nil {
		c.fail(child(detection, "timeframe"), "timeframe", ReasonCondition, "is of specification 1: write a correlation rule")
	}
	var out []*logic
	for _, text := range texts {
		tree, err := parseCondition(text)
		if err != nil {
			c.fail(at, "condition", ReasonCondition, "%s", err)
			continue
		}
		out = append(out, c.condition(tree, at))
	}
	return oneOf(out...)
}

func (c *compiler) condition(t *condition, at *yaml.Node) *logic {
	switch t.op {
	case "not":
		c.negated = !c.negated
		defer func() { c.negated = !c.negated }()
		return not(c.condition(t.kids[0], at))
	case "and", "or":
		kids := make([]*logic, 0, len(t.kids))
		for _, k := range t.kids {
			kids = append(kids, c.condition(k, at))
		}
		if t.op == "and" {
			return allOf(kids...)
		}
		return oneOf(kids...)
	case "of":
		return c.of(t, at)
	}
	detection := child(c.doc.get("detection"), t.name)
	if detection == nil || t.name == "condition" {
		return c.fail(at, "condition", ReasonCondition, "names %q, which is no search identifier", t.name)
	}
	return c.detection(t.name, detection)
}

// of joins the detections that a pattern names.
func (c *compiler) of(t *condition, at *yaml.Node) *logic {
	if !strings.Contains(t.name, "*") && !strings.EqualFold(t.name, "them") {
		if n := child(c.doc.get("detection"), t.name); t.all && n != nil && n.Kind == yaml.SequenceNode {
			return c.fail(at, "condition", ReasonCondition, "has all of %s, which meant another thing before specification 2: use the modifier all", t.name)
		}
		return c.condition(&condition{op: "id", name: t.name}, at)
	}
	var found []*logic
	detections := c.doc.get("detection").Content
	for i := 0; i+1 < len(detections); i += 2 {
		if name := detections[i].Value; name != "condition" && name != "timeframe" && matchesPattern(t.name, name) {
			found = append(found, c.detection(name, detections[i+1]))
		}
	}
	switch {
	case len(found) == 0:
		return c.fail(at, "condition", ReasonCondition, "names %q, which no search identifier matches", t.name)
	case t.all:
		return allOf(found...)
	}
	return oneOf(found...)
}

// detection translates a search identifier: a map, whose items all hold, or a list of maps and keywords, of which one does.
func (c *compiler) detection(name string, n *yaml.Node) *logic {
	switch n.Kind {
	case yaml.ScalarNode:
		return c.item(name, n, "", n)
	case yaml.MappingNode:
		out := make([]*logic, 0, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = append(out, c.item(name, n.Content[i], n.Content[i].Value, n.Content[i+1]))
		}
		if len(out) == 0 {
			return c.fail(n, name, ReasonFormat, "is empty")
		}
		return allOf(out...)
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			return c.fail(n, name, ReasonFormat, "is empty")
		}
		if !slices.ContainsFunc(n.Content, func(k *yaml.Node) bool { return k.Kind != yaml.ScalarNode }) {
			return c.item(name, n, "", n)
		}
		out := make([]*logic, 0, len(n.Content))
		for _, k := range n.Content {
			if k.Kind == yaml.SequenceNode {
				return c.fail(k, name, ReasonFormat, "has a list within a list")
			}
			out = append(out, c.detection(name, k))
		}
		return oneOf(out...)
	}
	return c.fail(n, name, ReasonFormat, "is neither map nor list")
}

// item translates one field with its modifiers and values; a key without field is a search for keywords.
func (c *compiler) item(detection string, at *yaml.Node, key string, values *yaml.Node) *logic {
	name, rest, modified := strings.Cut(key, "|")
	where := detection
	if key != "" {
		where += "." + key
	}
	var names []string
	if modified {
		names = strings.Split(rest, "|")
	}
	m, err := parseModifiers(names)
	if err != nil {
		return c.fail(at, where, ReasonModifier, "%s", err)
	}
	nodes := []*yaml.Node{values}
	if values.Kind == yaml.SequenceNode {
		nodes = values.Content
	}
	switch {
	case len(nodes) == 0:
		return c.fail(values, where, ReasonFormat, "has no value")
	case len(nodes) > maxPatterns:
		return c.fail(values, where, ReasonLimit, "has %d values, at most %d are read", len(nodes), maxPatterns)
	case slices.ContainsFunc(nodes, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode }):
		return c.fail(values, where, ReasonFormat, "has a value that is neither text nor number")
	case m.neq && len(nodes) > 1:
		return c.fail(at, where, ReasonModifier, "neq with several values may mean none or not all of them: negate a search identifier")
	}
	if m.neq {
		c.negated = !c.negated
		defer func() { c.negated = !c.negated }()
	}
	var out *logic
	if name == "" {
		out = c.keyword(at, where, m, nodes)
	} else {
		out = c.field(at, where, name, m, nodes)
	}
	if m.neq {
		return not(out)
	}
	return out
}

func (c *compiler) keyword(at *yaml.Node, where string, m modifiers, nodes []*yaml.Node) *logic {
	if len(c.source.keywords) == 0 {
		return c.fail(at, where, ReasonField, "looks through a whole record, and %s has none here: name a field", c.source.name)
	}
	if !m.re {
		m.contains = true
	}
	return c.each(nodes, m, func(n *yaml.Node) *logic {
		var out []*logic
		for _, f := range c.source.keywords {
			c.note(f, "")
			out = append(out, c.values(at, where, f, m, []*yaml.Node{n}))
		}
		return oneOf(out...)
	})
}

func (c *compiler) each(nodes []*yaml.Node, m modifiers, value func(*yaml.Node) *logic) *logic {
	out := make([]*logic, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, value(n))
	}
	if m.all {
		return allOf(out...)
	}
	return oneOf(out...)
}

// note remembers that a field is used.
func (c *compiler) note(f field, name string) {
	c.on = addNew(c.on, f.on)
	c.capture = wider(c.capture, f.capture)
	if c.negated {
		c.negates[name] = true
	} else {
		c.used[name] = true
	}
}

func (c *compiler) field(at *yaml.Node, where, name string, m modifiers, nodes []*yaml.Node) *logic {
	f, why := c.source.field(name)
	if why != "" {
		return c.fail(at, where, ReasonField, "%s", why)
	}
	if c.negated && f.positive != "" {
		return c.fail(at, where, ReasonField, "can't be negated: %s", f.positive)
	}
	c.note(f, name)
	if c.whole && f.kind == command {
		f.expr = "tool.command"
	}
	out := c.values(at, where, f, m, nodes)
	if f.guard != "" {
		return allOf(atom(f.guard), out)
	}
	return out
}

// values compares a field with each of its values.
func (c *compiler) values(at *yaml.Node, where string, f field, m modifiers, nodes []*yaml.Node) *logic {
	if l := c.special(at, where, f, m, nodes); l != nil {
		return l
	}
	if f.kind == number || m.compare != "" {
		return c.numbers(at, where, f, m, nodes)
	}
	if m.re {
		return c.each(nodes, m, func(n *yaml.Node) *logic { return c.regexp(n, where, f, m) })
	}
	if m.cidr {
		return c.each(nodes, m, func(n *yaml.Node) *logic { return c.network(n, where, f) })
	}
	return c.texts(at, where, f, m, nodes)
}

// texts compares a field with texts that may have wildcards.
func (c *compiler) texts(at *yaml.Node, where string, f field, m modifiers, nodes []*yaml.Node) *logic {
	var found []*logic
	var together []pattern // those of which one is enough
	for _, n := range nodes {
		if n.Tag == "!!null" {
			found = append(found, not(f.present()))
			continue
		}
		patterns, err := m.patterns(n.Value)
		switch {
		case err != nil:
			return c.fail(n, where, ReasonModifier, "%s", err)
		case m.all:
			found = append(found, c.patterns(n, where, f, m, patterns))
		default:
			together = append(together, patterns...)
		}
	}
	if len(together) > 0 {
		found = append(found, c.patterns(at, where, f, m, together))
	}
	if m.all {
		return allOf(found...)
	}
	return oneOf(found...)
}

// special treats the modifier exists and the fields that are no text; nil is for the others.
func (c *compiler) special(at *yaml.Node, where string, f field, m modifiers, nodes []*yaml.Node) *logic {
	value := strings.ToLower(nodes[0].Value)
	truth := len(nodes) == 1 && (value == "true" || value == "false")
	switch {
	case m.exists && !truth:
		return c.fail(at, where, ReasonValue, "wants true or false")
	case m.exists && (f.kind == number || f.kind == boolean || f.kind == outbound):
		return constant(value == "true")
	case m.exists && value == "true":
		return f.present()
	case m.exists:
		return not(f.present())
	case f.kind != boolean && f.kind != outbound:
		return nil
	case !truth || m.compares():
		return c.fail(at, where, ReasonValue, "wants true or false")
	case f.kind == outbound:
		return constant(value == "true")
	case value == "true":
		return atom(f.expr)
	}
	return not(atom(f.expr))
}

func (c *compiler) numbers(at *yaml.Node, where string, f field, m modifiers, nodes []*yaml.Node) *logic {
	f, ok := f.numeric()
	if !ok {
		return c.fail(at, where, ReasonValue, "is compared as a number, and is a text here")
	}
	operator := "=="
	if m.compare != "" {
		operator = m.compare
	}
	return c.each(nodes, m, func(n *yaml.Node) *logic {
		if !plainNumber.MatchString(n.Value) || m.compares() {
			return c.fail(n, where, ReasonValue, "wants a number, got %q", n.Value)
		}
		return atom(fmt.Sprintf("%s %s %s", f.expr, operator, n.Value))
	})
}

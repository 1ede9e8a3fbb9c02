package detect

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// atom is a condition on one value of an event that the index can look up: a piece of what a rule's expression demands.
type atom struct {
	ref ref
	op  op
	literal
	number float64
}

// ref is the value that an atom looks at.
type ref struct {
	origin origin
	name   string // of the field, argument or attribute
}

// origin says how a value is read off an event.
type origin uint8

const (
	fromField       origin = iota // a field of Env
	fromArg                       // arg(name)
	fromNumber                    // number(name)
	fromProvenance                // provenance(name)
	fromAttr                      // attr(name)
	fromAnyArg                    // the provenance of any argument
	fromCommand                   // a field of any element of tool.commands
	fromDestination               // a field of any element of destinations
)

// String gives the value's name as a rule's author writes it.
func (r ref) String() string {
	switch r.origin {
	case fromArg:
		return fmt.Sprintf("arg(%q)", r.name)
	case fromNumber:
		return fmt.Sprintf("number(%q)", r.name)
	case fromProvenance:
		return fmt.Sprintf("provenance(%q)", r.name)
	case fromAttr:
		return fmt.Sprintf("attr(%q)", r.name)
	case fromAnyArg:
		return "provenance of any argument"
	case fromCommand:
		return "tool.commands[]." + r.name
	case fromDestination:
		return "destinations[]." + r.name
	}
	return r.name
}

type op uint8

const (
	opIs     op = iota // the text itself
	opHolds            // the literal is in the text
	opEquals           // the number itself
	opAbove            // the number or more
	opBelow            // the number or less
	opTrue             // a field that is true
)

// String gives the atom as an expression, or close to one.
func (a atom) String() string {
	text := fmt.Sprintf("%q", a.text)
	if a.fold != foldNone {
		text = "any case of " + text
	}
	switch {
	case a.op == opIs || a.op == opHolds && a.start && a.end:
		return fmt.Sprintf("%s == %s", a.ref, text)
	case a.op == opHolds && a.start:
		return fmt.Sprintf("%s startsWith %s", a.ref, text)
	case a.op == opHolds && a.end:
		return fmt.Sprintf("%s endsWith %s", a.ref, text)
	case a.op == opHolds:
		return fmt.Sprintf("%s contains %s", a.ref, text)
	case a.op == opEquals:
		return fmt.Sprintf("%s == %v", a.ref, a.number)
	case a.op == opAbove:
		return fmt.Sprintf("%s >= %v", a.ref, a.number)
	case a.op == opBelow:
		return fmt.Sprintf("%s <= %v", a.ref, a.number)
	}
	return a.ref.String()
}

// need is a condition that an expression can't be true without: one of the atoms holds. Without a bound it is no condition; with a
// bound and no atoms the expression is never true.
type need struct {
	bound bool
	exact bool // an expression is true wherever one of the atoms holds, too
	atoms []atom
	share float64 // of events that meet it, as far as we know
}

// chooser derives needs. Where an expression demands two things it takes the rarer.
type chooser struct {
	fields *fieldTable
}

var unbound = need{share: 1}

// necessary derives a need from a checked and optimised expression.
func (c *chooser) necessary(node ast.Node) need {
	if canFail(node) {
		return unbound // an index must not hide that a rule fails
	}
	return c.node(node, fromField, false)
}

// node derives the need of an expression, or of its opposite, within a predicate over a list or outside.
func (c *chooser) node(node ast.Node, list origin, opposite bool) need {
	switch n := node.(type) {
	case *ast.BoolNode:
		if n.Value == opposite {
			return need{bound: true, exact: true}
		}
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			return c.node(n.Node, list, !opposite)
		}
	case *ast.BinaryNode:
		return c.binary(n, list, opposite)
	case *ast.ConditionalNode:
		then := c.both(c.node(n.Cond, list, false), c.node(n.Exp1, list, opposite))
		otherwise := c.both(c.node(n.Cond, list, true), c.node(n.Exp2, list, opposite))
		return c.either(then, otherwise)
	case *ast.BuiltinNode:
		return c.builtin(n, list, opposite)
	case *ast.PredicateNode:
		return c.node(n.Node, list, opposite)
	case *ast.CallNode:
		return c.call(n, opposite)
	case *ast.IdentifierNode, *ast.MemberNode, *ast.ChainNode:
		if path := fieldPath(node); !opposite && c.fields.flags[path] != nil {
			return exactly(c.one(atom{ref: ref{fromField, path}, op: opTrue}))
		}
	}
	return unbound
}

func (c *chooser) binary(n *ast.BinaryNode, list origin, opposite bool) need {
	switch n.Operator {
	case "and", "&&", "or", "||":
		left, right := c.node(n.Left, list, opposite), c.node(n.Right, list, opposite)
		if (n.Operator == "and" || n.Operator == "&&") != opposite {
			return c.both(left, right)
		}
		return c.either(left, right)
	case "==", "!=":
		if (n.Operator == "==") == opposite {
			return unbound
		}
		if t, ok := n.Right.(*ast.StringNode); ok {
			return c.text(n.Left, list, opIs, t.Value)
		}
		if t, ok := n.Left.(*ast.StringNode); ok {
			return c.text(n.Right, list, opIs, t.Value)
		}
		return c.compare(n, "==")
	case "<", "<=", ">", ">=":
		operator := n.Operator
		if opposite {
			operator = map[string]string{"<": ">=", "<=": ">", ">": "<=", ">=": "<"}[operator]
		}
		return c.compare(n, operator)
	}
	if opposite {
		return unbound
	}
	switch n.Operator {
	case "in":
		return c.in(n, list)
	case "contains", "startsWith", "endsWith", "matches":
		if t, ok := n.Right.(*ast.StringNode); ok {
			return c.search(n.Left, list, n.Operator, t.Value)
		}
	}
	return unbound
}

// both takes the rarer of two needs that must both be met, and either joins two of which one must be.
func (c *chooser) both(a, b need) need {
	if !b.bound || a.bound && a.share <= b.share {
		b = a
	}
	b.exact = false
	return b
}

func (c *chooser) either(a, b need) need {
	if !a.bound || !b.bound {
		return unbound
	}
	out := need{bound: true, exact: a.exact && b.exact, atoms: slices.Clone(a.atoms), share: 1 - (1-a.share)*(1-b.share)}
	for _, x := range b.atoms {
		if !slices.Contains(out.atoms, x) {
			out.atoms = append(out.atoms, x)
		}
	}
	return out
}

func exactly(n need) need {
	n.exact = n.bound
	return n
}

func (c *chooser) one(a atom) need {
	return need{bound: true, atoms: []atom{a}, share: a.estimate()}
}

func (c *chooser) anyOf(atoms []atom) need {
	out := need{bound: true}
	rest := 1.0
	for _, a := range atoms {
		one := c.one(a)
		out.atoms = append(out.atoms, a)
		rest *= 1 - one.share
	}
	out.share = 1 - rest
	return out
}

// builtin looks into predicates over lists. What must hold for one element is an atom on any element.
func (c *chooser) builtin(n *ast.BuiltinNode, list origin, opposite bool) need {
	element := listOf(n)
	if element == fromField || list != fromField {
		return unbound
	}
	switch n.Name {
	case "any":
		if !opposite {
			return c.node(n.Arguments[1], element, false)
		}
	case "one":
		if !opposite {
			some := c.node(n.Arguments[1], element, false)
			some.exact = false
			return some
		}
	case "none":
		if opposite {
			return c.node(n.Arguments[1], element, false)
		}
	case "all":
		if opposite {
			return c.node(n.Arguments[1], element, true)
		}
	}
	return unbound
}

// listOf returns whose elements a predicate of a builtin looks at, fromField where that is no list of Env.
func listOf(n *ast.BuiltinNode) origin {
	if len(n.Arguments) != 2 {
		return fromField
	}
	if _, ok := n.Arguments[1].(*ast.PredicateNode); !ok {
		return fromField
	}
	switch fieldPath(n.Arguments[0]) {
	case "tool.commands":
		return fromCommand
	case "destinations":
		return fromDestination
	}
	return fromField
}

func (c *chooser) call(n *ast.CallNode, opposite bool) need {
	name, arg := constantCall(n)
	if name == "arg_from" && !opposite {
		if arg == "" {
			return need{bound: true} // never true
		}
		return c.one(atom{ref: ref{fromAnyArg, "provenance"}, op: opIs, literal: literal{text: arg}})
	}
	return unbound
}

// text is a comparison with a constant text.
func (c *chooser) text(node ast.Node, list origin, how op, text string) need {
	o, ok := c.operand(node, list)
	if !ok {
		return unbound
	}
	if o.plain() && !c.joined(o.ref) {
		return exactly(c.one(atom{ref: o.ref, op: how, literal: literal{text: text}}))
	}
	return c.literals(o, []literal{{text: text, start: true, end: true}})
}

func (c *chooser) in(n *ast.BinaryNode, list origin) need {
	if values, ok := constantTexts(n.Right); ok {
		all := need{bound: true, exact: true}
		for _, v := range values {
			if all = c.either(all, c.text(n.Left, list, opIs, v)); !all.bound {
				break
			}
		}
		return all
	}
	if values, ok := constantNumbers(n.Right); ok {
		if r, ok := c.numeric(n.Left); ok {
			var atoms []atom
			for _, v := range values {
				atoms = append(atoms, atom{ref: r, op: opEquals, number: v})
			}
			return c.anyOf(atoms)
		}
	}
	return unbound
}

func (c *chooser) search(node ast.Node, list origin, operator, text string) need {
	o, ok := c.operand(node, list)
	if !ok {
		return unbound
	}
	switch operator {
	case "startsWith":
		return c.whole(o, literal{text: text, start: true})
	case "endsWith":
		return c.whole(o, literal{text: text, end: true})
	case "matches":
		estimate := func(all []literal) float64 { return c.literals(o, all).share }
		return c.literals(o, requiredLiterals(text, estimate))
	}
	return c.whole(o, literal{text: text})
}

// whole is the need for a literal, which is all that is asked where the text is as the index reads it and the literal not too long.
func (c *chooser) whole(o operand, l literal) need {
	out := c.literals(o, []literal{l})
	out.exact = out.bound && o.plain() && !c.joined(o.ref) && len(l.text) <= maxLiteralBytes
	return out
}

// literals is the need for one of some literals in a text.
func (c *chooser) literals(o operand, all []literal) need {
	if len(all) == 0 {
		return unbound
	}
	atoms := make([]atom, 0, len(all))
	for _, l := range all {
		if o.trimmed {
			l.start, l.end = false, false
		}
		if o.cased {
			l = caseFolded(l)
		}
		if l = l.shorten(); l.text == "" {
			return unbound
		}
		a := atom{ref: o.ref, op: opHolds, literal: l}
		if l.start && l.end && l.fold == foldNone && !c.joined(o.ref) {
			a.op, a.start, a.end = opIs, false, false
		}
		if !slices.Contains(atoms, a) {
			atoms = append(atoms, a)
		}
	}
	return c.anyOf(atoms)
}

// joined fields are made of several texts when a rule reads them. The index reads the texts themselves.
func (c *chooser) joined(r ref) bool {
	return r.origin == fromField && (r.name == "text" || r.name == "tool.args")
}

// compare is a comparison of a number with a constant one. Thresholds are rounded to what every matching number meets.
func (c *chooser) compare(n *ast.BinaryNode, operator string) need {
	if count := c.counted(n, operator); count.bound {
		return count
	}
	left, right := n.Left, n.Right
	if _, ok := constantNumber(left); ok {
		left, right = right, left
		operator = strings.NewReplacer("<", ">", ">", "<").Replace(operator)
	}
	r, known := c.numeric(left)
	limit, constant := constantNumber(right)
	if !known || !constant || math.IsNaN(limit) {
		return unbound
	}
	how := opEquals
	switch operator {
	case ">", ">=":
		how = opAbove
	case "<", "<=":
		how = opBelow
	}
	return c.one(atom{ref: r, op: how, number: limit})
}

// counted is count(list, predicate) above or equal to one or more: an element meets the predicate.
func (c *chooser) counted(n *ast.BinaryNode, operator string) need {
	b, ok := n.Left.(*ast.BuiltinNode)
	if !ok || b.Name != "count" || listOf(b) == fromField {
		return unbound
	}
	least, constant := constantNumber(n.Right)
	some := operator == ">" && least >= 0 || (operator == ">=" || operator == "==") && least > 0
	if !constant || !some {
		return unbound
	}
	element := c.node(b.Arguments[1], listOf(b), false)
	element.exact = false // one may not be enough
	return element
}

// operand is a text that an expression searches, and what it did to it before.
type operand struct {
	ref            ref
	cased, trimmed bool
}

func (o operand) plain() bool { return !o.cased && !o.trimmed }

func (c *chooser) operand(node ast.Node, list origin) (operand, bool) {
	switch n := node.(type) {
	case *ast.BuiltinNode:
		if len(n.Arguments) != 1 || n.Name != "lower" && n.Name != "upper" && n.Name != "trim" {
			return operand{}, false
		}
		o, ok := c.operand(n.Arguments[0], list)
		o.cased, o.trimmed = o.cased || n.Name != "trim", o.trimmed || n.Name == "trim"
		return o, ok
	case *ast.CallNode:
		name, arg := constantCall(n)
		from, ok := map[string]origin{"arg": fromArg, "attr": fromAttr, "provenance": fromProvenance}[name]
		return operand{ref: ref{from, arg}}, ok
	}
	if name, ok := elementField(node); ok {
		known := list == fromCommand && c.fields.command[name] != nil || list == fromDestination && c.fields.dest[name] != nil
		return operand{ref: ref{list, name}}, known
	}
	path := fieldPath(node)
	return operand{ref: ref{fromField, path}}, c.fields.texts[path] != nil && path != "tool.signature"
}

// numeric returns the number that a node reads off the event, if it is one.
func (c *chooser) numeric(node ast.Node) (ref, bool) {
	if call, ok := node.(*ast.CallNode); ok {
		name, arg := constantCall(call)
		return ref{fromNumber, arg}, name == "number"
	}
	path := fieldPath(node)
	return ref{fromField, path}, c.fields.ints[path] != nil || c.fields.floats[path] != nil
}

// fieldPath returns the dotted name of a field of Env, "" where the node is none.
func fieldPath(node ast.Node) string {
	switch n := node.(type) {
	case *ast.IdentifierNode:
		return n.Value
	case *ast.ChainNode:
		return fieldPath(n.Node)
	case *ast.MemberNode:
		property, ok := n.Property.(*ast.StringNode)
		if path := fieldPath(n.Node); ok && path != "" {
			return path + "." + property.Value
		}
	}
	return ""
}

// elementField returns the name of a predicate's element's field.
func elementField(node ast.Node) (string, bool) {
	m, ok := node.(*ast.MemberNode)
	if !ok {
		return "", false
	}
	p, element := m.Node.(*ast.PointerNode)
	property, named := m.Property.(*ast.StringNode)
	if !element || !named || p.Name != "" {
		return "", false
	}
	return property.Value, true
}

// constantCall returns the function's name and its one constant argument.
func constantCall(n *ast.CallNode) (name, arg string) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || len(n.Arguments) != 1 {
		return "", ""
	}
	text, ok := n.Arguments[0].(*ast.StringNode)
	if !ok {
		return "", ""
	}
	return callee.Value, text.Value
}

func constantNumber(node ast.Node) (float64, bool) {
	switch n := node.(type) {
	case *ast.IntegerNode:
		return float64(n.Value), true
	case *ast.FloatNode:
		return n.Value, true
	}
	return 0, false
}

// constantTexts returns the texts of a constant list, in order.
func constantTexts(node ast.Node) ([]string, bool) {
	constant, ok := node.(*ast.ConstantNode)
	if !ok {
		return nil, false
	}
	var out []string
	switch v := constant.Value.(type) {
	case map[string]struct{}:
		for text := range v {
			out = append(out, text)
		}
	case []any:
		for _, x := range v {
			text, ok := x.(string)
			if !ok {
				return nil, false
			}
			out = append(out, text)
		}
	default:
		return nil, false
	}
	slices.Sort(out)
	return out, true
}

func constantNumbers(node ast.Node) ([]float64, bool) {
	constant, ok := node.(*ast.ConstantNode)
	if !ok {
		return nil, false
	}
	var out []float64
	switch v := constant.Value.(type) {
	case map[int]struct{}:
		for n := range v {
			out = append(out, float64(n))
		}
	case []any:
		for _, x := range v {
			switch n := x.(type) {
			case int:
				out = append(out, float64(n))
			case float64:
				out = append(out, n)
			default:
				return nil, false
			}
		}
	default:
		return nil, false
	}
	slices.Sort(out)
	return out, true
}

// canFail reports whether an expression can fail at run time: a remainder by zero is what the guard leaves.
func canFail(node ast.Node) bool {
	v := &failVisitor{}
	ast.Walk(&node, v)
	return v.fails
}

type failVisitor struct{ fails bool }

// Visit implements ast.Visitor.
func (v *failVisitor) Visit(node *ast.Node) {
	if n, ok := (*node).(*ast.BinaryNode); ok && n.Operator == "%" {
		by, constant := n.Right.(*ast.IntegerNode)
		v.fails = v.fails || !constant || by.Value == 0
	}
}

package detect

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// scope is what an expression may name beside the fields of Env.
type scope struct {
	library *Library
	params  map[string]any
	earlier []string     // steps of the sequence before this one, first to last
	kept    *[]keep      // what expressions take from earlier steps; added to
	refers  map[int]bool // slots of kept that this expression takes; added to
	named   map[string]bool
	// unknowns, where it is set, is told the guards of the expression that is compiled next.
	unknowns *unknowns
}

// keep is a value of one step's event that a later step's expression names. It is read when the step matches and held in the
// sequence's state, so that no event has to be.
type keep struct {
	step    int
	text    string // the expression on the step's event
	program *vm.Program
	kind    reflect.Kind
}

// Functions of Env under which kept values stand in a rewritten expression.
var keptFunction = map[reflect.Kind]string{
	reflect.String: "kept_text", reflect.Bool: "kept_bool", reflect.Float64: "kept_number", reflect.Int: "kept_number",
}

// rewriter puts macros, parameters and earlier steps' values into a parsed expression, before it is checked.
type rewriter struct {
	scope
	refused
	within []string // macros being expanded
	chains map[ast.Node]int
	spaces *spaces
}

// spaces give the nodes of each macro that is put into an expression places of their own, past those of the expression's text, so that an
// error about one is known to be the macro's.
type spaces struct {
	next   int // the first place that is not taken
	macros []macroUse
}

// macroUse is one use of a macro.
type macroUse struct {
	macro *Macro
	from  int // the place of its first character
	at    int // of its name, where it is used
}

// add takes places for another use of a macro.
func (s *spaces) add(m *Macro, at int) (from int) {
	from = s.next
	s.macros = append(s.macros, macroUse{m, from, at})
	s.next += len(m.Expr) + 1
	return from
}

// find returns the line and the column of a place in the expression's text, and which macros it is in, the outermost first.
func (s *spaces) find(text string, at int) (line, column int, in string) {
	for i := len(s.macros) - 1; i >= 0; i-- {
		if u := s.macros[i]; at >= u.from {
			place := locate(u.macro.Expr, at-u.from)
			in = fmt.Sprintf("in the macro %s (%s): %s", u.macro.name, u.macro.place(place.Line, place.Column+1), in)
			at = u.at
		}
	}
	place := locate(text, at)
	return place.Line, place.Column + 1, in
}

// refused is the first reason against an expression, with its place.
type refused struct {
	why string
	at  file.Location
}

func (r *refused) refuse(at file.Location, why string) {
	if r.why == "" {
		r.why, r.at = why, at
	}
}

// Visit implements ast.Visitor. Children come before their parents.
func (w *rewriter) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if strings.HasPrefix(n.Value, "kept_") {
			w.refuse(n.Location(), fmt.Sprintf("unknown name %q", n.Value))
		} else if m := w.library.Macros[n.Value]; m != nil {
			w.expand(node, n.Value, m)
		}
	case *ast.MemberNode:
		if owner, ok := n.Node.(*ast.IdentifierNode); ok {
			w.member(node, n, owner.Value)
			return
		}
		w.extend(n, n.Node)
	case *ast.CallNode:
		w.extend(n, n.Callee)
	}
}

// expand puts a macro's expression in the place of its name.
func (w *rewriter) expand(node *ast.Node, name string, m *Macro) {
	at := (*node).Location()
	if slices.Contains(w.within, name) || len(w.within) > 4 {
		w.refuse(at, fmt.Sprintf("the macro %s uses itself, or macros five deep", name))
		return
	}
	tree, err := parser.Parse(m.Expr)
	if err != nil {
		w.refuse(at, fmt.Sprintf("the macro %s (%s) does not parse: %s", name, m.place(0, 0), firstLine(err)))
		return
	}
	ast.Walk(&tree.Node, &mover{w.spaces.add(m, at.From)})
	inner := &rewriter{scope: scope{library: w.library, named: w.named}, within: append(slices.Clone(w.within), name), chains: make(map[ast.Node]int), spaces: w.spaces}
	ast.Walk(&tree.Node, inner)
	if inner.why != "" {
		w.refuse(inner.at, inner.why)
	}
	*node = tree.Node
}

// mover moves the places of a macro's nodes to where they are the macro's.
type mover struct{ by int }

// Visit implements ast.Visitor.
func (m *mover) Visit(node *ast.Node) {
	at := (*node).Location()
	(*node).SetLocation(file.Location{From: at.From + m.by, To: at.To + m.by})
}

// setter sets the place of every node.
type setter struct{ at file.Location }

// Visit implements ast.Visitor.
func (s *setter) Visit(node *ast.Node) { (*node).SetLocation(s.at) }

func (w *rewriter) member(node *ast.Node, n *ast.MemberNode, owner string) {
	name, constant := n.Property.(*ast.StringNode)
	step := slices.Index(w.earlier, owner)
	switch {
	case owner == "param" && constant:
		value, ok := w.params[name.Value]
		if !ok {
			w.refuse(n.Location(), fmt.Sprintf("unknown parameter %q%s", name.Value, strict.Suggest(name.Value, slices.Sorted(maps.Keys(w.params)))))
			return
		}
		ast.Patch(node, valueNode(value))
	case step >= 0 && constant:
		w.chains[n] = step
	}
}

// valueNode is a parameter's value as a node.
func valueNode(v any) ast.Node {
	switch v := v.(type) {
	case float64:
		if n := int(v); float64(n) == v {
			return &ast.IntegerNode{Value: n}
		}
		return &ast.FloatNode{Value: v}
	case bool:
		return &ast.BoolNode{Value: v}
	case []string:
		list := &ast.ArrayNode{}
		for _, item := range v {
			list.Nodes = append(list.Nodes, &ast.StringNode{Value: item})
		}
		return list
	default:
		return &ast.StringNode{Value: fmt.Sprint(v)}
	}
}

// extend makes a longer chain of a member or call on a step's chain: read.tool becomes read.tool.host.
func (w *rewriter) extend(n ast.Node, on ast.Node) {
	if step, ok := w.chains[on]; ok {
		delete(w.chains, on)
		w.chains[n] = step
	}
}

// keeper puts kept values in the place of the chains that a rewriter found.
type keeper struct{ *rewriter }

// Visit implements ast.Visitor.
func (k *keeper) Visit(node *ast.Node) {
	step, ok := k.chains[*node]
	if !ok {
		return
	}
	at := (*node).Location()
	text := strings.TrimPrefix((*node).String(), k.earlier[step]+".")
	slot := slices.IndexFunc(*k.kept, func(x keep) bool { return x.step == step && x.text == text })
	if slot < 0 {
		x, err := newKeep(step, text, scope{library: k.library, params: k.params, named: k.named})
		if err != nil {
			k.refuse(at, k.earlier[step]+"."+text+": "+firstLine(err))
			return
		}
		slot = len(*k.kept)
		*k.kept = append(*k.kept, x)
	}
	k.refers[slot] = true
	call := &ast.CallNode{Callee: &ast.IdentifierNode{Value: keptFunction[(*k.kept)[slot].kind]}, Arguments: []ast.Node{&ast.IntegerNode{Value: slot}}}
	ast.Walk(ptr[ast.Node](call), &setter{at})
	*node = call
}

func ptr[T any](v T) *T { return &v }

func newKeep(step int, text string, in scope) (keep, error) {
	program, err := compileExpr(text, in, nil)
	if err != nil {
		return keep{}, err
	}
	node := program.Node()
	kind := node.Type().Kind()
	if keptFunction[kind] == "" {
		return keep{}, fmt.Errorf("is a %s: a step keeps texts, numbers and truth values", kind)
	}
	if long(node) {
		return keep{}, fmt.Errorf("can be long: keep a short field")
	}
	return keep{step: step, text: text, program: program, kind: kind}, nil
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

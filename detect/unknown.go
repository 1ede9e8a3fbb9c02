package detect

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/expr-lang/expr/ast"
)

// baselineFeatures are what an agent's baseline is asked about by name.
var baselineFeatures = []string{"tool", "destination", "argument", "shape"}

// guard stands in the place of a comparison of something that a baseline may not be able to say yet.
type guard struct {
	leaf     ast.Node
	asks     []ast.Node // true where the baseline can say it
	negative bool       // the comparison stands under a not
}

// unknowns makes an expression hold only where it does whatever a learning baseline would say: a part that asks it holds only if the
// answer is known, and under a not it fails only if it is. So x < 0.01 does not hold while x is unknown, nor does not (x < 0.01): Kleene's
// three values, with unknown taken for no at the top.
type unknowns struct{ guards map[ast.Node]guard }

// Visit implements ast.Visitor. Children come before their parents.
func (u *unknowns) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			u.each(&n.Node, func(g guard) ast.Node {
				g.negative = !g.negative
				return u.put(g)
			})
			return
		}
	case *ast.BinaryNode:
		if slices.Contains([]string{"and", "&&", "or", "||"}, n.Operator) {
			return
		}
	}
	if t := (*node).Type(); t == nil || t.Kind() != reflect.Bool {
		return
	}
	u.each(node, func(g guard) ast.Node { return g.leaf })
	asks := &askVisitor{}
	if ast.Walk(node, asks); len(asks.found) > 0 {
		*node = u.put(guard{leaf: *node, asks: asks.found})
	}
}

// put makes a guard's expression.
func (u *unknowns) put(g guard) ast.Node {
	var out ast.Node
	if g.negative {
		out = g.leaf
		for _, ask := range g.asks {
			out = &ast.BinaryNode{Operator: "||", Left: &ast.UnaryNode{Operator: "not", Node: ask}, Right: out}
		}
	} else {
		out = g.leaf
		for _, ask := range slices.Backward(g.asks) {
			out = &ast.BinaryNode{Operator: "&&", Left: ask, Right: out}
		}
	}
	u.guards[out] = g
	return out
}

// each replaces the guards below a node.
func (u *unknowns) each(node *ast.Node, with func(guard) ast.Node) {
	if len(u.guards) > 0 {
		ast.Walk(node, &replacer{u, with})
	}
}

type replacer struct {
	*unknowns
	with func(guard) ast.Node
}

// Visit implements ast.Visitor.
func (r *replacer) Visit(node *ast.Node) {
	if g, ok := r.guards[*node]; ok {
		delete(r.guards, *node)
		*node = r.with(g)
	}
}

// askVisitor collects what must be known for an expression to have a value.
type askVisitor struct {
	found []ast.Node
	names []string
}

func (v *askVisitor) add(name string, ask ast.Node) {
	if !slices.Contains(v.names, name) {
		v.names, v.found = append(v.names, name), append(v.found, ask)
	}
}

// Visit implements ast.Visitor.
func (v *askVisitor) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.MemberNode:
		if fieldPath(n) == "baseline.p" {
			v.add("p", member(n, "ready"))
		}
	case *ast.CallNode:
		name := fieldPath(n.Callee)
		if _, field := n.Callee.(*ast.MemberNode); field && len(n.Arguments) == 1 && (name == "baseline.first_seen" || name == "baseline.rarity") {
			v.add(n.Arguments[0].String(), &ast.CallNode{Callee: member(n.Callee, "known"), Arguments: slices.Clone(n.Arguments)})
		}
	}
}

// member is another field of the struct whose field a node is.
func member(of ast.Node, name string) ast.Node {
	owner := of.(*ast.MemberNode).Node
	out := &ast.MemberNode{Node: &ast.IdentifierNode{Value: owner.String()}, Property: &ast.StringNode{Value: name}}
	out.SetLocation(of.Location())
	return out
}

// checkFeature refuses a name of no feature, and one that is not constant.
func (g *costGuard) checkFeature(n *ast.CallNode) {
	name, constant := n.Arguments[0].(*ast.StringNode)
	if !constant || !slices.Contains(baselineFeatures, name.Value) {
		g.refuse(n.Location(), fmt.Sprintf("a baseline is asked about one of %q, as a constant text", baselineFeatures))
	}
}

// explainUnknown says why a baseline does not answer what a rule asks.
func (c *compiled) explainUnknown(env *Env) []string {
	b := &env.Baseline
	asks := c.named["p"] || c.named["first_seen"] || c.named["rarity"]
	if c.Deviation == nil && !asks || b.Ready {
		return nil
	}
	why := "the event is none that baselines look at, or a repeated report"
	if b.Why != "" {
		why = "the baseline is learning: " + b.Why
	}
	return []string{why + "; what is asked of it is unknown, which neither holds nor fails, and the rule does not fire by it"}
}

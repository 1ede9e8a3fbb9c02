package sigma

import (
	"strconv"
	"strings"
)

// logic is an expression that is being built: and, or, not, an atom in the rule language, or true or false.
type logic struct {
	op   string // "&&", "||", "!", "any", "atom", "true", "false"
	kids []*logic
	text string // of an atom; the list of any
}

func atom(text string) *logic     { return &logic{op: "atom", text: text} }
func constant(v bool) *logic      { return &logic{op: strconv.FormatBool(v)} }
func allOf(kids ...*logic) *logic { return join("&&", "true", "false", kids) }
func oneOf(kids ...*logic) *logic { return join("||", "false", "true", kids) }

// join drops operands that change nothing, and flattens operands of the same operator.
func join(op, neutral, absorbing string, kids []*logic) *logic {
	out := &logic{op: op}
	for _, k := range kids {
		switch k.op {
		case neutral:
		case absorbing:
			return k
		case op:
			out.kids = append(out.kids, k.kids...)
		default:
			out.kids = append(out.kids, k)
		}
	}
	switch len(out.kids) {
	case 0:
		return &logic{op: neutral}
	case 1:
		return out.kids[0]
	}
	return out
}

func not(l *logic) *logic {
	switch l.op {
	case "true", "false":
		return constant(l.op == "false")
	case "!":
		return l.kids[0]
	case "atom":
		if subject, ok := strings.CutSuffix(l.text, ` == ""`); ok {
			return atom(subject + ` != ""`)
		}
	}
	return &logic{op: "!", kids: []*logic{l}}
}

// anyElement says that one element of a list satisfies the body.
func anyElement(list string, body *logic) *logic {
	if body.op == "true" || body.op == "false" {
		return body
	}
	return &logic{op: "any", text: list, kids: []*logic{body}}
}

// lineWidth is where the text of an expression is broken.
const lineWidth = 120

// String renders the expression over as many lines as it needs.
func (l *logic) String() string { return l.render("") }

func (l *logic) render(indent string) string {
	if flat := l.flat(); len(indent)+len(flat) <= lineWidth || l.op == "atom" {
		return flat
	}
	inner := indent + "  "
	switch l.op {
	case "any":
		return "any(" + l.text + ",\n" + inner + l.kids[0].render(inner) + ")"
	case "!":
		return "!(\n" + inner + l.kids[0].render(inner) + ")"
	}
	parts := make([]string, 0, len(l.kids))
	for _, k := range l.kids {
		if l.op == "&&" && k.op == "||" {
			parts = append(parts, "(\n"+inner+k.render(inner)+")")
			continue
		}
		parts = append(parts, k.render(indent))
	}
	return strings.Join(parts, " "+l.op+"\n"+indent)
}

// flat renders the expression in one line.
func (l *logic) flat() string {
	switch l.op {
	case "atom":
		return l.text
	case "any":
		return "any(" + l.text + ", " + l.kids[0].flat() + ")"
	case "!":
		return "!(" + l.kids[0].flat() + ")"
	case "&&", "||":
		parts := make([]string, 0, len(l.kids))
		for _, k := range l.kids {
			text := k.flat()
			if l.op == "&&" && k.op == "||" {
				text = "(" + text + ")"
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, " "+l.op+" ")
	}
	return l.op
}

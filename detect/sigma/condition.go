package sigma

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// condition is the syntax tree of a condition. Or binds least, then and, then not.
type condition struct {
	op   string // and, or, not, id, of
	kids []*condition
	// name is the search identifier of id. Of "of" it is a pattern with *, or them; all tells "all of" from "1 of".
	name string
	all  bool
}

// Limits on a condition.
const (
	maxConditionBytes = 8 << 10
	maxConditionDepth = 64
)

var conditionToken = regexp.MustCompile(`[()|]|[^\s()|]+`)

// parseCondition reads a condition. Aggregations after a pipe, which specification 2 dropped, are errors.
func parseCondition(text string) (*condition, error) {
	if len(text) > maxConditionBytes {
		return nil, fmt.Errorf("has %d bytes, at most %d are read", len(text), maxConditionBytes)
	}
	p := &conditionParser{tokens: conditionToken.FindAllString(text, -1)}
	c, err := p.or(0)
	switch {
	case err != nil:
		return nil, err
	case p.peek() == "|":
		return nil, errors.New("has an aggregation after |, which specification 2 dropped: write a correlation rule")
	case p.peek() != "":
		return nil, fmt.Errorf("does not go on with %q", p.peek())
	}
	return c, nil
}

type conditionParser struct{ tokens []string }

func (p *conditionParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

// take consumes a word of the language if it is the next.
func (p *conditionParser) take(word string) bool {
	if !strings.EqualFold(p.peek(), word) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *conditionParser) or(depth int) (*condition, error) {
	return p.chain("or", depth, p.and)
}

func (p *conditionParser) and(depth int) (*condition, error) {
	return p.chain("and", depth, p.not)
}

// chain reads operands that one operator joins.
func (p *conditionParser) chain(op string, depth int, operand func(int) (*condition, error)) (*condition, error) {
	first, err := operand(depth)
	if err != nil {
		return nil, err
	}
	c := &condition{op: op, kids: []*condition{first}}
	for p.take(op) {
		next, err := operand(depth)
		if err != nil {
			return nil, err
		}
		c.kids = append(c.kids, next)
	}
	if len(c.kids) == 1 {
		return first, nil
	}
	return c, nil
}

func (p *conditionParser) not(depth int) (*condition, error) {
	if depth > maxConditionDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxConditionDepth)
	}
	if p.take("not") {
		c, err := p.not(depth + 1)
		return &condition{op: "not", kids: []*condition{c}}, err
	}
	return p.operand(depth)
}

func (p *conditionParser) operand(depth int) (*condition, error) {
	if p.take("(") {
		c, err := p.or(depth + 1)
		if err == nil && !p.take(")") {
			err = errors.New("has a parenthesis that nothing closes")
		}
		return c, err
	}
	word := p.peek()
	switch strings.ToLower(word) {
	case "":
		return nil, errors.New("ends where a search identifier is wanted")
	case ")", "|", "and", "or", "of":
		return nil, fmt.Errorf("has %q where a search identifier is wanted", word)
	}
	p.tokens = p.tokens[1:]
	if !p.take("of") {
		return &condition{op: "id", name: word}, nil
	}
	c := &condition{op: "of", name: p.peek(), all: strings.EqualFold(word, "all")}
	switch {
	case !c.all && word != "1" && !strings.EqualFold(word, "any"):
		return nil, fmt.Errorf("has %q of, want 1 of or all of", word)
	case c.name == "" || c.name == "(" || c.name == ")" || c.name == "|":
		return nil, errors.New("has an of without a search identifier")
	}
	p.tokens = p.tokens[1:]
	return c, nil
}

// matchesPattern reports whether a search identifier is meant by a pattern: them, or a text with * for any characters.
func matchesPattern(pattern, name string) bool {
	if strings.EqualFold(pattern, "them") {
		return !strings.HasPrefix(name, "_")
	}
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	ok, err := regexp.MatchString("^"+strings.Join(parts, ".*")+"$", name)
	return ok && err == nil
}

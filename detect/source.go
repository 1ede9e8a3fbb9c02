package detect

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// source is a rule's text, by which errors are given their place.
type source struct {
	document yaml.Node
	lines    []string
}

// locate says in which file and line, and for an expression in which column, the field that an error is about stands.
func (r *Rule) locate(field string, err error) error {
	node := r.source.find(field)
	if node == nil {
		return fmt.Errorf("%s: %s: %w", r.File, field, err)
	}
	var e *exprError
	if !errors.As(err, &e) || e.line == 0 {
		return fmt.Errorf("%s:%d: %s: %w", r.File, node.Line, field, err)
	}
	line, column := node.Line+e.line-1, node.Column+e.column-1
	switch node.Style {
	case yaml.LiteralStyle:
		// The first line's indentation is that of the whole block.
		if line++; node.Line < len(r.source.lines) {
			first := r.source.lines[node.Line]
			column = len(first) - len(strings.TrimLeft(first, " ")) + e.column
		}
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		column++
	case yaml.FoldedStyle:
		return fmt.Errorf("%s:%d: %s: %w", r.File, node.Line, field, err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", r.File, line, column, field, err)
}

// find returns the value at a dotted path of keys and list positions, as deep as the document has it; nil for none of it.
func (s *source) find(field string) *yaml.Node {
	if len(s.document.Content) == 0 {
		return nil
	}
	node, found := s.document.Content[0], false
	for _, key := range strings.Split(field, ".") {
		next := child(node, key)
		if next == nil {
			break
		}
		node, found = next, true
	}
	if !found {
		return nil
	}
	return node
}

func child(node *yaml.Node, key string) *yaml.Node {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				return node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i < len(node.Content) {
			return node.Content[i]
		}
	}
	return nil
}

package detect

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// source is a rule's text, by which errors are given their place.
type source struct {
	document yaml.Node
	lines    []string
}

// locate says in which file, line and column the field that an error is about stands, and within an expression the place in it.
func (r *Rule) locate(field string, err error) error {
	node := strict.Find(&r.source.document, field)
	if node == nil {
		return fmt.Errorf("%s: %s: %w", r.File, field, err)
	}
	var e *exprError
	if !errors.As(err, &e) || e.line == 0 {
		return fmt.Errorf("%s:%d:%d: %s: %w", r.File, node.Line, node.Column, field, err)
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
		return fmt.Errorf("%s:%d:%d: %s: %w", r.File, node.Line, node.Column, field, err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", r.File, line, column, field, err)
}

package detect

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// source is a file's text, by which errors are given their place.
type source struct {
	file     string
	document yaml.Node
	lines    []string
}

// newSource reads a text that can be read as YAML; of another it knows no places.
func newSource(file string, text []byte) *source {
	s := &source{file: file, lines: strings.Split(string(text), "\n")}
	if yaml.Unmarshal(text, &s.document) != nil {
		s.document = yaml.Node{}
	}
	return s
}

// locate says in which file, line and column the field that an error is about stands, and within an expression the place in it.
func (r *Rule) locate(field string, err error) error {
	from := r.source
	from.file = r.File
	return fmt.Errorf("%s: %s: %w", from.place(field, err), field, err)
}

// place is the place of an error about a field.
func (s *source) place(field string, err error) string {
	var e *exprError
	if errors.As(err, &e) {
		return s.within(field, e.line, e.column)
	}
	return s.within(field, 0, 0)
}

// at is the place of a field, or of what is nearest above it; of no file there is none.
func (s *source) at(field string) string { return s.within(field, 0, 0) }

// within is the place of a line and a column of a field's text, or of the field where the line is 0.
func (s *source) within(field string, line, column int) string {
	node := strict.Find(&s.document, field)
	switch {
	case node == nil:
		return s.file
	case line == 0 || node.Style == yaml.FoldedStyle:
		return fmt.Sprintf("%s:%d:%d", s.file, node.Line, node.Column)
	}
	switch node.Style {
	case yaml.LiteralStyle:
		// The first line's indentation is that of the whole block.
		if node.Line < len(s.lines) {
			first := s.lines[node.Line]
			column += len(first) - len(strings.TrimLeft(first, " "))
		}
		line++
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		column += node.Column
	default:
		column += node.Column - 1
	}
	return fmt.Sprintf("%s:%d:%d", s.file, node.Line+line-1, column)
}

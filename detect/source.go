package detect

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
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

var (
	yamlLine     = regexp.MustCompile(`^line (\d+): `)
	unknownKey   = regexp.MustCompile(`field (\S+) not found in type detect\.(\w+)`)
	wrongType    = regexp.MustCompile("cannot unmarshal !!(\\w+)(?: `(.*)`)? into (\\S+)")
	yamlTypeName = map[string]string{"seq": "a list", "map": "a map", "str": "text", "int": "a number", "float": "a number", "bool": "a truth value", "null": "nothing"}
)

// explainYAML turns the decoder's errors into one line each, with file and line, and the nearest known key for an unknown one.
func explainYAML(file string, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: is empty", file)
	}
	list := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var types *yaml.TypeError
	if errors.As(err, &types) {
		list = nil
		for _, e := range types.Errors {
			list = append(list, fmt.Sprint(e))
		}
	}
	var errs []error
	for _, text := range list {
		place := file + ": "
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			place, text = file+":"+m[1]+": ", text[len(m[0]):]
		}
		errs = append(errs, errors.New(place+explainYAMLText(text)))
	}
	return errors.Join(errs...)
}

func explainYAMLText(text string) string {
	if m := unknownKey.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("unknown key %q%s", m[1], suggest(m[1], yamlKeys()[m[2]]))
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		got := yamlTypeName[m[1]]
		if m[2] != "" {
			got += fmt.Sprintf(" (%s)", m[2])
		}
		return fmt.Sprintf("want %s, got %s", wantedType(m[3]), got)
	}
	return text
}

func wantedType(name string) string {
	switch {
	case strings.HasPrefix(name, "[]"):
		return "a list"
	case strings.HasPrefix(name, "map["), strings.HasSuffix(name, "Rule"), strings.HasSuffix(name, "Test"), strings.HasSuffix(name, "Event"),
		strings.HasSuffix(name, "Count"), strings.HasSuffix(name, "Tags"), strings.HasSuffix(name, "testDecision"):
		return "a map of keys to values"
	case name == "int", name == "int64":
		return "a whole number"
	case name == "bool":
		return "true or false"
	}
	return "text"
}

// yamlKeys lists the keys of each struct of a rule file.
func yamlKeys() map[string][]string {
	out := make(map[string][]string)
	for _, t := range []reflect.Type{reflect.TypeFor[Rule](), reflect.TypeFor[Count](), reflect.TypeFor[Tags](), reflect.TypeFor[Test](),
		reflect.TypeFor[testEvent](), reflect.TypeFor[testDecision]()} {
		for i := range t.NumField() {
			if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
				out[t.Name()] = append(out[t.Name()], key)
			}
		}
	}
	return out
}

package sigma

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits on what is read.
const (
	maxFileBytes = 1 << 20
	maxDocuments = 1000 // in one file
	maxPatterns  = 500  // values of one field
)

// document is one Sigma rule or correlation as its author wrote it.
type document struct {
	file string
	node *yaml.Node // the map of its attributes
}

// parse reads the documents of a file. The documents before a mistake are returned beside it.
func parse(f File) ([]*document, *Problem) {
	file := &document{file: f.Name, node: &yaml.Node{Line: 1}}
	if len(f.Text) > maxFileBytes {
		return nil, file.problem(file.node, "file", ReasonFormat, "has %d bytes, at most %d are read", len(f.Text), maxFileBytes)
	}
	var docs []*document
	decoder := yaml.NewDecoder(bytes.NewReader(f.Text))
	for len(docs) < maxDocuments {
		var root yaml.Node
		err := decoder.Decode(&root)
		switch {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return docs, file.problem(file.node, "file", ReasonFormat, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		case len(root.Content) == 0 || root.Content[0].Tag == "!!null": // nothing between two separators
			continue
		}
		d := &document{file: f.Name, node: root.Content[0]}
		if p := d.check(); p != nil {
			return docs, p
		}
		docs = append(docs, d)
	}
	return docs, file.problem(file.node, "file", ReasonFormat, "has more than %d documents", maxDocuments)
}

// check refuses what the rest of the package would misread.
func (d *document) check() *Problem {
	if d.node.Kind != yaml.MappingNode {
		return d.problem(d.node, "file", ReasonFormat, "is no Sigma rule: want a map of attributes")
	}
	if n, why := unreadable(d.node); n != nil {
		return d.problem(n, "file", ReasonFormat, "%s", why)
	}
	switch {
	case d.get("action") != nil:
		return d.problem(d.get("action"), "action", ReasonFormat, "is of specification 1: write each rule as a document of its own")
	case d.get("filter") != nil:
		return d.problem(d.get("filter"), "filter", ReasonFormat, "Sigma filters are not read: write an exception of the rule")
	case d.get("detection") == nil && d.get("correlation") == nil:
		return d.problem(d.node, "detection", ReasonFormat, "is missing, and so is correlation")
	case d.text("title") == "":
		return d.problem(d.node, "title", ReasonFormat, "is missing")
	case d.text("taxonomy") != "" && d.text("taxonomy") != "sigma":
		return d.problem(d.get("taxonomy"), "taxonomy", ReasonField, "%q is not read, only the default one", d.text("taxonomy"))
	}
	return nil
}

// unreadable finds an alias, which can stand for anything, or a key that stands twice.
func unreadable(n *yaml.Node) (*yaml.Node, string) {
	if n.Kind == yaml.AliasNode {
		return n, "has an alias (*" + n.Value + "): write the value out"
	}
	seen := make(map[string]bool)
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			switch {
			case c.Kind != yaml.ScalarNode:
				return c, "has a key that is no text"
			case seen[c.Value]:
				return c, fmt.Sprintf("has the key %q twice", c.Value)
			}
			seen[c.Value] = true
		}
		if bad, why := unreadable(c); bad != nil {
			return bad, why
		}
	}
	return nil, ""
}

func (d *document) problem(at *yaml.Node, field string, reason Reason, format string, args ...any) *Problem {
	line := d.node.Line
	if at != nil {
		line = at.Line
	}
	return &Problem{File: d.file, Line: line, Field: field, Reason: reason, Why: fmt.Sprintf(format, args...)}
}

func (d *document) get(key string) *yaml.Node { return child(d.node, key) }
func (d *document) text(key string) string    { return scalar(d.get(key)) }
func (d *document) flag(key string) bool      { return flag(d.get(key)) }

// child returns the value of a key of a map, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalar returns a value's text, "" where it is none.
func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return strings.TrimSpace(n.Value)
}

func flag(n *yaml.Node) bool { return strings.EqualFold(scalar(n), "true") }

// list returns the texts of a list, or the one of a scalar.
func list(n *yaml.Node) []string {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode {
		if s := scalar(n); s != "" {
			return []string{s}
		}
		return nil
	}
	var out []string
	for _, c := range n.Content {
		if s := scalar(c); s != "" && n.Kind == yaml.SequenceNode {
			out = append(out, s)
		}
	}
	return out
}

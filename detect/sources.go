package detect

import (
	_ "embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Sources are the fields that senders fill in, by dialect and kind of event. Not safe for concurrent use.
type Sources struct {
	env    *Env
	fields []string
	seen   map[string]map[event.Kind]map[string]bool
}

// sourcesText holds what the clients send that were recorded: a line has a dialect, a kind and fields.
//
//go:embed sources.txt
var sourcesText string

// NewSources returns what was seen of nobody yet.
func NewSources() *Sources {
	return &Sources{env: NewEnv(), fields: senderFields(reflect.TypeFor[Env](), ""), seen: make(map[string]map[event.Kind]map[string]bool)}
}

// RecordedSources returns what the recorded clients sent. Others may send more, and JSON events can hold any field.
func RecordedSources() *Sources {
	s := NewSources()
	for line := range strings.Lines(sourcesText) {
		if words := strings.Fields(line); len(words) > 1 && words[0] != "#" {
			s.add(words[0], event.Kind(words[1]), words[2:]...)
		}
	}
	return s
}

// senderFields lists the fields that senders fill in, by their dotted paths.
func senderFields(t reflect.Type, prefix string) (out []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("expr")
		switch {
		case !f.IsExported() || f.Tag.Get("expr") == "-" || strings.HasPrefix(name, "kept_") || !fromSender(name):
		case f.Type.Kind() == reflect.Struct:
			out = append(out, senderFields(f.Type, name+".")...)
		default:
			out = append(out, name)
		}
	}
	return out
}

func (s *Sources) add(dialect string, kind event.Kind, fields ...string) {
	if s.seen[dialect] == nil {
		s.seen[dialect] = make(map[event.Kind]map[string]bool)
	}
	if s.seen[dialect][kind] == nil {
		s.seen[dialect][kind] = make(map[string]bool)
	}
	for _, f := range fields {
		s.seen[dialect][kind][f] = true
	}
}

// Event takes in what a checked event holds.
func (s *Sources) Event(e *event.Event) {
	s.env.Fill(e, SessionFacts{}, BaselineEnv{})
	s.env.completeMore(^lazy(0), 0)
	s.add(e.Source.Dialect, e.Kind)
	for _, f := range s.fields {
		if !s.seen[e.Source.Dialect][e.Kind][f] && s.env.holds(f) {
			s.add(e.Source.Dialect, e.Kind, f)
		}
	}
}

// Lines are what was seen, as sources.txt has it.
func (s *Sources) Lines() (out []string) {
	for _, dialect := range slices.Sorted(maps.Keys(s.seen)) {
		for _, kind := range slices.Sorted(maps.Keys(s.seen[dialect])) {
			out = append(out, strings.Join(append([]string{dialect, string(kind)}, slices.Sorted(maps.Keys(s.seen[dialect][kind]))...), " "))
		}
	}
	return out
}

// send returns the dialects that send an event of one of the kinds, and those among them that fill in a field there.
func (s *Sources) send(kinds []event.Kind, field string) (kind, filled []string) {
	for _, dialect := range slices.Sorted(maps.Keys(s.seen)) {
		for _, k := range kinds {
			if s.seen[dialect][k] != nil && !slices.Contains(kind, dialect) {
				kind = append(kind, dialect)
			}
			if s.seen[dialect][k][field] && !slices.Contains(filled, dialect) {
				filled = append(filled, dialect)
			}
		}
	}
	return kind, filled
}

// LintSources warns of fields that none of the sources fills in which send a rule's kinds of events, and says which recorded ones do.
// Rules on kinds that none sends are not warned of: nothing is known about those.
func (s *Set) LintSources(sources *Sources) (out []Warning) {
	recorded := RecordedSources()
	for _, c := range s.rules {
		for _, f := range s.Fields(c.ID) {
			from, filled := sources.send(c.kinds(), f)
			if !slices.Contains(sources.fields, f) || len(from) == 0 || len(filled) > 0 {
				continue
			}
			text := fmt.Sprintf("looks at %s, which no source (%s) sends with an event of kind %s", f, strings.Join(from, ", "), kindNames(c.kinds()))
			if _, would := recorded.send(c.kinds(), f); len(would) > 0 {
				text += "; " + strings.Join(would, ", ") + " would"
			} else {
				text += "; no recorded client does, JSON events can"
			}
			field := "when"
			if c.Sequence != nil {
				field = "sequence"
			}
			out = append(out, c.warn(field, text))
		}
	}
	return out
}

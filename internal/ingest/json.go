package ingest

import (
	"bytes"
	_ "embed" // the schema
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Limits on a body of JSON events.
const (
	MaxJSONBytes  = 64 << 20
	MaxJSONEvents = 10_000
	maxEventDepth = 32
	maxQuoted     = 80 // bytes of a sender's text in a reason
)

// ErrTooLarge says that a body has more bytes or items than are read at once. The sender should send less.
var ErrTooLarge = errors.New("too large")

//go:embed event.schema.json
var eventSchema string

// EventSchema returns the JSON Schema (draft 2020-12) of one JSON event.
func EventSchema() string { return eventSchema }

// JSON reads events in their JSON form: one object, an array, or one object a line. It is strict: a key that the schema doesn't
// have rejects the item, because a misspelt field would be a detection that never fires. An error says that nothing could be read.
//
// Differences to the form in which events are logged: the id is derived from the content where it is left out, tool.args may be a
// plain object, and source.dialect, source.authn, agent.basis, session.basis and ingested are set here.
func (m *Mapper) JSON(r io.Reader, rc Receipt) ([]event.Event, []Rejection, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxJSONBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read events: %w", err)
	}
	return m.jsonEvents(body, 0, rc)
}

// jsonEvents maps a body, or the part of a long file that follows so many of its lines.
func (m *Mapper) jsonEvents(body []byte, before int, rc Receipt) ([]event.Event, []Rejection, error) {
	if len(body) > MaxJSONBytes {
		return nil, nil, fmt.Errorf("read events: more than %d bytes: %w", MaxJSONBytes, ErrTooLarge)
	}
	var items []jsonItem
	var err error
	if before > 0 {
		items, _, err = splitLines(body, before)
	} else {
		items, err = splitEvents(body)
	}
	if err != nil {
		return nil, nil, err
	}
	var b batch
	for _, it := range items {
		e, err := decodeEvent(it.text)
		if err == nil {
			e.Source.Dialect, e.Agent.Basis, e.Session.Basis = "json", "client", ""
			if m.hasher != nil {
				e.Attrs = nil // nobody said which of them hold content
			}
			err = m.seal(e, rc)
		}
		if err != nil {
			b.rejected = append(b.rejected, Rejection{Item: it.name, Reason: err.Error()})
			continue
		}
		b.events = append(b.events, *e)
	}
	sortEvents(b.events)
	return b.events, b.rejected, nil
}

type jsonItem struct {
	name string
	text []byte
}

func splitEvents(body []byte) ([]jsonItem, error) {
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, errors.New("decode events: the body is empty")
	case body[0] == '[':
		return splitArray(body)
	case jsonDepth(body) <= maxEventDepth && json.Valid(body):
		return []jsonItem{{"event", body}}, nil
	}
	items, objects, err := splitLines(body, 0)
	if err == nil && !objects {
		err = errors.New("decode events: want a JSON object, an array of them, or one on each line")
	}
	return items, err
}

// splitLines takes lines apart that follow so many others, and reports whether any of them may be an object.
func splitLines(body []byte, before int) (items []jsonItem, objects bool, err error) {
	for n := before + 1; len(body) > 0; n++ {
		line, rest, _ := bytes.Cut(body, []byte("\n"))
		body = rest
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if len(items) == MaxJSONEvents {
			return nil, false, fmt.Errorf("decode events: more than %d items: %w", MaxJSONEvents, ErrTooLarge)
		}
		objects = objects || line[0] == '{'
		items = append(items, jsonItem{fmt.Sprintf("line %d", n), line})
	}
	return items, objects, nil
}

// splitArray takes an array apart by its brackets alone, so that an item which is too deep, or no JSON, costs no other.
func splitArray(body []byte) ([]jsonItem, error) {
	ends, err := itemEnds(body)
	if err != nil {
		return nil, fmt.Errorf("decode events: %w", err)
	}
	var items []jsonItem
	start := 1
	for n, end := range ends {
		text := bytes.TrimSpace(body[start:end])
		if start = end + 1; len(ends) == 1 && len(text) == 0 {
			break // an empty array
		}
		items = append(items, jsonItem{fmt.Sprintf("item %d", n), text})
	}
	return items, nil
}

// itemEnds returns where the items of an array end: at its commas, and at its own bracket.
func itemEnds(body []byte) (ends []int, err error) {
	depth := 0
	for i, c := range marks(body) {
		switch {
		case c == '{' || c == '[':
			depth++
		case c == ',' && depth == 1:
			if ends = append(ends, i); len(ends) == MaxJSONEvents {
				return nil, fmt.Errorf("more than %d items: %w", MaxJSONEvents, ErrTooLarge)
			}
		case c == '}' || c == ']':
			if depth--; depth > 0 {
				continue
			}
			if i+1 < len(body) {
				return nil, errors.New("text after the array")
			}
			return append(ends, i), nil
		}
	}
	return nil, errors.New("the array does not end")
}

func decodeEvent(text []byte) (*event.Event, error) {
	if jsonDepth(text) > maxEventDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxEventDepth)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v map[string]any
	if err := decoder.Decode(&v); err != nil || v == nil {
		return nil, fmt.Errorf("decode event: want one JSON object, got %.*q", maxQuoted, text)
	}
	if decoder.More() {
		return nil, errors.New("decode event: text after the object")
	}
	if err := convertArgs(v); err != nil {
		return nil, err
	}
	if err := checkKeys("", v, reflect.TypeFor[event.Event]()); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	e := new(event.Event)
	if err := json.Unmarshal(raw, e); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("%s: want %s, got %s", wrong.Field, wrong.Type, wrong.Value)
		}
		return nil, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}

// convertArgs turns a tool's arguments from an object, which is what callers have, into the list that events hold.
func convertArgs(v map[string]any) error {
	tool, _ := v["tool"].(map[string]any)
	object, ok := tool["args"].(map[string]any)
	if !ok {
		return nil
	}
	found, state := event.FlattenArgs(object)
	list, err := json.Marshal(found)
	if err != nil {
		return fmt.Errorf("tool.args: %w", err)
	}
	tool["args"] = json.RawMessage(list)
	if _, ok := tool["args_state"]; !ok {
		tool["args_state"] = string(state)
	}
	return nil
}

// checkKeys compares the keys of a decoded value with the fields of the type it is meant for.
func checkKeys(path string, v any, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case []any:
		if t.Kind() != reflect.Slice {
			return nil // Unmarshal will name the wrong type
		}
		for i, item := range v {
			if err := checkKeys(fmt.Sprintf("%s.%d", path, i), item, t.Elem()); err != nil {
				return err
			}
		}
	case map[string]any:
		if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
			return nil
		}
		fields := jsonFields(t)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			at := strings.TrimPrefix(path+"."+key, ".")
			f, ok := fields[key]
			if !ok {
				return fmt.Errorf("%.*s: unknown key%s", maxQuoted, at, strict.Suggest(key[:min(len(key), maxQuoted)], slices.Collect(maps.Keys(fields))))
			}
			if err := checkKeys(at, v[key], f); err != nil {
				return err
			}
		}
	case string:
		if t == reflect.TypeFor[time.Time]() {
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
				return fmt.Errorf("%s: %.*q is not RFC 3339", path, maxQuoted, v)
			}
		}
	}
	return nil
}

// jsonFields returns the types of a struct's fields by their JSON names.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	out := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		out[name] = t.Field(i).Type
	}
	return out
}

package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

const minimal = `{"kind":"prompt","time":"2026-11-23T07:00:00Z","agent":{"name":"a"}}`

func TestJSON(t *testing.T) {
	tests := []struct {
		name, body string
		accepted   int
		rejected   []Rejection
		err        string
	}{
		{"one", minimal, 1, nil, ""},
		{"pretty", strings.ReplaceAll(minimal, ",", ",\n"), 1, nil, ""},
		{"array", "[" + minimal + "," + minimal + "]", 2, nil, ""},
		{"lines", minimal + "\n\n" + minimal + "\r\n", 2, nil, ""},
		{"bad line", minimal + "\n{\"kind\":\n" + minimal, 2, []Rejection{{"line 2", `decode event: want one JSON object, got "{\"kind\":"`}}, ""},
		{"misspelt", `[{"kind":"prompt","time":"2026-11-23T07:00:00Z","agent":{"nmae":"a"}}]`, 0, []Rejection{{"item 0", `agent.nmae: unknown key; did you mean "name"?`}}, ""},
		{"case", `{"Kind":"prompt"}`, 0, []Rejection{{"event", `Kind: unknown key; did you mean "kind"?`}}, ""},
		{"time", `{"kind":"prompt","time":"yesterday","agent":{"name":"a"}}`, 0, []Rejection{{"event", `time: "yesterday" is not RFC 3339`}}, ""},
		{"type", `{"kind":"prompt","time":"2026-11-23T07:00:00Z","agent":{"name":7}}`, 0, []Rejection{{"event", "agent.name: want string, got number"}}, ""},
		{"kind", `{"kind":"x","time":"2026-11-23T07:00:00Z","agent":{"name":"a"}}`, 0, []Rejection{{"event", `kind: "x" is not known, want one of ` + kinds()}}, ""},
		{"nested list", `{"kind":"prompt","time":"2026-11-23T07:00:00Z","agent":{"name":"a"},"content":[{"txt":"x"}]}`, 0, []Rejection{{"event", `content.0.txt: unknown key; did you mean "text"?`}}, ""},
		{"two on a line", minimal + minimal + "\n" + minimal, 1, []Rejection{{"line 1", "decode event: text after the object"}}, ""},
		{"deep", `{"attrs":` + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40) + "}", 0, []Rejection{{"line 1", "nested deeper than 32"}}, ""},
		{"deep item", "[" + minimal + "," + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40) + "," + minimal + "]", 2, []Rejection{{"item 1", "nested deeper than 32"}}, ""},
		{"very deep item", "[" + minimal + "," + strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000) + "]", 1, []Rejection{{"item 1", "nested deeper than 32"}}, ""},
		{"item that is no JSON", "[" + minimal + `,{"kind":}, "],[" ,` + minimal + "]", 2, []Rejection{
			{"item 1", `decode event: want one JSON object, got "{\"kind\":}"`}, {"item 2", `decode event: want one JSON object, got "\"],[\""`},
		}, ""},
		{"comma at the end", "[" + minimal + ",]", 1, []Rejection{{"item 1", `decode event: want one JSON object, got ""`}}, ""},
		{"empty array", "[ ]", 0, nil, ""},
		{"array without an end", strings.Repeat("[", 1000), 0, nil, "decode events: the array does not end"},
		{"text after the array", "[" + minimal + "] x", 0, nil, "decode events: text after the array"},
		{"empty", " \n", 0, nil, "decode events: the body is empty"},
		{"text", "hello", 0, nil, "decode events: want a JSON object, an array of them, or one on each line"},
		{"cut array", "[" + minimal, 0, nil, "decode events: the array does not end"},
		{"too many", strings.Repeat(minimal+"\n", MaxJSONEvents+1), 0, nil, "decode events: more than 10000 items: too large"},
		{"too many in an array", "[" + strings.Repeat("1,", MaxJSONEvents) + "1]", 0, nil, "decode events: more than 10000 items: too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, rejected, err := NewMapper(Options{}).JSON(strings.NewReader(tt.body), Receipt{})
			if got := fmt.Sprint(err); tt.err != "" && got != tt.err || tt.err == "" && err != nil {
				t.Errorf("error = %v, want %q", err, tt.err)
			}
			if len(events) != tt.accepted {
				t.Errorf("accepted %d, want %d", len(events), tt.accepted)
			}
			if d := cmp.Diff(tt.rejected, rejected); d != "" {
				t.Errorf("rejected (-want +got):\n%s", d)
			}
			if strings.Contains(tt.err, "large") && !errors.Is(err, ErrTooLarge) {
				t.Error("error is not ErrTooLarge")
			}
		})
	}
}

func kinds() string {
	var names []string
	for _, k := range event.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

func TestJSONFields(t *testing.T) {
	const body = `{"kind":"tool.result","time":"2026-11-23T07:00:00Z","ingested":"2020-01-01T00:00:00Z","duration_ns":5,
		"source":{"authn":"root","product":"p"},"agent":{"service":"s","basis":"attr"},"session":{"id":"c","basis":"trace"},
		"tool":{"name":"send_money","args":{"amount":12345678901234567890,"to":{"iban":"DE00"},"note":"sk-ant-api03-abcdefghijklmnopqrstu"}}}`
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	events, rejected, err := NewMapper(Options{}).JSON(strings.NewReader(body), Receipt{Authn: "gateway", At: at})
	if err != nil || len(rejected) > 0 {
		t.Fatalf("error %v, rejected %v", err, rejected)
	}
	want := event.Event{
		ID: events[0].ID, Schema: 1, Kind: event.KindToolResult, Time: at.Add(-time.Hour), Ingested: at, Duration: 5,
		Source: event.Source{Dialect: "json", Product: "p", Authn: "gateway"},
		Agent:  event.Agent{ID: "s", Service: "s", Class: "s", Basis: "client"}, Session: event.Session{ID: "c"},
		Tool: &event.Tool{Name: "send_money", Effect: event.EffectEgress, ArgsState: event.StateRedacted, Args: []event.Arg{
			{Path: "amount", Value: "12345678901234567890"}, {Path: "note", Value: "[redacted:anthropic_key]"}, {Path: "to.iban", Value: "DE00"},
		}},
		Destinations: []event.Destination{{Kind: "account", Value: "DE00", Arg: "to.iban"}},
	}
	if d := cmp.Diff(want, events[0]); d != "" {
		t.Errorf("event (-want +got):\n%s", d)
	}
	again, _, _ := NewMapper(Options{}).JSON(strings.NewReader(body), Receipt{Authn: "other", At: at.Add(time.Hour)})
	if again[0].ID != events[0].ID {
		t.Error("the same event delivered twice has two ids")
	}
	// What was logged can be sent again.
	line, err := events[0].MarshalLine()
	if err != nil {
		t.Fatal(err)
	}
	back, rejected, err := NewMapper(Options{}).JSON(strings.NewReader(string(line)), Receipt{Authn: "gateway", At: at})
	if err != nil || len(rejected) > 0 {
		t.Fatalf("error %v, rejected %v", err, rejected)
	}
	if d := cmp.Diff(events[0], back[0]); d != "" {
		t.Errorf("read back (-sent +got):\n%s", d)
	}
}

// TestSchema keeps the published schema and the struct in step.
func TestSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(EventSchema()), &schema); err != nil {
		t.Fatal(err)
	}
	compareSchema(t, "event", schema, schema, reflect.TypeFor[event.Event]())
	got := schema["properties"].(map[string]any)["kind"].(map[string]any)["enum"].([]any)
	var want []any
	for _, k := range event.Kinds() {
		want = append(want, string(k))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("kinds (-code +schema):\n%s", d)
	}
}

func compareSchema(t *testing.T, path string, root, s map[string]any, typ reflect.Type) {
	t.Helper()
	if ref, ok := s["$ref"].(string); ok {
		s = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	if one, ok := s["oneOf"].([]any); ok {
		s = one[0].(map[string]any)
	}
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.Struct: "object", reflect.Map: "object", reflect.Slice: "array", reflect.String: "string",
		reflect.Int: "integer", reflect.Int64: "integer", reflect.Bool: "boolean",
	}[typ.Kind()]
	if typ == reflect.TypeFor[time.Time]() || typ == reflect.TypeFor[event.Hashes]() {
		want = "string"
	}
	if got, ok := s["type"]; ok && got != want {
		t.Errorf("%s: schema says %v, code %s", path, got, want)
	}
	switch {
	case want == "array":
		compareSchema(t, path+"[]", root, s["items"].(map[string]any), typ.Elem())
	case typ.Kind() == reflect.Struct && want == "object":
		props := s["properties"].(map[string]any)
		fields := jsonFields(typ)
		if d := cmp.Diff(slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(props))); d != "" {
			t.Errorf("%s (-code +schema):\n%s", path, d)
		}
		for name, f := range fields {
			if p, ok := props[name].(map[string]any); ok {
				compareSchema(t, path+"."+name, root, p, f)
			}
		}
	}
}

package detect

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// The schema is made from the types that rules are decoded into. Run with -update after a change of them.
func TestSchema(t *testing.T) {
	comments := fieldComments(t, "rule.go", "operator.go", "library.go", "stream.go")
	doc := schemaOf(reflect.TypeFor[Rule](), comments)
	doc["$schema"], doc["title"] = "https://json-schema.org/draft/2020-12/schema", "Tocsin rule"
	doc["required"] = []string{"id", "version", "title", "severity", "on", "tags", "triage"}
	want, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("rule.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(want), string(Schema())); diff != "" {
		t.Errorf("the schema is not in step with the code; run go test ./detect -run TestSchema -update\n%s", diff)
	}
}

func schemaOf(t reflect.Type, comments map[string]string) map[string]any {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9.]+(ns|us|ms|s|m|h))+$|^\$\{\w+\}$|^0$`}
	case reflect.TypeFor[Severity]():
		return enum(Low, Medium, High, Critical)
	case reflect.TypeFor[Confidence]():
		return enum(LowConfidence, MediumConfidence, HighConfidence)
	case reflect.TypeFor[Lane]():
		return enum(Hunt, Shadow, Alert, Propose)
	case reflect.TypeFor[event.Kind]():
		return enum(append(event.Kinds(), KindFinding)...)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), comments)
	case reflect.Slice:
		if t == reflect.TypeFor[Test]().Field(fieldIndex(reflect.TypeFor[Test](), "Events")).Type {
			return map[string]any{"type": "array", "items": schemaOf(reflect.TypeFor[testEvent](), comments)}
		}
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), comments)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), comments)}
	case reflect.Struct:
		return objectSchema(t, comments)
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Float64:
		return map[string]any{"type": []string{"number", "string"}} // a string is a parameter's ${name}
	case reflect.String:
		return map[string]any{"type": "string"}
	}
	return map[string]any{}
}

func objectSchema(t reflect.Type, comments map[string]string) map[string]any {
	properties := make(map[string]any)
	for f := range fieldsOf(t) {
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		of := schemaOf(f.Type, comments)
		if text := comments[t.Name()+"."+f.Name]; text != "" {
			of["description"] = text
		}
		properties[key] = of
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

func fieldIndex(t reflect.Type, name string) int {
	f, _ := t.FieldByName(name)
	return f.Index[0]
}

func enum[T ~string](values ...T) map[string]any {
	return map[string]any{"type": "string", "enum": values}
}

package detect

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect/rules"
)

var update = flag.Bool("update", false, "rewrite the generated parts of docs/detections.md")

const docsFile = "../docs/detections.md"

// The guide's tables are made from the code and the shipped rules. Run with -update after a change of either.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	got, want := string(text), string(text)
	for _, name := range slices.Sorted(maps.Keys(blocks(t))) {
		begin, end := "<!-- generated: "+name+" -->\n", "<!-- end -->"
		head, rest, ok := strings.Cut(want, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("no block %q", name)
		}
		want = head + begin + blocks(t)[name] + end + tail
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the guide is not in step with the code; run go test ./detect -run TestDocs -update\n%s", diff)
	}
}

func blocks(t *testing.T) map[string]string {
	library, err := ReadLibrary(rules.FS)
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := ReadRules(rules.FS, library)
	if err != nil {
		t.Fatal(err)
	}
	list := "| rule | severity | lane | capture | finds | tags |\n| --- | --- | --- | --- | --- | --- |\n"
	for _, r := range shipped {
		list += fmt.Sprintf("| [%s](../detect/rules/%s) | %s | %s | %s | %s | %s |\n", r.ID, r.File, r.Severity, r.Lane, r.Capture, r.Title,
			strings.Join(slices.Concat(r.Tags.ASI, r.Tags.ATLAS), ", "))
	}
	limits := fmt.Sprintf("| what | limit |\n| --- | --- |\n| rule file | %d KiB |\n| expression | %d KiB, %d nodes, %d units of cost |\n"+
		"| `count.at_least` | 2 to %d |\n| `distinct.at_least` | 2 to %d, exactly up to %d |\n| `count.within` | 1s to %s |\n| keys of one rule | %d, and %d counted events together |\n",
		maxRuleBytes>>10, maxExprBytes>>10, maxNodes, maxCost, maxCount, maxDistinct, maxCount, maxWindow, maxKeys, maxHits)
	comments := fieldComments(t, "env.go", "shell.go", "stream.go")
	fields := "| field | type | meaning |\n| --- | --- | --- |\n" + fieldRows(comments, reflect.TypeFor[Env](), "")
	fields += "| `" + strings.Join(builtins, "`, `") + "` | functions | of expr |\n"
	keys := "| key | meaning |\n| --- | --- |\n"
	for f := range fieldsOf(reflect.TypeFor[testEvent]()) {
		keys += fmt.Sprintf("| `%s` | %s |\n", f.Tag.Get("yaml"), comments["testEvent."+f.Name])
	}
	return map[string]string{"rules": list, "limits": limits, "fields": fields, "event keys": keys}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

func fieldRows(comments map[string]string, t reflect.Type, prefix string) (rows string) {
	for f := range fieldsOf(t) {
		name := prefix + f.Tag.Get("expr")
		switch {
		case f.Tag.Get("expr") == "-":
		case f.Type.Kind() == reflect.Struct:
			rows += fieldRows(comments, f.Type, name+".")
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.String:
			rows += fmt.Sprintf("| `%s` | list of text | %s |\n", name, comments[t.Name()+"."+f.Name])
		case f.Type.Kind() == reflect.Slice:
			rows += fmt.Sprintf("| `%s` | list | %s |\n", name, comments[t.Name()+"."+f.Name]) + fieldRows(comments, f.Type.Elem(), name+"[].")
		case strings.HasPrefix(name, "kept_"):
		case f.Type.Kind() == reflect.Func:
			args := strings.TrimSuffix(strings.Repeat("text, ", f.Type.NumIn()), ", ")
			name += "(" + args + ")"
			rows += fmt.Sprintf("| `%s` | %s | %s |\n", name, typeName(f.Type.Out(0)), comments[t.Name()+"."+f.Name])
		default:
			rows += fmt.Sprintf("| `%s` | %s | %s |\n", name, typeName(f.Type), comments[t.Name()+"."+f.Name])
		}
	}
	return rows
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Float64:
		return "number"
	}
	return "text"
}

// fieldComments returns the comment of each struct field in files, by struct and name.
func fieldComments(t *testing.T, files ...string) map[string]string {
	out := make(map[string]string)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						text := strings.Join(strings.Fields(f.Doc.Text()+f.Comment.Text()), " ")
						for _, start := range []string{name.Name + ": ", name.Name + " ", "is ", "are ", "lists ", "returns ", "reports "} {
							text = strings.TrimPrefix(text, start)
						}
						out[spec.Name.Name+"."+name.Name] = strings.ReplaceAll(strings.TrimSuffix(text, "."), "|", "\\|")
					}
				}
			}
			return true
		})
	}
	return out
}

// Every name that a rule may use has a lower-case tag: without one, a Go name would be part of the rule language.
func TestEnvNames(t *testing.T) {
	walkEnv(reflect.TypeFor[Env](), func(owner reflect.Type, f reflect.StructField) {
		if tag := f.Tag.Get("expr"); tag == "" || tag != strings.ToLower(tag) {
			t.Errorf("%s.%s has the tag %s", owner.Name(), f.Name, strconv.Quote(tag))
		}
	})
}

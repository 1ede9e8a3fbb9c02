// Package arch tests that packages import only what the table in docs/ARCHITECTURE.md lets them.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/tocsin-dr/tocsin/"
	root   = "../.."
	page   = root + "/docs/ARCHITECTURE.md"

	testsOnly = "tests:"
)

// imports returns, for each directory with Go files, what they import of this module, and which file does. The files are parsed,
// because a test that asks the go command is cached although an import changed.
func imports(t *testing.T) map[string]map[string]string {
	t.Helper()
	out := make(map[string]map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() && path != root && another(path):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		if out[pkg] == nil {
			out[pkg] = make(map[string]string)
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			name, ours := strings.CutPrefix(name, module)
			if ours && name != pkg && (out[pkg][name] == "" || strings.HasSuffix(out[pkg][name], "_test.go")) {
				out[pkg][name] = rel // a file that is no test, if there is one
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var quoted = regexp.MustCompile("`([^`]+)`")

// another reports whether a directory is a module of its own.
func another(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// table reads the table: the first column names the package, the last what it may import: names in backquotes, nothing, or all.
// What its test files may import beside that follows "tests:" and stands in the result with that prefix.
func table(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(text), "<!-- imports:begin -->")
	rows, _, ends := strings.Cut(rest, "<!-- imports:end -->")
	if !begins || !ends {
		t.Fatalf("%s has no table between the imports:begin and imports:end marks", page)
	}
	out := make(map[string][]string)
	for line := range strings.Lines(rows) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := quoted.FindStringSubmatch(cells[0])
		if len(cells) < 2 || name == nil {
			continue // the head
		}
		if _, twice := out[name[1]]; twice {
			t.Errorf("package %s has two rows", name[1])
		}
		last := strings.TrimSpace(cells[len(cells)-1])
		code, tests, _ := strings.Cut(last, testsOnly)
		may := []string{}
		for _, m := range quoted.FindAllStringSubmatch(code, -1) {
			may = append(may, m[1])
		}
		for _, m := range quoted.FindAllStringSubmatch(tests, -1) {
			may = append(may, testsOnly+m[1])
		}
		switch {
		case last == "all":
			may = []string{"all"}
		case len(may) == 0 && last != "nothing":
			t.Errorf("package %s may import %q, want names in backquotes, nothing, or all", name[1], last)
		}
		out[name[1]] = may
	}
	return out
}

func TestImports(t *testing.T) {
	may, found := table(t), imports(t)
	for _, pkg := range slices.Sorted(maps.Keys(found)) {
		allowed, ok := may[pkg]
		if !ok {
			t.Errorf("package %s has no row in %s", pkg, page)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(found[pkg])) {
			test := strings.HasSuffix(found[pkg][name], "_test.go") && slices.Contains(allowed, testsOnly+name)
			if !slices.Contains(allowed, name) && !slices.Contains(allowed, "all") && !test {
				t.Errorf("%s imports %s; %s may import %v", found[pkg][name], name, pkg, allowed)
			}
		}
	}
	for pkg := range may {
		if _, ok := found[pkg]; !ok {
			t.Errorf("the table has a row for %s, and there is no such package", pkg)
		}
	}
}

// TestTable holds the rules that the table itself must obey, so that a row can't quietly give them up.
func TestTable(t *testing.T) {
	may := table(t)
	order := []string{"internal/event", "baselines", "detect", "internal/incident", "internal/approval", "internal/action", "playbooks", "workflows"}
	for i, pkg := range order {
		for _, right := range order[i:] {
			if slices.Contains(may[pkg], right) {
				t.Errorf("%s may import %s, which is not to its left", pkg, right)
			}
		}
	}
	for pkg, allowed := range may {
		for _, name := range allowed {
			name = strings.TrimPrefix(name, testsOnly)
			if _, ok := may[name]; !ok && name != "all" {
				t.Errorf("%s may import %s, which has no row", pkg, name)
			}
			if slices.Contains(may[name], pkg) {
				t.Errorf("%s and %s may import each other", pkg, name)
			}
			// The Temporal server is most of the binary and of the build: only what wires it may pull it in.
			if pkg != "internal/app" && (name == "internal/temporal" || name == "all") {
				t.Errorf("%s may import %s", pkg, name)
			}
		}
	}
	if len(may["internal/ledger"]) > 0 {
		t.Errorf("internal/ledger may import %v, want nothing", may["internal/ledger"])
	}
}

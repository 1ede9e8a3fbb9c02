package action

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every action that ships has one row of the page, and the row says of it what the action says of itself.
func TestDocs(t *testing.T) {
	const page = "../../docs/actions.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(text), "<!-- actions:begin -->")
	table, _, ends := strings.Cut(rest, "<!-- actions:end -->")
	if !begins || !ends {
		t.Fatalf("%s has no table between its marks", page)
	}
	all, rows := Descriptions(), []string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 || !strings.HasPrefix(cells[0], " `") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name := strings.Trim(cells[0], "`")
		rows = append(rows, name)
		d := all[name]
		if cells[1] != string(d.Class) {
			t.Errorf("%s: class %s, want %s", name, cells[1], d.Class)
		}
		if (cells[3] == "nothing") != d.Unverified {
			t.Errorf("%s: proves %q, and unverified is %v", name, cells[3], d.Unverified)
		}
		if (cells[4] == "none") != d.Irreversible {
			t.Errorf("%s: undo %q, and irreversible is %v", name, cells[4], d.Irreversible)
		}
		for param := range d.Params {
			if !strings.Contains(cells[2], "`"+param+"`") {
				t.Errorf("%s: the row does not name the parameter %s", name, param)
			}
		}
		for _, param := range d.Required {
			if d.Params[param] == "" {
				t.Errorf("%s: the parameter %s is not described", name, param)
			}
		}
	}
	slices.Sort(rows)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(all)), rows); diff != "" {
		t.Errorf("rows of %s: %s", page, diff)
	}
}

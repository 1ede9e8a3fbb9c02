package pipeline_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/testdata"
)

var updateSources = flag.Bool("update-sources", false, "rewrite detect/sources.txt from the captures")

const sourcesFile = "../../detect/sources.txt"

// sent reads captures into what each source sent: "dialect kind: field, field".
func sent(t *testing.T, captures ...[]byte) []string {
	t.Helper()
	mapper, coverage := ingest.NewMapper(ingest.Options{}), detect.NewSources()
	for _, text := range captures {
		err := ingest.ReadCapture(bytes.NewReader(text), func(req ingest.Request) error {
			events, _, err := mapper.Capture(req, ingest.Receipt{})
			for i := range events {
				coverage.Event(&events[i])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return coverage.Lines()
}

// What rules check knows of sources is what clients sent. Run with -update-sources where ../shared/datasets is there, after a change of
// a mapping, or when another client was recorded.
func TestSources(t *testing.T) {
	var captures [][]byte
	entries, err := testdata.Captures.ReadDir("captures")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := testdata.Captures.ReadFile("captures/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		captures = append(captures, text)
	}
	recorded, err := filepath.Glob("../../../shared/datasets/telemetry/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range recorded {
		if strings.Contains(name, "native_ingest") { // a format of its own
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		captures = append(captures, text)
	}
	got := sent(t, captures...)
	if *updateSources {
		if len(recorded) == 0 {
			t.Fatal("the recorded telemetry is not there")
		}
		head := "# What the clients that were recorded send: dialect, kind of event, fields. Made by TestSources in internal/pipeline.\n"
		if err := os.WriteFile(sourcesFile, []byte(head+strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(sourcesFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")[1:]
	if len(recorded) == 0 { // then what is there must be known
		got = slices.DeleteFunc(got, func(line string) bool {
			return slices.ContainsFunc(want, func(w string) bool { return covers(w, line) })
		})
		want = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(fmt.Sprint("run go test ./internal/pipeline -run TestSources -update-sources\n", diff))
	}
}

// covers reports whether a line names the source and kind of another, and all of its fields.
func covers(line, other string) bool {
	a, b := strings.Fields(line), strings.Fields(other)
	return a[0] == b[0] && a[1] == b[1] && !slices.ContainsFunc(b[2:], func(f string) bool { return !slices.Contains(a[2:], f) })
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tocsin-dr/tocsin/internal/app"
)

// childRun makes this test binary be tocsin, so that nothing is linked twice.
const childRun = "TOCSIN_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childRun) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"tocsin": main})
}

// TestScenarios runs the stories of testdata/scenarios on the real command line.
func TestScenarios(t *testing.T) {
	captures, err := filepath.Abs("../../testdata/captures")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "../../testdata/scenarios",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CAPTURES", captures)
			return served(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"demonstrated": demonstrated, "harmless": harmless, "lines": lines, "fill": fill, "until": until, "attack": attack, "events": many},
	})
}

// many writes a file of so many events, one a second.
func many(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var out strings.Builder
	for i, at := 0, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC); i < n; i, at = i+1, at.Add(time.Second) {
		fmt.Fprintf(&out, `{"kind":"prompt","time":%q,"agent":{"id":"a"},"session":{"id":"s%d"},"content":[{"role":"user","text":"Order %d"}]}`+"\n", at.Format(time.RFC3339), i/20, i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(out.String()), 0o600))
}

// demonstrated checks the summary of demo --auto on standard output: its keys, and that everything in it happened.
func demonstrated(ts *testscript.TestScript, neg bool, args []string) {
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	decoder.DisallowUnknownFields()
	var s app.DemoSummary
	ts.Check(decoder.Decode(&s))
	ok := s.Events > 1000 && s.Agents >= 3 && s.Findings >= 2 && s.Incidents == 1 && s.Decision == "approved" && s.Contained && s.GateDenied &&
		s.TimeToContain > 0 && s.Dwell > 0 && len(s.EvidenceSHA256) == 64 && s.SecondsToAsking > 0
	if neg || len(args) > 0 || !ok {
		ts.Fatalf("the demonstration did not do what it shows: %+v", s)
	}
	if draft := ts.ReadFile(s.Draft); !strings.Contains(draft, "billing-bot") || !strings.Contains(draft, "Contained, verified by a probe") {
		ts.Fatalf("the draft does not say that billing-bot is contained:\n%s", draft)
	}
}

// harmless checks that a file can be shown on a terminal: no control character but the end of a line, and none that hides or reorders.
func harmless(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		text := ts.ReadFile(file)
		bad := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) })
		if neg != (bad >= 0) {
			ts.Fatalf("%s holds a character that a terminal interprets: %v, at byte %d of %q", file, bad >= 0, bad, text)
		}
	}
}

// lines checks that each line of standard output is a JSON object, and how many there are.
func lines(ts *testscript.TestScript, _ bool, args []string) {
	n := 0
	for line := range bytes.Lines([]byte(ts.ReadFile("stdout"))) {
		var object map[string]any
		ts.Check(json.Unmarshal(line, &object))
		n++
	}
	if want := args[0]; want != "some" && want != strconv.Itoa(n) || n == 0 {
		ts.Fatalf("%d lines of JSON, want %s", n, want)
	}
}

package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/measure"
)

// TestReload changes the rules of a running Tocsin: a good file is in force at once, a bad one leaves those in force, and each answer and
// ledger row says which.
func TestReload(t *testing.T) {
	cfg := configured(t)
	h, _ := start(t, cfg)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(cfg.Rules.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	version := func(rule string) string {
		t.Helper()
		_, body := h.call("eve", http.MethodGet, "/api/v1/rules", nil)
		var all []measure.RuleReport
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.ID == rule {
				return r.Version
			}
		}
		return "none"
	}
	write("quick.yaml", strings.Replace(quickRule, "version: 1.0.0", "version: 1.1.0", 1))
	if status, _ := h.call("ana", http.MethodPost, "/api/v1/rules/reload", nil); status != http.StatusForbidden || version("quick") != "1.0.0" {
		t.Errorf("a responder reloads: status %d, version %s", status, version("quick"))
	}
	if status, body := h.call("bob", http.MethodPost, "/api/v1/rules/reload", nil); status != http.StatusOK || version("quick") != "1.1.0" {
		t.Errorf("a lead reloads: status %d, version %s\n%s", status, version("quick"), body)
	}
	write("second.yaml", strings.Replace(strings.Replace(quickRule, "id: quick", "id: second", 1), "tool.name", "tool.nmae", 1))
	status, body := h.call("bob", http.MethodPost, "/api/v1/rules/reload", nil)
	if status != http.StatusConflict || !strings.Contains(string(body), "nmae") || version("quick") != "1.1.0" || version("second") != "none" {
		t.Errorf("a bad file: status %d, %s; versions %s and %s", status, body, version("quick"), version("second"))
	}
	rows, err := h.store.Ledger(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range rows {
		if row.Kind == "rules" {
			subject := row.Subject
			if subject != "refused" {
				subject = "a set"
			}
			got = append(got, row.Actor+": "+subject)
		}
	}
	if diff := cmp.Diff([]string{"bob: refused", "bob: a set", "tocsin: a set"}, got); diff != "" {
		t.Error(diff)
	}
}

// Each load's ledger row says what it changed, over a restart too, and the report card since when a rule is in its lane.
func TestLoadsSayWhatTheyChange(t *testing.T) {
	cfg := configured(t)
	h, stop := start(t, cfg)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(cfg.Rules.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	card := func(h *running, rule string) measure.RuleReport {
		t.Helper()
		_, body := h.call("eve", http.MethodGet, "/api/v1/rules", nil)
		var all []measure.RuleReport
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatal(err)
		}
		return all[slices.IndexFunc(all, func(r measure.RuleReport) bool { return r.ID == rule })]
	}
	since := card(h, "repeated-call").Since
	write("quick.yaml", strings.Replace(quickRule, "version: 1.0.0", "version: 1.1.0", 1))
	write("overlays.yaml", "repeated-call: {lane: shadow, reason: too loud}\ntoken-spend: {disabled: true}\n")
	write("exceptions.yaml", "- {id: payroll, rules: [quick], when: 'true', reason: known, owner: ann, expires: 2099-01-01}\n")
	if status, body := h.call("bob", http.MethodPost, "/api/v1/rules/reload", nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if since.IsZero() || !card(h, "repeated-call").Since.After(since) || card(h, "reverse-shell").Since.After(since) {
		t.Errorf("since %s: repeated-call %s, reverse-shell %s", since, card(h, "repeated-call").Since, card(h, "reverse-shell").Since)
	}
	want := []measure.ExceptionReport{{ID: "payroll", Owner: "ann", Expires: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}}
	if diff := cmp.Diff(want, card(h, "quick").Exceptions); diff != "" {
		t.Error(diff)
	}
	moved := card(h, "repeated-call").Since
	stop()
	write("overlays.yaml", "repeated-call: {lane: shadow, reason: too loud}\n")
	h, _ = start(t, cfg)
	if got := card(h, "repeated-call").Since; !got.Equal(moved) {
		t.Errorf("since %s after a restart, want %s", got, moved)
	}
	rows, err := h.store.LedgerOf(t.Context(), "rules", 10)
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	var last string
	digest := regexp.MustCompile("[0-9a-f]{12}")
	for _, row := range slices.Backward(rows) {
		var body loadedBody
		if err := json.Unmarshal(row.Body, &body); err != nil {
			t.Fatal(err)
		}
		if body.Old != last || body.New != row.Subject {
			t.Errorf("from %.12s to %.12s, want from %.12s to %.12s", body.Old, body.New, last, row.Subject)
		}
		last = body.New
		for i := range body.Changes {
			body.Changes[i] = digest.ReplaceAllString(body.Changes[i], "…")
		}
		got = append(got, append([]string{row.Actor}, body.Changes...))
	}
	library := "macros, tables, overlays or exceptions: digest … -> …"
	if diff := cmp.Diff([][]string{
		{"tocsin"},
		{"bob", "quick: text of version 1.1.0, was 1.0.0: digest … -> …", "repeated-call: lane alert -> shadow: too loud", "token-spend: gone, was version 1.0.0, lane alert", library},
		{"tocsin", "token-spend: added, version 1.0.0, lane alert", library},
	}, got); diff != "" {
		t.Error(diff)
	}
}

// A lead reads the event log of a running Tocsin, which is what ingest took in; the ledger says so, and there is one reader at a time.
func TestReadEvents(t *testing.T) {
	h, _ := start(t, configured(t))
	before := time.Now()
	for i := range 3 {
		h.send(quick(fmt.Sprint("s", i), "pay"))
	}
	if status, _ := h.call("ana", http.MethodGet, "/api/v1/events", nil); status != http.StatusForbidden {
		t.Errorf("a responder reads the log: %d", status)
	}
	read := func(query string) (sessions []string) {
		t.Helper()
		status, body := h.call("bob", http.MethodGet, "/api/v1/events"+query, nil)
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		end := -1
		for lines := json.NewDecoder(bytes.NewReader(body)); lines.More(); {
			var line api.EventLine
			if err := lines.Decode(&line); err != nil {
				t.Fatal(err)
			}
			if line.End != nil {
				end = *line.End
				continue
			}
			if e := line.Event; e.Check() != nil || e.Tool.Name != "pay" || e.Ingested.Before(before) {
				t.Errorf("%+v", e)
			}
			sessions = append(sessions, line.Event.Session.ID)
		}
		if end != len(sessions) {
			t.Errorf("the end says %d events of %d", end, len(sessions))
		}
		slices.Sort(sessions)
		return sessions
	}
	if diff := cmp.Diff([]string{"s0", "s1", "s2"}, read("")); diff != "" {
		t.Error(diff)
	}
	if got := read("?since=" + url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))); got != nil {
		t.Errorf("later than now: %v", got)
	}
	if status, _ := h.call("bob", http.MethodGet, "/api/v1/events?since=yesterday", nil); status != http.StatusBadRequest {
		t.Errorf("a bad time: %d", status)
	}
	rows, err := h.store.LedgerOf(t.Context(), "evidence", 10)
	if err != nil || len(rows) != 2 || rows[0].Actor != "bob" || rows[0].Subject != "event log" {
		t.Errorf("%v %+v", err, rows)
	}
	h.events.busy <- struct{}{}
	if status, body := h.call("bob", http.MethodGet, "/api/v1/events", nil); status != http.StatusConflict || !strings.Contains(string(body), "somebody else is reading") {
		t.Errorf("a second reader: %d %s", status, body)
	}
}

// TestTriggers: each shipped playbook's trigger fits rules that ship, so that a rule that is promoted has its response.
func TestTriggers(t *testing.T) {
	read, err := ReadRules("")
	if err != nil {
		t.Fatal(err)
	}
	library, err := ReadPlaybooks("")
	if err != nil || len(library) < 10 {
		t.Fatal(len(library), err)
	}
	for name, p := range library {
		if p.On == nil {
			continue
		}
		for _, pattern := range p.On.Rules {
			if !slices.ContainsFunc(read.Rules, func(r detect.Rule) bool { return approval.Matches(pattern, r.ID) }) {
				t.Errorf("playbook %s waits for %q, and no rule is called so", name, pattern)
			}
		}
	}
}

package app

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
)

// An archive of rules gives the set that the directory gives, with its macros, tables, overlays and exceptions; so does one without
// rules of one's own.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"quick.yaml":       strings.Replace(quickRule, "when: ", "when: mine && listed(\"ours\", tool.name) || ", 1),
		"macros.yaml":      "mine: {expr: 'tool.name != \"\"'}\n",
		"tables/ours.yaml": "version: '1'\nmatch: exact\nentries: [pay]\n",
		"overlays.yaml":    "token-spend: {disabled: true}\nrepeated-call: {lane: shadow}\n",
		"exceptions.yaml":  "- {id: payroll, rules: [quick], when: 'true', reason: known, owner: ann, expires: 2099-01-01}\n",
		"README.md":        "no rule",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, own := range []string{dir, t.TempDir(), ""} {
		want, err := ReadRules(own)
		if err != nil {
			t.Fatal(err)
		}
		archive, err := packRules(rules.FS, nil)
		if own != "" {
			archive, err = packRules(rules.FS, os.DirFS(own))
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := UnpackRules(archive)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := compiled(t, want), compiled(t, got); a.Digest() != b.Digest() || len(a.Rules()) != len(b.Rules()) {
			t.Errorf("%q: %d rules of the set %.12s, want %d of %.12s", own, len(b.Rules()), b.Digest(), len(a.Rules()), a.Digest())
		}
	}
	big := fstest.MapFS{}
	for i := range 9 {
		big[fmt.Sprintf("tables/t%d.yaml", i)] = &fstest.MapFile{Data: make([]byte, 8<<20)}
	}
	if _, err := packRules(rules.FS, big); err == nil || !strings.Contains(err.Error(), "tables/t7.yaml: more than 64 MiB of rules and tables together") {
		t.Errorf("too many tables: %v", err)
	}
	if _, err := UnpackRules([]byte("no zip")); err == nil {
		t.Error("what is no archive is read")
	}
}

func compiled(t *testing.T, read RuleFiles) *detect.Set {
	t.Helper()
	set, err := detect.Compile(read.Rules)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Of two files of a directory with one rule neither is in force without a word.
func TestTwoFilesOfOneRule(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"quick.yaml", "second.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(quickRule), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadRules(dir); err == nil || !strings.Contains(err.Error(), `second.yaml:1:5: id: "quick" is taken by quick.yaml`) {
		t.Errorf("got %v", err)
	}
}

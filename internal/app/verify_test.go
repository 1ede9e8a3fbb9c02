package app

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// anchored makes a data directory with a ledger of n records and its log, and returns its checkpoint.
func anchored(t *testing.T, dir string, n int) ledger.Checkpoint {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range n {
		if err := s.AppendLedger(t.Context(), ledger.Record{At: time.Unix(1, 0), Kind: ledger.KindDecision, Actor: "ada", Subject: "INC-1"}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := checkpointKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ledger.OpenAnchor(t.Context(), LedgerLog(dir), key, s, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	cp, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestVerifyLedger(t *testing.T) {
	sound := t.TempDir()
	old := anchored(t, sound, 3)
	latest := anchored(t, sound, 3)
	for name, cp := range map[string]ledger.Checkpoint{"old": old, "latest": latest} {
		if err := os.WriteFile(filepath.Join(sound, name), []byte(cp.Note), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(dir string) VerifyOptions {
		return VerifyOptions{Data: dir, Kept: []string{filepath.Join(dir, "old"), filepath.Join(dir, "latest")}}
	}
	if v, err := VerifyLedger(t.Context(), whole(sound)); err != nil || v != (Verified{Records: 6, Anchored: 6, Kept: 6}) {
		t.Fatalf("a sound ledger gives %+v, %v", v, err)
	}
	tests := []struct {
		name, harm string // a statement, or the file that is flipped
		want       string
	}{
		{"changed", `UPDATE ledger SET doc = REPLACE(doc, '"ada"', '"eve"') WHERE seq = 2`, "record 2 was changed"},
		{"other subject", `UPDATE ledger SET subject = 'INC-2' WHERE seq = 2`, "record 2 was changed"},
		{"removed", `DELETE FROM ledger WHERE seq = 2`, "record 3 follows record 1"},
		{"reordered", `UPDATE ledger SET seq = CASE seq WHEN 2 THEN 103 ELSE 102 END WHERE seq IN (2, 3)`, "record 4 follows record 1"},
		{"cut", `DELETE FROM ledger WHERE seq > 4`, "holds 4 records and the checkpoint 6"},
		{"emptied", `DELETE FROM ledger`, "holds 0 records"},
		{"tile", "ledger/tile/0/000.p/6", "tile 0 of level 0"},
		{"entry", "ledger/tile/entries/000.p/6", "record 6 is not the one"},
		{"checkpoint", "ledger/checkpoint", "read checkpoint"},
		{"kept checkpoint", "old", "read checkpoint"},
		{"key", "ledger.pub", "read checkpoint key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(sound)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(tt.harm, " ") {
				harmSQL(t, filepath.Join(dir, "store.db"), tt.harm)
			} else {
				flip(t, filepath.Join(dir, tt.harm))
			}
			if _, err := VerifyLedger(t.Context(), whole(dir)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := VerifyLedger(t.Context(), VerifyOptions{Data: t.TempDir()}); err == nil {
		t.Error("an empty directory is a sound ledger")
	}
}

func harmSQL(t *testing.T, file, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-10] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

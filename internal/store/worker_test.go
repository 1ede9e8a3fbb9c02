package store

import (
	"database/sql"
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// testWorkersRights: with the rights of deploy/postgres-worker.sql a worker does what it must, and neither reads what agents and people did
// nor changes a record.
func testWorkersRights(t *testing.T, at string) {
	owner := open(t, at)
	if !owner.postgres {
		t.Skip("SQLite knows no roles")
	}
	grants, err := os.ReadFile("../../deploy/postgres-worker.sql")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	schema := u.Query().Get("search_path")
	role := "worker_" + schema
	u.User = url.User(role)
	for _, statement := range append(strings.Split(strings.ReplaceAll(string(grants), "tocsin_worker", role), ";\n"), "GRANT USAGE ON SCHEMA "+schema+" TO "+role) {
		if _, err := owner.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(statement, err)
		}
	}
	t.Cleanup(func() {
		db, err := sql.Open("pgx", at)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("DROP OWNED BY " + role + "; DROP ROLE " + role); err != nil {
			t.Error(err)
		}
	})

	s, ctx := open(t, u.String()), t.Context()
	l := action.Lease{ID: "1", Incident: "INC-1", Ends: clock().Add(time.Hour)}
	_, err = s.BeginLease(ctx, l, clock(), func([]action.Lease) error { return nil })
	must(t, err)
	l.Applied = clock()
	must(t, s.SaveLease(ctx, l))
	same(t, "leases", []action.Lease{l})(s.IncidentLeases(ctx, "INC-1"))
	for range 2 {
		must(t, s.AppendLedger(ctx, ledger.Record{At: clock(), Kind: ledger.KindContainment, Actor: "ana", Subject: "1", Body: json.RawMessage(`{}`), Key: "applied/1"}))
		must(t, s.AddEntry(ctx, "INC-1", incident.Entry{At: clock(), Actor: "tocsin", Source: "gate", Kind: "containment", Text: "Done"}))
	}
	_, err = s.Halted(ctx)
	must(t, err)
	must(t, s.Ping(ctx))
	if _, err := s.Drafts(ctx, "INC-1"); err != nil {
		t.Error(err)
	}
	for _, statement := range []string{
		"UPDATE ledger SET doc = '{}'", "DELETE FROM ledger", "TRUNCATE ledger", "UPDATE timeline SET doc = '{}'", "DELETE FROM leases", "INSERT INTO halts (id, doc) VALUES (1, '{}')", "DELETE FROM halts",
		"SELECT * FROM findings", "SELECT * FROM requests", "SELECT * FROM evidence", "SELECT * FROM sign_ins", "SELECT * FROM standing", "UPDATE draft_versions SET doc = '{}'", "CREATE TABLE mine (id TEXT)",
	} {
		if _, err := s.db.ExecContext(ctx, statement); err == nil || !strings.Contains(err.Error(), "SQLSTATE 42501") { // insufficient privilege
			t.Errorf("a worker may %s: %v", statement, err)
		}
	}
}

package action

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// memory is two tables of a database, and roles that are the test's own.
type memory struct {
	*testing.T
	admin               *pgx.Conn
	schema, role, login string
	options             FreezeMemoryOptions
}

// newMemory makes them in the database at TOCSIN_TEST_POSTGRES, as a superuser.
func newMemory(t *testing.T) *memory {
	t.Helper()
	base := os.Getenv("TOCSIN_TEST_POSTGRES")
	if base == "" {
		t.Skip("TOCSIN_TEST_POSTGRES is not set: no PostgreSQL to test with")
	}
	admin, err := pgx.Connect(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	name := "t" + strings.ToLower(rand.Text())
	m := &memory{T: t, admin: admin, schema: name, role: name + "_rw", login: name + "_bot"}
	m.run(`CREATE SCHEMA %[1]s; CREATE ROLE %[2]s; CREATE ROLE %[3]s LOGIN IN ROLE %[2]s;
		CREATE TABLE %[1]s.facts (id bigint GENERATED ALWAYS AS IDENTITY, body text NOT NULL); CREATE TABLE %[1]s.links (a int, b int, c int);
		GRANT USAGE ON SCHEMA %[1]s TO %[2]s; GRANT SELECT, INSERT, UPDATE ON %[1]s.facts TO %[2]s;
		GRANT SELECT ON %[1]s.links TO %[2]s; GRANT DELETE ON %[1]s.links TO %[2]s WITH GRANT OPTION; GRANT UPDATE (b, c) ON %[1]s.links TO %[2]s`, m.schema, m.role, m.login)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), fmt.Sprintf("DROP SCHEMA %s CASCADE; DROP ROLE %s; DROP ROLE %s", m.schema, m.login, m.role))
		if err != nil {
			t.Error(err)
		}
		admin.Close(context.Background())
	})
	m.options = FreezeMemoryOptions{Memories: map[string]MemoryOptions{"facts": {
		Agent: "a", URLFile: file(t, base), Role: m.role, Login: m.login, Tables: []string{m.schema + ".facts", m.schema + ".links"},
	}}}
	if err := m.options.Check(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *memory) run(format string, args ...any) {
	m.Helper()
	if _, err := m.admin.Exec(m.Context(), fmt.Sprintf(format, args...)); err != nil {
		m.Fatal(err)
	}
}

// acl is every grant on the tables.
func (m *memory) acl() (out []string) {
	m.Helper()
	rows, err := m.admin.Query(m.Context(), `SELECT c.relname || coalesce('.' || g.attname, '') || ': ' || pg_get_userbyid(g.grantee) || ' ' || g.privilege_type || ' ' || g.is_grantable || ' by ' || pg_get_userbyid(g.grantor)
		FROM pg_class c, LATERAL (SELECT NULL::name AS attname, a.* FROM aclexplode(c.relacl) a UNION ALL SELECT t.attname, a.* FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid) g
		WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' ORDER BY 1`, m.schema)
	if err != nil {
		m.Fatal(err)
	}
	if out, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		m.Fatal(err)
	}
	return out
}

// writes connects as the agent itself and writes.
func (m *memory) writes() bool {
	m.Helper()
	at, err := url.Parse(os.Getenv("TOCSIN_TEST_POSTGRES"))
	if err != nil {
		m.Fatal(err)
	}
	at.User = url.User(m.login)
	conn, err := pgx.Connect(m.Context(), at.String())
	if err != nil {
		m.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(m.Context(), "SELECT count(*) FROM "+m.schema+".facts"); err != nil {
		m.Errorf("the agent can't read: %v", err)
	}
	done := 0
	for _, s := range []string{"INSERT INTO %s.facts (body) VALUES ('x')", "UPDATE %s.links SET b = 1", "DELETE FROM %s.links"} {
		if _, err := conn.Exec(m.Context(), fmt.Sprintf(s, m.schema)); err == nil {
			done++
		}
	}
	if done != 0 && done != 3 {
		m.Errorf("%d of 3 writes were done", done)
	}
	return done > 0
}

func (m *memory) plan() approval.Plan {
	return approval.Plan{Target: approval.Target{Agent: "a"}, Lease: time.Hour, Params: map[string]string{"memory": "facts"}}
}

func TestFreezeMemoryPostgres(t *testing.T) {
	m := newMemory(t)
	before := m.acl()
	f := NewFreezeMemory(m.options)
	c, d, in := granted(t, f, m.plan())
	want := []string{
		m.schema + ".facts: role " + m.role + " loses INSERT, UPDATE",
		m.schema + ".links: role " + m.role + " loses DELETE with grant option, UPDATE (b), UPDATE (c)",
	}
	if diff := cmp.Diff(want, in.Plan.Change); diff != "" || in.Plan.Blast != 2 {
		t.Error(diff, in.Plan.Blast)
	}
	if diff := cmp.Diff(before, m.acl()); diff != "" {
		t.Errorf("planning changed grants: %s", diff)
	}
	if holds, err := f.Verify(t.Context(), Lease{Plan: in.Plan}); err != nil || holds || !m.writes() {
		t.Fatalf("proved before it was applied, or the agent can't write: %v", err)
	}
	// The statements of the probe tell by themselves, too.
	probe := func() (denied bool) {
		err := with(t.Context(), m.options.Memories["facts"], false, func(tx pgx.Tx) (err error) {
			denied, err = deniedAs(t.Context(), tx, m.login, "UPDATE "+m.schema+".links SET b = NULL WHERE false")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return denied
	}
	if probe() {
		t.Error("the probe is denied before anything was taken")
	}
	l, err := c.Apply(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if m.writes() || !probe() {
		t.Error("the agent writes to a frozen memory")
	}
	if l, err = c.Verify(t.Context(), l); err != nil || l.Verified.IsZero() {
		t.Errorf("%+v %v", l, err)
	}
	if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), "postgres:") {
		t.Error("the lease holds the URL", err)
	}
	// A grant that somebody gives meanwhile is seen, and is not ours to take back.
	m.run("GRANT TRUNCATE ON %s.links TO %s", m.schema, m.role)
	if holds, err := f.Verify(t.Context(), l); err != nil || holds {
		t.Errorf("proved although the role may truncate: %v", err)
	}
	m.run("REVOKE TRUNCATE ON %s.links FROM %s", m.schema, m.role)
	for range 2 {
		if err := c.Undo(t.Context(), l, "lea"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, m.acl()); diff != "" || !m.writes() {
			t.Errorf("the grants are not as they were: %s", diff)
		}
	}
}

func TestFreezeMemoryPostgresRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *memory, o *MemoryOptions, p *approval.Plan)
		want   string
	}{
		{"another agent", func(_ *memory, _ *MemoryOptions, p *approval.Plan) { p.Target.Agent = "b" }, "is of agent a, not of agent b"},
		{"no such memory", func(_ *memory, _ *MemoryOptions, p *approval.Plan) { p.Params["memory"] = "x" }, `has no "x"`},
		{"no such table", func(m *memory, o *MemoryOptions, _ *approval.Plan) { o.Tables = append(o.Tables, m.schema+".none") }, "does not exist"},
		{"hostile name", func(m *memory, o *MemoryOptions, _ *approval.Plan) {
			o.Tables = []string{m.schema + `.facts" ; DROP TABLE x; --`}
		}, "does not exist"},
		{"no such role", func(_ *memory, o *MemoryOptions, _ *approval.Plan) { o.Role = "nobody-at-all" }, "does not exist"},
		{"everybody may write", func(m *memory, _ *MemoryOptions, _ *approval.Plan) {
			m.run("GRANT INSERT ON %s.facts TO PUBLIC", m.schema)
		}, "could still be written"},
		{"the login may write by itself", func(m *memory, _ *MemoryOptions, _ *approval.Plan) {
			m.run("GRANT UPDATE (a) ON %s.links TO %s", m.schema, m.login)
		}, "could still be written"},
		{"granted further", func(m *memory, _ *MemoryOptions, _ *approval.Plan) {
			m.run("SET ROLE %[2]s; GRANT DELETE ON %[1]s.links TO %[3]s; RESET ROLE", m.schema, m.role, m.login)
		}, "dependent privileges exist"},
		{"nothing to take", func(m *memory, _ *MemoryOptions, _ *approval.Plan) {
			m.run("REVOKE ALL ON %[1]s.facts, %[1]s.links FROM %[2]s", m.schema, m.role)
		}, "there is nothing to freeze"},
		{"no database", func(m *memory, o *MemoryOptions, _ *approval.Plan) {
			o.URLFile = file(m.T, "postgres://u:hush@127.0.0.1:1/x")
		}, "connect to the memory's database"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(t)
			o, p := m.options.Memories["facts"], m.plan()
			tt.change(m, &o, &p)
			before := m.acl()
			m.options.Memories["facts"] = o
			_, err := NewFreezeMemory(m.options).Plan(t.Context(), Input{Plan: p})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("Plan = %v, want %s", err, tt.want)
			}
			if diff := cmp.Diff(before, m.acl()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFreezeMemoryOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*MemoryOptions)
		want   string
	}{
		{"good", func(*MemoryOptions) {}, ""},
		{"no schema", func(m *MemoryOptions) { m.Tables = []string{"facts"} }, `memories.m.tables: "facts" is not of the form schema.table`},
		{"no tables", func(m *MemoryOptions) { m.Tables = nil }, "memories.m: want agent, role and"},
		{"no URL", func(m *MemoryOptions) { m.URLFile = "" }, "memories.m.url_file: is missing"},
		{"bad URL", func(m *MemoryOptions) { m.URLFile = file(t, "postgres://u:hush@h:port/") }, "memories.m.url_file: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := MemoryOptions{Agent: "a", URLFile: file(t, "postgres://u@h/d"), Role: "r", Tables: []string{"s.t"}}
			tt.change(&m)
			o := FreezeMemoryOptions{Memories: map[string]MemoryOptions{"m": m}}
			if err := o.Check(); (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush")) {
				t.Errorf("Check = %v, want %q", err, tt.want)
			}
		})
	}
}

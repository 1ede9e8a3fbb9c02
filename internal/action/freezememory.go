package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameFreezeMemory is the name in playbooks and plans.
const NameFreezeMemory = "freeze-memory"

// FreezeMemoryOptions are the memories that may be frozen, by name.
type FreezeMemoryOptions struct {
	Memories map[string]MemoryOptions `yaml:"memories"`
}

// MemoryOptions are of one memory in PostgreSQL.
type MemoryOptions struct {
	Agent   string   `yaml:"agent"`    // whose memory it is
	URLFile string   `yaml:"url_file"` // holds the URL of a role that owns the tables, or is a superuser, and may become Role and Login
	Role    string   `yaml:"role"`     // that was granted to write
	Login   string   `yaml:"login"`    // as which the agent connects, where that is a member of Role; the probe writes as it
	Tables  []string `yaml:"tables"`   // schema.table
}

// maxTables bounds the tables of a memory.
const maxTables = 100

// Check names the first option that can't be right.
func (o *FreezeMemoryOptions) Check() error {
	if len(o.Memories) == 0 {
		return badOption("memories", "is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Memories)) {
		m, field := o.Memories[name], "memories."+name
		if m.Agent == "" || m.Role == "" || len(m.Tables) == 0 || len(m.Tables) > maxTables {
			return badOption(field, "want agent, role and 1 to %d tables", maxTables)
		}
		for _, t := range m.Tables {
			if schema, table, ok := strings.Cut(t, "."); !ok || schema == "" || table == "" || strings.Contains(table, ".") {
				return badOption(field+".tables", "%q is not of the form schema.table", t)
			}
		}
		if err := checkSecret(field+".url_file", m.URLFile); err != nil {
			return err
		}
		url, err := readSecret(m.URLFile)
		if err == nil {
			_, err = pgx.ParseConfig(url)
		}
		if err != nil {
			return badOption(field+".url_file", "%s holds no URL of a PostgreSQL database", m.URLFile) // the error could show the URL
		}
	}
	return nil
}

// FreezeMemory takes from a role the grants to write to the tables of an agent's memory, and gives exactly those back.
type FreezeMemory struct{ options FreezeMemoryOptions }

// NewFreezeMemory returns the action.
func NewFreezeMemory(o FreezeMemoryOptions) *FreezeMemory { return &FreezeMemory{o} }

// Describe implements Action.
func (f *FreezeMemory) Describe() Description {
	return Description{
		Name: NameFreezeMemory, Class: approval.Contain, Targets: []string{"agent"}, Idempotent: true,
		Effect:      "The agent's memory in PostgreSQL can't be written: the grants to write are taken from its role.",
		Undo:        "Exactly the grants that were taken are given back when the lease ends, or earlier by a lead.",
		DoesNotStop: "Statements that run already, writes by other roles or through functions that run as their owner, and reading what was poisoned before.",
		Params:      map[string]string{"memory": "a name of actions.freeze_memory.memories"}, Required: []string{"memory"},
	}
}

// privilege is one grant to write, on a table or one of its columns.
type privilege struct {
	Table     string `json:"table"`
	Column    string `json:"column,omitempty"`
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable,omitempty"`
}

// writes are the privileges by which rows are changed.
func writes() []string { return []string{"INSERT", "UPDATE", "DELETE", "TRUNCATE"} }

func (f *FreezeMemory) memory(p approval.Plan) (MemoryOptions, error) {
	m, ok := f.options.Memories[p.Params["memory"]]
	if !ok {
		return m, fmt.Errorf("memory: actions.freeze_memory.memories has no %q", p.Params["memory"])
	}
	if m.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "" {
		return m, fmt.Errorf("memory: %q is of agent %s, not of %s", p.Params["memory"], m.Agent, p.Target)
	}
	return m, nil
}

// with does something in a transaction of a connection of its own. What keep does not ask to keep is rolled back.
func with(ctx context.Context, m MemoryOptions, keep bool, do func(pgx.Tx) error) error {
	url, err := readSecret(m.URLFile)
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return errors.New("the URL of the memory's database can't be read") // the error could show it
	}
	config.ConnectTimeout = 5 * time.Second
	config.RuntimeParams["application_name"] = "tocsin"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the memory's database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after a commit it does nothing; the connection is closed anyway
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '8s'; SET LOCAL search_path = pg_catalog"); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	if err := do(tx); err != nil || !keep {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func quote(table string) string {
	schema, name, _ := strings.Cut(table, ".")
	return pgx.Identifier{schema, name}.Sanitize()
}

// grants reads what was granted to the role itself, by table, column and privilege. Grants of another than the owner could not be given
// back as they were.
func grants(ctx context.Context, tx pgx.Tx, m MemoryOptions) ([]privilege, error) {
	var out []privilege
	for _, table := range m.Tables {
		rows, err := tx.Query(ctx, `
			SELECT coalesce(g.attname, ''), g.privilege_type, g.is_grantable, g.grantor = c.relowner, pg_get_userbyid(g.grantor)
			FROM pg_class c, LATERAL (
				SELECT NULL::name AS attname, a.* FROM aclexplode(c.relacl) a
				UNION ALL SELECT t.attname, a.* FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid AND NOT t.attisdropped
			) g
			WHERE c.oid = $1::text::regclass AND g.grantee = $2::text::regrole AND g.privilege_type = ANY($3) ORDER BY 1, 2`,
			quote(table), pgx.Identifier{m.Role}.Sanitize(), writes())
		if err != nil {
			return nil, fmt.Errorf("read grants on %s: %w", table, err)
		}
		p := privilege{Table: table}
		var owners bool
		var grantor string
		_, err = pgx.ForEachRow(rows, []any{&p.Column, &p.Privilege, &p.Grantable, &owners, &grantor}, func() error {
			if !owners {
				return fmt.Errorf("%s on %s was granted by %s, who does not own it, and could not be given back as it was", p.Privilege, table, grantor)
			}
			out = append(out, p)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read grants on %s: %w", table, err)
		}
	}
	return out, nil
}

// revoke takes the privileges to write. RESTRICT, which is the default, fails where the role granted them further.
func revoke(ctx context.Context, tx pgx.Tx, m MemoryOptions) error {
	for _, table := range m.Tables {
		if _, err := tx.Exec(ctx, fmt.Sprintf("REVOKE %s ON TABLE %s FROM %s", strings.Join(writes(), ", "), quote(table), pgx.Identifier{m.Role}.Sanitize())); err != nil {
			return fmt.Errorf("revoke on %s: %w", table, err)
		}
	}
	return nil
}

// frozen writes as the agent would, in a way that changes no row, and reports which table can be written; empty when none can. Only
// that the privilege is missing is proof; another error is none.
func frozen(ctx context.Context, tx pgx.Tx, m MemoryOptions) (writable string, err error) {
	as := m.Login
	if as == "" {
		as = m.Role
	}
	for _, table := range m.Tables {
		var column string
		var may bool
		err := tx.QueryRow(ctx, `
			SELECT has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE'),
				coalesce((SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a' ORDER BY attnum LIMIT 1), '')
			FROM pg_class c, pg_roles r WHERE c.oid = $1::text::regclass AND r.oid = $2::text::regrole`, quote(table), pgx.Identifier{as}.Sanitize()).Scan(&may, &column)
		if err != nil {
			return "", fmt.Errorf("read privileges on %s: %w", table, err)
		}
		if may {
			return table, nil
		}
		statements := []string{"DELETE FROM " + quote(table) + " WHERE false"}
		if column != "" {
			c := pgx.Identifier{column}.Sanitize()
			statements = append(statements, fmt.Sprintf("INSERT INTO %s (%s) SELECT NULL WHERE false", quote(table), c), fmt.Sprintf("UPDATE %s SET %s = NULL WHERE false", quote(table), c))
		}
		for _, s := range statements {
			denied, err := deniedAs(ctx, tx, as, s)
			if err != nil {
				return "", fmt.Errorf("probe %s: %w", table, err)
			}
			if !denied {
				return table, nil
			}
		}
	}
	return "", nil
}

// insufficientPrivilege is the SQLSTATE of a missing privilege.
const insufficientPrivilege = "42501"

// deniedAs runs a statement as a role, below a savepoint that is rolled back.
func deniedAs(ctx context.Context, tx pgx.Tx, role, statement string) (bool, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = inner.Rollback(context.WithoutCancel(ctx)) }() // where this fails, so does what follows
	if _, err := inner.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
		return false, fmt.Errorf("become %s: %w", role, err)
	}
	_, err = inner.Exec(ctx, statement)
	var failed *pgconn.PgError
	switch {
	case err == nil:
		return false, nil
	case errors.As(err, &failed) && failed.Code == insufficientPrivilege:
		return true, nil
	}
	return false, err
}

// Plan implements Action: it takes the grants in a transaction that is rolled back, and refuses where the agent could still write.
func (f *FreezeMemory) Plan(ctx context.Context, in Input) (c Change, err error) {
	m, err := f.memory(in.Plan)
	if err != nil {
		return c, err
	}
	err = with(ctx, m, false, func(tx pgx.Tx) error {
		taken, err := grants(ctx, tx, m)
		if err != nil {
			return err
		}
		if len(taken) == 0 {
			return fmt.Errorf("role %s was granted to write to none of %s: there is nothing to freeze", m.Role, strings.Join(m.Tables, ", "))
		}
		if err := revoke(ctx, tx, m); err != nil {
			return err
		}
		writable, err := frozen(ctx, tx, m)
		if err != nil {
			return err
		}
		if writable != "" {
			return fmt.Errorf("%s could still be written after the grants of %s were taken: by its owner, a superuser, another role or PUBLIC", writable, m.Role)
		}
		c = Change{Lines: lines(taken, m.Role), Blast: len(m.Tables)}
		return nil
	})
	return c, err
}

// lines name every grant that is taken, by table.
func lines(taken []privilege, role string) []string {
	var out []string
	for i, p := range taken {
		what := p.Privilege
		if p.Column != "" {
			what += " (" + p.Column + ")"
		}
		if p.Grantable {
			what += " with grant option"
		}
		if i > 0 && taken[i-1].Table == p.Table {
			out[len(out)-1] += ", " + what
			continue
		}
		out = append(out, fmt.Sprintf("%s: role %s loses %s", p.Table, role, what))
	}
	return out
}

// Snapshot implements Action: the grants as they are.
func (f *FreezeMemory) Snapshot(ctx context.Context, in Input) (out json.RawMessage, err error) {
	m, err := f.memory(in.Plan)
	if err != nil {
		return nil, err
	}
	err = with(ctx, m, false, func(tx pgx.Tx) error {
		taken, err := grants(ctx, tx, m)
		if err != nil {
			return err
		}
		out, err = json.Marshal(taken)
		return err
	})
	return out, err
}

// Apply implements Action.
func (f *FreezeMemory) Apply(ctx context.Context, l Lease) error {
	m, err := f.memory(l.Plan)
	if err != nil {
		return err
	}
	return with(ctx, m, true, func(tx pgx.Tx) error { return revoke(ctx, tx, m) })
}

// Verify implements Action.
func (f *FreezeMemory) Verify(ctx context.Context, l Lease) (holds bool, err error) {
	m, err := f.memory(l.Plan)
	if err != nil {
		return false, err
	}
	err = with(ctx, m, false, func(tx pgx.Tx) error {
		writable, err := frozen(ctx, tx, m)
		holds = err == nil && writable == ""
		return err
	})
	return holds, err
}

// Undo implements Action: what was taken is given back, and nothing else. To grant what is granted already changes nothing.
func (f *FreezeMemory) Undo(ctx context.Context, l Lease) error {
	m, err := f.memory(l.Plan)
	if err != nil {
		return err
	}
	var taken []privilege
	if err := json.Unmarshal(l.Snapshot, &taken); err != nil {
		return fmt.Errorf("decode snapshot: %w", err)
	}
	return with(ctx, m, true, func(tx pgx.Tx) error {
		for _, p := range taken {
			if !slices.Contains(m.Tables, p.Table) || !slices.Contains(writes(), p.Privilege) {
				return fmt.Errorf("give back %s on %s: it is not in the configuration any more", p.Privilege, p.Table)
			}
			what := p.Privilege
			if p.Column != "" {
				what += " (" + pgx.Identifier{p.Column}.Sanitize() + ")"
			}
			statement := fmt.Sprintf("GRANT %s ON TABLE %s TO %s", what, quote(p.Table), pgx.Identifier{m.Role}.Sanitize())
			if p.Grantable {
				statement += " WITH GRANT OPTION"
			}
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("give back %s on %s: %w", p.Privilege, p.Table, err)
			}
		}
		return nil
	})
}

// Lag implements Action: the next statement is checked.
func (f *FreezeMemory) Lag(Lease) (time.Time, string) { return time.Time{}, "" }

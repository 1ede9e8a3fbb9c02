// Package store keeps what people see in SQL: findings, incidents, timelines, requests, evidence custody, leases, drafts and the
// ledger. It runs on SQLite and on PostgreSQL with the same statements. It holds no truth that a workflow doesn't hold, except
// the ledger and the leases, and it decides nothing.
package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open database. Safe for concurrent use.
type Store struct {
	db       *sql.DB
	postgres bool
}

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("not found")

// Open opens the database at a place and brings its schema up to date: "postgres://…" or the path of a SQLite file.
func Open(ctx context.Context, at string) (*Store, error) {
	s, err := connect(at, "_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !s.postgres {
		s.db.SetMaxOpenConns(4) // one writes at a time anyway
	}
	if err := s.migrate(ctx); err != nil {
		return nil, fmt.Errorf("open store: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// OpenToRead opens a database that is there, of a schema that is up to date, and changes nothing in it.
func OpenToRead(ctx context.Context, at string) (*Store, error) {
	s, err := connect(at, "mode=rw&_pragma=query_only(1)&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.Ping(ctx); err != nil {
		return nil, fmt.Errorf("open store %s: %w", redacted(at), errors.Join(err, s.Close()))
	}
	return s, nil
}

// connect returns a store whose schema nobody looked at; options are those of a SQLite file.
func connect(at, options string) (*Store, error) {
	s := &Store{postgres: strings.HasPrefix(at, "postgres://") || strings.HasPrefix(at, "postgresql://")}
	engine, source := "sqlite", "file:"+pathEscapes.Replace(at)+"?"+options
	if s.postgres {
		engine, source = "pgx", at
	}
	var err error
	s.db, err = sql.Open(engine, source)
	return s, err
}

// redacted is a database's URL without the password.
func redacted(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	return "with a URL that can't be read"
}

// migrateTries is how often to migrate before giving up: a migration fails when another process makes the same one at that moment,
// and then there is nothing left to do.
const migrateTries = 20

// pathEscapes keeps a path whole where SQLite expects a URI.
var pathEscapes = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23")

func (s *Store) migrate(ctx context.Context) error {
	dialect := goose.DialectSQLite3
	if s.postgres {
		dialect = goose.DialectPostgres
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(dialect, s.db, files)
	if err != nil {
		return err
	}
	for range migrateTries {
		if _, err = provider.Up(ctx); err == nil {
			return nil
		}
	}
	return err
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// querier is what *sql.DB and *sql.Tx share.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// sql turns the ? placeholders of a statement into PostgreSQL's.
func (s *Store) sql(query string) string {
	if !s.postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for _, r := range query {
		if r == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (s *Store) exec(ctx context.Context, q querier, doing, query string, args ...any) error {
	if _, err := q.ExecContext(ctx, s.sql(query), storable(args)...); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// storable puts a hash in the place of a text that PostgreSQL can't hold, so that no name an agent gives itself keeps a row from
// being written. The documents are JSON, which escapes it.
func storable(args []any) []any {
	for i, a := range args {
		if text, ok := a.(string); ok && (strings.ContainsRune(text, 0) || !utf8.ValidString(text)) {
			args[i] = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
		}
	}
	return args
}

// row reads one row.
func (s *Store) row(ctx context.Context, q querier, query string, args ...any) *sql.Row {
	return q.QueryRowContext(ctx, s.sql(query), storable(args)...)
}

// eachRow scans each row into the same variables and calls take, whose error ends it.
func (s *Store) eachRow(ctx context.Context, q querier, doing string, into []any, take func() error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, s.sql(query), storable(args)...)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if err := take(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// list reads a column of JSON documents.
func list[T any](ctx context.Context, s *Store, doing, query string, args ...any) (out []T, err error) {
	return listIn[T](ctx, s, s.db, doing, query, args...)
}

// listIn is list within a transaction.
func listIn[T any](ctx context.Context, s *Store, q querier, doing, query string, args ...any) (out []T, err error) {
	err = each(ctx, s, q, doing, func(v T) { out = append(out, v) }, query, args...)
	return out, err
}

// each calls take with each JSON document of a column.
func each[T any](ctx context.Context, s *Store, q querier, doing string, take func(T), query string, args ...any) error {
	var text []byte
	return s.eachRow(ctx, q, doing, []any{&text}, func() error {
		var v T
		if err := json.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		take(v)
		return nil
	}, query, args...)
}

// one reads one JSON document, or returns ErrNotFound.
func one[T any](ctx context.Context, s *Store, doing, query string, args ...any) (T, error) {
	var v T
	found, err := list[T](ctx, s, doing, query, args...)
	if err != nil {
		return v, err
	}
	if len(found) == 0 {
		return v, fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return found[0], nil
}

// named says which row is read. People name it, so that it may be anything.
func named(doing, id string) string { return fmt.Sprintf("%s %.80q", doing, id) }

// document is a value for a column of JSON documents.
type document struct{ value any }

// Value implements driver.Valuer.
func (d document) Value() (driver.Value, error) {
	text, err := json.Marshal(d.value)
	return string(text), err
}

// flag is a truth value for a column of numbers.
func flag(v bool) int {
	if v {
		return 1
	}
	return 0
}

// lock keeps other transactions from writing a table until this one ends. SQLite's are immediate, and so one at a time anyway.
func (s *Store) lock(ctx context.Context, tx *sql.Tx, table string) error {
	if !s.postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, "LOCK TABLE "+table+" IN EXCLUSIVE MODE")
	return err
}

// alone lets one transaction at a time go on that names the same thing, over all processes. SQLite's are immediate and so alone anyway.
// PostgreSQL's lock is advisory, because one on the table needs the right to change what is in it, which no worker has of the ledger.
func (s *Store) alone(ctx context.Context, tx *sql.Tx, what string) error {
	if !s.postgres {
		return nil
	}
	return s.exec(ctx, tx, "wait for "+what, `SELECT pg_advisory_xact_lock(hashtext(?))`, "tocsin "+what)
}

// inTx runs fn in a transaction, which is rolled back if fn fails.
func (s *Store) inTx(ctx context.Context, doing string, fn func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := fn(tx); err != nil {
		return fmt.Errorf("%s: %w", doing, errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// MemoryOptions are what an agent keeps in PostgreSQL beyond its sessions. It is sealed with the agent's incidents, because what was put into
// it is the proof of a poisoned memory, and the agent goes on writing.
type MemoryOptions struct {
	Agent   string   `yaml:"agent"`    // whose memory it is
	URLFile string   `yaml:"url_file"` // holds the URL of a role that may read Tables, and need not do more
	Tables  []string `yaml:"tables"`   // schema.table
}

// Bounds of one memory.
const (
	maxMemories    = 1000
	maxMemoryBytes = 16 << 20 // of one table's rows; what is over is left out, and said
	maxTables      = 100
	maxURL         = 4096
)

// Memories read the memories of agents, each in one transaction that can't write.
type Memories struct{ options map[string]MemoryOptions }

// NewMemories checks the options, by the name of the memory, and names the first that can't be right.
func NewMemories(options map[string]MemoryOptions) (*Memories, error) {
	if len(options) > maxMemories {
		return nil, fmt.Errorf("want at most %d", maxMemories)
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if err := options[name].check(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return &Memories{options}, nil
}

func (o MemoryOptions) check() error {
	if o.Agent == "" || len(o.Tables) == 0 || len(o.Tables) > maxTables {
		return fmt.Errorf("want agent and 1 to %d tables", maxTables)
	}
	for _, t := range o.Tables {
		if schema, table, ok := strings.Cut(t, "."); !ok || schema == "" || table == "" || strings.Contains(table, ".") {
			return fmt.Errorf("tables: %q is not of the form schema.table", t)
		}
	}
	_, err := o.config()
	return err
}

// config reads the URL anew, so that it can be rotated. No error shows it.
func (o MemoryOptions) config() (*pgx.ConnConfig, error) {
	url, err := os.ReadFile(o.URLFile)
	if err != nil {
		return nil, fmt.Errorf("url_file: %w", err)
	}
	config, err := pgx.ParseConfig(strings.TrimSpace(string(url[:min(len(url), maxURL)])))
	if err != nil || len(url) > maxURL || len(bytes.TrimSpace(url)) == 0 {
		return nil, fmt.Errorf("url_file: %s holds no URL of a PostgreSQL database", o.URLFile)
	}
	config.ConnectTimeout = 5 * time.Second
	config.RuntimeParams["application_name"] = "tocsin"
	config.RuntimeParams["default_transaction_read_only"] = "on"
	return config, nil
}

// Of returns the names of an agent's memories.
func (m *Memories) Of(agent string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(m.options)) {
		if m.options[name].Agent == agent {
			out = append(out, name)
		}
	}
	return out
}

// Read puts the tables of a memory as they were at one moment, one after the other: a row is a line of JSON, and the rows over 16 MiB of a
// table are left out. An error of put ends it.
func (m *Memories) Read(ctx context.Context, name string, put func(table string, rows []byte, leftOut int) error) error {
	o, ok := m.options[name]
	if !ok {
		return fmt.Errorf("read memory: there is no %q", name)
	}
	config, err := o.config()
	if err != nil {
		return fmt.Errorf("read memory %s: %w", name, err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("read memory %s: connect: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	read := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, read, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'; SET LOCAL search_path = pg_catalog"); err != nil {
			return err
		}
		for _, table := range o.Tables {
			rows, leftOut, err := readTable(ctx, tx, table)
			if err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
			if err := put(table, rows, leftOut); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read memory %s: %w", name, err)
	}
	return nil
}

// errRoom ends the reading of a table whose rows are over the bound.
var errRoom = errors.New("no room")

func readTable(ctx context.Context, tx pgx.Tx, name string) (out []byte, leftOut int, err error) {
	schema, table, _ := strings.Cut(name, ".")
	from := pgx.Identifier{schema, table}.Sanitize()
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+from).Scan(&leftOut); err != nil {
		return nil, 0, err
	}
	// A row alone could fill the memory of this process: one over the bound is not sent.
	rows, err := tx.Query(ctx, "SELECT j FROM (SELECT to_jsonb(r)::text AS j FROM "+from+" r) s WHERE octet_length(j) < $1", maxMemoryBytes)
	if err != nil {
		return nil, 0, err
	}
	var row []byte
	_, err = pgx.ForEachRow(rows, []any{&row}, func() error {
		if len(out)+len(row) >= maxMemoryBytes {
			return errRoom
		}
		out, leftOut = append(append(out, row...), '\n'), leftOut-1
		return nil
	})
	if errors.Is(err, errRoom) {
		err = nil
	}
	return out, leftOut, err
}

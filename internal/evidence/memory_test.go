package evidence

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

func urlFile(t *testing.T, url string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(name, []byte(url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A memory is read as it was at one moment, by a role that may read alone; what is over the bound is counted, and a table that can't be
// read is an error that names it and no password.
func TestMemoriesPostgres(t *testing.T) {
	base := os.Getenv("TOCSIN_TEST_POSTGRES")
	if base == "" {
		t.Skip("TOCSIN_TEST_POSTGRES is not set: no PostgreSQL to test with")
	}
	ctx := t.Context()
	admin, err := pgx.Connect(ctx, base)
	if err != nil {
		t.Fatal(err)
	}
	name := "m" + strings.ToLower(rand.Text())
	run := func(ctx context.Context, text string) {
		t.Helper()
		if _, err := admin.Exec(ctx, strings.ReplaceAll(text, "$", name)); err != nil {
			t.Fatal(err)
		}
	}
	run(ctx, `CREATE SCHEMA $; CREATE ROLE $_ro LOGIN PASSWORD 'hush'; GRANT USAGE ON SCHEMA $ TO $_ro;
		CREATE TABLE $.facts (id int, body text); CREATE TABLE $.links (a int); CREATE TABLE $.secret (a int); CREATE TABLE $.large (body text);
		GRANT SELECT ON $.facts, $.links, $.large TO $_ro;
		INSERT INTO $.facts VALUES (1, E'pay\nGB29'), (2, NULL); INSERT INTO $.large SELECT repeat('x', 6000000) FROM generate_series(1, 3)`)
	t.Cleanup(func() {
		run(context.Background(), "DROP SCHEMA $ CASCADE; DROP ROLE $_ro")
		admin.Close(context.Background())
	})
	reader, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	reader.User = url.UserPassword(name+"_ro", "hush")
	file := urlFile(t, reader.String())
	tables := func(names ...string) MemoryOptions {
		o := MemoryOptions{Agent: "a", URLFile: file}
		for _, n := range names {
			o.Tables = append(o.Tables, name+"."+n)
		}
		return o
	}
	m, err := NewMemories(map[string]MemoryOptions{"facts": tables("facts", "links"), "large": tables("large"), "secret": tables("links", "secret")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"facts", "large", "secret"}, m.Of("a")); diff != "" || m.Of("b") != nil {
		t.Error(diff, m.Of("b"))
	}
	type read struct {
		Table, Rows string
		LeftOut     int
	}
	var got []read
	put := func(table string, rows []byte, leftOut int) error {
		if len(got) == 0 { // what is written meanwhile is not of that moment
			run(ctx, "INSERT INTO $.links VALUES (7)")
		}
		got = append(got, read{table, string(rows), leftOut})
		return nil
	}
	if err := m.Read(ctx, "facts", put); err != nil {
		t.Fatal(err)
	}
	want := []read{{name + ".facts", `{"id": 1, "body": "pay\nGB29"}` + "\n" + `{"id": 2, "body": null}` + "\n", 0}, {name + ".links", "", 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = []read{{}}
	if err := m.Read(ctx, "large", put); err != nil || got[1].LeftOut != 1 || len(got[1].Rows) < 12_000_000 {
		t.Errorf("%v, %d rows left out of %d bytes", err, got[1].LeftOut, len(got[1].Rows))
	}
	if err := m.Read(ctx, "secret", put); err == nil || !strings.Contains(err.Error(), "secret: ") || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v: want the table's name, and no password", err)
	}
	refused := errors.New("refused")
	if err := m.Read(ctx, "facts", func(string, []byte, int) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("%v, want what put said", err)
	}
}

func TestMemoryOptions(t *testing.T) {
	good := func(change func(*MemoryOptions)) MemoryOptions {
		o := MemoryOptions{Agent: "a", URLFile: urlFile(t, "postgres://u:hush@127.0.0.1:1/x"), Tables: []string{"s.t"}}
		change(&o)
		return o
	}
	for _, tt := range []struct {
		name, want string
		o          MemoryOptions
	}{
		{"good", "", good(func(*MemoryOptions) {})},
		{"no agent", "m: want agent", good(func(o *MemoryOptions) { o.Agent = "" })},
		{"no tables", "m: want agent", good(func(o *MemoryOptions) { o.Tables = nil })},
		{"table", `m: tables: "t" is not`, good(func(o *MemoryOptions) { o.Tables = []string{"t"} })},
		{"no file", "m: url_file: ", good(func(o *MemoryOptions) { o.URLFile = "nowhere" })},
		{"empty file", "m: url_file: ", good(func(o *MemoryOptions) { o.URLFile = urlFile(t, "") })},
		{"bad URL", "m: url_file: ", good(func(o *MemoryOptions) { o.URLFile = urlFile(t, "postgres://u:hush@h:port/") })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewMemories(map[string]MemoryOptions{"m": tt.o})
			got := fmt.Sprint(err)
			if err == nil {
				got = ""
			}
			if (tt.want == "") != (got == "") || !strings.HasPrefix(got, tt.want) || strings.Contains(got, "hush") {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	if m, _ := NewMemories(nil); m.Of("a") != nil || m.Read(t.Context(), "m", nil) == nil {
		t.Error("there are memories where none is named")
	}
}

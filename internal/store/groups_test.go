package store

import (
	"cmp"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// testAlertGroups counts what an older release wrote, too: the columns that are counted are filled when the schema is brought up to
// date, and no text that an agent wrote is taken for ours.
func testAlertGroups(t *testing.T, at string) {
	s, ctx := open(t, at), t.Context()
	minute := func(n int) time.Time { return clock().Add(time.Duration(n) * time.Minute) }
	pass := &incident.Disposition{By: "tocsin"}
	for n, a := range []Alert{
		{Incident: "INC-1", Raised: minute(1)},
		{Incident: "INC-1", Raised: minute(2), Disposition: pass},
		{Incident: "INC-1", Raised: minute(3), Disposition: pass},
		{Raised: minute(1), Finding: detect.Finding{Reason: `"disposition":{`}},
		{Raised: minute(4)},
		{Raised: minute(4), Finding: detect.Finding{Lane: detect.Hunt}},
		{Raised: minute(-1)},
	} {
		a.Finding.ID, a.Finding.Rule, a.Finding.Time = strconv.Itoa(n), "shell", clock()
		must(t, s.SaveAlert(ctx, a))
	}
	for _, e := range []incident.Entry{
		{At: minute(5), Actor: "ada", Source: "cli", Kind: "note", Text: `"actor":"tocsin"`},
		{At: minute(6), Actor: "tocsin", Source: "console", Kind: "note"},
		{At: minute(7), Actor: "ada", Source: "log", Kind: "event", Text: `"kind":"note","source":"cli"`},
	} {
		must(t, s.AddEntry(ctx, "INC-1", e))
	}
	want := []AlertGroup{
		{Rule: "shell", First: true, Raised: minute(1), N: 1},
		{Rule: "shell", First: true, Raised: minute(4), N: 1},
		{Incident: "INC-1", Rule: "shell", First: true, Raised: minute(1), Looked: minute(5), N: 1},
		{Incident: "INC-1", Rule: "shell", Triaged: true, Raised: minute(2), Looked: minute(5), N: 2},
	}
	groups := func() []AlertGroup {
		got, err := s.AlertGroups(ctx, clock(), minute(4))
		must(t, err)
		slices.SortFunc(got, func(a, b AlertGroup) int {
			return cmp.Or(strings.Compare(a.Incident, b.Incident), a.Raised.Compare(b.Raised))
		})
		return got
	}
	same(t, "groups", want)(groups(), nil)
	files, err := fs.Sub(migrations, "migrations")
	must(t, err)
	dialect := goose.DialectSQLite3
	if s.postgres {
		dialect = goose.DialectPostgres
	}
	provider, err := goose.NewProvider(dialect, s.db, files)
	must(t, err)
	_, err = provider.DownTo(ctx, 1)
	must(t, err)
	_, err = provider.Up(ctx)
	must(t, err)
	same(t, "groups of an older release's rows", want)(groups(), nil)
}

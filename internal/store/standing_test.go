package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
)

func testStanding(t *testing.T, at string) {
	s, ctx := open(t, at), t.Context()
	soon := approval.Standing{ID: "SD-1", Until: clock().Add(time.Hour), Rules: []string{"a"}}
	later := approval.Standing{ID: "SD-2", Until: clock().Add(2 * time.Hour), PerHour: 2}
	for _, d := range []approval.Standing{soon, later} {
		must(t, s.SaveStanding(ctx, d))
	}
	soon.Revoked = clock()
	must(t, s.SaveStanding(ctx, soon))
	same(t, "all", []approval.Standing{later, soon})(s.Standings(ctx, 10))

	// Two processes at once use it as often as it may be used, and a request that is asked about again counts once.
	other := open(t, at)
	var wg sync.WaitGroup
	var mu sync.Mutex
	used := make(map[string]bool)
	for n := range 8 {
		from := s
		if n%2 == 1 {
			from = other
		}
		wg.Go(func() {
			request := fmt.Sprint("R", n/2)
			ok, err := from.UseStanding(ctx, "SD-2", request, 2, clock())
			mu.Lock()
			defer mu.Unlock()
			if used[request] = used[request] || ok; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, ok := range used {
		if ok {
			n++
		}
	}
	if n != 2 {
		t.Errorf("it was used for %d requests within an hour, want 2", n)
	}
	same(t, "an hour later", true)(s.UseStanding(ctx, "SD-2", "R9", 2, clock().Add(time.Hour)))
	same(t, "for a request that another was used for", false)(s.UseStanding(ctx, "SD-1", "R9", 2, clock().Add(time.Hour)))
	if d, err := s.Standing(ctx, "SD-2"); err != nil || d.Uses != 3 {
		t.Errorf("%+v %v", d, err)
	}
}

func testHalt(t *testing.T, at string) {
	s, ctx := open(t, at), t.Context()
	for _, want := range []*Halt{nil, {By: "ana", Reason: "it goes wrong", At: clock()}, {By: "bob", Reason: "still", At: clock()}, nil} {
		must(t, s.SaveHalt(ctx, want))
		got, err := s.Halted(ctx)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	lasting := action.Lease{ID: "1", Ends: clock().Add(time.Hour)}
	done := action.Lease{ID: "2", Lifted: clock()}
	old := action.Lease{ID: "3", Ends: clock().Add(-2 * time.Hour), Lifted: clock().Add(-2 * time.Hour)}
	for _, l := range []action.Lease{lasting, done, old} {
		must(t, s.SaveLease(ctx, l))
	}
	fresh := action.Lease{ID: "4", Ends: clock().Add(time.Hour)}
	stored, err := s.BeginLease(ctx, fresh, clock().Add(-time.Hour), func(begun []action.Lease) error {
		same(t, "leases of the last hour", []action.Lease{lasting, done})(begun, nil)
		return nil
	})
	same(t, "the lease", fresh)(stored, err)

	// Of more than can be looked at nothing is left out in silence: it could be what the limit is about.
	must(t, s.exec(ctx, s.db, "fill", `INSERT INTO leases (id, incident, ends, lifted, doc)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT 'many-' || i, '', ?, 0, '{}' FROM n`, maxBegun, clock().Add(time.Hour).UnixNano()))
	_, err = s.BeginLease(ctx, action.Lease{ID: "5"}, clock(), func([]action.Lease) error { return nil })
	if !errors.Is(err, action.ErrLimit) {
		t.Errorf("with too many leases another begins: %v", err)
	}
}

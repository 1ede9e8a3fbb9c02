package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// SaveStanding writes a standing decision.
func (s *Store) SaveStanding(ctx context.Context, d approval.Standing) error {
	d.Uses = 0
	return s.exec(ctx, s.db, "save standing decision", `INSERT INTO standing (id, until, doc) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET until = excluded.until, doc = excluded.doc`, d.ID, d.Until.UnixNano(), document{d})
}

// Standings returns the standing decisions, those that end last first, with how often each was used.
func (s *Store) Standings(ctx context.Context, limit int) ([]approval.Standing, error) {
	all, err := list[approval.Standing](ctx, s, "read standing decisions", `SELECT doc FROM standing ORDER BY until DESC, id LIMIT ?`, limit)
	if err != nil {
		return nil, err
	}
	var id string
	var n int
	err = s.eachRow(ctx, s.db, "count uses of standing decisions", []any{&id, &n}, func() error {
		if i := slices.IndexFunc(all, func(d approval.Standing) bool { return d.ID == id }); i >= 0 {
			all[i].Uses = n
		}
		return nil
	}, `SELECT standing, COUNT(*) FROM standing_uses GROUP BY standing`)
	return all, err
}

// Standing returns a standing decision.
func (s *Store) Standing(ctx context.Context, id string) (approval.Standing, error) {
	d, err := one[approval.Standing](ctx, s, named("read standing decision", id), `SELECT doc FROM standing WHERE id = ?`, id)
	if err == nil {
		d.Uses, err = s.uses(ctx, s.db, id, 0)
	}
	return d, err
}

// uses counts the uses of a standing decision after a time in nanoseconds since 1970.
func (s *Store) uses(ctx context.Context, q querier, id string, since int64) (n int, err error) {
	err = s.row(ctx, q, `SELECT COUNT(*) FROM standing_uses WHERE standing = ? AND at > ?`, id, since).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count uses of standing decision: %w", err)
	}
	return n, nil
}

// UseStanding counts the use of a standing decision for a request, unless it was used perHour times within the hour before. A request
// counts once: asked again, it is answered as the first time, by the decision that was used for it.
func (s *Store) UseStanding(ctx context.Context, id, request string, perHour int, at time.Time) (used bool, err error) {
	err = s.inTx(ctx, "use standing decision", func(tx *sql.Tx) error {
		if err := s.lock(ctx, tx, "standing_uses"); err != nil {
			return err
		}
		var known string
		err := s.row(ctx, tx, `SELECT standing FROM standing_uses WHERE request = ?`, request).Scan(&known)
		if err == nil {
			used = known == id
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		n, err := s.uses(ctx, tx, id, at.Add(-time.Hour).UnixNano())
		if err != nil || n >= perHour {
			return err
		}
		used = true
		return s.exec(ctx, tx, "write use", `INSERT INTO standing_uses (request, standing, at) VALUES (?, ?, ?)`, request, id, at.UnixNano())
	})
	return used, err
}

// Halt says that Tocsin makes no effect until somebody resumes it.
type Halt struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// SaveHalt writes that Tocsin's own responses are halted, or that they go on, with nil.
func (s *Store) SaveHalt(ctx context.Context, h *Halt) error {
	if h == nil {
		return s.exec(ctx, s.db, "resume responses", `DELETE FROM halts`)
	}
	return s.exec(ctx, s.db, "halt responses", `INSERT INTO halts (id, doc) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`, document{h})
}

// Halted returns who halted Tocsin's responses, or nil.
func (s *Store) Halted(ctx context.Context) (*Halt, error) {
	h, err := one[Halt](ctx, s, "read halt", `SELECT doc FROM halts WHERE id = ?`, 1)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &h, err
}

// leasesSince reads the leases, lifted ones too, that end or were lifted after a time.
const leasesSince = `SELECT doc FROM leases WHERE ends > ? OR lifted > ? ORDER BY id LIMIT ?`

// maxBegun bounds the leases that a limit looks at. Beyond it nothing is known to be within the limit, and so nothing begins.
const maxBegun = 10_000

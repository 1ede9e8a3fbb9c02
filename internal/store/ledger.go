package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// Record seals a row with a body, which becomes JSON, at the end of the ledger's chain, as AppendLedger does.
func (s *Store) Record(ctx context.Context, at time.Time, kind, actor, subject, key string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode ledger body: %w", err)
	}
	return s.AppendLedger(ctx, ledger.Record{At: at, Kind: kind, Actor: actor, Subject: subject, Body: text, Key: key})
}

// AppendLedger seals a record at the end of the chain. A record with a key that is there already is not written again.
func (s *Store) AppendLedger(ctx context.Context, r ledger.Record) error {
	return s.inTx(ctx, "append to ledger", func(tx *sql.Tx) error {
		if err := s.alone(ctx, tx, "ledger"); err != nil {
			return err
		}
		var seq int64
		var key any
		if r.Key != "" {
			key = r.Key
			err := s.row(ctx, tx, `SELECT seq FROM ledger WHERE key = ?`, key).Scan(&seq)
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		var prev string
		err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1`).Scan(&seq, &prev)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		sealed, err := ledger.Seal(r, seq+1, prev)
		if err != nil {
			return err
		}
		return s.exec(ctx, tx, "write record", `INSERT INTO ledger (seq, key, kind, subject, hash, doc) VALUES (?, ?, ?, ?, ?, ?)`,
			sealed.Seq, key, r.Kind, r.Subject, sealed.Hash, document{sealed})
	})
}

// Ledger returns the records about a subject in order, or, for an empty subject, the latest records of all, newest first.
func (s *Store) Ledger(ctx context.Context, subject string, limit int) ([]ledger.Record, error) {
	if subject == "" {
		return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger ORDER BY seq DESC LIMIT ?`, limit)
	}
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE subject = ? ORDER BY seq LIMIT ?`, subject, limit)
}

// LedgerOfIncident returns the records about an incident, its requests and its leases, in order. Their ids begin with its own.
func (s *Store) LedgerOfIncident(ctx context.Context, id string, limit int) ([]ledger.Record, error) {
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE subject = ? OR (subject >= ? AND subject < ?) ORDER BY seq LIMIT ?`, id, id+"-R", id+"-S", limit)
}

// LedgerOf returns the latest records of a kind, newest first.
func (s *Store) LedgerOf(ctx context.Context, kind string, limit int) ([]ledger.Record, error) {
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE kind = ? ORDER BY seq DESC LIMIT ?`, kind, limit)
}

// LedgerAfter implements ledger.Rows.
func (s *Store) LedgerAfter(ctx context.Context, seq int64, limit int) ([]ledger.Record, error) {
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?`, seq, limit)
}

// LedgerSize returns the number of the last record.
func (s *Store) LedgerSize(ctx context.Context) (n int64, err error) {
	if err := s.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) FROM ledger`).Scan(&n); err != nil {
		return 0, fmt.Errorf("read ledger: %w", err)
	}
	return n, nil
}

// EachRecord calls take with each record of the ledger in order. A row whose columns are not those of its record is an error: it would
// be found under another subject, or not at all.
func (s *Store) EachRecord(ctx context.Context, take func(ledger.Record) error) error {
	var text []byte
	var column ledger.Record
	return s.eachRow(ctx, s.db, "read ledger", []any{&column.Seq, &column.Key, &column.Kind, &column.Subject, &column.Hash, &text}, func() error {
		var r ledger.Record
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("read ledger: record %d: %w", column.Seq, err)
		}
		if column.Seq != r.Seq || column.Hash != r.Hash || !stands(column.Key, r.Key) || !stands(column.Kind, r.Kind) || !stands(column.Subject, r.Subject) {
			return fmt.Errorf("verify ledger: record %d was changed: the columns of its row are not the record's", column.Seq)
		}
		return take(r)
	}, `SELECT seq, COALESCE(key, ''), kind, subject, hash, doc FROM ledger ORDER BY seq`)
}

// stands reports whether a column is that of a record's text. What was not UTF-8 is known by the hash of what it was, which is lost.
func stands(column, text string) bool {
	return column == storable([]any{text})[0] || strings.Contains(text, "\uFFFD") && strings.HasPrefix(column, "sha256:")
}

// VerifyLedger checks the whole chain and returns the number of records that it holds.
func (s *Store) VerifyLedger(ctx context.Context) (n int64, err error) {
	var prev ledger.Record
	err = s.EachRecord(ctx, func(r ledger.Record) error {
		err := ledger.Verify(r, prev)
		prev = r
		if err == nil {
			n++
		}
		return err
	})
	return n, err
}

// SignIn is a signed-in person's session. Only the hash of its token is stored.
type SignIn struct {
	User    string    `json:"user"`
	Role    string    `json:"role"`
	Via     string    `json:"via"`              // console or cli
	Groups  []string  `json:"groups,omitempty"` // that the identity provider says the person is in
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Proved is when the person last gave a second factor in this session, and ProvedFor what it was for.
	Proved    time.Time `json:"proved,omitzero"`
	ProvedFor string    `json:"proved_for,omitempty"`
}

// SaveSignIn writes a session under the hash of its token and drops the expired ones.
func (s *Store) SaveSignIn(ctx context.Context, tokenHash string, in SignIn) error {
	if err := s.exec(ctx, s.db, "drop expired sign-ins", `DELETE FROM sign_ins WHERE expires < ?`, in.Created.UnixNano()); err != nil {
		return err
	}
	return s.exec(ctx, s.db, "save sign-in", `INSERT INTO sign_ins (token, expires, doc) VALUES (?, ?, ?)`, tokenHash, in.Expires.UnixNano(), document{in})
}

// SignInOf returns the session of a token's hash; it may have expired.
func (s *Store) SignInOf(ctx context.Context, tokenHash string) (SignIn, error) {
	return one[SignIn](ctx, s, "read sign-in", `SELECT doc FROM sign_ins WHERE token = ?`, tokenHash)
}

// DropSignIn ends a session.
func (s *Store) DropSignIn(ctx context.Context, tokenHash string) error {
	return s.exec(ctx, s.db, "drop sign-in", `DELETE FROM sign_ins WHERE token = ?`, tokenHash)
}

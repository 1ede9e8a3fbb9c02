package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// AppendLedger seals a record at the end of the chain. A record with a key that is there already is not written again.
func (s *Store) AppendLedger(ctx context.Context, r ledger.Record) error {
	return s.inTx(ctx, "append to ledger", func(tx *sql.Tx) error {
		if s.postgres { // SQLite's transactions are immediate and so one at a time
			if _, err := tx.ExecContext(ctx, `LOCK TABLE ledger IN EXCLUSIVE MODE`); err != nil {
				return err
			}
		}
		if r.Key != "" {
			var seq int64
			err := tx.QueryRowContext(ctx, s.sql(`SELECT seq FROM ledger WHERE key = ?`), storable([]any{r.Key})...).Scan(&seq)
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		var seq int64
		var prev string
		err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1`).Scan(&seq, &prev)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		sealed, err := ledger.Seal(r, seq+1, prev)
		if err != nil {
			return err
		}
		doc, err := encode(sealed)
		if err != nil {
			return err
		}
		var key any
		if r.Key != "" {
			key = r.Key
		}
		return s.exec(ctx, tx, "write record", `INSERT INTO ledger (seq, key, kind, subject, hash, doc) VALUES (?, ?, ?, ?, ?, ?)`,
			sealed.Seq, key, r.Kind, r.Subject, sealed.Hash, doc)
	})
}

// Ledger returns the records about a subject in order, or, for an empty subject, the latest records of all, newest first.
func (s *Store) Ledger(ctx context.Context, subject string, limit int) ([]ledger.Record, error) {
	if subject == "" {
		return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger ORDER BY seq DESC LIMIT ?`, limit)
	}
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE subject = ? ORDER BY seq LIMIT ?`, subject, limit)
}

// LedgerOf returns the latest records of a kind, newest first.
func (s *Store) LedgerOf(ctx context.Context, kind string, limit int) ([]ledger.Record, error) {
	return list[ledger.Record](ctx, s, "read ledger", `SELECT doc FROM ledger WHERE kind = ? ORDER BY seq DESC LIMIT ?`, kind, limit)
}

// VerifyLedger checks the whole chain and returns the number of records that it holds.
func (s *Store) VerifyLedger(ctx context.Context) (n int64, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT doc FROM ledger ORDER BY seq`)
	if err != nil {
		return 0, fmt.Errorf("verify ledger: %w", err)
	}
	defer rows.Close()
	var prev ledger.Record
	for rows.Next() {
		var text []byte
		var r ledger.Record
		if err := rows.Scan(&text); err != nil {
			return n, fmt.Errorf("verify ledger: %w", err)
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return n, fmt.Errorf("verify ledger: record after %d: %w", prev.Seq, err)
		}
		if err := ledger.Verify(r, prev); err != nil {
			return n, err
		}
		prev = r
		n++
	}
	return n, rows.Err()
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
	doc, err := encode(in)
	if err != nil {
		return fmt.Errorf("save sign-in: %w", err)
	}
	if err := s.exec(ctx, s.db, "drop expired sign-ins", `DELETE FROM sign_ins WHERE expires < ?`, in.Created.UnixNano()); err != nil {
		return err
	}
	return s.exec(ctx, s.db, "save sign-in", `INSERT INTO sign_ins (token, expires, doc) VALUES (?, ?, ?)`, tokenHash, in.Expires.UnixNano(), doc)
}

// SignInOf returns the session of a token's hash; it may have expired.
func (s *Store) SignInOf(ctx context.Context, tokenHash string) (SignIn, error) {
	return one[SignIn](ctx, s, "read sign-in", `SELECT doc FROM sign_ins WHERE token = ?`, tokenHash)
}

// DropSignIn ends a session.
func (s *Store) DropSignIn(ctx context.Context, tokenHash string) error {
	return s.exec(ctx, s.db, "drop sign-in", `DELETE FROM sign_ins WHERE token = ?`, tokenHash)
}

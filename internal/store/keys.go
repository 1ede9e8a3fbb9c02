package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// SecurityKey is a person's second factor: what a security key showed when it was registered, and how often it has signed since.
type SecurityKey struct {
	ID     string    `json:"id"` // of the credential, in base64url
	Person string    `json:"person"`
	Name   string    `json:"name"` // the person's own word for it
	Added  time.Time `json:"added"`
	// First: nothing but the sign-in vouched for whoever registered it. Every other key was registered with a proof by one before it.
	First     bool            `json:"first,omitempty"`
	Used      time.Time       `json:"used,omitzero"`
	SignCount uint32          `json:"sign_count"`
	Record    json.RawMessage `json:"record"` // the credential, as the WebAuthn library writes it
}

// MaxKeys is how many security keys a person may have, and AboutKeys what a proof is for that lets them change these.
const (
	MaxKeys   = 5
	AboutKeys = "keys"
)

// ErrKeys says that a person's security keys changed meanwhile.
var ErrKeys = errors.New("the security keys changed meanwhile")

// SecurityKeys returns a person's keys, or, for an empty name, everybody's, the oldest first.
func (s *Store) SecurityKeys(ctx context.Context, person string, limit int) ([]SecurityKey, error) {
	if person == "" {
		return list[SecurityKey](ctx, s, "read security keys", `SELECT doc FROM security_keys ORDER BY person, id LIMIT ?`, limit)
	}
	return list[SecurityKey](ctx, s, "read security keys", `SELECT doc FROM security_keys WHERE person = ? ORDER BY id LIMIT ?`, person, limit)
}

// SecurityKey returns one key.
func (s *Store) SecurityKey(ctx context.Context, id string) (SecurityKey, error) {
	return one[SecurityKey](ctx, s, named("read security key", id), `SELECT doc FROM security_keys WHERE id = ?`, id)
}

// AddSecurityKey writes a key of a person who has a number of keys, or returns ErrKeys if they have another number by now.
func (s *Store) AddSecurityKey(ctx context.Context, k SecurityKey, have int) error {
	return s.inTx(ctx, "add security key", func(tx *sql.Tx) error {
		if err := s.lock(ctx, tx, "security_keys"); err != nil {
			return err
		}
		var n int
		if err := s.row(ctx, tx, `SELECT COUNT(*) FROM security_keys WHERE person = ?`, k.Person).Scan(&n); err != nil {
			return err
		}
		if n != have {
			return ErrKeys
		}
		return s.exec(ctx, tx, "write key", `INSERT INTO security_keys (id, person, sign_count, doc) VALUES (?, ?, ?, ?)`, k.ID, k.Person, int64(k.SignCount), document{k})
	})
}

// UseSecurityKey writes a key that has signed, if its count is still the one before, and returns ErrKeys otherwise.
func (s *Store) UseSecurityKey(ctx context.Context, k SecurityKey, before uint32) error {
	done, err := s.db.ExecContext(ctx, s.sql(`UPDATE security_keys SET sign_count = ?, doc = ? WHERE id = ? AND sign_count = ?`), int64(k.SignCount), document{k}, k.ID, int64(before))
	if err != nil {
		return fmt.Errorf("use security key: %w", err)
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("use security key: %w", errors.Join(ErrKeys, err))
	}
	return nil
}

// DropSecurityKey removes a key.
func (s *Store) DropSecurityKey(ctx context.Context, id string) error {
	return s.exec(ctx, s.db, "drop security key", `DELETE FROM security_keys WHERE id = ?`, id)
}

// ProveSignIn writes into a session that its person gave a second factor for something. A session that has ended stays so.
func (s *Store) ProveSignIn(ctx context.Context, tokenHash string, at time.Time, about string) error {
	in, err := s.SignInOf(ctx, tokenHash)
	if err != nil {
		return err
	}
	in.Proved, in.ProvedFor = at, about
	return s.exec(ctx, s.db, "prove sign-in", `UPDATE sign_ins SET doc = ? WHERE token = ?`, document{in}, tokenHash)
}

// Review is a lead's judgement, afterwards, of a decision that broke the glass.
type Review struct {
	Request string    `json:"request"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// SaveReview writes the review of a request's decision. The first stands.
func (s *Store) SaveReview(ctx context.Context, r Review) error {
	return s.exec(ctx, s.db, "save review", `INSERT INTO reviews (request, doc) VALUES (?, ?) ON CONFLICT (request) DO NOTHING`, r.Request, document{r})
}

// ReviewOf returns the review of a request's decision, or nil.
func (s *Store) ReviewOf(ctx context.Context, request string) (*Review, error) {
	r, err := one[Review](ctx, s, "read review", `SELECT doc FROM reviews WHERE request = ?`, request)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

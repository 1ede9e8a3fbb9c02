package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// inboxLife is how long the id of a message that was dealt with is remembered, so that a repeat changes nothing.
const inboxLife = 24 * time.Hour

// PutInbox stores what somebody sent to be dealt with, before its sender is answered. fresh is false where it was stored before.
func (s *Store) PutInbox(ctx context.Context, id string, at time.Time, body []byte) (fresh bool, err error) {
	result, err := s.db.ExecContext(ctx, s.sql(`INSERT INTO inbox (id, at, doc) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING`),
		id, at.UnixNano(), strings.ToValidUTF8(string(body), "\uFFFD"))
	if err != nil {
		return false, fmt.Errorf("store message: %w", err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("store message: %w", err)
	}
	return n == 1, nil
}

// EachInbox calls take with the messages that wait, the oldest first.
func (s *Store) EachInbox(ctx context.Context, limit int, take func(id string, at time.Time, body []byte)) error {
	var id string
	var at int64
	var body []byte
	return s.eachRow(ctx, s.db, "list messages", []any{&id, &at, &body}, func() error {
		take(id, time.Unix(0, at).UTC(), body)
		return nil
	}, `SELECT id, at, doc FROM inbox WHERE done = 0 ORDER BY at, id LIMIT ?`, limit)
}

// CountInbox is the number of messages that wait.
func (s *Store) CountInbox(ctx context.Context) (n int, err error) {
	if err := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM inbox WHERE done = 0`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	return n, nil
}

// DropInbox says that a message is dealt with: its body goes, and its id after a day.
func (s *Store) DropInbox(ctx context.Context, id string, at time.Time) error {
	if err := s.exec(ctx, s.db, "forget messages", `DELETE FROM inbox WHERE done <> 0 AND done < ?`, at.Add(-inboxLife).UnixNano()); err != nil {
		return err
	}
	return s.exec(ctx, s.db, "drop message", `UPDATE inbox SET done = ?, doc = '' WHERE id = ?`, at.UnixNano(), id)
}

// SaveCard writes where an incident's card is. Open cards are kept up to date.
func (s *Store) SaveCard(ctx context.Context, incidentID, channel, ts string, open bool, doc []byte) error {
	return s.exec(ctx, s.db, "save card", `INSERT INTO cards (incident, channel, ts, shown, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (incident) DO UPDATE SET channel = excluded.channel, ts = excluded.ts, shown = excluded.shown, doc = excluded.doc`,
		incidentID, channel, ts, flag(open), string(doc))
}

// Card returns an incident's card, if it has one.
func (s *Store) Card(ctx context.Context, incidentID string) (doc []byte, found bool, err error) {
	err = s.eachCard(ctx, func(d []byte) { doc = d }, `SELECT doc FROM cards WHERE incident = ?`, incidentID)
	return doc, doc != nil, err
}

// EachCard calls take with the open cards, the newest first.
func (s *Store) EachCard(ctx context.Context, limit int, take func(doc []byte)) error {
	return s.eachCard(ctx, take, `SELECT doc FROM cards WHERE shown = 1 ORDER BY ts DESC, incident LIMIT ?`, limit)
}

func (s *Store) eachCard(ctx context.Context, take func(doc []byte), query string, args ...any) error {
	return each(ctx, s, s.db, "read cards", func(doc json.RawMessage) { take(doc) }, query, args...)
}

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Draft is one version of a document that a human must approve before anybody outside sees it.
type Draft struct {
	Incident string `json:"incident"`
	Name     string `json:"name"`    // post-mortem, timeline, internal-notice, customer-notice
	Version  int    `json:"version"` // from 1
	// Author is the person who edited it; empty for Tocsin itself. Base is the version that they edited.
	Author   string    `json:"author,omitempty"`
	Base     int       `json:"base,omitempty"`
	Markdown string    `json:"markdown"`
	SHA256   string    `json:"sha256"` // of the text: who sends it is bound to this
	At       time.Time `json:"at"`
}

// ErrEdited says that somebody else edited a draft since the version that an edit was made on.
var ErrEdited = errors.New("somebody else edited it since")

// maxVersions bounds the versions of one draft that people write.
const maxVersions = 1000

// SaveDraft adds a version of a draft and returns it. The same text by the same author again is the same version. What Tocsin writes
// never takes the place of what a person wrote: it is a version beside it.
func (s *Store) SaveDraft(ctx context.Context, d Draft) (Draft, error) {
	err := s.inTx(ctx, "save draft", func(tx *sql.Tx) error {
		if err := s.lock(ctx, tx, "draft_versions"); err != nil {
			return err
		}
		human := flag(d.Author != "")
		var latest, edited, same int
		err := s.row(ctx, tx, `SELECT COALESCE(MAX(version), 0), COALESCE(MAX(CASE WHEN human = 1 THEN version END), 0),
			COALESCE(MAX(CASE WHEN human = ? THEN version END), 0) FROM draft_versions WHERE incident = ? AND name = ?`,
			human, d.Incident, d.Name).Scan(&latest, &edited, &same)
		if err != nil {
			return err
		}
		switch {
		case human == 1 && (edited > d.Base || d.Base > latest):
			return fmt.Errorf("%s of %s: %w: the latest version is %d, the edit is of version %d", d.Name, d.Incident, ErrEdited, latest, d.Base)
		case human == 1 && latest >= maxVersions:
			return fmt.Errorf("%s of %s has %d versions, at most %d", d.Name, d.Incident, latest, maxVersions)
		}
		if known, err := s.draft(ctx, tx, d.Incident, d.Name, same); err != nil || same > 0 && known.SHA256 == d.SHA256 && known.Author == d.Author {
			d = known
			return err
		}
		d.Version = latest + 1
		return s.exec(ctx, tx, "write draft", `INSERT INTO draft_versions (incident, name, version, human, sha256, doc) VALUES (?, ?, ?, ?, ?, ?)`,
			d.Incident, d.Name, d.Version, human, d.SHA256, document{d})
	})
	return d, err
}

// draft reads one version; the version 0 is none.
func (s *Store) draft(ctx context.Context, tx *sql.Tx, incidentID, name string, version int) (d Draft, err error) {
	var text []byte
	err = s.row(ctx, tx, `SELECT doc FROM draft_versions WHERE incident = ? AND name = ? AND version = ?`, incidentID, name, version).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	d.Version = version // it was not written down before there were versions
	return d, err
}

// Drafts returns an incident's drafts by name: what a person wrote last or, where no person did, what Tocsin did.
func (s *Store) Drafts(ctx context.Context, incidentID string) ([]Draft, error) {
	all, err := s.DraftVersions(ctx, incidentID)
	var out []Draft
	for _, d := range all {
		n := len(out) - 1
		switch {
		case n < 0 || out[n].Name != d.Name:
			out = append(out, d)
		case d.Author != "" || out[n].Author == "":
			out[n] = d
		}
	}
	return out, err
}

// DraftVersions returns every version of an incident's drafts, by name and version.
func (s *Store) DraftVersions(ctx context.Context, incidentID string) ([]Draft, error) {
	out, err := list[Draft](ctx, s, "list drafts", `SELECT doc FROM draft_versions WHERE incident = ? ORDER BY name, version`, incidentID)
	for i := range out {
		out[i].Version = max(out[i].Version, 1)
	}
	return out, err
}

// DraftText returns an incident's draft as people last left it, or as it was written where nobody edited it.
func (s *Store) DraftText(ctx context.Context, incidentID, name string) (string, error) {
	all, err := s.Drafts(ctx, incidentID)
	for _, d := range all {
		if d.Name == name {
			return d.Markdown, err
		}
	}
	return "", errors.Join(err, fmt.Errorf("read draft %.40q of %s: %w", name, incidentID, ErrNotFound))
}

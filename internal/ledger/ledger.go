// Package ledger chains the records of what happened, so that a changed, removed or reordered one is found, and anchors them in a
// transparency log on local files, whose signed checkpoints find it even where the whole chain was made anew. Storing the records is
// the store's work, and it has no network.
package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The kinds of records.
const (
	KindDecision    = "decision"     // a human's answer that counts
	KindRefusal     = "refusal"      // an answer that does not count, with why
	KindRequest     = "request"      // a question put to humans
	KindEscalation  = "escalation"   // more people were told of a question
	KindStanding    = "standing"     // a decision taken in advance: proposed, signed, revoked
	KindHalt        = "halt"         // people halted Tocsin's own responses, or let them go on
	KindContainment = "containment"  // an effect applied, verified, extended, lifted or reverted
	KindEvidence    = "evidence"     // artefacts sealed, opened or exported
	KindDraft       = "draft"        // a person's edit of a draft
	KindIncident    = "incident"     // a change of an incident's life cycle
	KindKey         = "security_key" // a security key was registered, removed or refused
	KindReview      = "review"       // a lead judged, afterwards, a decision that broke the glass
	KindSignIn      = "sign_in"      // a sign-in, or the refusal of one
	KindRules       = "rules"        // a set of rules was loaded, or refused
	KindBaseline    = "baseline"     // a person changed an agent's baseline
)

// Record is one row: what happened, who did it, to what.
type Record struct {
	Seq     int64           `json:"seq"` // from 1, without gaps
	At      time.Time       `json:"at"`
	Kind    string          `json:"kind"`
	Actor   string          `json:"actor"`
	Subject string          `json:"subject"` // an incident, request, agent or artefact
	Body    json.RawMessage `json:"body,omitempty"`
	// Key makes a record that is written again by a retry the same record; empty for one that always stands alone.
	Key  string `json:"key,omitempty"`
	Prev string `json:"prev"` // hash of the record before, "" for the first
	Hash string `json:"hash"`
}

const replacement = "\uFFFD"

// Seal returns the record with its place in the chain: the hash covers every field and the hash before. Bytes that are not UTF-8
// are replaced first, as JSON would replace them on the way to the database, which would break the chain.
func Seal(r Record, seq int64, prev string) (Record, error) {
	r.Seq, r.Prev, r.Hash = seq, prev, ""
	r.At = r.At.UTC().Truncate(time.Microsecond) // the least that every database keeps
	for _, text := range []*string{&r.Kind, &r.Actor, &r.Subject, &r.Key} {
		*text = strings.ToValidUTF8(*text, replacement)
	}
	r.Body = bytes.ToValidUTF8(r.Body, []byte(replacement))
	text, err := r.Text()
	if err != nil {
		return Record{}, err
	}
	sum := sha256.Sum256(text)
	r.Hash = hex.EncodeToString(sum[:])
	return r, nil
}

// Text is the record as its hash covers it: JSON without the hash.
func (r Record) Text() ([]byte, error) {
	r.Hash = ""
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	return text, nil
}

// Verify checks that a record follows the one before it and was not changed.
func Verify(r Record, prev Record) error {
	if r.Seq != prev.Seq+1 {
		return fmt.Errorf("verify ledger: record %d follows record %d: rows are missing or reordered", r.Seq, prev.Seq)
	}
	sealed, err := Seal(r, r.Seq, prev.Hash)
	if err != nil {
		return err
	}
	if sealed.Hash != r.Hash || sealed.Prev != r.Prev {
		return fmt.Errorf("verify ledger: record %d was changed, or the one before it", r.Seq)
	}
	return nil
}

// Package incident holds what an incident is: findings that belong together under one life cycle, with their timeline,
// evidence, investigation, disposition and drafts. Everything here is a pure function of recorded facts; nothing does I/O.
package incident

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Status is where an incident stands in its life cycle.
type Status string

// The statuses, in order. Closed is terminal: later findings of the same session open a new incident.
const (
	Open      Status = "open"      // findings came; evidence and investigation run
	Waiting   Status = "waiting"   // a human's decision is asked for
	Contained Status = "contained" // a containment is in force, and its effect was verified
	Resolved  Status = "resolved"  // no containment is in force or asked for; a human may close it
	Closed    Status = "closed"    // a human closed it with a disposition
)

// Statuses lists the statuses in order.
func Statuses() []Status { return []Status{Open, Waiting, Contained, Resolved, Closed} }

// Incident is the state that people see. It is derived from the incident workflow, which is the truth.
type Incident struct {
	ID       string          `json:"id"`
	Key      string          `json:"key"` // what its findings have in common; see Key
	Title    string          `json:"title"`
	Status   Status          `json:"status"`
	Severity detect.Severity `json:"severity"`
	Agent    event.Agent     `json:"agent"`
	Session  string          `json:"session"`
	Playbook string          `json:"playbook,omitempty"` // name@digest of the pinned playbook
	Times    Times           `json:"times"`
	// NoticedBy is the principal and the way in which a human first became aware.
	NoticedBy   string       `json:"noticed_by,omitempty"`
	NoticedVia  string       `json:"noticed_via,omitempty"`
	Disposition *Disposition `json:"disposition,omitempty"` // the human's, once closed
	Findings    int          `json:"findings"`
}

// Times are the moments that dwell time and its parts are made of, UTC; a zero time has not happened.
type Times struct {
	FirstBad  time.Time `json:"first_bad"`          // event time of the first bad event
	Ingested  time.Time `json:"ingested,omitzero"`  // when it reached Tocsin
	Detected  time.Time `json:"detected,omitzero"`  // when the first finding reached the incident
	Delivered time.Time `json:"delivered,omitzero"` // when people were told
	Noticed   time.Time `json:"noticed,omitzero"`   // when the first human became aware
	Decided   time.Time `json:"decided,omitzero"`   // when a human decided
	Contained time.Time `json:"contained,omitzero"` // when the containment was verified
	Closed    time.Time `json:"closed,omitzero"`    // when a human closed it
}

// Key is what findings of one incident have in common: the session, within the class of its agent. The agent itself is not part
// of it, because the name of an agent can arrive after its first findings.
func Key(f detect.Finding) string {
	text := f.Tenant + "\x00" + f.Agent.Class + "\x00" + f.Session
	if f.Sender != "" { // a session is its sender's: what another brings under the same id is another session
		text += "\x00" + f.Sender
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// NewID names the incident that a finding opens. The first finding is part of it, so that a session whose incident was closed
// can have another one. Senders choose what the hash is made of, so it is long enough that nobody finds two that are alike.
func NewID(f detect.Finding) string {
	sum := sha256.Sum256([]byte(Key(f) + "\x00" + f.ID))
	return "INC-" + hex.EncodeToString(sum[:16])
}

// Title makes a sentence from facts of our own and neutralised names; an agent's free text never enters it.
func Title(f detect.Finding) string {
	agent := cmp.Or(f.Agent.Name, f.Agent.ID)
	if f.Tool == "" {
		return fmt.Sprintf("%s: %s", Visible(agent, 60), f.Title)
	}
	return fmt.Sprintf("%s, calling %s: %s", Visible(agent, 60), Visible(f.Tool, 60), f.Title)
}

// Move returns the status after a step of the life cycle; an impossible step is an error.
func Move(from, to Status) (Status, error) {
	allowed := map[Status][]Status{
		Open:      {Waiting, Resolved, Closed},
		Waiting:   {Contained, Resolved, Open, Closed},
		Contained: {Resolved, Waiting, Closed},
		Resolved:  {Waiting, Open, Closed},
	}
	if from == to && from != Closed || slices.Contains(allowed[from], to) {
		return to, nil
	}
	return from, fmt.Errorf("move incident: %s can't become %s", from, to)
}

// Entry is one line of an incident's timeline.
type Entry struct {
	At time.Time `json:"at"`
	// Actor did it: an agent's id, "tocsin", or a person's name. Source says where we know it from: log, rule, baseline,
	// workflow, console, cli, gate.
	Actor  string `json:"actor"`
	Source string `json:"source"`
	Kind   string `json:"kind"` // event, finding, evidence, track, request, decision, refusal, containment, note, draft, notice
	Text   string `json:"text"`
	// Quote is hostile text that belongs to the entry; it is only shown where nothing interprets it.
	Quote string `json:"quote,omitempty"`
	// QuoteSize is the characters of the whole text, if the quote leaves out its middle.
	QuoteSize int `json:"quote_size,omitempty"`
	// Ref is the event, finding, evidence or request that the entry speaks of.
	Ref string `json:"ref,omitempty"`
}

// Looked reports whether the entry shows that a human looked at the incident: a notice, a note or a decision. A disposition is none of
// these, so that closing in bulk investigates nothing.
func (e *Entry) Looked() bool {
	human := e.Actor != "tocsin" && (e.Source == "console" || e.Source == "cli" || e.Source == "slack")
	return human && (e.Kind == "notice" || e.Kind == "note" || e.Kind == "decision")
}

// EvidenceItem is a hashed artefact with its custody.
type EvidenceItem struct {
	SHA256    string    `json:"sha256"`
	Name      string    `json:"name"` // events.jsonl, baseline.json, rule-<id>.yaml
	MediaType string    `json:"media_type"`
	Size      int64     `json:"size"`
	Collector string    `json:"collector"`
	At        time.Time `json:"at"`
}

// Track is one line of investigation; tracks settle on their own, and one that fails stops no other.
type Track struct {
	Name    string        `json:"name"` // identity, data, peers
	Summary string        `json:"summary"`
	Facts   []Fact        `json:"facts,omitempty"`
	Err     string        `json:"error,omitempty"`
	At      time.Time     `json:"at"`
	Took    time.Duration `json:"took_ns"`
}

// Fact is one statement of a track with the evidence it rests on.
type Fact struct {
	Text string   `json:"text"`
	Refs []string `json:"refs"` // ids of events or findings, or evidence hashes
	// Suspicious facts speak for the finding, the others against it.
	Suspicious bool `json:"suspicious"`
}

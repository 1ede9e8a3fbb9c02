package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Source says which part of Tocsin raised a finding.
type Source string

// The sources of findings.
const (
	SourceRule     Source = "rule"     // a written detection fired
	SourceBaseline Source = "baseline" // a learned detection fired
	SourceHealth   Source = "health"   // Tocsin itself is blind somewhere: a rule failed, a limit was reached
)

// Finding says that a detection fired: an OCSF Detection Finding (class 2004). Two runs over the same log give the same
// findings, byte for byte; so nothing in it depends on the wall clock, on the place in a batch, or on a restart.
type Finding struct {
	// ID is derived from the detection and the events that caused it.
	ID         string     `json:"id"`
	Source     Source     `json:"source"`
	Rule       string     `json:"rule"`
	Version    string     `json:"version"`
	Digest     string     `json:"digest,omitempty"`  // SHA-256 of the rule's text
	Library    string     `json:"library,omitempty"` // digest of the tables, macros and overlays it was read against
	Title      string     `json:"title"`
	Severity   Severity   `json:"severity"`
	Confidence Confidence `json:"confidence"`
	Risk       int        `json:"risk,omitempty"` // what it adds to the agent's risk, 0 to 100
	Lane       Lane       `json:"lane"`
	Playbook   string     `json:"playbook,omitempty"`
	Tags       Tags       `json:"tags,omitzero"`
	Triage     string     `json:"triage,omitempty"`

	Tenant  string      `json:"tenant,omitempty"`
	Sender  string      `json:"sender,omitempty"` // the credential that delivered the last event; see event.Source.Authn
	Agent   event.Agent `json:"agent"`
	Session string      `json:"session"`
	// Sessions are further sessions whose events caused the finding, at most MaxSessions.
	Sessions []string `json:"sessions,omitempty"`
	// Tool names the tool of the last event, if it has one.
	Tool string `json:"tool,omitempty"`
	// First and Time are the event times of the first and last event that caused the finding.
	First  time.Time `json:"first"`
	Time   time.Time `json:"time"`
	Events []string  `json:"events"` // ids of the events, in order, at most MaxEvents
	// Reason is a sentence of our own that says what matched, with counts.
	Reason string `json:"reason"`
	// Approximate: the state was too large to be exact; the reason's number is an estimate.
	Approximate bool               `json:"approximate,omitempty"`
	Anomaly     *baselines.Anomaly `json:"anomaly,omitempty"`
	// Chain is where the value that gave the finding away came from, if an argument did.
	Chain *Chain `json:"chain,omitempty"`
}

// MaxEvents bounds the event ids that a finding names; the first and the last ones are kept.
const MaxEvents = 64

// MaxSessions bounds the further sessions that a finding names.
const MaxSessions = 8

// Chain shows why an action was not the user's wish: the event whose output first carried a value, and the argument it ended in.
type Chain struct {
	Origin     string           `json:"origin,omitempty"` // event id
	OriginTool string           `json:"origin_tool,omitempty"`
	Arg        string           `json:"arg"`
	Value      string           `json:"value,omitempty"` // hostile text
	Provenance event.Provenance `json:"provenance"`
}

// FindingID derives a finding's identity from the detection, the class of agents, and the events that caused it. The class is part
// of it because senders choose the ids of events, and must not be able to take those of another class's findings.
func FindingID(tenant, class, rule string, events []string) string {
	h := sha256.New()
	for _, part := range append([]string{tenant, class, rule}, events...) {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Severity is how bad it is if the finding is right.
type Severity string

// Severities in ascending order.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Rank orders severities; an unknown one ranks below all.
func (s Severity) Rank() int {
	for i, known := range []Severity{Low, Medium, High, Critical} {
		if s == known {
			return i + 1
		}
	}
	return 0
}

// Confidence is how likely the finding is right.
type Confidence string

// Confidences in ascending order: low, medium, high.
const (
	LowConfidence    Confidence = "low"
	MediumConfidence Confidence = "medium"
	HighConfidence   Confidence = "high"
)

// Lane is how far a detection's word reaches. Only propose may lead to a containment request, which a human then decides.
type Lane string

// Lanes in ascending order.
const (
	Hunt    Lane = "hunt"    // recorded, shown on request
	Shadow  Lane = "shadow"  // recorded and counted, never alerts
	Alert   Lane = "alert"   // alerts a human
	Propose Lane = "propose" // alerts, and may ask for containment
)

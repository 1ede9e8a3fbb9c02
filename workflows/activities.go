package workflows

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Activities observe and record: the I/O of workflows that needs no action's credentials and can't contain. What can is Effects. Each is
// idempotent: a retry after an unknown outcome changes nothing more. All fields are required.
type Activities struct {
	Store   *store.Store
	Vault   Vault
	Session SessionReader
	Memory  MemoryReader
	// Offered are the actions that this deployment has, here or elsewhere, by name.
	Offered map[string]action.Description
	// Policies say who is asked. Decided are the standing decisions.
	Policies approval.Policies
	Decided  Decided
	Tell     Teller
	Now      func() time.Time
}

// Decided are the decisions that people took in advance.
type Decided interface {
	// Use counts one use of a standing decision that fits a request, and returns its decision, signed, or nil where none fits. A request
	// that is asked about again gets the same answer.
	Use(ctx context.Context, r approval.Request, rules []string) (*approval.Decision, error)
}

// Vault seals evidence under its hash.
type Vault interface {
	Put(ctx context.Context, data []byte) (sha256 string, err error)
	Get(ctx context.Context, sha256 string) ([]byte, error)
}

// SessionReader reads a session's events back from the log.
type SessionReader interface {
	// SessionEvents calls take with each event of the findings' sessions, once and in the order of the log, and says what of the log
	// it could not read. It holds no more than one message of the log at a time.
	SessionEvents(ctx context.Context, raised []pipeline.Raised, take func(*event.Event) error) (Unread, error)
}

// Unread counts the messages of the log that findings point at and that were not read.
type Unread struct {
	Gone    int `json:"gone"`    // retention took them
	Damaged int `json:"damaged"` // they are not what was written
	Skipped int `json:"skipped"` // they were over what is read of one session
}

// All is how many they are.
func (u Unread) All() int { return u.Gone + u.Damaged + u.Skipped }

// MemoryReader reads what agents keep beyond their sessions.
type MemoryReader interface {
	// Of returns the names of an agent's memories.
	Of(agent string) []string
	// Read gives the tables of a memory as they were at one moment; what put refuses ends it.
	// A row is a line of JSON; leftOut are the rows of the table for which there was no room.
	Read(ctx context.Context, memory string, put func(table string, rows []byte, leftOut int) error) error
}

// Teller tells the running process what changed: pages that are open, metrics. It must not block and can't fail.
type Teller interface {
	Changed(topic, id string)
	Decided(r approval.Request)
	Contained(l action.Lease, decided time.Time)
	// Unattended: no worker of an action took its work in time.
	Unattended(action string)
}

// RecordInput is a finding with its disposition so far.
type RecordInput struct {
	Incident    incident.Incident
	Raised      pipeline.Raised
	Disposition incident.Disposition
	// Unknown: the playbook that the finding's rule names does not exist.
	Unknown bool `json:",omitempty"`
}

// SealInput names what evidence is collected of.
type SealInput struct {
	Incident incident.Incident
	Raised   []pipeline.Raised
	// At is when the evidence was asked for. A retry seals the same manifest, because nothing in it but agents' memories is of the retry's
	// own time.
	At time.Time
}

// TrackInput starts one track of the investigation.
type TrackInput struct {
	Name     string
	Incident incident.Incident
	Raised   []pipeline.Raised
}

// TracksInput is what the tracks found.
type TracksInput struct {
	Incident string
	Tracks   []incident.Track
}

// RequestInput is a request as it stands.
type RequestInput struct {
	Incident incident.Incident
	Request  approval.Request
}

// NoteInput is one timeline entry.
type NoteInput struct {
	Incident string
	Entry    incident.Entry
}

// RevertInput ends a lease.
type RevertInput struct {
	Lease action.Lease
	Lift  Lift
}

// Record writes a finding, its place in the timeline, and the incident. That nobody is asked, because the playbook is unknown here,
// is a line of the timeline too.
func (a *Activities) Record(ctx context.Context, in RecordInput) error {
	f := in.Raised.Finding
	raised := in.Incident.Times.Detected
	if known, err := a.Store.Alert(ctx, f.ID); err == nil {
		raised = known.Raised
	} else if errors.Is(err, store.ErrNotFound) {
		raised = a.Now().UTC()
	}
	err := a.Store.SaveAlert(ctx, store.Alert{Finding: f, Incident: in.Incident.ID, Raised: raised, Ingested: in.Raised.Ingested, Disposition: &in.Disposition})
	if err != nil {
		return err
	}
	entry := incident.Entry{At: f.Time, Actor: "tocsin", Source: string(f.Source), Kind: "finding", Text: f.Title, Ref: f.ID}
	if err := a.Store.AddEntry(ctx, in.Incident.ID, entry); err != nil {
		return err
	}
	if in.Unknown {
		entry.Source, entry.Kind, entry.Text = "workflow", "note", fmt.Sprintf("There is no playbook %q, which rule %s names: look runs in its place, and nobody is asked.", f.Playbook, f.Rule)
		if err := a.Store.AddEntry(ctx, in.Incident.ID, entry); err != nil {
			return err
		}
	}
	return a.Save(ctx, in.Incident)
}

// Save writes the incident's state.
func (a *Activities) Save(ctx context.Context, i incident.Incident) error {
	if err := a.delivered(ctx, &i); err != nil {
		return err
	}
	if err := a.Store.SaveIncident(ctx, i); err != nil {
		return err
	}
	if !i.Times.Noticed.IsZero() {
		entry := incident.Entry{At: i.Times.Noticed, Actor: i.NoticedBy, Source: i.NoticedVia, Kind: "notice", Text: "became aware of the incident", Ref: i.ID}
		if err := a.Store.AddEntry(ctx, i.ID, entry); err != nil {
			return err
		}
	}
	a.Tell.Changed("incident", i.ID)
	return nil
}

// delivered sets when people could first see the incident: the first time that it is written here.
func (a *Activities) delivered(ctx context.Context, i *incident.Incident) error {
	known, err := a.Store.Incident(ctx, i.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if i.Times.Delivered = known.Times.Delivered; i.Times.Delivered.IsZero() {
		i.Times.Delivered = a.Now().UTC()
	}
	return nil
}

// Uncontained writes down that a containment is not in force: it was approved and is not proved, or it can't be asked for.
func (a *Activities) Uncontained(ctx context.Context, in NoteInput) error {
	err := a.append(ctx, ledger.KindContainment, in.Entry.Actor, in.Entry.Ref, "uncontained/"+in.Entry.Ref, map[string]string{"why": in.Entry.Text})
	if err != nil {
		return err
	}
	if err := a.Store.AddEntry(ctx, in.Incident, in.Entry); err != nil {
		return err
	}
	a.Tell.Changed("incident", in.Incident)
	return nil
}

// Close writes the end of an incident with a human's disposition.
func (a *Activities) Close(ctx context.Context, i incident.Incident) error {
	if err := a.append(ctx, ledger.KindIncident, i.Disposition.By, i.ID, "closed/"+i.ID, i.Disposition); err != nil {
		return err
	}
	entry := incident.Entry{At: i.Times.Closed, Actor: i.Disposition.By, Source: "console", Kind: "disposition", Text: fmt.Sprintf("closed the incident as %s: %s", i.Disposition.Verdict, i.Disposition.Reasoning), Ref: i.ID}
	if err := a.Store.AddEntry(ctx, i.ID, entry); err != nil {
		return err
	}
	return a.Save(ctx, i)
}

// SaveTracks writes what the investigation found.
func (a *Activities) SaveTracks(ctx context.Context, in TracksInput) error {
	for _, t := range in.Tracks {
		if err := a.Store.SaveTrack(ctx, in.Incident, t); err != nil {
			return err
		}
		text := t.Summary
		if t.Err != "" {
			text = "failed: " + t.Err
		}
		entry := incident.Entry{At: in.Tracks[0].At, Actor: "tocsin", Source: "workflow", Kind: "track", Text: "Track " + t.Name + ": " + text, Ref: t.Name}
		if err := a.Store.AddEntry(ctx, in.Incident, entry); err != nil {
			return err
		}
	}
	a.Tell.Changed("incident", in.Incident)
	return nil
}

// Publish writes a request as it stands: the row that people see, the audit row and the timeline entry.
func (a *Activities) Publish(ctx context.Context, in RequestInput) error {
	r := in.Request
	if d, known := a.Offered[r.Plan.Action]; known {
		if r.Effect, r.Undo, r.DoesNotStop = d.Effect, d.Undo, d.DoesNotStop; d.Unverified {
			r.Effect += " Nothing can prove that it happened."
		}
	}
	// The incident first, so that whoever sees the request sees an incident that waits.
	if err := a.Save(ctx, in.Incident); err != nil {
		return err
	}
	if err := a.Store.SaveRequest(ctx, r); err != nil {
		return err
	}
	kind, actor, at, text := ledger.KindRequest, r.Requester, r.Asked, r.Question
	n, rung := len(r.Votes), approval.Rung{}
	if r.Rung > 0 {
		rung = r.Terms.Ladder[r.Rung-1]
	}
	switch escalated := r.Asked.Add(rung.After); {
	case r.Decision != nil:
		kind, actor, at, text = ledger.KindDecision, r.Decision.By.ID, r.Decision.At, fmt.Sprintf("%s: %s", r.State, r.Decision.Reason)
	case r.State == approval.Expired:
		kind, actor, at, text = ledger.KindDecision, "tocsin", r.Deadline, "nobody decided in time"
	case r.State == approval.Superseded:
		actor, at, text = "tocsin", a.Now().UTC(), "no longer asked: the facts changed, or the playbook gave it up"
	case n > 0 && (r.Rung == 0 || r.Votes[n-1].At.After(escalated)):
		kind, actor, at, text = ledger.KindDecision, r.Votes[n-1].By.ID, r.Votes[n-1].At, fmt.Sprintf("approved, %d more needed: %s", r.Missing(), r.Votes[n-1].Reason)
	case r.Rung > 0:
		kind, actor, at = ledger.KindEscalation, "tocsin", escalated
		text = "nobody has decided; told " + cmp.Or(strings.Join(rung.Tell, ", "), "again who was told")
	}
	key := fmt.Sprintf("request/%s/%s", r.ID, r.State)
	if r.State == approval.Pending && (len(r.Votes) > 0 || r.Rung > 0) {
		key += fmt.Sprintf("/%d-%d", len(r.Votes), r.Rung)
	}
	if err := a.append(ctx, kind, actor, r.ID, key, r); err != nil {
		return err
	}
	entry := incident.Entry{At: at, Actor: actor, Source: via(r), Kind: kind, Text: text, Ref: r.ID}
	if err := a.Store.AddEntry(ctx, r.Incident, entry); err != nil {
		return err
	}
	a.redraft(ctx, r.Incident)
	a.Tell.Changed("request", r.ID)
	if r.Decision != nil || r.State == approval.Expired {
		a.Tell.Decided(r)
	}
	return nil
}

func via(r approval.Request) string {
	if r.Decision == nil {
		return "workflow"
	}
	return r.Decision.By.Via
}

// PlanInput is what is to be put to people.
type PlanInput struct {
	Incident string
	Plan     approval.Plan
	Asked    approval.Policy // what the playbook asks of the answer
}

// PlanOutput is what they are asked, and under which terms.
type PlanOutput struct {
	Plan     approval.Plan
	Terms    approval.Terms
	Deadline time.Duration
	OnExpiry string
}

// StandingInput is a request that a standing decision may fit.
type StandingInput struct {
	Request approval.Request
	Rules   []string // that fired on its agent
}

// Note writes a line of an incident's timeline.
func (a *Activities) Note(ctx context.Context, in NoteInput) error {
	if err := a.Store.AddEntry(ctx, in.Incident, in.Entry); err != nil {
		return err
	}
	a.Tell.Changed("incident", in.Incident)
	return nil
}

// Terms says who is asked about a plan, and under which terms. The control plane alone says so, and not who carries the plan out.
func (a *Activities) Terms(_ context.Context, in PlanInput) (out PlanOutput, err error) {
	if _, offered := a.Offered[in.Plan.Action]; !offered { // none of its kind is configured, and no retry configures one
		return out, temporal.NewNonRetryableApplicationError(fmt.Sprintf("find action: there is no action %q", in.Plan.Action), "plan", nil)
	}
	out.Plan = in.Plan
	out.Terms, out.Deadline, out.OnExpiry = a.Policies.Ask(in.Plan, in.Asked)
	out.Plan.Need = out.Terms.Need
	return out, nil
}

// UnattendedInput is work that no worker of an action took in time, and the line of the timeline that says so.
type UnattendedInput struct {
	NoteInput
	Action string
}

// Unattended tells people that the work of an action waits for a worker.
func (a *Activities) Unattended(ctx context.Context, in UnattendedInput) error {
	if err := a.Note(ctx, in.NoteInput); err != nil {
		return err
	}
	a.Tell.Unattended(in.Action)
	return nil
}

// ActedInput is an effect that was proved, or undone.
type ActedInput struct {
	Lease  action.Lease
	Undone bool
}

// Acted brings what people see up to date after an effect was proved or undone.
func (a *Activities) Acted(ctx context.Context, in ActedInput) error {
	a.redraft(ctx, in.Lease.Incident)
	a.Tell.Changed("lease", in.Lease.ID)
	if !in.Undone && !in.Lease.Verified.IsZero() {
		a.Tell.Contained(in.Lease, in.Lease.Decided())
	}
	return nil
}

// Standing returns the decision of a standing decision that fits a request, with its grant, or nil. It is counted once however often it
// is asked for.
func (a *Activities) Standing(ctx context.Context, in StandingInput) (*approval.Decision, error) {
	return a.Decided.Use(ctx, in.Request, in.Rules)
}

// Held returns the lease of a request that was stored and not lifted, if there is one.
func (a *Activities) Held(ctx context.Context, id string) ([]action.Lease, error) {
	lease, found, err := a.Store.Lease(ctx, id)
	if err != nil || !found || !lease.Lifted.IsZero() {
		return nil, err
	}
	return []action.Lease{lease}, nil
}

func (a *Activities) append(ctx context.Context, kind, actor, subject, key string, body any) error {
	return a.Store.Record(ctx, a.Now(), kind, actor, subject, key, body)
}

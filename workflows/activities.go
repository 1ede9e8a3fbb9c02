package workflows

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
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

// Activities do the I/O of workflows. Each is idempotent: a retry after an unknown outcome changes nothing more. All fields are
// required.
type Activities struct {
	Store   *store.Store
	Vault   Vault
	Session SessionReader
	Memory  MemoryReader
	Actions *action.Catalogue
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
	if act, err := a.Actions.Find(r.Plan.Action); err == nil {
		d := act.Describe()
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

// Plan computes what an action would do and who must approve it, for people to see before they do.
func (a *Activities) Plan(ctx context.Context, in PlanInput) (out PlanOutput, err error) {
	if _, err := a.Actions.Find(in.Plan.Action); err != nil { // none of its kind is configured, and no retry configures one
		return out, temporal.NewNonRetryableApplicationError(err.Error(), "plan", err)
	}
	out.Terms, out.Deadline, out.OnExpiry = a.Policies.Ask(in.Plan, in.Asked)
	in.Plan.Need = out.Terms.Need
	if out.Plan, err = a.Actions.Plan(ctx, action.Input{Incident: in.Incident, Plan: in.Plan}); err != nil && passes(err) {
		err = temporal.NewApplicationErrorWithCause(err.Error(), passing, err)
	}
	return out, err
}

// passing is the type of a failure that looks as if it passes by itself.
const passing = "passing"

// passes reports whether an error is about the way to another system, or its being slow, and not about what was asked of it.
func passes(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// Note writes a line of an incident's timeline.
func (a *Activities) Note(ctx context.Context, in NoteInput) error {
	if err := a.Store.AddEntry(ctx, in.Incident, in.Entry); err != nil {
		return err
	}
	a.Tell.Changed("incident", in.Incident)
	return nil
}

// Standing returns the decision of a standing decision that fits a request, with its grant, or nil. It is counted once however often it
// is asked for.
func (a *Activities) Standing(ctx context.Context, in StandingInput) (*approval.Decision, error) {
	return a.Decided.Use(ctx, in.Request, in.Rules)
}

// notBegun is the type of the failure of an effect that was refused before it began.
const notBegun = "not begun"

// Contain applies an approved action. An error means that the effect is unknown, so it is tried again while the grant lasts; no
// retry brings a grant.
func (a *Activities) Contain(ctx context.Context, in action.Input) (action.Lease, error) {
	lease, err := a.Actions.Apply(ctx, in)
	for _, refused := range []error{action.ErrGrants, action.ErrLifted, action.ErrChanged, action.ErrHalted, action.ErrLimit} {
		if errors.Is(err, refused) {
			return action.Lease{}, temporal.NewNonRetryableApplicationError(err.Error(), notBegun, err)
		}
	}
	if errors.Is(err, action.ErrUnknown) {
		return action.Lease{}, temporal.NewNonRetryableApplicationError(err.Error(), "unknown", err)
	}
	if err != nil {
		return action.Lease{}, err
	}
	return lease, a.append(ctx, ledger.KindContainment, lease.Approver, in.Request, "applied/"+lease.ID, lease)
}

// Held returns the lease of a request that was stored and not lifted, if there is one.
func (a *Activities) Held(ctx context.Context, id string) ([]action.Lease, error) {
	lease, found, err := a.Store.Lease(ctx, id)
	if err != nil || !found || !lease.Lifted.IsZero() || lease.Plan.Lease == 0 { // what can't be undone has no end
		return nil, err
	}
	return []action.Lease{lease}, nil
}

// Verify proves a containment by a probe and records how long it took from the decision.
func (a *Activities) Verify(ctx context.Context, l action.Lease) (action.Lease, error) {
	l, err := a.stored(ctx, l) // a retry keeps the time of the first proof
	if err != nil {
		return l, err
	}
	if l.Lifted.IsZero() || l.Plan.Lease == 0 { // what can't be undone is lifted at once, and is proved all the same
		l, err = a.Actions.Verify(ctx, l)
	} else {
		err = action.ErrLifted
	}
	if errors.Is(err, action.ErrLifted) {
		return l, temporal.NewNonRetryableApplicationError(err.Error(), "verify", err)
	}
	if err != nil {
		return l, err
	}
	if d := action.Descriptions()[l.Plan.Action]; l.Verified.IsZero() && !d.Unverified {
		return l, errors.New("the probe was not denied")
	}
	if err := a.append(ctx, ledger.KindContainment, "tocsin", l.ID, "verified/"+l.ID, map[string]any{"lease": l.ID, "verified": l.Verified}); err != nil {
		return l, err
	}
	text := effect(l)
	at := l.Verified
	if at.IsZero() {
		at = l.Applied
	}
	entry := incident.Entry{At: at, Actor: "tocsin", Source: "gate", Kind: "containment", Text: text, Ref: l.ID}
	if err := a.Store.AddEntry(ctx, l.Incident, entry); err != nil {
		return l, err
	}
	a.redraft(ctx, l.Incident)
	a.Tell.Changed("lease", l.ID)
	if !l.Verified.IsZero() {
		a.Tell.Contained(l, l.Decided())
	}
	return l, nil
}

// effect says of a lease what was proved of it, and what was not.
func effect(l action.Lease) string {
	target := incident.Visible(l.Plan.Target.String(), 160)
	text := fmt.Sprintf("Contained: %s, until %s; a probe at the gate was denied", target, l.Ends.UTC().Format(time.RFC3339))
	if !action.AtGate(l.Plan.Action) {
		text = fmt.Sprintf("Done: %s of %s; its probe saw the effect", l.Plan.Action, target)
		if l.Verified.IsZero() {
			text = fmt.Sprintf("Done: %s of %s; nothing can prove its effect", l.Plan.Action, target)
		}
	}
	if !l.Effective.IsZero() {
		text += fmt.Sprintf("; still effective until %s: %s", l.Effective.UTC().Format(time.RFC3339), l.Lag)
	}
	return text
}

// stored returns a lease as the gate left it.
func (a *Activities) stored(ctx context.Context, l action.Lease) (action.Lease, error) {
	leases, err := a.Store.IncidentLeases(ctx, l.Incident)
	if i := slices.IndexFunc(leases, func(k action.Lease) bool { return k.ID == l.ID }); i >= 0 {
		l = leases[i]
	}
	return l, err
}

// Revert undoes a containment.
func (a *Activities) Revert(ctx context.Context, in RevertInput) error {
	lease, err := a.stored(ctx, in.Lease)
	if err != nil {
		return err
	}
	if lease.Lifted.IsZero() {
		err := a.Actions.Undo(ctx, lease, in.Lift.By)
		if errors.Is(err, action.ErrKept) {
			in.Lift.Reason, err = in.Lift.Reason+"; "+err.Error(), nil
		}
		if err != nil {
			return err
		}
		if lease, err = a.stored(ctx, lease); err != nil {
			return err
		}
	}
	if err := a.append(ctx, ledger.KindContainment, in.Lift.By, in.Lease.ID, "reverted/"+in.Lease.ID, in.Lift); err != nil {
		return err
	}
	text := fmt.Sprintf("Lifted: %s (%s)", incident.Visible(in.Lease.Plan.Target.String(), 160), in.Lift.Reason)
	entry := incident.Entry{At: lease.Lifted, Actor: in.Lift.By, Source: "gate", Kind: "containment", Text: text, Ref: in.Lease.ID}
	if err := a.Store.AddEntry(ctx, in.Lease.Incident, entry); err != nil {
		return err
	}
	a.redraft(ctx, in.Lease.Incident)
	a.Tell.Changed("lease", in.Lease.ID)
	return nil
}

// append writes a row of the ledger.
func (a *Activities) append(ctx context.Context, kind, actor, subject, key string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode ledger body: %w", err)
	}
	return a.Store.AppendLedger(ctx, ledger.Record{At: a.Now(), Kind: kind, Actor: actor, Subject: subject, Body: text, Key: key})
}

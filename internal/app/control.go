package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/oncall"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/workflows"
)

// control carries out what authenticated people do: it is the control plane. The console and the CLI are two equal ways to reach
// it, and every way sends the same Updates. It implements ui.Actor.
type control struct {
	rules     *rulebook
	workflows client.Client
	store     *store.Store
	vault     *evidence.Vault
	signer    *approval.Signer
	policies  approval.Policies
	roster    *oncall.Roster // nil without schedules
	governor  *governor
	metrics   *measure.Metrics
	hub       *hub
	events    interface { // the log
		Append(ctx context.Context, events []event.Event) error
	}
	logger *slog.Logger
	now    func() time.Time
	looks  looks
	// standings lets one person at a time change a standing decision, so that no signature undoes a revocation.
	standings sync.Mutex
	// loosenings does so for what loosens a baseline, so that each signature sees those before it.
	loosenings sync.Mutex
}

// updateTimeout bounds how long a person waits to learn whether their decision counted.
const updateTimeout = 15 * time.Second

// Decide sends a decision to the incident's workflow. An approval carries a grant, signed here because here the person was
// authenticated. A refusal is recorded before it is returned.
func (c *control) Decide(ctx context.Context, by approval.Principal, requestID, digest string, verb approval.Verb, reason string) error {
	return c.decide(ctx, requestID, approval.Decision{Request: requestID, Verb: verb, Digest: digest, By: by, Reason: reason})
}

// BreakGlass approves alone what needs more people.
func (c *control) BreakGlass(ctx context.Context, by approval.Principal, requestID, digest string, verb approval.Verb, reason string) error {
	return c.decide(ctx, requestID, approval.Decision{Request: requestID, Verb: verb, Digest: digest, By: by, Reason: reason, BreakGlass: true})
}

func (c *control) decide(ctx context.Context, requestID string, d approval.Decision) error {
	d.By, d.At = c.withGroups(d.By), c.now().UTC()
	if d.Looked == 0 { // Slack knows when it opened its window
		d.Looked = c.looks.since(d.By.ID, requestID, d.At)
	}
	request, err := c.store.Request(ctx, requestID)
	if errors.Is(err, store.ErrNotFound) {
		return c.refused(ctx, approval.Request{ID: requestID}, d, approval.Refuse(approval.RefusedUnknown, "there is no request %q", requestID))
	}
	if err != nil {
		return err
	}
	if d.BreakGlass {
		keys, err := c.store.SecurityKeys(ctx, d.By.ID, 1)
		if err != nil {
			return err
		}
		d.By.Keyed = len(keys) > 0
	}
	if request.Plan.Class == approval.Record { // no workflow asked it
		return c.answer(ctx, request.ID, d)
	}
	// What is refused here is never signed. What passes here can still be refused by the workflow, which alone has the present state.
	if err := approval.Check(&request, d, c.now()); err != nil {
		return c.refused(ctx, request, d, err)
	}
	if d.Verb == approval.Approve {
		if d.Grant, err = c.signer.Sign(request, d); err != nil {
			return err
		}
	}
	err = c.update(ctx, request.Incident, workflows.UpdateDecide, d)
	if approval.Kind(err) != "" {
		return c.refused(ctx, request, d, err)
	}
	return err
}

// withGroups adds the groups of the policies' file and the schedules that a person is in now, whichever door they came by.
func (c *control) withGroups(by approval.Principal) approval.Principal {
	return belonging{c.policies, c.roster}.join(by)
}

// refused records a refusal: in the ledger and, where the incident is known, in its timeline.
func (c *control) refused(ctx context.Context, r approval.Request, d approval.Decision, refusal error) error {
	kind := approval.Kind(refusal)
	c.metrics.Refused(kind)
	d.Grant = nil
	body := map[string]any{"decision": d, "refused": kind, "why": refusal.Error()}
	if err := c.append(ctx, ledger.KindRefusal, d.By.ID, d.Request, body); err != nil {
		return err
	}
	if r.Incident != "" {
		text := fmt.Sprintf("%s refused (%s): %s", d.Verb, kind, refusal)
		err := c.store.AddEntry(ctx, r.Incident, incident.Entry{At: d.At, Actor: d.By.ID, Source: d.By.Via, Kind: "refusal", Text: text, Ref: d.Request})
		if err != nil {
			return err
		}
		c.hub.Changed("request", r.ID)
	}
	return refusal
}

// update sends an Update to an incident's workflow and waits for its answer. A closed incident takes none: its session's workflow may
// by now be another incident's.
func (c *control) update(ctx context.Context, incidentID, name string, arg any) error {
	i, err := c.store.Incident(ctx, incidentID)
	if err != nil {
		return err
	}
	closed := approval.Refuse(approval.RefusedLate, "the incident is closed")
	if i.Status == incident.Closed {
		return closed
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	handle, err := c.workflows.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: workflows.IncidentID(i.Key), UpdateName: name, Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(ctx, nil)
	}
	var refusal *temporal.ApplicationError
	if errors.As(err, &refusal) {
		return approval.Refuse(refusal.Type(), "%s", refusal.Message())
	}
	if gone := (*serviceerror.NotFound)(nil); errors.As(err, &gone) {
		return closed
	}
	if err != nil {
		return fmt.Errorf("%s incident %s: %w", name, incidentID, err)
	}
	return nil
}

// Ask requests a containment that no playbook asked for. Somebody else must decide.
func (c *control) Ask(ctx context.Context, by approval.Principal, incidentID string, target approval.Target, lease time.Duration, reason string) error {
	if !by.Role.AtLeast(approval.Responder) {
		return c.turnedAway(ctx, by, "ask", incidentID, reason, c.denied(by, approval.Responder))
	}
	err := c.update(ctx, incidentID, workflows.UpdateAsk, workflows.HumanAsk{Incident: incidentID, By: by.ID, Via: by.Via, Target: target, Lease: lease, Reason: reason})
	return c.turnedAway(ctx, by, "ask", incidentID, reason, err)
}

// RunPlaybook starts a playbook in an incident. What it asks, somebody else must approve.
func (c *control) RunPlaybook(ctx context.Context, by approval.Principal, incidentID, playbook, reason string) error {
	err := c.mayWith(by, approval.Responder, reason)
	if err == nil {
		err = c.append(ctx, ledger.KindIncident, by.ID, incidentID, map[string]any{"run": playbook, "by": by, "reason": reason})
	}
	if err == nil {
		err = c.update(ctx, incidentID, workflows.UpdateRun, workflows.RunPlaybook{Incident: incidentID, Playbook: playbook, By: by.ID, Via: by.Via, Reason: reason})
	}
	if err == nil {
		text := fmt.Sprintf("started the playbook %s: %s", playbook, reason)
		err = c.store.AddEntry(ctx, incidentID, incident.Entry{At: c.now().UTC(), Actor: by.ID, Source: by.Via, Kind: "note", Text: text})
	}
	return c.turnedAway(ctx, by, "run "+playbook, incidentID, reason, err)
}

// turnedAway records the refusal of an act that is no decision, if err is one, before it is returned.
func (c *control) turnedAway(ctx context.Context, by approval.Principal, act, subject, reason string, err error) error {
	kind := approval.Kind(err)
	if kind == "" {
		return err
	}
	c.metrics.Refused(kind)
	body := map[string]any{"act": act, "by": by, "reason": reason, "refused": kind, "why": err.Error()}
	if failed := c.append(ctx, ledger.KindRefusal, by.ID, subject, body); failed != nil {
		return failed
	}
	return err
}

func (c *control) denied(by approval.Principal, needed approval.Role) error {
	return approval.Refuse(approval.RefusedRole, "role %q may not do this; %s or above may", by.Role, needed)
}

// Notice records that a person became aware of an incident.
func (c *control) Notice(ctx context.Context, by approval.Principal, incidentID string) error {
	if !by.Role.AtLeast(approval.Responder) {
		return c.denied(by, approval.Responder) // who may do nothing about it must not end its dwell time
	}
	i, err := c.store.Incident(ctx, incidentID)
	if err != nil {
		return err
	}
	if !i.Times.Noticed.IsZero() || i.Status == incident.Closed {
		return nil
	}
	at := c.now().UTC()
	if err := c.append(ctx, ledger.KindIncident, by.ID, i.ID, map[string]any{"noticed": at, "via": by.Via}); err != nil {
		return err
	}
	err = c.workflows.SignalWorkflow(ctx, workflows.IncidentID(i.Key), "", workflows.SignalNotice, workflows.Notice{Incident: i.ID, By: by.ID, Via: by.Via, At: at})
	if err != nil {
		return fmt.Errorf("notice incident %s: %w", incidentID, err)
	}
	c.metrics.Notice(at.Sub(i.Times.FirstBad))
	return nil
}

// Note adds a person's note to an incident's timeline.
func (c *control) Note(ctx context.Context, by approval.Principal, incidentID, text string) error {
	if !by.Role.AtLeast(approval.Responder) {
		return c.denied(by, approval.Responder)
	}
	if len([]rune(text)) < approval.MinReason {
		return approval.Refuse(approval.RefusedReason, "the note is empty")
	}
	if _, err := c.store.Incident(ctx, incidentID); err != nil {
		return err
	}
	err := c.store.AddEntry(ctx, incidentID, incident.Entry{At: c.now().UTC(), Actor: by.ID, Source: by.Via, Kind: "note", Text: text})
	if err != nil {
		return err
	}
	c.hub.Changed("incident", incidentID)
	return c.Notice(ctx, by, incidentID)
}

// Close ends an incident with a person's disposition. Where its sessions would teach a privileged agent, it waits for the people whom the
// policy asks.
func (c *control) Close(ctx context.Context, by approval.Principal, incidentID string, verdict incident.Verdict, reason string) (waits *approval.Request, err error) {
	turned := func(err error) (*approval.Request, error) {
		return nil, c.turnedAway(ctx, by, "close", incidentID, reason, err)
	}
	if !by.Role.AtLeast(approval.Lead) {
		return turned(c.denied(by, approval.Lead))
	}
	switch verdict {
	case incident.TruePositive, incident.FalsePositive, incident.Expected, incident.Unclear:
	default:
		return nil, approval.Refuse(approval.RefusedUnknown, "%q is no verdict", verdict)
	}
	if err := c.reviewed(ctx, incidentID); err != nil {
		return turned(err)
	}
	s := backing{By: by, Reason: reason}
	if verdict != incident.Expected {
		return turned(c.end(ctx, s, incidentID, verdict))
	}
	again, err := c.expected(ctx, incidentID)
	if err != nil {
		return nil, err
	}
	if again { // it was decided when it was closed
		return nil, c.expect(ctx, s, incidentID)
	}
	agent, terms, deadline, err := c.privileged(ctx, incidentID)
	if err != nil {
		return nil, err
	}
	if agent != "" {
		return c.sign(ctx, by, loosening(baselines.Expected, agent, incidentID, terms), deadline, reason)
	}
	return turned(c.closeExpected(ctx, s, incidentID))
}

// end closes an incident.
func (c *control) end(ctx context.Context, s backing, incidentID string, verdict incident.Verdict) error {
	d := incident.Disposition{Verdict: verdict, Confidence: detect.HighConfidence, Reasoning: s.Reason, By: s.people(), At: c.now().UTC()}
	return c.update(ctx, incidentID, workflows.UpdateClose, workflows.Closing{Incident: incidentID, Disposition: d})
}

// closeExpected closes an incident as expected, and its sessions teach.
func (c *control) closeExpected(ctx context.Context, s backing, incidentID string) error {
	if err := c.end(ctx, s, incidentID, incident.Expected); err != nil {
		return err
	}
	if err := c.expect(ctx, s, incidentID); err != nil {
		return fmt.Errorf("the incident is closed, and its sessions were not all taught; close it as expected again: %w", err)
	}
	return nil
}

// Lift ends a lease before its time.
func (c *control) Lift(ctx context.Context, by approval.Principal, leaseID, reason string) error {
	if !by.Role.AtLeast(approval.Lead) {
		return c.turnedAway(ctx, by, "lift", leaseID, reason, c.denied(by, approval.Lead))
	}
	if len([]rune(reason)) < approval.MinReason {
		return approval.Refuse(approval.RefusedReason, "lifting a lease needs a reason")
	}
	lease, ok, err := c.store.Lease(ctx, leaseID)
	if err != nil {
		return err
	}
	if !ok || !lease.InForce(c.now()) {
		return c.turnedAway(ctx, by, "lift", leaseID, reason, approval.Refuse(approval.RefusedUnknown, "no lease %q is in force", leaseID))
	}
	by = c.withGroups(by)
	if err := c.policies.Releases(lease.Plan.Target.Agent).Lets(by); err != nil {
		return c.turnedAway(ctx, by, "lift", leaseID, reason, err)
	}
	if err := c.append(ctx, ledger.KindDecision, by.ID, leaseID, map[string]any{"lift": leaseID, "by": by, "reason": reason}); err != nil {
		return err
	}
	err = c.workflows.SignalWorkflow(ctx, workflows.LeaseID(leaseID), "", workflows.SignalLift, workflows.Lift{By: by.ID, Reason: reason})
	if err != nil {
		return fmt.Errorf("lift lease %s: %w", leaseID, err)
	}
	return nil
}

func (c *control) append(ctx context.Context, kind, actor, subject string, body any) error {
	return c.store.Record(ctx, c.now(), kind, actor, subject, "", body)
}

// sweep makes loosenings that were signed and not made, ends those that nobody signed in time, and warns of leases that have ended and were not reverted: their workflow is missing or
// no worker undoes them, and somebody must look.
func (c *control) sweep(ctx context.Context) error {
	if err := errors.Join(c.repair(ctx), c.expire(ctx)); err != nil {
		return err
	}
	leases, err := overdue(ctx, c.store, c.now())
	if err != nil {
		return err
	}
	for _, l := range leases {
		c.logger.Error("a lease ended and was not reverted; the gate ignores it, its workflow is missing, or no worker undoes it", "lease", l.ID, "target", l.Plan.Target.String(), "late", c.now().Sub(l.Ends).String())
	}
	c.metrics.LeasesOverdue(len(leases)) // an alert on it pages
	return nil
}

// overdue are the leases that ended and that nobody reverts.
func overdue(ctx context.Context, s *store.Store, now time.Time) ([]action.Lease, error) {
	leases, err := s.Leases(ctx)
	return slices.DeleteFunc(leases, func(l action.Lease) bool { return now.Sub(l.Ends) <= sweepGrace }), err
}

// sweepGrace is how long a lease's workflow has to revert it after its end.
const sweepGrace = 2 * time.Minute

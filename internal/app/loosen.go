package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// A change that loosens the baseline of a privileged agent is a request that no workflow asks: who wants the change gives the first
// signature, and it is made with the last. The request is in the store, its signatures are grants, and every one of them is checked again
// before the change is made, so that a record that somebody wrote into the store loosens nothing. The last signature and the debt of the
// change are one write, and the change is made until it is known to be: whatever ends the process between the two, it is made at the
// next start, and by its key once.

// maxLoosenings bounds the requests that are looked at for one that waits.
const maxLoosenings = 1000

// teach is the action of an incident's sessions that teach.
const teach = "teach"

// loosening is the request for a change, before anybody signed it.
func loosening(change, agent, incidentID string, terms approval.Terms) approval.Request {
	r := approval.Request{
		Incident: incidentID, Requester: "baseline:" + change, Agents: append(strings.Split(agent, "/"), agent), OnExpiry: "deny", Terms: terms, State: approval.Pending,
		Plan: approval.Plan{
			Action: change, Class: approval.Record, Target: approval.Target{Agent: agent}, Params: map[string]string{"change": change}, Need: terms.Need, Evidence: []string{},
		},
		Effect: map[string]string{
			baselines.Unfreeze: "Its sessions teach again", baselines.Rebase: "Its own history is dropped, and peers judge it until it has another",
			baselines.Rollback: "What it taught is as it was the day before, or before it was rebased", baselines.Expected: "The incident is closed, and the sessions that were held back teach",
		}[change],
		Undo:        map[string]string{baselines.Unfreeze: "Freeze it", baselines.Rebase: "Roll back, while the copy is kept"}[change],
		DoesNotStop: "The agent works on either way",
	}
	if incidentID != "" {
		r.Plan.Action, r.Plan.Params["incident"] = teach, incidentID
	}
	if r.Undo == "" {
		r.Undo = "It can't be undone"
	}
	r.Question = r.Plan.Question()
	return r
}

// privileged returns the first privileged agent of an incident's findings, and who must answer for what it is taught.
func (c *control) privileged(ctx context.Context, incidentID string) (agent string, terms approval.Terms, deadline time.Duration, err error) {
	i, err := c.store.Incident(ctx, incidentID)
	if err != nil {
		return "", terms, 0, err
	}
	alerts, err := c.store.Alerts(ctx, incidentID, maxExpected)
	if err != nil {
		return "", terms, 0, err
	}
	agents := []string{i.Agent.ID}
	for n := range alerts {
		agents = append(agents, alerts[n].Finding.Agent.ID)
	}
	slices.Sort(agents)
	for _, id := range slices.Compact(agents) {
		t, d, ok := c.policies.Loosens(id)
		switch {
		case !ok:
		case agent == "":
			agent, terms, deadline = id, t, d
		default:
			terms = terms.Merge(t)
		}
	}
	return agent, terms, deadline, nil
}

// sign gives a person's signature to a change: the first, which opens the request, or a later one.
func (c *control) sign(ctx context.Context, by approval.Principal, r approval.Request, deadline time.Duration, reason string) (*approval.Request, error) {
	c.loosenings.Lock()
	defer c.loosenings.Unlock()
	now := c.now().UTC()
	digest, err := approval.DigestOf(r.Plan)
	if err != nil {
		return nil, err
	}
	r.ID, r.Digest, r.Revision, r.Asked, r.Deadline = "REQ-"+strings.ToLower(rand.Text()[:12]), digest, 1, now, now.Add(deadline)
	pending, err := c.store.Requests(ctx, approval.Pending, maxLoosenings)
	if err != nil {
		return nil, err
	}
	for _, p := range pending {
		if p.Digest == digest && !now.After(p.Deadline) {
			r = p
			break
		}
	}
	return c.count(ctx, r, approval.Decision{Request: r.ID, Verb: approval.Approve, Digest: digest, By: c.withGroups(by), Reason: reason, At: now})
}

// answer is a decision on a request that waits, by its id.
func (c *control) answer(ctx context.Context, id string, d approval.Decision) error {
	c.loosenings.Lock()
	defer c.loosenings.Unlock()
	r, err := c.store.Request(ctx, id)
	if err != nil {
		return err
	}
	_, err = c.count(ctx, r, d)
	return err
}

// count takes a decision on a request, and makes the change when it was the last that is needed. It returns the request while it waits.
func (c *control) count(ctx context.Context, r approval.Request, d approval.Decision) (*approval.Request, error) {
	if err := approval.Check(&r, d, c.now()); err != nil {
		return nil, c.refused(ctx, r, d, err)
	}
	before := r
	before.Votes = slices.Clone(r.Votes)
	if d.Verb == approval.Approve {
		var err error
		if d.Grant, err = c.signer.Sign(r, d); err != nil {
			return nil, err
		}
	}
	r.Answer(d)
	r.Due = r.State == approval.Approved
	body := map[string]any{"decision": d, "request": r.Question, "state": r.State, "missing": r.Missing()}
	if err := c.append(ctx, ledger.KindDecision, d.By.ID, r.ID, body); err != nil {
		return nil, err
	}
	if err := c.store.SaveRequest(ctx, r); err != nil {
		return nil, err
	}
	defer c.hub.Changed("request", r.ID)
	defer c.hub.Changed("agent", r.Plan.Target.Agent)
	if r.State != approval.Approved {
		return &r, nil
	}
	return nil, c.settle(ctx, r, before)
}

// settle makes the change of a request that is approved. One that is refused waits for the last signature again, as before; one that
// could not be made is due still.
func (c *control) settle(ctx context.Context, r, before approval.Request) error {
	err := c.loosen(ctx, &r)
	last := r.Votes[len(r.Votes)-1]
	switch {
	case approval.Kind(err) != "":
		return errors.Join(c.turnedAway(ctx, last.By, "baseline "+r.Plan.Params["change"], r.Plan.Target.Agent, last.Reason, err), c.store.SaveRequest(ctx, before))
	case err != nil:
		return fmt.Errorf("the change is signed, and is tried again until it is made: %w", err)
	}
	r.Due = false
	return c.store.SaveRequest(ctx, r)
}

// repair makes the changes that were signed and that nothing says were made, because the process ended or a part of it was away.
func (c *control) repair(ctx context.Context) error {
	c.loosenings.Lock()
	defer c.loosenings.Unlock()
	approved, err := c.store.Requests(ctx, approval.Approved, maxLoosenings)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range approved {
		if !r.Due || r.Plan.Class != approval.Record || len(r.Votes) == 0 {
			continue
		}
		before := r
		before.State, before.Due, before.Decision, before.Votes = approval.Pending, false, nil, slices.Clone(r.Votes[:len(r.Votes)-1])
		if err := c.settle(ctx, r, before); err != nil {
			errs = append(errs, fmt.Errorf("make what %s approved: %w", r.ID, err))
		}
		c.hub.Changed("request", r.ID)
		c.hub.Changed("agent", r.Plan.Target.Agent)
	}
	return errors.Join(errs...)
}

// loosen makes a change that enough people signed.
func (c *control) loosen(ctx context.Context, r *approval.Request) error {
	if err := approval.Enough(r.Grants(), c.signer.Public(), r.ID, r.Plan, c.now()); err != nil {
		return approval.Refuse(approval.RefusedGrant, "%v", err)
	}
	if terms, _, ok := c.policies.Loosens(r.Plan.Target.Agent); ok && len(r.Votes) < terms.Need {
		return approval.Refuse(approval.RefusedWaiting, "the policy asks for %d people, and %d signed", terms.Need, len(r.Votes))
	}
	last := r.Votes[len(r.Votes)-1]
	s := backing{By: last.By, Reason: last.Reason, Votes: r.Votes, Request: r.ID}
	if id := r.Plan.Params["incident"]; id != "" {
		done, err := c.expected(ctx, id)
		if err != nil {
			return err
		}
		if done { // it was closed by these signatures, and the process ended before all was taught
			return c.expect(ctx, s, id)
		}
		return c.closeExpected(ctx, s, id)
	}
	l, ok := c.learned(r.Plan.Target.Agent)
	if !ok {
		return fmt.Errorf("no detector knows agent %q yet, or any more", r.Plan.Target.Agent)
	}
	return c.change(ctx, l, r.Plan.Params["change"], s)
}

// expire ends the requests that were not signed in time.
func (c *control) expire(ctx context.Context) error {
	c.loosenings.Lock()
	defer c.loosenings.Unlock()
	pending, err := c.store.Requests(ctx, approval.Pending, maxLoosenings)
	if err != nil {
		return err
	}
	for _, r := range pending {
		if r.Plan.Class != approval.Record || !c.now().After(r.Deadline) {
			continue
		}
		r.State = approval.Expired
		body := map[string]any{"request": r.Question, "state": r.State, "votes": r.Votes}
		if err := c.append(ctx, ledger.KindDecision, "tocsin", r.ID, body); err != nil {
			return err
		}
		if err := c.store.SaveRequest(ctx, r); err != nil {
			return err
		}
		c.hub.Changed("request", r.ID)
	}
	return nil
}

// ofWorkflows drops the requests that no workflow asks.
func ofWorkflows(requests []approval.Request, err error) ([]approval.Request, error) {
	return slices.DeleteFunc(requests, func(r approval.Request) bool { return r.Plan.Class == approval.Record }), err
}

// IncidentRequests implements slack.Reader. What no workflow asks has a card of its own.
func (r slackReader) IncidentRequests(ctx context.Context, incidentID string) ([]approval.Request, error) {
	return ofWorkflows(r.Store.IncidentRequests(ctx, incidentID))
}

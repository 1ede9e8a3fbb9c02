package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// maxExpected bounds the findings of an incident whose sessions teach.
const maxExpected = 1000

// ChangeBaseline implements ui.Actor. The change is a record of the event log, so that a replay of the log makes it at the same place.
// What loosens the baseline of a privileged agent waits for the people whom the policy asks.
func (c *control) ChangeBaseline(ctx context.Context, by approval.Principal, agent, change, reason string) (waits *approval.Request, err error) {
	turned := func(err error) (*approval.Request, error) {
		return nil, c.turnedAway(ctx, by, "baseline "+change, agent, reason, err)
	}
	if !by.Role.AtLeast(approval.Lead) {
		return turned(c.denied(by, approval.Lead))
	}
	if len([]rune(strings.TrimSpace(reason))) < approval.MinReason {
		return turned(approval.Refuse(approval.RefusedReason, "a change of a baseline needs a reason"))
	}
	kinds := []string{baselines.Freeze, baselines.Unfreeze, baselines.Rebase, baselines.Rollback}
	if !slices.Contains(kinds, change) {
		return turned(approval.Refuse(approval.RefusedUnknown, "%q is no change of a baseline, want one of %s", change, strings.Join(kinds, ", ")))
	}
	l, ok := c.learned(agent)
	switch {
	case !ok || l.Sessions == 0:
		return turned(approval.Refuse(approval.RefusedUnknown, "agent %q has taught nothing", agent))
	case change == baselines.Rollback && l.Copy.IsZero():
		return turned(approval.Refuse(approval.RefusedUnknown, "there is no copy of the baseline of %q: it has taught on one day alone", agent))
	}
	if terms, deadline, ok := c.policies.Loosens(agent); ok && change != baselines.Freeze {
		return c.sign(ctx, by, loosening(change, agent, "", terms), deadline, reason)
	}
	return nil, c.change(ctx, l, change, backing{By: by, Reason: reason})
}

// backing is who decided a change and why: one person, or those whose signatures it waited for.
type backing struct {
	By     approval.Principal  `json:"by"`
	Reason string              `json:"reason"`
	Votes  []approval.Decision `json:"votes,omitempty"`
	// Request is what they signed; empty where one person decided. By it a change is recorded and made once.
	Request string `json:"request,omitempty"`
}

// key is that by which a part of the change is made once; empty where every try is another change.
func (s backing) key(part string) string {
	if s.Request == "" {
		return ""
	}
	return "baseline/" + s.Request + "/" + part
}

// people names everybody who signed.
func (s backing) people() string {
	if len(s.Votes) == 0 {
		return s.By.ID
	}
	var names []string
	for _, v := range s.Votes {
		names = append(names, v.By.ID)
	}
	return strings.Join(names, " and ")
}

// change makes a change that was decided.
func (c *control) change(ctx context.Context, l baselines.Learned, change string, s backing) error {
	body := map[string]any{"change": change, "by": s.By, "reason": s.Reason, "was": l.Life, "sessions": l.Sessions, "votes": s.Votes}
	if err := c.store.Record(ctx, c.now(), ledger.KindBaseline, s.By.ID, l.Agent, s.key(change), body); err != nil {
		return err
	}
	return c.tellShard(ctx, s.key(change), event.Agent{ID: l.Agent, Class: l.Class}, map[string]string{event.AttrChange: change, event.AttrBy: s.people(), event.AttrReason: s.Reason})
}

func (c *control) learned(agent string) (baselines.Learned, bool) {
	for _, d := range c.rules.detectors {
		if l, ok := d.agent(agent); ok {
			return l, true
		}
	}
	return baselines.Learned{}, false
}

// tellShard appends a change to the log, where the shard of the agent's class finds it. Of those with one key it takes the first.
func (c *control) tellShard(ctx context.Context, key string, agent event.Agent, attrs map[string]string) error {
	e := event.Event{
		ID: "baseline-" + cmp.Or(key, rand.Text()), Schema: event.Schema, Kind: event.KindBaseline, Time: c.now().UTC(), Ingested: c.now().UTC(), Agent: agent, Attrs: attrs,
	}
	if err := c.events.Append(ctx, []event.Event{e}); err != nil {
		return fmt.Errorf("log the change of a baseline: %w", err)
	}
	return nil
}

// expect lets the sessions of an incident teach that a person closed as expected.
func (c *control) expect(ctx context.Context, s backing, incidentID string) error {
	alerts, err := c.store.Alerts(ctx, incidentID, maxExpected)
	if err != nil {
		return err
	}
	type session struct{ agent, class, sender, id string }
	told := make(map[session]bool)
	for i := range alerts {
		f := &alerts[i].Finding
		for _, id := range append([]string{f.Session}, f.Sessions...) {
			of := session{f.Agent.ID, f.Agent.Class, f.Sender, id}
			if id == "" || told[of] {
				continue
			}
			told[of] = true
			body := map[string]any{"change": baselines.Expected, "by": s.By, "reason": s.Reason, "incident": incidentID, "session": id, "votes": s.Votes}
			key := s.key(fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q", []string{of.agent, of.class, of.sender, id}))))
			if err := c.store.Record(ctx, c.now(), ledger.KindBaseline, s.By.ID, of.agent, key, body); err != nil {
				return err
			}
			err := c.tellShard(ctx, key, event.Agent{ID: of.agent, Class: of.class}, map[string]string{
				event.AttrChange: baselines.Expected, event.AttrBy: s.people(), event.AttrReason: s.Reason, event.AttrSender: of.sender, event.AttrSession: id,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// expected reports whether an incident is closed as expected already: closing it so again tells the shards again, which changes nothing
// if they heard it.
func (c *control) expected(ctx context.Context, incidentID string) (bool, error) {
	i, err := c.store.Incident(ctx, incidentID)
	if err != nil {
		return false, err
	}
	return i.Status == incident.Closed && i.Disposition != nil && i.Disposition.Verdict == incident.Expected, nil
}

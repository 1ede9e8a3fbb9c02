package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// standing answers requests with the decisions that people took in advance. It implements workflows.Decided.
type standing struct {
	store  *store.Store
	signer *approval.Signer
	agents func() []string // the ids of those that were at work lately
	now    func() time.Time
}

// maxStandings bounds the standing decisions that are looked at.
const maxStandings = 1000

// Use implements workflows.Decided.
func (s *standing) Use(ctx context.Context, r approval.Request, rules []string) (*approval.Decision, error) {
	all, err := s.store.Standings(ctx, maxStandings)
	if err != nil {
		return nil, err
	}
	now := s.now()
	for _, d := range all {
		if d.InForce(s.signer.Public(), now) != nil || !d.Fits(&r, rules) {
			continue
		}
		decision, err := s.signer.Decide(d, r, now)
		if approval.Kind(err) != "" {
			continue // its signer may not decide this one
		}
		if err != nil {
			return nil, err
		}
		if last, err := s.last(ctx, r.Plan.Target); err != nil || last {
			return nil, err
		}
		if used, err := s.store.UseStanding(ctx, d.ID, r.ID, d.PerHour, now); err != nil || used {
			return decision, err
		}
	}
	return nil, nil
}

// last reports whether a containment would leave a service of several agents none that is at work. A person can decide that; in advance
// nobody can, because whoever makes a detection fire on every agent would stop the service through us.
func (s *standing) last(ctx context.Context, t approval.Target) (bool, error) {
	service, _, ok := strings.Cut(t.Agent, "/")
	if !ok || t.Session != "" || t.Tool != "" {
		return false, nil
	}
	leases, err := s.store.Leases(ctx)
	if err != nil {
		return false, err
	}
	held := map[string]bool{t.Agent: true}
	for _, l := range leases {
		if of := l.Plan.Target; l.InForce(s.now()) && of.Session == "" && of.Tool == "" {
			held[of.Agent] = true
		}
	}
	others, stay := 0, 0
	for _, agent := range s.agents() {
		if agent == t.Agent || !strings.HasPrefix(agent, service+"/") {
			continue
		}
		if others++; !held[agent] {
			stay++
		}
	}
	return others > 0 && stay == 0, nil
}

// Propose writes a standing decision for somebody else to sign.
func (c *control) Propose(ctx context.Context, by approval.Principal, d approval.Standing) (approval.Standing, error) {
	known, ok := action.Descriptions()[d.Action]
	if !ok || known.Class != approval.Contain || known.Irreversible {
		return d, c.turnedAway(ctx, by, "propose", d.Action, d.Reason, approval.Refuse(approval.RefusedUnknown, "%q is no action that can be undone", d.Action))
	}
	d, err := d.Propose(by, c.now())
	if err != nil {
		return d, c.turnedAway(ctx, by, "propose", d.Action, d.Reason, err)
	}
	return d, c.keepStanding(ctx, by, "proposed", d)
}

// SignStanding takes a proposed decision in a person's name.
func (c *control) SignStanding(ctx context.Context, by approval.Principal, id string) (approval.Standing, error) {
	c.standings.Lock()
	defer c.standings.Unlock()
	d, err := c.standing(ctx, id)
	if err == nil {
		d, err = c.signer.SignStanding(d, c.withGroups(by), c.now())
	}
	if err != nil {
		return d, c.turnedAway(ctx, by, "sign", id, "", err)
	}
	return d, c.keepStanding(ctx, by, "signed", d)
}

// RevokeStanding ends a standing decision at once. Any responder may: it takes nothing from anybody but speed.
func (c *control) RevokeStanding(ctx context.Context, by approval.Principal, id, reason string) (approval.Standing, error) {
	c.standings.Lock()
	defer c.standings.Unlock()
	d, err := c.standing(ctx, id)
	if err == nil {
		err = c.mayWith(by, approval.Responder, reason)
	}
	if err == nil && !d.Revoked.IsZero() {
		err = approval.Refuse(approval.RefusedDecided, "%s revoked it", d.RevokedBy)
	}
	if err != nil {
		return d, c.turnedAway(ctx, by, "revoke", id, reason, err)
	}
	d.Revoked, d.RevokedBy = c.now().UTC(), by.ID
	return d, c.keepStanding(ctx, by, "revoked: "+reason, d)
}

func (c *control) standing(ctx context.Context, id string) (approval.Standing, error) {
	d, err := c.store.Standing(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		err = approval.Refuse(approval.RefusedUnknown, "there is no standing decision %q", id)
	}
	return d, err
}

// keepStanding writes what became of a standing decision, in the ledger first.
func (c *control) keepStanding(ctx context.Context, by approval.Principal, what string, d approval.Standing) error {
	if err := c.append(ctx, ledger.KindStanding, by.ID, d.ID, map[string]any{"what": what, "standing": d}); err != nil {
		return err
	}
	if err := c.store.SaveStanding(ctx, d); err != nil {
		return err
	}
	c.hub.Changed("standing", d.ID)
	return nil
}

// readPolicies reads the file of policies; none is no policy beside the defaults.
func readPolicies(file string) (approval.Policies, error) {
	if file == "" {
		return approval.Policies{}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return approval.Policies{}, fmt.Errorf("read policies: %w", err)
	}
	return approval.ReadPolicies(file, text)
}

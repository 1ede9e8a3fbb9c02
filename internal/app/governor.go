package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// governor bounds what all incidents together may do, and holds the switch by which people halt Tocsin's own responses. It implements
// action.Governor. What is in force when it halts ends at its own end.
type governor struct {
	store   *store.Store
	file    string // a file of this name halts too, so that the switch is in reach of whoever reaches the machine
	mirrors bool   // the store's halt by a file of this name is this process's own, and counts no longer than the file is there
	perHour int
	now     func() time.Time
}

// Halted implements action.Governor.
func (g *governor) Halted(ctx context.Context) error {
	why, err := g.halted(ctx)
	if err == nil && why != "" {
		err = fmt.Errorf("%w: %s", action.ErrHalted, why)
	}
	return err
}

// Admit implements action.Governor.
func (g *governor) Admit(l action.Lease, d action.Description, begun []action.Lease) error {
	now, n := g.now(), 0
	for _, o := range begun {
		if o.Plan.Action != d.Name {
			continue
		}
		if !d.Additive && o.InForce(now) && o.Plan.Target == l.Plan.Target {
			return fmt.Errorf("%w: %s holds %s until %s, and a target has one %s at a time", action.ErrLimit, o.ID, o.Plan.Target, o.Ends.Format(time.RFC3339), d.Name)
		}
		at := o.Applied
		if at.IsZero() { // its outcome is not known, and it counts
			at = o.Ends.Add(-o.Plan.Lease)
		}
		if at.After(now.Add(-action.LimitWindow)) {
			n++
		}
	}
	if n >= g.perHour {
		return fmt.Errorf("%w: %d effects of %s began within an hour (limits.per_hour)", action.ErrLimit, n, d.Name)
	}
	return nil
}

// halted is why responses are halted; empty when they are not.
func (g *governor) halted(ctx context.Context) (string, error) {
	switch _, err := os.Stat(g.file); {
	case err == nil:
		return "the file " + g.file + " is there", nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("look for the halt file: %w", err)
	}
	h, err := g.store.Halted(ctx)
	if err != nil || h == nil || g.mirrors && h.By == g.byFile() { // of a file that is gone
		return "", err
	}
	return fmt.Sprintf("%s halted them at %s: %s", h.By, h.At.Format(time.RFC3339), h.Reason), nil
}

// byFile is who halts responses by the file.
func (g *governor) byFile() string { return "the file " + g.file }

// mirror writes into the store, and the ledger, that the file is there or gone, so that it binds effects in other processes too.
func (g *governor) mirror(ctx context.Context) error {
	_, err := os.Stat(g.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for the halt file: %w", err)
	}
	there := err == nil
	h, err := g.store.Halted(ctx)
	if err != nil {
		return err
	}
	switch {
	case there && h == nil:
		h = &store.Halt{By: g.byFile(), Reason: "it is there", At: g.now().UTC()}
	case !there && h != nil && h.By == g.byFile():
		h = nil
	default:
		return nil
	}
	body := any(h)
	if h == nil {
		body = map[string]any{"resumed": true, "reason": "the file is gone"}
	}
	if err := g.store.Record(ctx, g.now(), ledger.KindHalt, g.byFile(), "responses", "", body); err != nil {
		return err
	}
	return g.store.SaveHalt(ctx, h)
}

// Halt stops every effect that has not begun. Any responder may: stopping is cheap.
func (c *control) Halt(ctx context.Context, by approval.Principal, reason string) error {
	if err := c.mayWith(by, approval.Responder, reason); err != nil {
		return c.turnedAway(ctx, by, "halt", "responses", reason, err)
	}
	h := store.Halt{By: by.ID, Reason: reason, At: c.now().UTC()}
	if err := c.append(ctx, ledger.KindHalt, by.ID, "responses", h); err != nil {
		return err
	}
	return c.store.SaveHalt(ctx, &h)
}

// Resume lets effects begin again. Leads may.
func (c *control) Resume(ctx context.Context, by approval.Principal, reason string) error {
	if err := c.mayWith(by, approval.Lead, reason); err != nil {
		return c.turnedAway(ctx, by, "resume", "responses", reason, err)
	}
	if err := c.append(ctx, ledger.KindHalt, by.ID, "responses", map[string]any{"resumed": true, "by": by, "reason": reason}); err != nil {
		return err
	}
	return c.store.SaveHalt(ctx, nil)
}

// mayWith refuses a person below a role, or without a reason.
func (c *control) mayWith(by approval.Principal, role approval.Role, reason string) error {
	if !by.Role.AtLeast(role) {
		return c.denied(by, role)
	}
	if len([]rune(reason)) < approval.MinReason {
		return approval.Refuse(approval.RefusedReason, "this needs a reason")
	}
	return nil
}

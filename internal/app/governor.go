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
	perHour int
	now     func() time.Time
}

// Admit implements action.Governor.
func (g *governor) Admit(ctx context.Context, in action.Input, d action.Description) error {
	why, err := g.halted(ctx)
	if err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("%w: %s", action.ErrHalted, why)
	}
	begun := g.now().Add(-time.Hour)
	leases, err := g.store.LeasesSince(ctx, begun)
	if err != nil {
		return err
	}
	n := 0
	for _, l := range leases {
		if l.Plan.Action != d.Name || l.ID == in.Request {
			continue
		}
		if !d.Additive && l.InForce(g.now()) && l.Plan.Target == in.Plan.Target {
			return fmt.Errorf("%w: %s holds %s until %s, and a target has one %s at a time", action.ErrLimit, l.ID, l.Plan.Target, l.Ends.Format(time.RFC3339), d.Name)
		}
		at := l.Applied
		if at.IsZero() { // its outcome is not known, and it counts
			at = l.Ends.Add(-l.Plan.Lease)
		}
		if at.After(begun) {
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
	if err != nil || h == nil {
		return "", err
	}
	return fmt.Sprintf("%s halted them at %s: %s", h.By, h.At.Format(time.RFC3339), h.Reason), nil
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
		return &approval.Refusal{Kind: approval.RefusedReason, Text: "this needs a reason"}
	}
	return nil
}

package workflows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Effects plan, make, prove and undo what actions do: the I/O of workflows that needs an action's credentials. They run on the queue of
// their action alone, by a worker that holds no other action's. Each is idempotent. All fields are required.
type Effects struct {
	Actions *action.Catalogue
	Store   *store.Store
	// Count counts what was done (plan, apply, verify, undo) and whether it failed.
	Count func(action, what string, err error)
	Now   func() time.Time
}

// Plan computes what an action would do, for people to see before they approve.
func (e *Effects) Plan(ctx context.Context, in PlanInput) (out PlanOutput, err error) {
	defer func() { e.Count(in.Plan.Action, "plan", err) }()
	if _, err := e.Actions.Find(in.Plan.Action); err != nil {
		return out, temporal.NewNonRetryableApplicationError(err.Error(), "plan", err)
	}
	if out.Plan, err = e.Actions.Plan(ctx, action.Input{Incident: in.Incident, Plan: in.Plan}); err != nil && passes(err) {
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

// notBegun is the type of the failure of an effect that was refused before it began.
const notBegun = "not begun"

// Contain applies an approved action. An error means that the effect is unknown, so it is tried again while the grant lasts; no
// retry brings a grant.
func (e *Effects) Contain(ctx context.Context, in action.Input) (action.Lease, error) {
	defer heartbeat(ctx)()
	lease, err := e.Actions.Apply(ctx, in)
	e.Count(in.Plan.Action, "apply", err)
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
	return lease, e.append(ctx, ledger.KindContainment, lease.Approver, in.Request, "applied/"+lease.ID, lease)
}

// Verify proves a containment by a probe and records how long it took from the decision.
func (e *Effects) Verify(ctx context.Context, l action.Lease) (action.Lease, error) {
	defer heartbeat(ctx)()
	l, err := e.stored(ctx, l) // a retry keeps the time of the first proof
	if err != nil {
		return l, err
	}
	if l.Lifted.IsZero() || l.Plan.Lease == 0 { // what can't be undone is lifted at once, and is proved all the same
		l, err = e.Actions.Verify(ctx, l)
		e.Count(l.Plan.Action, "verify", err)
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
	if err := e.append(ctx, ledger.KindContainment, "tocsin", l.ID, "verified/"+l.ID, map[string]any{"lease": l.ID, "verified": l.Verified}); err != nil {
		return l, err
	}
	text := effect(l)
	at := l.Verified
	if at.IsZero() {
		at = l.Applied
	}
	entry := incident.Entry{At: at, Actor: "tocsin", Source: "gate", Kind: "containment", Text: text, Ref: l.ID}
	return l, e.Store.AddEntry(ctx, l.Incident, entry)
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

// stored returns a lease as it was stored. One that is not is no lease: whoever can speak to the workflow server alone must not have
// something undone that nobody did.
func (e *Effects) stored(ctx context.Context, l action.Lease) (action.Lease, error) {
	known, found, err := e.Store.Lease(ctx, l.ID)
	if err == nil && (!found || known.Plan.Action != l.Plan.Action) {
		err = temporal.NewNonRetryableApplicationError(fmt.Sprintf("no lease %.80q of %.80q is stored", l.ID, l.Plan.Action), "lease", nil)
	}
	return known, err
}

// Revert undoes a containment.
func (e *Effects) Revert(ctx context.Context, in RevertInput) error {
	lease, err := e.stored(ctx, in.Lease)
	if err != nil {
		return err
	}
	if lease.Lifted.IsZero() {
		err := e.Actions.Undo(ctx, lease, in.Lift.By)
		if errors.Is(err, action.ErrKept) {
			in.Lift.Reason, err = in.Lift.Reason+"; "+err.Error(), nil
		}
		e.Count(lease.Plan.Action, "undo", err)
		if err != nil {
			return err
		}
		if lease, err = e.stored(ctx, lease); err != nil {
			return err
		}
	}
	if err := e.append(ctx, ledger.KindContainment, in.Lift.By, lease.ID, "reverted/"+lease.ID, in.Lift); err != nil {
		return err
	}
	text := fmt.Sprintf("Lifted: %s (%s)", incident.Visible(lease.Plan.Target.String(), 160), in.Lift.Reason)
	entry := incident.Entry{At: lease.Lifted, Actor: in.Lift.By, Source: "gate", Kind: "containment", Text: text, Ref: lease.ID}
	return e.Store.AddEntry(ctx, lease.Incident, entry)
}

func (e *Effects) append(ctx context.Context, kind, actor, subject, key string, body any) error {
	return e.Store.Record(ctx, e.Now(), kind, actor, subject, key, body)
}

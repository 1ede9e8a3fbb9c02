package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/internal/action"
)

// LeaseInput is a containment in force.
type LeaseInput struct {
	Lease action.Lease `json:"lease"`
	// Incident is the id of the incident's workflow, which is told when the lease was undone.
	Incident string `json:"incident"`
}

// undoTime is how long an undo waits for a worker: longer than anybody runs without one.
const undoTime = 10 * 365 * 24 * time.Hour

// ContainmentLease holds one containment until its end, or until a lead lifts it, and then undoes it. It outlives
// the incident that started it, and it never gives up undoing.
func ContainmentLease(ctx workflow.Context, in LeaseInput) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: time.Minute},
	})
	timer := workflow.NewTimer(ctx, max(0, in.Lease.Ends.Sub(workflow.Now(ctx))))
	lift := Lift{By: "tocsin", Reason: "the lease ended"}
	workflow.NewSelector(ctx).
		AddFuture(timer, func(workflow.Future) {}).
		AddReceive(workflow.GetSignalChannel(ctx, SignalLift), func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, &lift) }).
		Select(ctx)
	if ctx.Err() != nil {
		lift.Reason = "the workflow of the lease was cancelled"
	}
	// The undo must run even if somebody cancels this workflow.
	detached, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	var does *Effects
	undo := work{
		action: in.Lease.Plan.Action, incident: in.Lease.Incident, ref: in.Lease.ID, doing: "the undo", options: workflow.GetActivityOptions(detached), bound: undoTime,
	}
	if err := undo.carry(detached, does.Revert, RevertInput{Lease: in.Lease, Lift: lift}, nil); err != nil {
		return errors.Join(fmt.Errorf("revert containment: %w", err), undo.gaveUp(detached, err))
	}
	if err := acted(detached, in.Lease, true); err != nil {
		return err
	}
	// An incident that is closed by now needs no word; that it can't be told is no failure of the lease.
	_ = workflow.SignalExternalWorkflow(detached, in.Incident, "", SignalEnded, in.Lease.ID).Get(detached, nil)
	return nil
}

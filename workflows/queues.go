package workflows

import (
	"errors"
	"fmt"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Queue is the task queue of an action's effects. Each action beyond the gate has one of its own, so that a worker takes only what it has
// the credentials for. The gate's own actions need none, and are made where the gate answers.
func Queue(name string) string {
	if action.AtGate(name) {
		return TaskQueue + "-gate"
	}
	return TaskQueue + "-act-" + name
}

// startWithin is how long the work of an action may wait for a worker before people are told.
const startWithin = 15 * time.Second

// work is one activity of an action.
type work struct {
	action, incident string
	ref              string // what the line of the timeline is about: the request, where there is one
	doing            string // in that line
	options          workflow.ActivityOptions
	bound            time.Duration // how long it may wait for a worker
}

// carry runs an activity on the queue of its action. That no worker takes it in time is told; then it waits on in the queue, where the
// first worker that comes back finds it. Several tries that a worker takes and that fail are the options' business.
func (w work) carry(ctx workflow.Context, activity, in, out any) error {
	options, wait := w.options, startWithin
	options.TaskQueue = Queue(w.action)
	begun, told := workflow.Now(ctx), false
	for {
		options.ScheduleToStartTimeout = wait
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), activity, in).Get(ctx, out)
		if !unattended(err) || workflow.GetVersion(ctx, "unattended", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
			return err
		}
		wait = min(w.bound-workflow.Now(ctx).Sub(begun), maxWait)
		if wait <= 0 {
			return err
		}
		if options.ScheduleToCloseTimeout > 0 {
			options.ScheduleToCloseTimeout = max(options.ScheduleToCloseTimeout, wait+time.Minute) // it must not hide that nobody took it
		}
		if told {
			continue
		}
		told = true
		if err := w.tell(ctx); err != nil {
			return err
		}
	}
}

// maxWait is how long one try waits in the queue once people were told. The history of a lease that nobody undoes grows by each.
const maxWait = 6 * time.Hour

func (w work) tell(ctx workflow.Context) error {
	text := fmt.Sprintf("No worker has taken it within %s: %s of %s waits, and goes on when one is back.", startWithin, w.doing, w.action)
	in := UnattendedInput{Action: w.action, NoteInput: NoteInput{Incident: w.incident, Entry: incident.Entry{
		At: workflow.Now(ctx), Actor: "tocsin", Source: "workflow", Kind: "note", Text: text, Ref: w.ref,
	}}}
	var acts *Activities
	if err := workflow.ExecuteActivity(ctx, acts.Unattended, in).Get(ctx, nil); err != nil {
		return fmt.Errorf("tell that an action has no worker: %w", err)
	}
	return nil
}

// gaveUp tells that the work failed for good, for people to look.
func (w work) gaveUp(ctx workflow.Context, err error) error {
	entry := incident.Entry{
		At: workflow.Now(ctx), Actor: "tocsin", Source: "workflow", Kind: "note", Text: fmt.Sprintf("Look: %s of %s failed and is not tried again: %s", w.doing, w.action, rootCause(err)), Ref: w.ref,
	}
	var acts *Activities
	if err := workflow.ExecuteActivity(ctx, acts.Note, NoteInput{Incident: w.incident, Entry: entry}).Get(ctx, nil); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

// unattended reports whether an activity failed because no worker took it in time.
func unattended(err error) bool {
	var timeout *temporal.TimeoutError
	return errors.As(err, &timeout) && timeout.TimeoutType() == enums.TIMEOUT_TYPE_SCHEDULE_TO_START
}

// PlanNow computes what an action would do, by a worker that has it, for people who look before anything is asked.
func PlanNow(ctx workflow.Context, in PlanInput) (out PlanOutput, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: Queue(in.Plan.Action), StartToCloseTimeout: planTime, ScheduleToStartTimeout: planTime, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	var does *Effects
	err = workflow.ExecuteActivity(ctx, does.Plan, in).Get(ctx, &out)
	if unattended(err) {
		err = temporal.NewApplicationError(fmt.Sprintf("no worker of %s took it within %s", in.Plan.Action, planTime), "plan", err)
	}
	return out, err
}

// planTime is how long somebody who looks waits.
const planTime = 10 * time.Second

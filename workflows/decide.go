package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// handlers registers the updates before anything blocks, so that an early click is never lost. The validators refuse; what they
// let pass counts.
func (r *run) handlers(ctx workflow.Context) error {
	err := workflow.SetUpdateHandlerWithOptions(ctx, UpdateDecide, r.decide, workflow.UpdateHandlerOptions{Validator: r.checkDecision})
	if err != nil {
		return fmt.Errorf("register %s: %w", UpdateDecide, err)
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, UpdateAsk, r.ask, workflow.UpdateHandlerOptions{Validator: r.checkAsk})
	if err != nil {
		return fmt.Errorf("register %s: %w", UpdateAsk, err)
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, UpdateClose, r.close, workflow.UpdateHandlerOptions{Validator: r.checkClose})
	if err != nil {
		return fmt.Errorf("register %s: %w", UpdateClose, err)
	}
	return nil
}

// refusal makes an error whose kind reaches the caller.
func refusal(kind, text string) error { return temporal.NewApplicationError(text, kind) }

// checkDecision is the validator of decisions: who, when, what for, and whether the control plane signed the grant.
func (r *run) checkDecision(ctx workflow.Context, d approval.Decision) error {
	request := r.request(d.Request)
	if err := approval.Check(request, d, workflow.Now(ctx)); err != nil {
		return refusal(approval.Kind(err), err.Error())
	}
	if d.Verb == approval.Approve {
		if err := d.Grant.Verify(r.in.GrantKey, request.Plan, workflow.Now(ctx)); err != nil {
			return refusal(approval.RefusedGrant, err.Error())
		}
		if d.Grant.Request != d.Request || d.Grant.Approver != d.By.ID {
			return refusal(approval.RefusedGrant, "the grant is for another request or approver")
		}
	}
	return nil
}

// decide takes a decision that counts. The main loop, which waits for it, does what follows.
func (r *run) decide(ctx workflow.Context, d approval.Decision) (approval.Request, error) {
	request := r.request(d.Request)
	request.Answer(d)
	r.noticed(Notice{By: d.By.ID, Via: d.By.Via, At: d.At})
	if r.state.Incident.Times.Decided.IsZero() {
		r.state.Incident.Times.Decided = d.At
	}
	return *request, nil
}

func (r *run) request(id string) *approval.Request {
	for i := range r.state.Requests {
		if r.state.Requests[i].ID == id {
			return &r.state.Requests[i]
		}
	}
	return nil
}

func (r *run) checkAsk(ctx workflow.Context, a HumanAsk) error {
	switch {
	case r.state.Incident.ID == "" || r.closing != nil || a.Incident != r.state.Incident.ID:
		return refusal(approval.RefusedUnknown, "the incident is not open")
	case a.By == "":
		return refusal(approval.RefusedRole, "nobody asks")
	case r.agent(a.Target.Agent).ID == "":
		return refusal(approval.RefusedUnknown, "the incident is about another agent")
	case a.Target.Session != "" && !r.asksUnder("session"):
		return refusal(approval.RefusedUnknown, "the agent gives its session no name when it asks the gate, so that a quarantine of the session would stop nothing: ask for the agent")
	case len(r.state.Asked) >= maxAsked || slices.ContainsFunc(r.state.Asked, func(known HumanAsk) bool { return known.By == a.By }):
		return refusal(approval.RefusedDecided, "another containment that was asked for waits for its decision")
	case a.Lease < time.Minute || a.Lease > 7*24*time.Hour:
		return refusal(approval.RefusedUnknown, "a lease lasts between a minute and a week")
	case len([]rune(a.Reason)) < approval.MinReason:
		return refusal(approval.RefusedReason, "asking needs a reason")
	}
	return nil
}

func (r *run) ask(ctx workflow.Context, a HumanAsk) error {
	r.state.Asked = append(r.state.Asked, a)
	r.noticed(Notice{By: a.By, Via: "console", At: workflow.Now(ctx)})
	return nil
}

func (r *run) checkClose(ctx workflow.Context, c Closing) error {
	d := c.Disposition
	switch {
	case r.closing != nil || r.state.Incident.ID == "" || c.Incident != r.state.Incident.ID:
		return refusal(approval.RefusedDecided, "the incident is closed")
	case r.state.Incident.Status == incident.Waiting || len(r.state.Asked) > 0:
		return refusal(approval.RefusedWaiting, "a request is waiting for a decision; decide it first")
	case len([]rune(d.Reasoning)) < approval.MinReason || d.By == "":
		return refusal(approval.RefusedReason, "closing needs a person and a reason")
	}
	return nil
}

// close asks the main loop to end the incident and waits, so that the closer knows that it is written. The main loop writes it,
// because nothing that it wrote before may land after, and because a run that is under way must stop.
func (r *run) close(ctx workflow.Context, c Closing) error {
	r.closing = &c.Disposition
	return workflow.Await(ctx, func() bool { return r.done })
}

// finish writes the end of the incident.
func (r *run) finish(ctx workflow.Context) error {
	d := r.closing
	// Closing shows that a person knew, not that they looked: it ends the dwell time and adds nothing to coverage.
	r.noticed(Notice{By: d.By, Via: "close", At: d.At})
	r.move(incident.Closed)
	r.state.Incident.Disposition, r.state.Incident.Times.Closed = d, d.At
	err := workflow.ExecuteActivity(ctx, r.acts.Close, r.state.Incident).Get(ctx, nil)
	if err != nil {
		return fmt.Errorf("close incident: %w", err)
	}
	r.done = true
	return nil
}

// askStep puts a gated step to humans and waits for the decision or the deadline.
func (r *run) askStep(ctx workflow.Context, p playbooks.Playbook, s playbooks.Step, current Run) (playbooks.Result, error) {
	plan := approval.Plan{Action: s.Do, Class: s.Class, Target: r.target(s.Target, current), Lease: s.Lease, Playbook: p.Ref(), Evidence: r.state.Evidence}
	request, err := r.put(ctx, question{plan: plan, requester: "playbook:" + p.Name, deadline: time.Duration(s.Ask.Deadline), onExpiry: s.Ask.OnExpiry})
	if err != nil {
		return playbooks.Failed, err
	}
	if request.State == approval.Approved {
		return playbooks.Approved, nil
	}
	return playbooks.Refused, nil
}

// target is what a step acts on. A session or tool under whose name the agent does not ask the gate can't be stopped by that name: the
// whole agent is then put to the humans, and the question says so by naming it.
func (r *run) target(narrowed string, current Run) approval.Target {
	target := approval.Target{Agent: current.Agent}
	switch {
	case !slices.Contains(current.Scopes, narrowed):
	case narrowed == "session":
		target.Session = r.state.Incident.Session
	case narrowed == "tool":
		target.Tool = current.Tool
	}
	return target
}

// asksUnder reports whether a finding of the incident says that the agent asks the gate under this name.
func (r *run) asksUnder(scope string) bool {
	return slices.ContainsFunc(r.state.Raised, func(raised pipeline.Raised) bool { return slices.Contains(raised.Scopes, scope) })
}

// humanAsked puts a person's request to the others and carries it out if one of them approves. It reports whether that is done,
// or to be tried again.
func (r *run) humanAsked(ctx workflow.Context, a HumanAsk) (done bool, err error) {
	if r.state.Asking == nil {
		if sealed, err := r.seal(ctx); err != nil || sealed != playbooks.Done {
			return sealed == playbooks.Failed, err
		}
	}
	plan := approval.Plan{Action: "quarantine", Class: approval.Contain, Target: a.Target, Lease: a.Lease, Playbook: "asked by a person", Evidence: r.state.Evidence}
	request, err := r.put(ctx, question{plan: plan, requester: a.By, deadline: askDeadline, onExpiry: "deny", person: true})
	if err != nil {
		return false, err
	}
	if request.State == approval.Approved {
		if _, err := r.contain(ctx, request); err != nil {
			return false, err
		}
	}
	if err := r.draft(ctx); err != nil {
		return false, err
	}
	return true, r.settle(ctx)
}

// escalations is how often an unanswered request is put again before silence means no.
const escalations = 1

// name is what an agent is called by now.
func (r *run) name(id string) string { return cmp.Or(r.state.Names[id], id) }

// agent returns one of the agents that the incident is about; its ID is empty for any other.
func (r *run) agent(id string) event.Agent {
	if r.state.Incident.Agent.ID == id {
		return r.state.Incident.Agent
	}
	for _, raised := range r.state.Raised {
		if raised.Finding.Agent.ID == id {
			return raised.Finding.Agent
		}
	}
	return event.Agent{}
}

// question is what is to be put to people.
type question struct {
	plan      approval.Plan
	requester string
	deadline  time.Duration
	onExpiry  string
	person    bool // a person asks
}

// put asks people and returns the request with what became of it. A run that continued as new while it waited goes on waiting. A
// request whose agent got its name meanwhile is put anew, because the gate knows the agent by that name.
func (r *run) put(ctx workflow.Context, q question) (*approval.Request, error) {
	for {
		if r.state.Asking == nil {
			if err := r.open(ctx, q, 0); err != nil {
				return nil, err
			}
		}
		asking := r.state.Asking
		if err := r.wait(ctx, asking.Request); err != nil {
			return nil, err
		}
		answered := r.request(asking.Request)
		again, attempt := answered.State == approval.Superseded, asking.Attempt
		if answered.State == approval.Expired && q.onExpiry == "escalate" && attempt < escalations {
			again = true
			attempt++
		}
		if !again && answered.State != approval.Approved && len(r.state.Leases) > 0 {
			r.move(incident.Contained)
		}
		if err := r.publish(ctx, answered.ID); err != nil {
			return answered, err
		}
		r.state.Asking = nil
		if !again {
			return answered, nil
		}
		if err := r.open(ctx, q, attempt); err != nil {
			return nil, err
		}
	}
}

// open opens the gate for a decision, and then tells people. The order matters: a click that is faster than the card still counts.
func (r *run) open(ctx workflow.Context, q question, attempt int) error {
	q.plan.Target.Agent = r.name(q.plan.Target.Agent)
	if err := workflow.ExecuteActivity(ctx, r.acts.Plan, action.Input{Incident: r.state.Incident.ID, Plan: q.plan}).Get(ctx, &q.plan); err != nil {
		return fmt.Errorf("plan %s: %w", q.plan.Action, err)
	}
	digest, err := approval.DigestOf(q.plan)
	if err != nil {
		return err
	}
	request := r.newRequest(ctx, q, digest)
	r.state.Requests = append(r.state.Requests, request)
	r.state.Asking = &Asking{Request: request.ID, Attempt: attempt, Person: q.person}
	r.move(incident.Waiting)
	return r.publish(ctx, request.ID)
}

func (r *run) newRequest(ctx workflow.Context, q question, digest string) approval.Request {
	now, agent, n := workflow.Now(ctx), r.agent(q.plan.Target.Agent), len(r.state.Requests)+1
	request := approval.Request{
		ID: fmt.Sprintf("%s-R%d", r.state.Incident.ID, n), Incident: r.state.Incident.ID, Revision: n, Plan: q.plan, Digest: digest, Requester: q.requester,
		Asked: now, Deadline: now.Add(q.deadline), OnExpiry: q.onExpiry, State: approval.Pending, Question: q.plan.Question(),
	}
	for _, identity := range []string{agent.ID, agent.Name, agent.Service} {
		if identity != "" {
			request.Agents = append(request.Agents, identity)
		}
	}
	return request
}

// publish writes the request as it stands now, with its audit row and its timeline entry.
func (r *run) publish(ctx workflow.Context, id string) error {
	in := RequestInput{Incident: r.state.Incident, Request: *r.request(id)}
	if err := workflow.ExecuteActivity(ctx, r.acts.Publish, in).Get(ctx, nil); err != nil {
		return fmt.Errorf("publish request: %w", err)
	}
	return nil
}

// wait returns when the request is decided or replaced or its deadline has passed. Findings and notices that arrive meanwhile are
// recorded.
func (r *run) wait(ctx workflow.Context, id string) error {
	timer, cancel := workflow.WithCancel(ctx)
	defer cancel()
	due := workflow.NewTimer(timer, max(0, r.request(id).Deadline.Sub(workflow.Now(ctx))))
	noticed := r.state.Incident.Times.Noticed
	renamed := func() bool { t := r.request(id).Plan.Target.Agent; return r.name(t) != t }
	for {
		err := workflow.Await(ctx, func() bool {
			r.drain(ctx)
			return due.IsReady() || renamed() || r.request(id).State != approval.Pending || len(r.state.Fresh) > 0 || !r.state.Incident.Times.Noticed.Equal(noticed)
		})
		if err != nil {
			return fmt.Errorf("wait for a decision: %w", err)
		}
		request := r.request(id)
		if request.State == approval.Pending && due.IsReady() {
			request.State = approval.Expired
		}
		if request.State == approval.Pending && renamed() {
			request.State = approval.Superseded
		}
		if request.State != approval.Pending {
			return nil
		}
		if err := r.record(ctx); err != nil {
			return err
		}
		noticed = r.state.Incident.Times.Noticed
		if r.dirty {
			if err := r.save(ctx); err != nil {
				return err
			}
		}
		if err := r.carryOn(ctx); err != nil {
			return err
		}
	}
}

// contain applies what was approved, proves it, and leaves a lease behind that ends it.
func (r *run) contain(ctx workflow.Context, request *approval.Request) (playbooks.Result, error) {
	in := action.Input{Request: request.ID, Incident: r.state.Incident.ID, Plan: request.Plan, Grants: request.Grants()}
	effects := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		// A quarantine is idempotent by its request, so that an unknown outcome may be tried again while the grant lasts.
		StartToCloseTimeout: 10 * time.Second, ScheduleToCloseTimeout: 15 * time.Minute,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 10 * time.Second, MaximumAttempts: 50},
	})
	var lease action.Lease
	if err := workflow.ExecuteActivity(effects, r.acts.Contain, in).Get(ctx, &lease); err != nil {
		return playbooks.Failed, r.uncontained(ctx, "The containment failed; its effect is unknown: "+rootCause(err), request.ID)
	}
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: LeaseID(lease.ID), ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
	})
	// The lease outlives the incident: it must end even if somebody terminates the incident's workflow.
	if err := workflow.ExecuteChildWorkflow(child, ContainmentLease, LeaseInput{Lease: lease, Incident: workflow.GetInfo(ctx).WorkflowExecution.ID}).GetChildWorkflowExecution().Get(ctx, nil); err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return playbooks.Failed, fmt.Errorf("start lease: %w", err)
	}
	if err := workflow.ExecuteActivity(effects, r.acts.Verify, lease).Get(ctx, &lease); err != nil {
		return playbooks.Failed, r.uncontained(ctx, "The containment was applied but not verified: "+rootCause(err), request.ID)
	}
	r.state.Leases = append(r.state.Leases, lease.ID)
	r.state.Incident.Times.Contained = lease.Verified
	r.move(incident.Contained)
	return playbooks.Done, r.save(ctx)
}

// uncontained writes down that an approved containment is not proved, for people to look.
func (r *run) uncontained(ctx workflow.Context, text, request string) error {
	entry := incident.Entry{At: workflow.Now(ctx), Actor: "tocsin", Source: "workflow", Kind: "note", Text: text, Ref: request}
	if err := workflow.ExecuteActivity(ctx, r.acts.Uncontained, NoteInput{Incident: r.state.Incident.ID, Entry: entry}).Get(ctx, nil); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

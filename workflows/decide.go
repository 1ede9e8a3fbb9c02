package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/detect"
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
	err = workflow.SetUpdateHandlerWithOptions(ctx, UpdateRun, r.runPlaybook, workflow.UpdateHandlerOptions{Validator: r.checkRun})
	if err != nil {
		return fmt.Errorf("register %s: %w", UpdateRun, err)
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
	r.moved = true
	r.state.Asked = append(r.state.Asked, a)
	r.noticed(Notice{By: a.By, Via: a.Via, At: workflow.Now(ctx)})
	return nil
}

// RunPlaybook is a playbook that a person starts. What it asks, that person can't approve.
type RunPlaybook struct {
	Incident string `json:"incident"`
	Playbook string `json:"playbook"`
	By       string `json:"by"`
	Via      string `json:"via"`
	Reason   string `json:"reason"`
}

func (r *run) checkRun(ctx workflow.Context, p RunPlaybook) error {
	_, known := r.in.Playbooks[p.Playbook]
	switch {
	case r.state.Incident.ID == "" || r.closing != nil || p.Incident != r.state.Incident.ID:
		return refusal(approval.RefusedUnknown, "the incident is not open")
	case !known:
		return refusal(approval.RefusedUnknown, fmt.Sprintf("there was no playbook %q when the incident began", p.Playbook))
	case p.By == "":
		return refusal(approval.RefusedRole, "nobody starts it")
	case len([]rune(p.Reason)) < approval.MinReason:
		return refusal(approval.RefusedReason, "starting a playbook needs a reason")
	case len(r.state.Runs) >= maxRuns || slices.ContainsFunc(r.state.Runs, func(known *Run) bool { return known.Playbook == p.Playbook && !known.Finished }):
		return refusal(approval.RefusedDecided, "the playbook runs already, or the incident ran as many as it may")
	}
	return nil
}

// runPlaybook starts it about the incident's agent and the first of its findings.
func (r *run) runPlaybook(ctx workflow.Context, p RunPlaybook) error {
	book := r.in.Playbooks[p.Playbook]
	current := &Run{Playbook: p.Playbook, Agent: r.state.Incident.Agent.ID, By: p.By, State: make(playbooks.State)}
	if len(r.state.Raised) > 0 {
		first := r.state.Raised[0]
		current.Finding, current.Tool, current.Scopes = findingEnv(first.Finding), first.Finding.Tool, first.Scopes
	}
	r.state.Runs = append(r.state.Runs, current)
	r.state.Incident.Playbook = book.Ref()
	r.noticed(Notice{By: p.By, Via: p.Via, At: workflow.Now(ctx)})
	r.moved, r.dirty = true, true
	return nil
}

func (r *run) checkClose(ctx workflow.Context, c Closing) error {
	d := c.Disposition
	switch {
	case r.closing != nil || r.state.Incident.ID == "" || c.Incident != r.state.Incident.ID:
		return refusal(approval.RefusedDecided, "the incident is closed")
	case r.pending() || len(r.state.Asked) > 0:
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

// finish writes the end of the incident, once what is under way was given up or, where it makes an effect, is over.
func (r *run) finish(ctx workflow.Context) error {
	for _, key := range workflow.DeterministicKeys(r.tasks) {
		if !r.tasks[key].effect {
			r.tasks[key].cancel()
		}
	}
	if err := workflow.Await(ctx, func() bool { return len(r.tasks) == 0 }); err != nil {
		return err
	}
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
func (r *run) askStep(ctx workflow.Context, t *task, key string, p playbooks.Playbook, current *Run, c playbooks.Command) (playbooks.Result, string, error) {
	s := c.Step
	q := question{
		key: key, task: t, requester: cmp.Or(current.By, "playbook:"+p.Name), person: current.By != "", blast: s.Blast, terms: approval.Policy{Need: s.Ask.Need, From: s.Ask.From, Deadline: s.Ask.Deadline, OnExpiry: s.Ask.OnExpiry},
		plan: approval.Plan{Action: s.Do, Class: s.Class, Target: r.target(s.Target, current, c.Item), Params: c.Params, Lease: s.Lease, Playbook: p.Ref(), Evidence: slices.Clone(r.state.Evidence)},
	}
	request, why, err := r.put(ctx, q)
	switch {
	case err != nil:
		return playbooks.Failed, "", err
	case request == nil:
		return playbooks.Failed, why, r.uncontained(ctx, fmt.Sprintf("Nobody can be asked about %s: %s", s.Do, why), r.state.Incident.ID)
	case request.State == approval.Approved:
		return playbooks.Approved, "", nil
	}
	return playbooks.Refused, string(request.State), nil
}

// target is what a step acts on. A session or tool under whose name the agent does not ask the gate can't be stopped by that name: the
// whole agent is then put to the humans, and the question says so by naming it.
// Inside a foreach over the incident's agents the item is the agent.
func (r *run) target(narrowed string, current *Run, item string) approval.Target {
	target := approval.Target{Agent: current.Agent}
	if item != "" && r.agent(item).ID != "" {
		target.Agent = item
	}
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

// humanAsked puts a person's request to the others and carries it out if one of them approves.
func (r *run) humanAsked(ctx workflow.Context, t *task, key string, a HumanAsk) error {
	if r.state.Asking[key] == nil {
		sealed, err := r.seal(ctx)
		if err != nil || sealed == "" { // the next try is due
			return err
		}
		if sealed != playbooks.Done {
			r.answered(a)
			return nil
		}
	}
	q := question{
		key: key, task: t, requester: a.By, person: true, terms: approval.Policy{Deadline: askDeadline, OnExpiry: "deny"},
		plan: approval.Plan{Action: action.NameQuarantine, Class: approval.Contain, Target: a.Target, Lease: a.Lease, Playbook: "asked by a person", Evidence: slices.Clone(r.state.Evidence)},
	}
	request, why, err := r.put(ctx, q)
	if err != nil {
		return err
	}
	if request == nil {
		err = r.uncontained(ctx, "Nobody can be asked: "+why, r.state.Incident.ID)
	} else if request.State == approval.Approved {
		t.effect = true
		_, _, err = r.act(ctx, request)
	}
	if err != nil {
		return err
	}
	delete(r.state.Asking, key)
	r.answered(a)
	if err := r.draft(ctx); err != nil {
		return err
	}
	r.settle()
	r.dirty = true
	return nil
}

// answered takes a person's request from those that wait.
func (r *run) answered(a HumanAsk) {
	r.state.Asked = slices.DeleteFunc(r.state.Asked, func(known HumanAsk) bool { return known == a })
}

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
	key       string // of Asking
	task      *task
	plan      approval.Plan
	requester string
	person    bool            // a person asks, and not a rule's playbook: no decision in advance is about that
	terms     approval.Policy // what the playbook, or Tocsin itself, asks of the answer
	blast     *playbooks.Blast
}

// put asks people and returns the request with what became of it, or none and why nobody can be asked. A run that continued as new
// while it waited goes on waiting. A request whose agent got its name meanwhile is put anew, because the gate knows the agent by that
// name.
func (r *run) put(ctx workflow.Context, q question) (*approval.Request, string, error) {
	if r.state.Asking[q.key] == nil {
		if why, err := r.open(ctx, q, 0); err != nil || why != "" {
			return nil, why, err
		}
	}
	for {
		asking := r.state.Asking[q.key]
		q.task.waits = true
		err := r.wait(ctx, asking.Request)
		q.task.waits = false
		if err != nil {
			return nil, "", err
		}
		answered := r.request(asking.Request)
		again, attempt := answered.State == approval.Superseded, asking.Attempt
		if answered.State == approval.Expired && answered.OnExpiry == "escalate" && attempt < playbooks.Escalations {
			again = true
			attempt++
		}
		if !again && answered.State != approval.Approved && len(r.state.Leases) > 0 {
			r.settle()
		}
		if err := r.publish(ctx, answered.ID); err != nil {
			return nil, "", err
		}
		if !again {
			return r.request(asking.Request), "", nil
		}
		if why, err := r.open(ctx, q, attempt); err != nil || why != "" {
			return nil, why, err
		}
	}
}

// open opens the gate for a decision, and then tells people. The order matters: a click that is faster than the card still counts.
// What a standing decision allows is decided already. It returns why nobody can be asked, if nobody can.
func (r *run) open(ctx workflow.Context, q question, attempt int) (why string, err error) {
	q.plan.Target.Agent = r.name(q.plan.Target.Agent)
	out, why, err := r.plan(ctx, PlanInput{Incident: r.state.Incident.ID, Plan: q.plan, Asked: q.terms})
	if err != nil || why != "" {
		return why, err
	}
	if why := q.blast.TooWide(out.Plan); why != "" {
		return why, nil
	}
	request, err := r.newRequest(ctx, q, out)
	if err != nil {
		return "", err
	}
	r.state.Requests = append(r.state.Requests, request)
	r.state.Asking[q.key] = &Asking{Request: request.ID, Attempt: attempt}
	r.move(incident.Waiting)
	if !q.person {
		if err := r.decidedBefore(ctx, request); err != nil {
			return "", err
		}
	}
	return "", r.publish(ctx, request.ID)
}

// planTries is how often a plan is computed before nobody is asked.
const planTries = 5

// plan computes what is to be put to people, or why it can't be. They hear of a failure at once, unless it looks as if it passes by
// itself; then after the second one. It is tried on meanwhile.
func (r *run) plan(ctx workflow.Context, in PlanInput) (out PlanOutput, why string, err error) {
	// Histories of older releases have one activity for both the terms and the change.
	first := workflow.GetVersion(ctx, "terms-first", workflow.DefaultVersion, 1) == 1
	if first {
		if why, err := r.terms(ctx, in, &out); err != nil || why != "" {
			return out, why, err
		}
		in.Plan = out.Plan
	}
	planned, why, err := r.change(ctx, in)
	if err != nil || why != "" || planned.Deadline > 0 {
		return planned, why, err
	}
	if !first {
		why, err = r.terms(ctx, in, &out)
		planned.Plan.Need = out.Terms.Need
	}
	out.Plan = planned.Plan
	return out, why, err
}

// terms asks who must approve, or says why nobody can.
func (r *run) terms(ctx workflow.Context, in PlanInput, out *PlanOutput) (why string, err error) {
	err = book(ctx, r.acts.Terms, in).Get(ctx, out)
	if failed := (*temporal.ApplicationError)(nil); errors.As(err, &failed) {
		return failed.Message(), nil
	}
	if err != nil {
		return "", fmt.Errorf("ask for the terms of %s: %w", in.Plan.Action, err)
	}
	return "", nil
}

// change computes what an action would do.
func (r *run) change(ctx workflow.Context, in PlanInput) (out PlanOutput, why string, err error) {
	each := work{
		action: in.Plan.Action, incident: in.Incident, ref: in.Incident, doing: "the plan", bound: effectTime,
		options: workflow.ActivityOptions{StartToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}},
	}
	tries := planTries
	if workflow.GetVersion(ctx, "plan-tries", workflow.DefaultVersion, 1) == workflow.DefaultVersion { // the server tried, and nobody heard
		each.options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: planTries}
		tries = 1
	}
	told, pause := false, time.Second
	for try := 1; ; try++ {
		err := each.carry(ctx, r.does.Plan, in, &out)
		if err == nil {
			return out, "", nil
		}
		if ctx.Err() != nil {
			return out, "", fmt.Errorf("plan %s: %w", in.Plan.Action, err)
		}
		failed := (*temporal.ApplicationError)(nil)
		known := errors.As(err, &failed)
		if try == tries || known && failed.NonRetryable() {
			return out, rootCause(err), nil
		}
		if !told && (try > 1 || !known || failed.Type() != passing) {
			told = true
			if err := r.note(ctx, fmt.Sprintf("Nobody is asked about %s yet, because it can't be planned: %s. It is tried again.", in.Plan.Action, rootCause(err))); err != nil {
				return out, "", err
			}
		}
		if err := workflow.Sleep(ctx, pause); err != nil {
			return out, "", fmt.Errorf("plan %s: %w", in.Plan.Action, err)
		}
		pause *= 2
	}
}

// note writes a line of the timeline for people to see.
func (r *run) note(ctx workflow.Context, text string) error {
	entry := incident.Entry{At: workflow.Now(ctx), Actor: "tocsin", Source: "workflow", Kind: "note", Text: text, Ref: r.state.Incident.ID}
	if err := workflow.ExecuteActivity(ctx, r.acts.Note, NoteInput{Incident: r.state.Incident.ID, Entry: entry}).Get(ctx, nil); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

// decidedBefore takes the decision of a standing decision that fits the request, if there is one.
func (r *run) decidedBefore(ctx workflow.Context, request approval.Request) error {
	if request.Plan.Class != approval.Contain || request.Plan.Lease == 0 {
		return nil
	}
	in := StandingInput{Request: request, Rules: r.rules(request.Plan.Target.Agent)}
	var d *approval.Decision
	if err := workflow.ExecuteActivity(ctx, r.acts.Standing, in).Get(ctx, &d); err != nil {
		return fmt.Errorf("look for a standing decision: %w", err)
	}
	known := r.request(request.ID)
	if d == nil || known.State != approval.Pending {
		return nil
	}
	known.Standing = d.Grant.Standing
	known.Answer(*d)
	if r.state.Incident.Times.Decided.IsZero() {
		r.state.Incident.Times.Decided = d.At
	}
	return nil
}

// rules are the rules that fired on an agent of the incident.
func (r *run) rules(agent string) (out []string) {
	for _, raised := range r.state.Raised {
		if f := raised.Finding; f.Agent.ID == agent && f.Lane == detect.Propose && !slices.Contains(out, f.Rule) {
			out = append(out, f.Rule)
		}
	}
	return out
}

func (r *run) newRequest(ctx workflow.Context, q question, out PlanOutput) (approval.Request, error) {
	digest, err := approval.DigestOf(out.Plan)
	if err != nil {
		return approval.Request{}, err
	}
	now, agent, n := workflow.Now(ctx), r.agent(out.Plan.Target.Agent), len(r.state.Requests)+1
	request := approval.Request{
		ID: fmt.Sprintf("%s-R%d", r.state.Incident.ID, n), Incident: r.state.Incident.ID, Revision: n, Plan: out.Plan, Digest: digest, Requester: q.requester,
		Asked: now, Deadline: now.Add(out.Deadline), OnExpiry: out.OnExpiry, State: approval.Pending, Question: out.Plan.Question(), Terms: out.Terms,
	}
	for _, identity := range []string{agent.ID, agent.Name, agent.Service} {
		if identity != "" {
			request.Agents = append(request.Agents, identity)
		}
	}
	return request, nil
}

// publish writes the request as it stands now, with its audit row and its timeline entry.
func (r *run) publish(ctx workflow.Context, id string) error {
	if err := r.writes.Lock(ctx); err != nil {
		return err
	}
	defer r.writes.Unlock()
	in := RequestInput{Incident: r.state.Incident, Request: *r.request(id)}
	if err := workflow.ExecuteActivity(ctx, r.acts.Publish, in).Get(ctx, nil); err != nil {
		return fmt.Errorf("publish request: %w", err)
	}
	if r.state.Shown == nil {
		r.state.Shown = make(map[string]int)
	}
	r.state.Shown[id] = len(in.Request.Votes)
	return nil
}

// wait returns when the request is decided or replaced or its deadline has passed. Each approval of several, and each rung of the
// ladder, is published meanwhile.
func (r *run) wait(ctx workflow.Context, id string) error {
	timer, cancel := workflow.WithCancel(ctx)
	defer cancel()
	due := workflow.NewTimer(timer, max(0, r.request(id).Deadline.Sub(workflow.Now(ctx))))
	renamed := func() bool { t := r.request(id).Plan.Target.Agent; return r.name(t) != t }
	for {
		told := r.request(id).Rung
		rung := r.nextRung(timer, id)
		err := workflow.Await(ctx, func() bool {
			q := r.request(id)
			return due.IsReady() || renamed() || q.State != approval.Pending || len(q.Votes) > r.state.Shown[id] || rung != nil && rung.IsReady()
		})
		if err == nil {
			err = ctx.Err() // a timer that is cancelled is ready too, and no deadline has passed
		}
		if err != nil {
			return fmt.Errorf("wait for a decision: %w", err)
		}
		q := r.request(id)
		if q.State == approval.Pending && due.IsReady() {
			q.State = approval.Expired
		}
		if q.State == approval.Pending && renamed() {
			q.State = approval.Superseded
		}
		if q.State != approval.Pending {
			return nil
		}
		if q.Rung = q.Level(workflow.Now(ctx)); q.Rung > told || len(q.Votes) > r.state.Shown[id] {
			if err := r.publish(ctx, id); err != nil {
				return err
			}
		}
	}
}

// nextRung is a timer for the next rung of a request's ladder; nil on the last.
func (r *run) nextRung(ctx workflow.Context, id string) workflow.Future {
	q := r.request(id)
	if q.Rung >= len(q.Terms.Ladder) {
		return nil
	}
	return workflow.NewTimer(ctx, max(0, q.Asked.Add(q.Terms.Ladder[q.Rung].After).Sub(workflow.Now(ctx))))
}

// effectTime is how long an effect may take to begin after it was approved, which is how long grants last.
const effectTime = 15 * time.Minute

// act applies what was approved, proves it, and leaves a lease behind that ends it.
func (r *run) act(ctx workflow.Context, request *approval.Request) (playbooks.Result, string, error) {
	in := action.Input{Request: request.ID, Incident: r.state.Incident.ID, Plan: request.Plan, Grants: request.Grants()}
	effect := work{
		action: request.Plan.Action, incident: r.state.Incident.ID, ref: request.ID, doing: "what was approved", bound: effectTime,
		options: workflow.ActivityOptions{
			// The catalogue sees to it that an effect is made once, so that an unknown outcome may be tried again while the grants last. The
			// heartbeat tells a slow effect from a process that was killed.
			StartToCloseTimeout: 30 * time.Second, ScheduleToCloseTimeout: effectTime, HeartbeatTimeout: 10 * time.Second,
			RetryPolicy: &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 10 * time.Second, MaximumAttempts: 50},
		},
	}
	var lease action.Lease
	if err := effect.carry(ctx, r.does.Contain, in, &lease); err != nil {
		return r.failedToAct(ctx, request, err)
	}
	if err := r.hold(ctx, lease); err != nil {
		return playbooks.Failed, "", err
	}
	effect.doing = "the proof of the effect"
	if err := effect.carry(ctx, r.does.Verify, lease, &lease); err != nil {
		return playbooks.Failed, rootCause(err), r.uncontained(ctx, "The containment was applied but not verified: "+rootCause(err), request.ID)
	}
	if err := acted(ctx, lease, false); err != nil {
		return playbooks.Failed, "", err
	}
	if lease.Lifted.IsZero() {
		r.state.Leases = append(r.state.Leases, lease.ID)
		r.state.Incident.Times.Contained = lease.Verified
	}
	r.settle()
	return playbooks.Done, "", r.save(ctx)
}

// acted brings what people see up to date after an effect. In older releases the effect's own activity did.
func acted(ctx workflow.Context, lease action.Lease, undone bool) error {
	if workflow.GetVersion(ctx, "acted", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return nil
	}
	var acts *Activities
	if err := book(ctx, acts.Acted, ActedInput{lease, undone}).Get(ctx, nil); err != nil {
		return fmt.Errorf("tell what was done: %w", err)
	}
	return nil
}

// failedToAct tells why nothing is known to be in force, and sees to it that what may be in force ends.
func (r *run) failedToAct(ctx workflow.Context, request *approval.Request, err error) (playbooks.Result, string, error) {
	text := "Nothing was done: "
	if failed := (*temporal.ApplicationError)(nil); !errors.As(err, &failed) || failed.Type() != notBegun {
		stored, failed := r.holdUnknown(ctx, request.ID)
		switch {
		case failed != nil:
			return playbooks.Failed, "", failed
		case !stored && unattended(err): // a lease is stored before anything happens
		case request.Plan.Lease == 0:
			text = "It failed; its effect is unknown, and can't be undone: look: "
		default:
			text = "The containment failed; its effect is unknown, and is undone when its lease ends: "
		}
	}
	return playbooks.Failed, rootCause(err), r.uncontained(ctx, text+rootCause(err), request.ID)
}

// holdUnknown sees to it that an effect that may have been made ends: what was stored before it is undone at its time.
func (r *run) holdUnknown(ctx workflow.Context, id string) (stored bool, err error) {
	var leases []action.Lease
	if err := book(ctx, r.acts.Held, id).Get(ctx, &leases); err != nil {
		return false, fmt.Errorf("look for lease: %w", err)
	}
	for _, lease := range leases {
		if err := r.hold(ctx, lease); err != nil {
			return true, err
		}
	}
	return len(leases) > 0, nil
}

// hold starts the workflow that ends the lease. It outlives the incident: the lease must end even if somebody terminates the
// incident's workflow.
func (r *run) hold(ctx workflow.Context, lease action.Lease) error {
	if !lease.Lifted.IsZero() || lease.Plan.Lease == 0 {
		return nil // it can't be undone
	}
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: LeaseID(lease.ID), ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
	})
	err := workflow.ExecuteChildWorkflow(child, ContainmentLease, LeaseInput{Lease: lease, Incident: workflow.GetInfo(ctx).WorkflowExecution.ID}).GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return fmt.Errorf("start lease: %w", err)
	}
	return nil
}

// uncontained writes down that an approved containment is not proved, for people to look.
func (r *run) uncontained(ctx workflow.Context, text, request string) error {
	entry := incident.Entry{At: workflow.Now(ctx), Actor: "tocsin", Source: "workflow", Kind: "note", Text: text, Ref: request}
	if err := workflow.ExecuteActivity(ctx, r.acts.Uncontained, NoteInput{Incident: r.state.Incident.ID, Entry: entry}).Get(ctx, nil); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

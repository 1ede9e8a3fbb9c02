package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/playbooks"
	"github.com/tocsin-dr/tocsin/workflows"
)

// planner computes what playbooks would do. It implements api.Planner, with the compiled form, the policies and the actions of live
// runs.
type planner struct {
	library  map[string]playbooks.Playbook
	policies approval.Policies
	actions  *action.Catalogue
	// elsewhere computes what actions of other processes would do; nil where there are none.
	elsewhere *elsewhere
	store     *store.Store
}

// change computes what an action would do now, where it is carried out.
func (p *planner) change(ctx context.Context, in action.Input) (approval.Plan, error) {
	if p.elsewhere != nil && slices.Contains(p.elsewhere.actions, in.Plan.Action) {
		return p.elsewhere.plan(ctx, in)
	}
	return p.actions.Plan(ctx, in)
}

// plan asks a worker of the action.
func (e *elsewhere) plan(ctx context.Context, in action.Input) (approval.Plan, error) {
	run, err := e.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, WorkflowExecutionTimeout: time.Minute},
		workflows.PlanNow, workflows.PlanInput{Incident: in.Incident, Plan: in.Plan})
	if err != nil {
		return in.Plan, fmt.Errorf("plan %s: %w", in.Plan.Action, err)
	}
	var out workflows.PlanOutput
	err = run.Get(ctx, &out)
	if failed := (*temporal.ApplicationError)(nil); errors.As(err, &failed) {
		return in.Plan, errors.New(failed.Message())
	}
	return out.Plan, err
}

// PlanPlaybook implements api.Planner.
func (p *planner) PlanPlaybook(ctx context.Context, incidentID, name string) ([]api.PlannedStep, error) {
	book, ok := p.library[name]
	if !ok {
		return nil, approval.Refuse(approval.RefusedUnknown, "there is no playbook %q", name)
	}
	i, err := p.store.Incident(ctx, incidentID)
	if err != nil {
		return nil, err
	}
	alerts, err := p.store.Alerts(ctx, incidentID, 200)
	if err != nil {
		return nil, err
	}
	tracks, err := p.store.Tracks(ctx, incidentID)
	if err != nil {
		return nil, err
	}
	items, err := p.store.Evidence(ctx, incidentID)
	if err != nil {
		return nil, err
	}
	var evidence []string
	for _, item := range items {
		evidence = append(evidence, item.SHA256)
	}
	tool := ""
	if len(alerts) > 0 {
		tool = alerts[0].Finding.Tool
	}
	env := workflows.Env(i, findings(alerts), tracks)
	var out []api.PlannedStep
	for _, s := range book.Flat() {
		out = append(out, p.step(ctx, book, s, i, env, tool, evidence))
	}
	return out, nil
}

func findings(alerts []store.Alert) (out []detect.Finding) {
	for _, a := range alerts {
		out = append(out, a.Finding)
	}
	return out
}

func (p *planner) step(ctx context.Context, book playbooks.Playbook, s playbooks.Step, i incident.Incident, env playbooks.Env, tool string, evidence []string) api.PlannedStep {
	out := api.PlannedStep{Step: s.ID, Do: s.Do, Class: s.Class, If: s.If, Holds: true}
	holds, params, err := s.Evaluate(env)
	if out.Holds = holds; err != nil {
		out.Error = err.Error()
		return out
	}
	if s.Ask == nil {
		return out
	}
	target := approval.Target{Agent: i.Agent.ID}
	switch s.Target {
	case "session":
		target.Session = i.Session
	case "tool":
		target.Tool = tool
	}
	plan := approval.Plan{Action: s.Do, Class: s.Class, Target: target, Params: params, Lease: s.Lease, Playbook: book.Ref(), Evidence: slices.Clone(evidence)}
	terms, within, _ := p.policies.Ask(plan, approval.Policy{Need: s.Ask.Need, From: s.Ask.From, Deadline: s.Ask.Deadline, OnExpiry: s.Ask.OnExpiry})
	plan.Need = terms.Need
	out.Terms, out.Within = terms.Says(), within.String()
	plan, err = p.change(ctx, action.Input{Incident: i.ID, Plan: plan})
	if out.Plan = &plan; err != nil {
		out.Error = err.Error()
	} else {
		out.Error = s.Blast.TooWide(plan)
	}
	return out
}

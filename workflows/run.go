package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// task is something under way: a step of a playbook, or a person's question.
type task struct {
	cancel workflow.CancelFunc
	// waits: it waits for people, and the state has everything of it.
	waits bool
	// effect: it makes an effect that was approved, and what becomes of it must be known. Nothing cancels it.
	effect bool
}

// resting reports whether all that is under way waits for people.
func (r *run) resting() bool {
	for _, key := range workflow.DeterministicKeys(r.tasks) {
		if !r.tasks[key].waits {
			return false
		}
	}
	return true
}

// launch starts what playbooks and people want next, and cancels what they gave up.
func (r *run) launch(ctx workflow.Context) {
	var wake time.Time
	for n, current := range r.state.Runs {
		if !current.Finished {
			wake = earlier(wake, r.advance(ctx, n, current))
		}
	}
	for _, asked := range r.state.Asked {
		key := "person/" + asked.By
		r.spawn(ctx, key, false, func(ctx workflow.Context, t *task) error { return r.humanAsked(ctx, t, key, asked) })
	}
	if !wake.IsZero() && !wake.Equal(r.wake) {
		r.wake = wake
		workflow.Go(ctx, func(ctx workflow.Context) {
			if workflow.NewTimer(ctx, wake.Sub(workflow.Now(ctx))).Get(ctx, nil) == nil {
				r.moved = true
			}
		})
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// spawn starts a task, unless it is under way.
func (r *run) spawn(ctx workflow.Context, key string, effect bool, do func(workflow.Context, *task) error) {
	if r.tasks[key] != nil {
		return
	}
	ctx, cancel := workflow.WithCancel(ctx)
	t := &task{cancel: cancel, effect: effect}
	r.tasks[key] = t
	workflow.Go(ctx, func(ctx workflow.Context) {
		err := do(ctx, t)
		delete(r.tasks, key)
		r.moved = true
		if err != nil && ctx.Err() == nil && r.failed == nil {
			r.failed = err
		}
	})
}

// advance starts the commands of a playbook's run that may be under way now, and returns when it is to be asked again.
func (r *run) advance(ctx workflow.Context, n int, current *Run) time.Time {
	p := r.in.Playbooks[current.Playbook]
	next := p.Advance(workflow.Now(ctx), r.env(current), current.State)
	prefix := fmt.Sprintf("run/%d/", n)
	wanted := make(map[string]bool, len(next.Commands))
	for _, c := range next.Commands {
		key := prefix + string(c.Verb) + "/" + c.Path
		wanted[key] = true
		effect := c.Verb == playbooks.Do && c.Step.Class.Gated()
		r.spawn(ctx, key, effect, func(ctx workflow.Context, t *task) error { return r.command(ctx, t, prefix+c.Path, p, current, c) })
	}
	for _, key := range workflow.DeterministicKeys(r.tasks) {
		if strings.HasPrefix(key, prefix) && !wanted[key] && !r.tasks[key].effect {
			r.tasks[key].cancel()
		}
	}
	if next.Finished {
		current.Finished, r.dirty = true, true
		r.settle()
	}
	return next.Wake
}

// command carries out one command and reports what became of it.
func (r *run) command(ctx workflow.Context, t *task, key string, p playbooks.Playbook, current *Run, c playbooks.Command) (err error) {
	var result playbooks.Result
	var why string
	if c.Verb == playbooks.Ask {
		result, why, err = r.askStep(ctx, t, key, p, current, c)
	} else {
		result, why, err = r.do(ctx, key, c)
	}
	if ctx.Err() != nil && c.Verb == playbooks.Ask {
		return r.withdraw(ctx, key, err == nil)
	}
	if err != nil {
		return err
	}
	if result != "" { // else the next try is due
		p.Report(workflow.Now(ctx), r.env(current), current.State, c, result, why)
	}
	return nil
}

// withdraw takes back a question that was given up, so that nobody answers it any more. One that was answered, or whose time was over, at
// that very moment is written as it ended, if it was not, and people who approved it learn that nothing came of it.
func (r *run) withdraw(ctx workflow.Context, key string, written bool) error {
	asking := r.state.Asking[key]
	if asking == nil {
		return nil
	}
	detached, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	q := r.request(asking.Request)
	if q.State == approval.Pending {
		q.State, written = approval.Superseded, false
		r.settle()
	}
	if !written {
		if err := r.publish(detached, q.ID); err != nil {
			return err
		}
	}
	if q = r.request(asking.Request); q.State == approval.Approved {
		return r.uncontained(detached, "Nothing was done: the playbook gave the step up as it was approved.", q.ID)
	}
	return nil
}

// do does a step that needs no decision, or one that was approved. An empty result means that it is to be tried again.
func (r *run) do(ctx workflow.Context, key string, c playbooks.Command) (playbooks.Result, string, error) {
	switch c.Step.Do {
	case playbooks.DoSeal:
		result, err := r.seal(ctx)
		return result, "", err
	case playbooks.DoInvestigate:
		return playbooks.Done, "", r.investigate(ctx, c.Step.Tracks)
	case playbooks.DoTriage:
		return playbooks.Done, "", r.triage(ctx)
	case playbooks.DoDraft:
		return playbooks.Done, "", r.draft(ctx)
	}
	return r.act(ctx, r.request(r.state.Asking[key].Request))
}

// settle sets the status when nothing waits for an answer any more. What a human denied is resolved; what nobody answered is open again.
func (r *run) settle() {
	running := slices.ContainsFunc(r.state.Runs, func(known *Run) bool { return !known.Finished })
	switch {
	case r.pending():
		r.move(incident.Waiting)
	case len(r.state.Leases) > 0:
		r.move(incident.Contained)
	case running || r.state.Incident.Status != incident.Waiting || len(r.state.Requests) == 0:
	case r.state.Requests[len(r.state.Requests)-1].State == approval.Denied:
		r.move(incident.Resolved)
	default:
		r.move(incident.Open)
	}
}

// pending reports whether people are asked something.
func (r *run) pending() bool {
	return slices.ContainsFunc(r.state.Requests, func(q approval.Request) bool { return q.State == approval.Pending })
}

// env is what the expressions of a run see.
func (r *run) env(current *Run) playbooks.Env {
	env := Env(r.state.Incident, r.findings(), r.state.Tracks)
	env.Finding, env.Agent = current.Finding, agentEnv(r.agent(current.Agent))
	return env
}

func (r *run) findings() []detect.Finding {
	out := make([]detect.Finding, 0, len(r.state.Raised))
	for i := range r.state.Raised {
		out = append(out, r.state.Raised[i].Finding)
	}
	return out
}

// Env is what the expressions of playbooks see of an incident. Its finding is the first one.
func Env(i incident.Incident, found []detect.Finding, tracks []incident.Track) playbooks.Env {
	env := playbooks.Env{Agent: agentEnv(i.Agent), Tracks: tracksEnv(tracks), Inputs: map[string]any{}, Incident: playbooks.IncidentEnv{
		ID: i.ID, Severity: string(i.Severity), Rank: i.Severity.Rank(), Findings: i.Findings, Session: i.Session, Noticed: !i.Times.Noticed.IsZero(), Agents: []string{},
	}}
	for n, f := range found {
		if n == 0 {
			env.Finding = findingEnv(f)
		}
		if !slices.Contains(env.Incident.Agents, f.Agent.ID) {
			env.Incident.Agents = append(env.Incident.Agents, f.Agent.ID)
		}
	}
	return env
}

func tracksEnv(tracks []incident.Track) (out playbooks.TracksEnv) {
	for _, t := range tracks {
		of := playbooks.TrackEnv{Facts: len(t.Facts), Failed: t.Err != ""}
		for _, f := range t.Facts {
			if f.Suspicious {
				of.Suspicious++
			}
		}
		switch t.Name {
		case "identity":
			out.Identity = of
		case "data":
			out.Data = of
		case "peers":
			out.Peers = of
		}
	}
	return out
}

func agentEnv(a event.Agent) playbooks.AgentEnv {
	return playbooks.AgentEnv{ID: a.ID, Name: a.Name, Service: a.Service, Class: a.Class, Version: a.Version}
}

func findingEnv(f detect.Finding) playbooks.FindingEnv {
	out := playbooks.FindingEnv{
		Rule: f.Rule, Source: string(f.Source), Severity: string(f.Severity), Rank: f.Severity.Rank(), Confidence: string(f.Confidence), Risk: f.Risk, Tool: f.Tool,
	}
	if f.Chain != nil {
		out.Value = f.Chain.Value
	}
	return out
}

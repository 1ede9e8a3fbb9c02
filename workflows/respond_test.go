package workflows

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// with runs the incident with finding f1 and playbooks of the test's own beside the shipped ones.
func (h *house) with(text string) *house {
	h.Helper()
	all := library(h.T)
	if text != "" {
		p, err := playbooks.Compile("test.yaml", []byte(text), action.Descriptions())
		if err != nil {
			h.Fatal(err)
		}
		all[p.Name] = p
	}
	h.signal(0, SignalFound, h.finding("f1"))
	end := h.close(100 * hour)
	h.execute(IncidentInput{Playbooks: all, GrantKey: h.signer.Public()})
	if err := h.env.GetWorkflowError(); err != nil || end.err != nil {
		h.Fatalf("the incident ended with %v, closing it with %v", err, end.err)
	}
	return h
}

// by makes a decision another person's.
func by(who string, groups ...string) func(*approval.Decision) {
	return func(d *approval.Decision) {
		d.By = approval.Principal{ID: who, Role: approval.Responder, Via: "cli", Groups: groups}
	}
}

// TestTwoPeople: what needs two is applied when the second approves, and neither counts twice.
func TestTwoPeople(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{Need: 2, From: []string{"file:sec"}}}}
	outsider := h.decide(time.Minute, approval.Approve, by("eve"))
	first := h.decide(2*time.Minute, approval.Approve, by("ana", "file:sec"))
	h.denied(3*time.Minute, false)
	h.status(3*time.Minute, incident.Waiting)
	again := h.decide(4*time.Minute, approval.Approve, by("ana", "file:sec"))
	second := h.decide(5*time.Minute, approval.Approve, by("bob", "file:sec"))
	h.denied(6*time.Minute, true)
	h.run()
	if outsider.kind() != approval.RefusedRole || first.err != nil || again.kind() != approval.RefusedDecided || second.err != nil {
		t.Errorf("answers: %v, %v, %v, %v", outsider.err, first.err, again.err, second.err)
	}
	id := h.incident().ID
	if diff := cmp.Diff([]string{"request/" + id + "-R1/pending/1-0", "request/" + id + "-R1/approved"}, h.rows(ledger.KindDecision)); diff != "" {
		t.Errorf("decisions in the ledger (-want +got):\n%s", diff)
	}
	leases, err := h.store.IncidentLeases(t.Context(), id)
	if err != nil || len(leases) != 1 || leases[0].Approver != "ana, bob" || len(leases[0].Grants) != 2 {
		t.Errorf("the lease is %+v: %v", leases, err)
	}
}

// TestFastVote: a vote that comes while people are told of the question is written down all the same, before anything else happens.
func TestFastVote(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{Need: 2, OnExpiry: "deny"}}}
	h.env.OnActivity(h.acts.Publish, anything, anything).After(time.Minute).Return(func(ctx context.Context, in RequestInput) error { return h.acts.Publish(ctx, in) })
	var asked approval.Request
	h.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, args converter.EncodedValues) {
		var in RequestInput
		if info.ActivityType.Name == "Publish" && asked.ID == "" && args.Get(&in) == nil {
			asked = in.Request
		}
	})
	vote := h.update(30*time.Second, UpdateDecide, func() any { return h.decision(asked, approval.Approve, nil) })
	h.at(3*time.Minute, func() { // before the first rung
		if got := h.requests("")[0]; len(got.Votes) != 1 || vote.err != nil {
			t.Errorf("the request has the votes %+v: %v", got.Votes, vote.err)
		}
	})
	h.run()
}

// TestOneOfTwo: with one of two approvals the deadline closes the request, and nothing happens.
func TestOneOfTwo(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{Need: 2, OnExpiry: "deny"}}}
	h.decide(2*time.Minute, approval.Approve, by("ana"))
	late := h.decide(16*time.Minute, approval.Approve, func(d *approval.Decision) { by("bob")(d); d.Request = h.requests("")[0].ID })
	h.denied(17*time.Minute, false)
	h.run()
	if diff := cmp.Diff([]approval.State{approval.Expired}, h.states()); diff != "" || late.kind() != approval.RefusedLate {
		t.Errorf("%s, and a late approval was answered with %v", diff, late.err)
	}
}

// TestVeto: one denial denies, whoever approved before.
func TestVeto(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{Need: 2}}}
	h.decide(time.Minute, approval.Approve, by("ana"))
	h.decide(2*time.Minute, approval.Deny, by("bob"))
	h.denied(3*time.Minute, false)
	h.run()
	if diff := cmp.Diff([]approval.State{approval.Denied}, h.states()); diff != "" {
		t.Error(diff)
	}
}

// TestBreakGlass: who may break the glass approves alone, and the record says so.
func TestBreakGlass(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{Need: 3, BreakGlass: approval.Glass{From: []string{"role:responder"}}}}}
	broken := h.decide(time.Minute, approval.Approve, func(d *approval.Decision) { d.BreakGlass, d.Reason = true, "nobody else answers the pager tonight" })
	h.denied(2*time.Minute, true)
	h.run()
	if broken.err != nil || !h.requests(approval.Approved)[0].Decision.BreakGlass {
		t.Errorf("%v %+v", broken.err, h.requests(""))
	}
}

// TestLadder: people are told again, and more of them, as the deadline comes nearer; and the next ones may answer then.
func TestLadder(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{From: []string{"slack:S1"}, Fallback: []string{"file:leads"}}}}
	early := h.decide(5*time.Minute, approval.Approve, by("lea", "file:leads"))
	inTime := h.decide(8*time.Minute, approval.Approve, by("lea", "file:leads"))
	h.denied(9*time.Minute, true)
	h.run()
	if early.kind() != approval.RefusedRole || inTime.err != nil {
		t.Errorf("before the rung: %v; on it: %v", early.err, inTime.err)
	}
	id := h.incident().ID
	if diff := cmp.Diff([]string{"request/" + id + "-R1/pending/0-1", "request/" + id + "-R1/pending/0-2"}, h.rows(ledger.KindEscalation)); diff != "" {
		t.Errorf("escalations in the ledger (-want +got):\n%s", diff)
	}
	if told := h.entries("escalation"); len(told) != 2 || !strings.Contains(told[1].Text, "told file:leads") {
		t.Errorf("the timeline has %+v", told)
	}
}

// TestNobodyAnswers: who was told is told again at a quarter of the time, the fallback at half, and the leads at four fifths, though
// somebody knows of the incident; and then silence means what the policy says.
func TestNobodyAnswers(t *testing.T) {
	h := newHouse(t)
	h.acts.Policies = approval.Policies{Policies: []approval.Policy{{From: []string{"slack:S1"}, Fallback: []string{"file:second"}, Deadline: 10 * time.Minute, OnExpiry: "deny"}}}
	h.at(time.Minute, func() {
		h.env.SignalWorkflow(SignalNotice, Notice{Incident: h.latest(), By: ana, Via: "slack", At: h.env.Now()})
	})
	h.denied(11*time.Minute, false)
	h.run()
	var got []string
	asked := h.requests("")[0].Asked
	for _, e := range h.entries("escalation") {
		got = append(got, e.At.Sub(asked).String()+" "+e.Actor+" "+e.Text)
	}
	want := []string{
		"2m30s tocsin nobody has decided; told again who was told", "5m0s tocsin nobody has decided; told file:second", "8m0s tocsin nobody has decided; told role:lead",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("escalations (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]approval.State{approval.Expired}, h.states()); diff != "" {
		t.Error(diff)
	}
	id := h.incident().ID
	if diff := cmp.Diff([]string{"request/" + id + "-R1/expired"}, h.rows(ledger.KindDecision)); diff != "" {
		t.Errorf("decisions in the ledger (-want +got):\n%s", diff)
	}
}

// decided is a standing decision of lea's.
type decided struct {
	h    *house
	uses int
	err  error
}

func (d *decided) Use(_ context.Context, r approval.Request, rules []string) (*approval.Decision, error) {
	d.uses++
	if d.uses == 1 && d.err != nil {
		return nil, d.err
	}
	s := approval.Standing{ID: "SD-1", Reason: "faster than we are", Signer: &approval.Principal{ID: "lea", Role: approval.Lead}, Rules: []string{"rule"}, Agents: []string{bot.ID}, Action: "quarantine", Lease: hour}
	if !s.Fits(&r, rules) {
		return nil, nil
	}
	return d.h.signer.Decide(s, r, d.h.env.Now())
}

// TestStanding: what was decided in advance asks nobody, is recorded as a decision, and is no notice of the incident.
func TestStanding(t *testing.T) {
	h := newHouse(t)
	standing := &decided{h: h, err: errors.New("the database is away")}
	h.acts.Decided = standing
	h.denied(30*time.Second, true)
	h.denied(62*time.Minute, false)
	h.run()
	if standing.uses != 2 {
		t.Errorf("it was asked for %d times, want once more after it failed", standing.uses)
	}
	r := h.requests("")[0]
	if r.State != approval.Approved || r.Standing != "SD-1" || r.Decision.By.Via != "standing" || !strings.Contains(r.Decision.Reason, "standing decision SD-1") {
		t.Errorf("%+v", r)
	}
	if i := h.incident(); i.NoticedVia == "standing" {
		t.Error("a decision taken in advance is no human who is aware of this incident")
	}
}

// TestStandingIsForRules: what a person asks for is answered by people, whatever was decided in advance.
func TestStandingIsForRules(t *testing.T) {
	h := newHouse(t)
	h.acts.Decided = &decided{h: h}
	h.ask(2*hour, "ana")
	h.denied(2*hour+time.Minute, false)
	h.run()
	if diff := cmp.Diff([]approval.State{approval.Approved, approval.Expired}, h.states()); diff != "" {
		t.Error(diff)
	}
}

const branches = `name: quarantine-agent
version: 9.0.0
title: Branches
steps:
  - {id: seal, do: seal, class: record}
  - id: both
    parallel:
      mode: %s
      timeout: 2h
      branches:
        - name: contain
          steps: [{id: stop, do: quarantine, class: contain, after: [seal], target: agent, lease: 1h, ask: {deadline: 1h, on_expiry: deny}}]
        - name: look
          steps: [{id: look, do: investigate, class: observe, tracks: [identity, data]}, {id: write, do: draft, class: record}]
`

// TestGateInABranch: one branch waits for people while the other does its work.
func TestGateInABranch(t *testing.T) {
	h := newHouse(t)
	h.at(time.Minute, func() {
		if drafts, err := h.store.Drafts(t.Context(), h.latest()); err != nil || len(drafts) == 0 {
			t.Errorf("the other branch wrote nothing while people were asked: %v", err)
		}
	})
	h.status(time.Minute, incident.Waiting)
	h.decide(30*time.Minute, approval.Approve, nil)
	h.denied(31*time.Minute, true)
	h.with(strings.Replace(branches, "%s", "settled", 1))
}

// TestGivenUp: the question of a branch that was given up is taken back, and an answer to it does not count.
func TestGivenUp(t *testing.T) {
	h := newHouse(t)
	h.status(time.Minute, incident.Waiting)
	late := h.decide(11*time.Minute, approval.Approve, func(d *approval.Decision) { d.Request = h.requests("")[0].ID })
	h.status(12*time.Minute, incident.Open)
	h.with(strings.Replace(branches, "mode: %s\n      timeout: 2h", "mode: settled\n      timeout: 10m", 1))
	if diff := cmp.Diff([]approval.State{approval.Superseded}, h.states()); diff != "" || late.kind() != approval.RefusedDigest {
		t.Errorf("the question of a branch that was given up is open: %s %v", diff, late.err)
	}
}

// TestGivenUpAsItEnds: of two questions that end together, the second waits to be written while both are given up. It is written as it
// ended, and does not look open for ever.
func TestGivenUpAsItEnds(t *testing.T) {
	const gate = "do: quarantine, class: contain, after: [seal], target: agent, lease: 1h, ask: {deadline: 1h, on_expiry: deny}"
	for want, verb := range map[approval.State]approval.Verb{approval.Expired: "", approval.Denied: approval.Deny, approval.Approved: approval.Approve} {
		t.Run(string(want), func(t *testing.T) {
			h := newHouse(t)
			h.env.OnActivity(h.acts.Publish, anything, anything).After(2 * time.Minute).Return(func(ctx context.Context, in RequestInput) error { return h.acts.Publish(ctx, in) })
			if verb != "" {
				for n := range 2 {
					h.update(59*time.Minute+time.Duration(n)*time.Second, UpdateDecide, func() any { return h.decision(h.requests(approval.Pending)[n], verb, nil) })
				}
			}
			h.denied(70*time.Minute, false)
			h.with("name: quarantine-agent\nversion: 9.0.0\ntitle: Two\nsteps:\n  - {id: seal, do: seal, class: record}\n  - id: both\n    parallel:\n      mode: settled\n      timeout: 3630s\n      branches:\n" +
				"        - {name: a, steps: [{id: one, " + gate + "}]}\n        - {name: b, steps: [{id: two, " + gate + "}]}\n")
			if diff := cmp.Diff([]approval.State{want, want}, h.states()); diff != "" {
				t.Error(diff)
			}
			id := h.incident().ID
			if diff := cmp.Diff([]string{"request/" + id + "-R1/" + string(want), "request/" + id + "-R2/" + string(want)}, slices.Sorted(slices.Values(h.rows(ledger.KindDecision)))); diff != "" {
				t.Errorf("decisions in the ledger (-want +got):\n%s", diff)
			}
		})
	}
}

// blind is a quarantine whose effect nothing can prove.
type blind struct{ *action.Quarantine }

func (b blind) Describe() action.Description {
	d := b.Quarantine.Describe()
	d.Unverified = true
	return d
}

// TestUnprovable: people are told before they approve that nothing can prove an effect.
func TestUnprovable(t *testing.T) {
	const says = "Nothing can prove that it happened."
	for _, unverified := range []bool{true, false} {
		h := newHouse(t)
		if unverified {
			h.acts.Offered = map[string]action.Description{action.NameQuarantine: blind{action.NewQuarantine(h.gate)}.Describe()}
		}
		h.run()
		if r := h.requests("")[0]; strings.Contains(r.Effect, says) != unverified {
			t.Errorf("unverified: %v, and the request says %q", unverified, r.Effect)
		}
	}
}

// TestUnknownIsUndone: an effect that was made though nobody learned of it ends with its lease.
func TestUnknownIsUndone(t *testing.T) {
	h := newHouse(t)
	h.env.OnActivity("Contain", anything, anything).Return(func(ctx context.Context, in action.Input) (action.Lease, error) {
		if _, err := h.does.Contain(ctx, in); err != nil {
			return action.Lease{}, err
		}
		return action.Lease{}, temporal.NewNonRetryableApplicationError("the answer was lost", "unknown", nil)
	})
	h.decide(time.Minute, approval.Approve, nil)
	h.denied(2*time.Minute, true)
	h.denied(62*time.Minute, false)
	h.run()
	if got := h.containments(); !slices.ContainsFunc(got, func(row string) bool { return strings.HasPrefix(row, "reverted/") }) {
		t.Errorf("containments in the ledger: %q", got)
	}
}

// TestRunPlaybook: a person starts a playbook in an incident, and can't approve what it asks.
func TestRunPlaybook(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Deny, nil) // of the playbook that the rule named
	start := func(after time.Duration, name string) *answer {
		return h.update(after, UpdateRun, func() any {
			return RunPlaybook{Incident: h.latest(), Playbook: name, By: "ana", Reason: "the tool changed"}
		})
	}
	unknown, started := start(2*time.Minute, "no-such"), start(3*time.Minute, "tool-swap")
	twice := start(4*time.Minute, "tool-swap")
	own := h.decide(5*time.Minute, approval.Approve, func(d *approval.Decision) { d.By.ID = "ana" })
	other := h.decide(6*time.Minute, approval.Approve, by("bob"))
	h.denied(7*time.Minute, true)
	h.run()
	if unknown.kind() != approval.RefusedUnknown || started.err != nil || twice.kind() != approval.RefusedDecided || own.kind() != approval.RefusedRequester || other.err != nil {
		t.Errorf("answers: %v, %v, %v, %v, %v", unknown.err, started.err, twice.err, own.err, other.err)
	}
	if diff := cmp.Diff([]approval.State{approval.Denied, approval.Approved}, h.states()); diff != "" {
		t.Error(diff)
	}
}

// TestFailFast: a branch that fails takes back what the others ask.
func TestFailFast(t *testing.T) {
	h := newHouse(t)
	h.status(3*time.Minute, incident.Open)
	h.with(`name: quarantine-agent
version: 9.0.0
title: Branches
steps:
  - {id: seal, do: seal, class: record}
  - id: both
    parallel:
      mode: fail-fast
      branches:
        - name: session
          steps:
            - {id: session, do: quarantine, class: contain, after: [seal], target: session, lease: 1h, ask: {deadline: 2m, on_expiry: deny}}
            - {id: unconfigured, do: revoke-token, class: contain, after: [seal], target: agent, irreversible: true, with: {token: none}, ask: {deadline: 1h, on_expiry: deny}}
        - name: agent
          steps: [{id: agent, do: quarantine, class: contain, after: [seal], target: agent, lease: 2h, ask: {deadline: 1h, on_expiry: deny}}]
`)
	got := make(map[string]approval.State)
	for _, r := range h.requests("") {
		got[r.Plan.Lease.String()] = r.State
	}
	if diff := cmp.Diff(map[string]approval.State{"1h0m0s": approval.Expired, "2h0m0s": approval.Superseded}, got); diff != "" {
		t.Error(diff)
	}
}

// flaky is an action whose first plans fail.
type flaky struct {
	action.Action
	errs []error
}

func (f *flaky) Plan(ctx context.Context, in action.Input) (action.Change, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return action.Change{}, err
	}
	return f.Action.Plan(ctx, in)
}

// TestPlanFails: people hear of a plan that can't be made when it first fails, or, where the way to another system is to blame, after the
// second failure a second later. It is tried on meanwhile.
func TestPlanFails(t *testing.T) {
	gone := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	wrong := errors.New("leases: actions.revoke_leases.prefixes has no such name")
	tests := []struct {
		name  string
		errs  []error
		notes []string
		after time.Duration // of the first note
		asked int
	}{
		{"never", nil, nil, 0, 1},
		{"once, on the way", []error{gone}, nil, 0, 1},
		{"twice, on the way", []error{gone, gone}, []string{"Nobody is asked about quarantine yet"}, time.Second, 1},
		{"once, for good by its looks", []error{wrong}, []string{"Nobody is asked about quarantine yet, because it can't be planned: plan quarantine: " + wrong.Error()}, 0, 1},
		{"always", slices.Repeat([]error{wrong}, planTries), []string{"Nobody is asked about quarantine yet", "Nobody can be asked about quarantine: plan quarantine: " + wrong.Error()}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			h.does.Actions = action.NewCatalogue(h.signer.Public(), h.gate, boundless{}, h.env.Now, &flaky{action.NewQuarantine(h.gate), tt.errs})
			began := h.env.Now()
			h.run()
			var got []incident.Entry
			for _, e := range h.entries("note") {
				if e.Actor == "tocsin" && strings.HasPrefix(e.Text, "Nobody ") {
					got = append(got, e)
				}
			}
			if len(got) != len(tt.notes) || len(h.requests("")) < tt.asked || tt.asked == 0 && len(h.requests("")) > 0 {
				t.Fatalf("%d requests; the notes are %+v", len(h.requests("")), got)
			}
			for i, want := range tt.notes {
				if !strings.HasPrefix(got[i].Text, want) {
					t.Errorf("note %d is %q, want %q", i, got[i].Text, want)
				}
			}
			if len(got) > 0 && (got[0].At.Sub(began) < tt.after || got[0].At.Sub(began) > tt.after+500*time.Millisecond) {
				t.Errorf("the first note came after %s, want %s", got[0].At.Sub(began), tt.after)
			}
		})
	}
}

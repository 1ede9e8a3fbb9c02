package workflows

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

func TestApproved(t *testing.T) {
	h := newHouse(t)
	h.status(time.Second, incident.Waiting)
	h.denied(time.Second, false)
	taken := h.decide(time.Minute, approval.Approve, nil)
	h.status(2*time.Minute, incident.Contained)
	h.denied(2*time.Minute, true)
	h.denied(hour, true)
	h.denied(62*time.Minute, false)
	h.status(62*time.Minute, incident.Resolved)
	h.run()
	if !taken.done || taken.err != nil {
		t.Errorf("the approval was answered with %v", taken.err)
	}
	id := h.incident().ID
	if diff := cmp.Diff([]string{"applied/" + id + "-R1", "verified/" + id + "-R1", "reverted/" + id + "-R1"}, h.containments()); diff != "" {
		t.Errorf("containments in the ledger (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"request/" + id + "-R1/approved"}, h.rows(ledger.KindDecision)); diff != "" {
		t.Errorf("decisions in the ledger (-want +got):\n%s", diff)
	}
	if got := h.incident().Times; got.Contained.Before(got.Decided) || got.Decided.IsZero() || got.Noticed.IsZero() {
		t.Errorf("times are %+v", got)
	}
	if lifted := h.entries("containment"); len(lifted) != 2 || !strings.Contains(lifted[1].Text, "the lease ended") {
		t.Errorf("the timeline has %+v", lifted)
	}
}

func TestEvidenceComesFirst(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.run()
	want := []string{"Record", "Seal", "Track", "Track", "Track", "SaveTracks", "Record", "Terms", "Plan", "Standing", "Publish", "Save", "Publish", "Contain", "Verify", "Acted", "Save", "Draft", "Save", "Revert", "Acted", "Save", "Close"}
	if diff := cmp.Diff(want, h.calls); diff != "" {
		t.Errorf("activities (-want +got):\n%s", diff)
	}
	r := h.requests("")[0]
	items, err := h.store.Evidence(t.Context(), r.Incident)
	if err != nil || len(items) != len(r.Plan.Evidence) || len(items) < 4 {
		t.Errorf("the plan names %d artefacts, %d are sealed: %v", len(r.Plan.Evidence), len(items), err)
	}
}

// TestSealTwice is a process killed between the last write of Seal and its answer: the retry seals the same.
func TestSealTwice(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	for _, name := range []string{"Seal", "Publish", "Verify", "Contain", "Revert"} {
		h.twice(name)
	}
	h.run()
	for _, kind := range []string{ledger.KindEvidence, ledger.KindRequest, ledger.KindDecision} {
		if got := h.rows(kind); len(got) != 1 {
			t.Errorf("the ledger has the rows %q of kind %s, want one", got, kind)
		}
	}
	if got := h.containments(); len(got) != 3 {
		t.Errorf("containments in the ledger: %q, want applied, verified, reverted", got)
	}
	if evidence, contained := h.entries("evidence"), h.entries("containment"); len(evidence) != 1 || len(contained) != 2 {
		t.Errorf("the timeline has the entries %+v and %+v, want 1 and 2", evidence, contained)
	}
}

// TestEvidenceSaysWhatIsMissing: the log no longer has an event; people are asked all the same, and the timeline says so.
func TestEvidenceSaysWhatIsMissing(t *testing.T) {
	h := newHouse(t)
	h.acts.Session = h.events()[:1]
	h.run()
	if sealed := h.entries("evidence"); len(sealed) != 1 || !strings.Contains(sealed[0].Text, "1 events that the findings name are no longer in the log") {
		t.Errorf("the timeline has %+v", sealed)
	}
	if len(h.states()) == 0 {
		t.Error("nobody was asked")
	}
}

// TestMemoryIsEvidence: what the agent keeps is sealed with its incident, before people are asked; one that can't be read is said to be
// missing, and people are asked all the same.
func TestMemoryIsEvidence(t *testing.T) {
	for name, tt := range map[string]struct {
		memories []string
		want     []string
		says     string
	}{
		"read":   {[]string{"notes"}, []string{"memory-notes-notes.facts.jsonl", "memory-notes-notes.links.jsonl"}, "3 rows of agents' memories are left out for want of room"},
		"down":   {[]string{"down"}, nil, "1 memories of agents could not be read"},
		"either": {[]string{"down", "notes"}, []string{"memory-notes-notes.facts.jsonl", "memory-notes-notes.links.jsonl"}, "1 memories of agents could not be read; 3 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.acts.Memory = diary{bot.ID: tt.memories, "another": {"others"}}
			h.run()
			items, err := h.store.Evidence(t.Context(), h.incident().ID)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range items {
				if strings.HasPrefix(i.Name, "memory-") {
					got = append(got, i.Name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if sealed := h.entries("evidence"); len(sealed) != 1 || !strings.Contains(sealed[0].Text, tt.says) {
				t.Errorf("the timeline has %+v, want %q", sealed, tt.says)
			}
			if len(h.states()) == 0 {
				t.Error("nobody was asked")
			}
		})
	}
}

// twice makes an activity fail once after it did everything.
func (h *house) twice(name string) {
	lost := false
	fail := func(err error) error {
		if h.mu.Lock(); !lost && err == nil {
			lost, err = true, errors.New("the answer was lost")
		}
		h.mu.Unlock()
		return err
	}
	on := h.env.OnActivity(name, anything, anything)
	switch name {
	case "Seal":
		on.Return(func(ctx context.Context, in SealInput) ([]incident.EvidenceItem, error) {
			items, err := h.acts.Seal(ctx, in)
			return items, fail(err)
		})
	case "Publish":
		on.Return(func(ctx context.Context, in RequestInput) error { return fail(h.acts.Publish(ctx, in)) })
	case "Contain":
		on.Return(func(ctx context.Context, in action.Input) (action.Lease, error) {
			l, err := h.does.Contain(ctx, in)
			return l, fail(err)
		})
	case "Verify":
		on.Return(func(ctx context.Context, in action.Lease) (action.Lease, error) {
			l, err := h.does.Verify(ctx, in)
			return l, fail(err)
		})
	case "Revert":
		on.Return(func(ctx context.Context, in RevertInput) error { return fail(h.does.Revert(ctx, in)) })
	}
}

func TestDenied(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Deny, nil)
	h.denied(2*time.Minute, false)
	h.status(2*time.Minute, incident.Resolved)
	h.run()
	if diff := cmp.Diff([]approval.State{approval.Denied}, h.states()); diff != "" {
		t.Error(diff)
	}
	if got := h.containments(); len(got) > 0 {
		t.Errorf("a denied request led to %q", got)
	}
}

func TestSilence(t *testing.T) {
	h := newHouse(t)
	h.status(16*time.Minute, incident.Waiting)
	h.status(31*time.Minute, incident.Open)
	h.denied(31*time.Minute, false)
	h.run()
	if diff := cmp.Diff([]approval.State{approval.Expired, approval.Expired}, h.states()); diff != "" {
		t.Errorf("silence escalates once and then means no (-want +got):\n%s", diff)
	}
	if got := h.containments(); len(got) > 0 {
		t.Errorf("silence led to %q", got)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name, kind string
		after      time.Duration
		change     func(*approval.Decision)
	}{
		{"agent's id", approval.RefusedAgent, time.Minute, func(d *approval.Decision) { d.By.ID = bot.ID }},
		{"agent's name", approval.RefusedAgent, time.Minute, func(d *approval.Decision) { d.By.ID = bot.Name }},
		{"agent's service", approval.RefusedAgent, time.Minute, func(d *approval.Decision) { d.By.ID = bot.Service }},
		{"requester", approval.RefusedRequester, time.Minute, func(d *approval.Decision) { d.By.ID = "playbook:quarantine-agent" }},
		{"viewer", approval.RefusedRole, time.Minute, func(d *approval.Decision) { d.By.Role = approval.Viewer }},
		{"nobody", approval.RefusedRole, time.Minute, func(d *approval.Decision) { d.By.ID = "" }},
		{"wrong digest", approval.RefusedDigest, time.Minute, func(d *approval.Decision) { d.Digest = strings.Repeat("0", 64) }},
		{"another request", approval.RefusedUnknown, time.Minute, func(d *approval.Decision) { d.Request = "INC-0-R1" }},
		{"no reason", approval.RefusedReason, time.Minute, func(d *approval.Decision) { d.Reason = " " }},
		{"neither yes nor no", approval.RefusedUnknown, time.Minute, func(d *approval.Decision) { d.Verb = "maybe" }},
		{"no grant", approval.RefusedGrant, time.Minute, func(d *approval.Decision) { d.Grant = nil }},
		{"grant that the control plane did not sign", approval.RefusedGrant, time.Minute, func(d *approval.Decision) {
			g := *d.Grant
			g.Signature = make([]byte, ed25519.SignatureSize)
			d.Grant = &g
		}},
		{"grant for another approver", approval.RefusedGrant, time.Minute, func(d *approval.Decision) { d.By.ID = "bob"; g := *d.Grant; d.Grant = &g }},
		{"grant that ran out", approval.RefusedGrant, 10 * time.Minute, func(d *approval.Decision) { d.At = d.At.Add(-16 * time.Minute) }},
		{"late", approval.RefusedLate, 40 * time.Minute, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			refused := h.decide(tt.after, approval.Approve, tt.change)
			h.at(tt.after+time.Second, func() {
				if pending := h.requests(approval.Pending); tt.after < 30*time.Minute && len(pending) != 1 {
					t.Error("a refused decision changed the request")
				}
			})
			h.run()
			if refused.kind() != tt.kind {
				t.Errorf("refused as %q (%v), want %q", refused.kind(), refused.err, tt.kind)
			}
			if diff := cmp.Diff([]approval.State{approval.Expired, approval.Expired}, h.states()); diff != "" {
				t.Errorf("the refused decision changed a request (-want +got):\n%s", diff)
			}
			if got := h.containments(); len(got) > 0 {
				t.Errorf("a refused decision led to %q", got)
			}
		})
	}
}

func TestSecondDecision(t *testing.T) {
	h := newHouse(t)
	first := h.decide(time.Minute, approval.Approve, nil)
	second := h.decide(2*time.Minute, approval.Deny, func(d *approval.Decision) { d.By.ID = "bob" })
	h.run()
	if first.err != nil || second.kind() != approval.RefusedDecided {
		t.Errorf("the first decision was answered with %v, the second with %v", first.err, second.err)
	}
	if r := h.requests("")[0]; r.State != approval.Approved || r.Decision.By.ID != ana {
		t.Errorf("the second decision changed the request: %+v", r)
	}
}

// TestFastDecision is a person who is faster than the activity that shows the request.
func TestFastDecision(t *testing.T) {
	h := newHouse(t)
	var asked approval.Request
	h.env.OnActivity(h.acts.Publish, anything, anything).After(5 * time.Minute).Return(func(ctx context.Context, in RequestInput) error {
		return h.acts.Publish(ctx, in)
	})
	h.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, args converter.EncodedValues) {
		var in RequestInput
		if info.ActivityType.Name == "Publish" && asked.ID == "" && args.Get(&in) == nil {
			asked = in.Request
		}
	})
	taken := h.update(time.Minute, UpdateDecide, func() any { return h.decision(asked, approval.Approve, nil) })
	h.denied(hour, true)
	h.run()
	if taken.err != nil || !taken.done {
		t.Errorf("the decision was answered with %v", taken.err)
	}
}

func TestNotice(t *testing.T) {
	h := newHouse(t)
	later, first := h.env.Now().Add(3*time.Minute), h.env.Now().Add(time.Minute)
	for after, n := range map[time.Duration]Notice{2 * time.Minute: {By: "bob", Via: "console", At: later}, 3 * time.Minute: {By: ana, Via: "cli", At: first}} {
		h.at(after, func() { n.Incident = h.latest(); h.env.SignalWorkflow(SignalNotice, n) })
	}
	h.at(4*time.Minute, func() {
		if i := h.incident(); i.NoticedBy != ana || !i.Times.Noticed.Equal(first) {
			t.Errorf("noticed by %s at %s, want %s at %s", i.NoticedBy, i.Times.Noticed, ana, first)
		}
	})
	h.run()
}

// TestAskerKnows: who asks for a containment is aware of the incident, by the way in which they asked.
func TestAskerKnows(t *testing.T) {
	h := newHouse(t)
	h.ask(time.Minute, ana)
	h.run()
	if i := h.incident(); i.NoticedBy != ana || i.NoticedVia != "cli" {
		t.Errorf("noticed by %s via %q", i.NoticedBy, i.NoticedVia)
	}
}

func TestHumanAsk(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Deny, nil)
	asked := h.ask(5*time.Minute, ana)
	h.status(6*time.Minute, incident.Waiting)
	own := h.decide(7*time.Minute, approval.Approve, nil)
	other := h.decide(8*time.Minute, approval.Approve, func(d *approval.Decision) { d.By.ID = "bob" })
	h.denied(9*time.Minute, true)
	h.status(9*time.Minute, incident.Contained)
	h.run()
	if asked.err != nil || own.kind() != approval.RefusedRequester || other.err != nil {
		t.Errorf("asking: %v; the asker's own approval: %v; another's: %v", asked.err, own.err, other.err)
	}
	if diff := cmp.Diff([]approval.State{approval.Denied, approval.Approved}, h.states()); diff != "" {
		t.Error(diff)
	}
}

func TestAskRefused(t *testing.T) {
	good := HumanAsk{By: ana, Target: approval.Target{Agent: bot.ID}, Lease: hour, Reason: "it goes on"}
	for name, change := range map[string]func(*HumanAsk){
		"another agent": func(a *HumanAsk) { a.Target.Agent = "crm/helper" }, "seconds": func(a *HumanAsk) { a.Lease = time.Second },
		"a month": func(a *HumanAsk) { a.Lease = 30 * 24 * hour }, "no reason": func(a *HumanAsk) { a.Reason = "" }, "nobody": func(a *HumanAsk) { a.By = "" },
		"another incident": func(a *HumanAsk) { a.Incident = "INC-0" }, "no incident": func(a *HumanAsk) { a.Incident = "" },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			bad := good
			refused := h.update(5*time.Minute, UpdateAsk, func() any { bad.Incident = h.latest(); change(&bad); return bad })
			h.run()
			if refused.kind() == "" || len(h.states()) != 2 {
				t.Errorf("answered with %v, requests are %v", refused.err, h.states())
			}
		})
	}
}

// TestTwoLeases: the incident stays contained until the last lease ends.
func TestTwoLeases(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.ask(30*time.Minute, ana)
	h.decide(31*time.Minute, approval.Approve, func(d *approval.Decision) { d.By.ID = "bob" })
	h.status(70*time.Minute, incident.Contained)
	h.denied(70*time.Minute, true)
	h.status(95*time.Minute, incident.Resolved)
	h.run()
}

// TestDeniedWhileContained: a second request that is denied takes nothing from the first lease.
func TestDeniedWhileContained(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.ask(30*time.Minute, ana)
	h.decide(31*time.Minute, approval.Deny, func(d *approval.Decision) { d.By.ID = "bob" })
	h.status(32*time.Minute, incident.Contained)
	h.status(95*time.Minute, incident.Resolved)
	h.run()
}

func TestCloseWhileWaiting(t *testing.T) {
	h := newHouse(t)
	refused := h.close(time.Minute)
	h.status(2*time.Minute, incident.Waiting)
	h.decide(3*time.Minute, approval.Deny, nil)
	h.ask(4*time.Minute, ana)
	also := h.close(5 * time.Minute)
	h.run()
	if refused.err == nil || also.err == nil {
		t.Errorf("closing while a request waits: %v, %v", refused.err, also.err)
	}
}

// TestCloseStopsRun: closing while the playbook works ends it; nothing is asked of anybody afterwards.
func TestCloseStopsRun(t *testing.T) {
	h := newHouse(t)
	h.env.OnActivity(h.acts.Track, anything, anything).After(20*time.Second).Return(incident.Track{Name: "slow", At: h.env.Now()}, nil)
	closed := h.close(10 * time.Second)
	again := h.close(10 * time.Second)
	h.signal(0, SignalFound, h.finding("f1"))
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	if err := h.env.GetWorkflowError(); err != nil || closed.err != nil || !closed.done {
		t.Errorf("the workflow ended with %v, closing with %v", err, closed.err)
	}
	if again.kind() != approval.RefusedDecided {
		t.Errorf("closing twice: %v", again.err)
	}
	if i := h.incident(); i.Status != incident.Closed || len(h.states()) > 0 {
		t.Errorf("the incident is %s, requests are %v", i.Status, h.states())
	}
}

// TestOldPage: what people send from the page of an incident that was closed is not taken for the session's next one.
func TestOldPage(t *testing.T) {
	h := newHouse(t)
	old := incident.NewID(h.finding("f0").Finding)
	d := incident.Disposition{Verdict: incident.FalsePositive, Reasoning: "an old page", By: "lea"}
	closed := h.update(40*time.Minute, UpdateClose, func() any { return Closing{Incident: old, Disposition: d} })
	asked := h.update(41*time.Minute, UpdateAsk, func() any {
		return HumanAsk{Incident: old, By: ana, Target: approval.Target{Agent: bot.ID}, Lease: hour, Reason: "an old page"}
	})
	h.signal(42*time.Minute, SignalNotice, Notice{Incident: old, By: "bob", Via: "console", At: h.env.Now()})
	h.at(43*time.Minute, func() {
		if i := h.incident(); i.NoticedBy != "" || i.Status != incident.Open {
			t.Errorf("the incident is %s and noticed by %q", i.Status, i.NoticedBy)
		}
	})
	h.run()
	if closed.kind() != approval.RefusedDecided || asked.kind() != approval.RefusedUnknown {
		t.Errorf("closing was answered with %v, asking with %v", closed.err, asked.err)
	}
}

// TestFindingAfterClose: a finding that comes while the end is being written opens the session's next incident.
func TestFindingAfterClose(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Deny, nil)
	h.env.OnActivity(h.acts.Close, anything, anything).After(time.Minute).Return(func(ctx context.Context, i incident.Incident) error { return h.acts.Close(ctx, i) })
	h.close(10 * time.Minute)
	h.signal(10*time.Minute+time.Second, SignalFound, h.finding("f2"))
	h.signal(0, SignalFound, h.finding("f1"))
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	next := h.next()
	if len(next.State.Fresh) != 1 || next.State.Fresh[0].Finding.ID != "f2" || next.State.Incident.ID != "" {
		t.Errorf("the next incident begins with %+v", next.State)
	}
}

// next is the input of the run that the workflow continued as.
func (h *house) next() IncidentInput {
	h.Helper()
	var again *workflow.ContinueAsNewError
	if err := h.env.GetWorkflowError(); !errors.As(err, &again) {
		h.Fatalf("the workflow ended with %v, want that it continues as new", err)
	}
	var in IncidentInput
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &in); err != nil {
		h.Fatal(err)
	}
	return in
}

func TestFindingWhileWaiting(t *testing.T) {
	h := newHouse(t)
	second := h.finding("f2")
	second.Finding.Severity = detect.Critical
	h.signal(time.Minute, SignalFound, second)
	h.signal(time.Minute, SignalFound, second) // a detector repeats it after a crash
	h.at(2*time.Minute, func() {
		alerts, err := h.store.Alerts(t.Context(), h.incident().ID, 10)
		if i := h.incident(); err != nil || len(alerts) != 2 || i.Findings != 2 || i.Severity != detect.Critical || i.Status != incident.Waiting {
			t.Errorf("%d findings are recorded, the incident is %+v: %v", len(alerts), i, err)
		}
	})
	h.run()
	if n := len(slices.DeleteFunc(h.calls, func(name string) bool { return name != "Record" })); n != 3 {
		t.Errorf("findings were recorded %d times, want 3: each as it came, and the first in triage", n)
	}
	if got := len(h.states()); got != 2 {
		t.Errorf("a second finding led to %d requests, want those of one playbook's run", got)
	}
}

// TestNamed: the finding is reported again when its agent's name arrives; the gate knows the agent by that name, so the request
// is put anew.
func TestNamed(t *testing.T) {
	h := newHouse(t)
	named, early := h.finding("f1"), h.finding("f1")
	early.Finding.Agent = event.Agent{ID: "billing", Service: "billing", Class: "payments"}
	h.signal(time.Minute, SignalFound, named)
	h.decide(2*time.Minute, approval.Approve, nil)
	h.denied(3*time.Minute, true)
	h.signal(0, SignalFound, early)
	h.close(100 * hour)
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	if i := h.incident(); i.Agent.ID != bot.ID || i.Findings != 1 || !strings.Contains(i.Title, bot.Name) {
		t.Errorf("the incident is %+v", i)
	}
	if diff := cmp.Diff([]approval.State{approval.Superseded, approval.Approved}, h.states()); diff != "" {
		t.Error(diff)
	}
}

// The incident is named after the gravest finding, and among equals after the one that says most: a rule's before a baseline's.
func TestTitledByWhatSaysMost(t *testing.T) {
	h := newHouse(t)
	found := func(id, title string, severity detect.Severity, source detect.Source, chain *detect.Chain) pipeline.Raised {
		f := h.finding(id)
		f.Finding.Title, f.Finding.Severity, f.Finding.Source, f.Finding.Chain = title, severity, source, chain
		if source == detect.SourceBaseline {
			f.Finding.Digest = ""
		}
		return f
	}
	chain := &detect.Chain{Arg: "recipient"}
	for n, f := range []pipeline.Raised{
		found("f1", "a surprise", detect.Medium, detect.SourceBaseline, chain), found("f2", "a read", detect.High, detect.SourceRule, nil),
		found("f3", "a payment", detect.High, detect.SourceRule, chain), found("f4", "another surprise", detect.High, detect.SourceBaseline, chain),
		found("f5", "a second payment", detect.High, detect.SourceRule, chain), found("f6", "a trifle", detect.Low, detect.SourceRule, chain),
	} {
		h.signal(time.Duration(n)*time.Second, SignalFound, f)
	}
	h.close(hour)
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	if got, want := h.incident().Title, "billing-bot, calling send_money: a payment"; got != want {
		t.Errorf("title %q, want %q", got, want)
	}
}

// A finding may name a playbook that the configuration no longer has. The incident is looked at, and says that nobody is asked.
func TestUnknownPlaybook(t *testing.T) {
	h := newHouse(t)
	f := h.finding("f2")
	f.Finding.Playbook = "nosuch"
	h.signal(0, SignalFound, f)
	h.close(hour)
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	if got := h.incident().Playbook; !strings.HasPrefix(got, "look@") {
		t.Errorf("ran %s", got)
	}
	got := h.entries("note")
	if len(got) != 1 || got[0].Text != `There is no playbook "nosuch", which rule rule names: look runs in its place, and nobody is asked.` {
		t.Errorf("the timeline has %+v", got)
	}
}

// TestTwoAgents: each agent of the incident is asked about by itself.
func TestTwoAgents(t *testing.T) {
	h := newHouse(t)
	other := h.finding("f2")
	other.Finding.Agent = event.Agent{ID: "billing/helper", Name: "helper", Service: "billing", Class: "payments"}
	h.signal(time.Second, SignalFound, other)
	h.decide(time.Minute, approval.Approve, nil)
	h.decide(2*time.Minute, approval.Approve, nil)
	h.at(3*time.Minute, func() {
		for _, agent := range []string{bot.ID, "billing/helper"} {
			if h.gate.Check(gate.Query{Agent: agent}).Allow {
				t.Errorf("the gate allows %s", agent)
			}
		}
	})
	h.run()
}

func TestTracksSettle(t *testing.T) {
	h := newHouse(t)
	h.env.OnActivity(h.acts.Track, anything, anything).Return(func(ctx context.Context, in TrackInput) (incident.Track, error) {
		switch in.Name {
		case "identity":
			return incident.Track{}, errors.New("the directory is down")
		case "data":
			return incident.Track{}, temporal.NewTimeoutError(enums.TIMEOUT_TYPE_START_TO_CLOSE, nil) // it hangs
		}
		return h.acts.Track(ctx, in)
	})
	h.run()
	tracks, err := h.store.Tracks(t.Context(), h.incident().ID)
	if err != nil || len(tracks) != 3 {
		t.Fatalf("%d tracks are recorded: %v", len(tracks), err)
	}
	for _, track := range tracks {
		if failed := track.Err != ""; failed != (track.Name != "peers") || track.At.IsZero() {
			t.Errorf("track %+v", track)
		}
	}
	if len(h.states()) == 0 {
		t.Error("nobody was asked, because a track failed")
	}
}

func TestContainFails(t *testing.T) {
	for _, name := range []string{"Contain", "Verify"} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			on := h.env.OnActivity(name, anything, anything)
			on.Return(action.Lease{}, temporal.NewNonRetryableApplicationError("the gate is gone", "contain", nil))
			h.decide(time.Minute, approval.Approve, nil)
			h.status(2*time.Minute, incident.Open)
			h.run()
			if notes := h.entries("note"); len(notes) != 1 || !strings.Contains(notes[0].Text, "the gate is gone") {
				t.Errorf("the timeline has the notes %+v", notes)
			}
			if i := h.incident(); !i.Times.Contained.IsZero() {
				t.Errorf("the incident counts as contained at %s", i.Times.Contained)
			}
			if rows := h.containments(); !slices.Contains(rows, "uncontained/"+h.requests("")[0].ID) {
				t.Errorf("the ledger has %q", rows)
			}
		})
	}
}

// kept is a quarantine that somebody changed before it was undone.
type kept struct{ *action.Quarantine }

func (kept) Undo(context.Context, action.Lease) error {
	return fmt.Errorf("the pod: %w", action.ErrKept)
}

// TestKept: what is not put back because somebody changed it ends the lease all the same, and the timeline says so.
func TestKept(t *testing.T) {
	h := newHouse(t)
	h.does.Actions = action.NewCatalogue(h.signer.Public(), h.gate, boundless{}, h.env.Now, kept{action.NewQuarantine(h.gate)})
	h.decide(time.Minute, approval.Approve, nil)
	h.run()
	const want = "(the lease ended; undo quarantine: the pod: it was changed since and is left as it is)"
	if entries := h.entries("containment"); len(entries) != 2 || !strings.HasSuffix(entries[1].Text, want) {
		t.Errorf("the timeline has %+v", entries)
	}
	if got := h.containments(); len(got) != 3 {
		t.Errorf("containments: %q", got)
	}
}

// TestLiftedBeforeProof: a lead lifts the lease before its proof; it is not taken for contained and does not come back.
func TestLiftedBeforeProof(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.env.OnActivity("Verify", anything, anything).Return(func(ctx context.Context, l action.Lease) (action.Lease, error) {
		if err := h.does.Actions.Undo(ctx, l, "lea"); err != nil {
			return l, err
		}
		return h.does.Verify(ctx, l)
	})
	h.denied(2*time.Minute, false)
	h.status(2*time.Minute, incident.Open)
	h.run()
	if notes := h.entries("note"); len(notes) != 1 || !strings.Contains(notes[0].Text, "the lease was lifted") {
		t.Errorf("the timeline has the notes %+v", notes)
	}
}

// TestContainAgain: an error of the store is no refusal; the effect is tried again.
func TestContainAgain(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.twice("Contain")
	h.denied(2*time.Minute, true)
	h.run()
	if got := h.containments(); len(got) != 3 {
		t.Errorf("containments: %q", got)
	}
}

func TestContinueAsNew(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.at(10*time.Minute, func() { h.env.SetContinueAsNewSuggested(true) })
	at := h.env.Now().Add(time.Second)
	h.at(10*time.Minute, func() { h.env.SignalWorkflow(SignalNotice, Notice{Incident: h.latest(), By: ana, Via: "cli", At: at}) })
	h.signal(0, SignalFound, h.finding("f1"))
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	carried := h.next()

	after := newHouse(t)
	after.store, after.gate, after.acts, after.does = h.store, h.gate, h.acts, h.does
	after.env.RegisterActivity(h.acts)
	after.env.RegisterActivity(h.does)
	after.env.SetStartTime(h.env.Now())
	after.signal(time.Minute, SignalFound, h.finding("f1"))
	late := after.decide(2*time.Minute, approval.Deny, nil)
	after.signal(3*time.Minute, SignalEnded, carried.State.Leases[0])
	after.status(4*time.Minute, incident.Resolved)
	after.close(5 * time.Minute)
	after.execute(carried)
	if err := after.env.GetWorkflowError(); err != nil || late.kind() != approval.RefusedDecided {
		t.Errorf("the second run ended with %v, a second decision with %v", err, late.err)
	}
	if i := after.incident(); i.Findings != 1 || i.NoticedBy != ana || i.Status != incident.Closed {
		t.Errorf("the incident is %+v", i)
	}
	if got := after.states(); len(got) != 1 {
		t.Errorf("the second run asked again: %v", got)
	}
}

// TestManyFindings: Temporal ends a workflow that sends an activity more than 2 MiB; a flood must not come near that.
func TestManyFindings(t *testing.T) {
	h := newHouse(t)
	largest := 0
	h.env.SetOnActivityStartedListener(func(_ *activity.Info, _ context.Context, args converter.EncodedValues) {
		var in json.RawMessage
		if args.Get(&in) == nil {
			h.mu.Lock()
			largest = max(largest, len(in))
			h.mu.Unlock()
		}
	})
	var positions []pipeline.Position
	for i := range 4096 {
		positions = append(positions, pipeline.Position{Partition: 3, Sequence: uint64(1_000_000 + i)})
	}
	for i := range 150 {
		f := h.finding(fmt.Sprint("g", i))
		f.Positions = positions
		f.Finding.Chain = &detect.Chain{Value: strings.Repeat("x", event.MaxValueBytes)}
		h.signal(0, SignalFound, f)
	}
	h.decide(time.Minute, approval.Approve, nil)
	h.denied(2*time.Minute, true)
	h.run()
	if i := h.incident(); i.Findings != 151 {
		t.Errorf("%d findings are counted, want 151", i.Findings)
	}
	sealed, err := h.store.Evidence(t.Context(), h.incident().ID)
	if n := len(slices.DeleteFunc(sealed, func(e incident.EvidenceItem) bool { return !strings.HasPrefix(e.Name, "finding-") })); err != nil || n < 30 {
		t.Errorf("%d findings are sealed: the positions of one session take the room of its findings; %v", n, err)
	}
	if largest > 1<<20 {
		t.Errorf("an activity was sent %d bytes", largest)
	}
}

func TestLease(t *testing.T) {
	lease := func(h *house) LeaseInput {
		now := h.env.Now()
		l := action.Lease{ID: "R1", Incident: "INC-1", Plan: approval.Plan{Action: "quarantine", Target: approval.Target{Agent: bot.ID}}, Applied: now, Ends: now.Add(hour)}
		if _, err := h.gate.Apply(t.Context(), l, func([]action.Lease) error { return nil }); err != nil {
			t.Fatal(err)
		}
		return LeaseInput{Lease: l, Incident: "incident/1"}
	}
	tests := []struct {
		name, reason string
		at           time.Duration
		do           func(*house)
	}{
		{"ends by itself", "the lease ended", hour, nil},
		{"is lifted", "it was a false alarm", time.Minute, func(h *house) { h.env.SignalWorkflow(SignalLift, Lift{By: "lea", Reason: "it was a false alarm"}) }},
		{"is cancelled", "the workflow of the lease was cancelled", time.Minute, func(h *house) { h.env.CancelWorkflow() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			in := lease(h)
			told := 0
			h.env.OnSignalExternalWorkflow(anything, "incident/1", "", SignalEnded, "R1").Return(func(string, string, string, string, any) error {
				told++
				return errors.New("the incident has ended")
			})
			if tt.do != nil {
				h.at(tt.at, func() { tt.do(h) })
			}
			h.denied(tt.at-time.Second, true)
			h.denied(tt.at+time.Second, false)
			h.at(tt.at+2*time.Second, func() {})
			h.env.ExecuteWorkflow(ContainmentLease, in)
			if err := h.env.GetWorkflowError(); err != nil || told != 1 {
				t.Errorf("the lease ended with %v and told the incident %d times", err, told)
			}
			entries, err := h.store.Timeline(t.Context(), "INC-1")
			if err != nil || len(entries) != 1 || !strings.Contains(entries[0].Text, tt.reason) {
				t.Errorf("the timeline has %+v: %v", entries, err)
			}
			if !h.gate.Check(gate.Query{Agent: bot.ID}).Allow {
				t.Error("the gate still denies")
			}
		})
	}
}

// TestLeaseOutlivesIncident: whatever becomes of the incident's workflow, its containment ends.
func TestLeaseOutlivesIncident(t *testing.T) {
	h := newHouse(t)
	h.decide(time.Minute, approval.Approve, nil)
	h.at(10*time.Minute, h.env.CancelWorkflow)
	h.signal(0, SignalFound, h.finding("f1"))
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	if err := h.env.GetWorkflowError(); err == nil {
		t.Fatal("the incident was not cancelled")
	}
	if got := h.containments(); len(got) != 3 || !strings.HasPrefix(got[2], "reverted/") {
		t.Errorf("containments: %q", got)
	}
}

package app

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/playbooks"
	"github.com/tocsin-dr/tocsin/workflows"
)

// durable is a workflow server that takes signals, and whose updates end as the test says.
type durable struct {
	client.Client
	signals []any
	updates int
	err     error
}

func (s *durable) SignalWorkflow(_ context.Context, _, _, _ string, arg any) error {
	s.signals = append(s.signals, arg)
	return s.err
}

func (s *durable) UpdateWorkflow(context.Context, client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	s.updates++
	return nil, s.err
}

// office is a control plane on a real store and gate, with an incident and its question.
type office struct {
	*control
	server  *durable
	log     bytes.Buffer
	request approval.Request
	agents  []string // at work
	at      time.Time
}

// hold puts a quarantine of an agent, or of one of its sessions, in force.
func (o *office) hold(t *testing.T, agent, session string) {
	t.Helper()
	l := action.Lease{ID: "held", Plan: o.request.Plan, Ends: o.at.Add(time.Hour)}
	l.Plan.Target = approval.Target{Agent: agent, Session: session}
	if err := o.store.SaveLease(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{server: &durable{}, at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	now := func() time.Time { return o.at }
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	metrics := measure.NewMetrics()
	o.control = &control{
		workflows: o.server, store: s, metrics: metrics, hub: newHub(metrics), now: now, logger: slog.New(slog.NewTextHandler(&o.log, nil)),
		signer:   approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))),
		policies: approval.Policies{Owners: []approval.Owner{{Agents: []string{"billing/*"}, People: []string{"carl"}}}},
	}
	plan := approval.Plan{Action: "quarantine", Class: approval.Contain, Target: approval.Target{Agent: "billing/bot"}, Lease: time.Hour, Need: 1}
	digest, err := approval.DigestOf(plan)
	if err != nil {
		t.Fatal(err)
	}
	o.request = approval.Request{
		ID: "INC-1-R1", Incident: "INC-1", Plan: plan, Digest: digest, Question: plan.Question(), Requester: "playbook:x", Asked: o.at, Deadline: o.at.Add(time.Hour), State: approval.Pending,
	}
	i := incident.Incident{ID: "INC-1", Key: "k", Status: incident.Waiting, Agent: event.Agent{ID: "billing/bot"}, Session: "s1"}
	if err := errors.Join(s.SaveIncident(t.Context(), i), s.SaveRequest(t.Context(), o.request)); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) rows(t *testing.T, kind string) []ledger.Record {
	t.Helper()
	rows, err := o.store.LedgerOf(t.Context(), kind, 100)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestLift: an agent's owner may not end its containment early, whatever their role, and their try is recorded; another lead may.
func TestLift(t *testing.T) {
	for name, c := range map[string]struct {
		by     approval.Principal
		reason string
		want   string
	}{
		"another lead": {approval.Principal{ID: "bob", Role: approval.Lead}, "it was fixed", ""},
		"its owner":    {approval.Principal{ID: "carl", Role: approval.Admin}, "it was fixed", approval.RefusedExcluded},
		"a responder":  {approval.Principal{ID: "ana", Role: approval.Responder}, "it was fixed", approval.RefusedRole},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			if err := o.store.SaveLease(t.Context(), action.Lease{ID: "INC-1-R1", Incident: "INC-1", Plan: o.request.Plan, Applied: o.at, Ends: o.at.Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			err := o.Lift(t.Context(), c.by, "INC-1-R1", c.reason)
			if approval.Kind(err) != c.want || (err == nil) != (c.want == "") {
				t.Fatalf("Lift = %v, want %q", err, c.want)
			}
			if sent := len(o.server.signals) == 1; sent != (c.want == "") || len(o.rows(t, ledger.KindRefusal)) == 1 == sent || len(o.rows(t, ledger.KindDecision)) == 1 != sent {
				t.Errorf("signals %v, refusals %v, decisions %v", o.server.signals, o.rows(t, ledger.KindRefusal), o.rows(t, ledger.KindDecision))
			}
		})
	}
}

// TestWorkflowServerDown: while the workflow server can't be reached, nobody is told that their decision counts, and nothing is recorded as
// if it did.
func TestWorkflowServerDown(t *testing.T) {
	o := newOffice(t)
	o.server.err = serviceerror.NewUnavailable("connection refused")
	before := o.request
	err := o.Decide(t.Context(), approval.Principal{ID: "ana", Role: approval.Responder, Via: "cli"}, o.request.ID, o.request.Digest, approval.Approve, "it leaks")
	if err == nil || approval.Kind(err) != "" || o.server.updates != 1 {
		t.Errorf("the answer is %v after %d updates, want an error that is no refusal", err, o.server.updates)
	}
	after, err := o.store.Request(t.Context(), o.request.ID)
	if diff := cmp.Diff(before, after); diff != "" || err != nil {
		t.Errorf("the request changed: %v\n%s", err, diff)
	}
	for _, kind := range []string{ledger.KindDecision, ledger.KindRefusal} {
		if rows := o.rows(t, kind); len(rows) > 0 {
			t.Errorf("the ledger has %+v", rows)
		}
	}
}

// TestRefusedBeforeItIsSigned: what can't count is recorded and never reaches the workflow.
func TestRefusedBeforeItIsSigned(t *testing.T) {
	o := newOffice(t)
	err := o.Decide(t.Context(), approval.Principal{ID: "eve", Role: approval.Viewer, Via: "cli"}, o.request.ID, o.request.Digest, approval.Approve, "it leaks")
	rows := o.rows(t, ledger.KindRefusal)
	if approval.Kind(err) != approval.RefusedRole || o.server.updates != 0 || len(rows) != 1 || rows[0].Actor != "eve" || strings.Contains(string(rows[0].Body), "signature") {
		t.Errorf("%v after %d updates: %+v", err, o.server.updates, rows)
	}
	if entries, err := o.store.Timeline(t.Context(), "INC-1"); err != nil || len(entries) != 1 || entries[0].Kind != "refusal" || entries[0].Actor != "eve" {
		t.Errorf("the timeline has %+v: %v", entries, err)
	}
}

// TestSweep: a lease that ended and that nobody undid is told, with what it holds; one that was undone or just ended is not.
func TestSweep(t *testing.T) {
	o := newOffice(t)
	for id, l := range map[string]action.Lease{
		"orphan": {Ends: o.at.Add(-sweepGrace - time.Second)},
		"fresh":  {Ends: o.at.Add(-sweepGrace)},
		"lifted": {Ends: o.at.Add(-time.Hour), Lifted: o.at.Add(-time.Hour)},
		"lasts":  {Ends: o.at.Add(time.Hour)},
	} {
		l.ID, l.Plan = id, o.request.Plan
		if err := o.store.SaveLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "lease=orphan") || !strings.Contains(got, "billing/bot") {
		t.Errorf("it tells %q", got)
	}
	families, err := o.metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool {
		return f.GetName() == "tocsin_leases_overdue" && f.GetMetric()[0].GetGauge().GetValue() == 1
	}) {
		t.Error("the metric that pages does not count it")
	}
	if h := (&facts{store: o.store, now: func() time.Time { return o.at }}).leases(t.Context()); h.OK || !strings.Contains(h.Text, "1 ended and were not reverted") || !strings.Contains(h.Text, "orphan") {
		t.Errorf("the health page says %+v", h)
	}
}

// TestUseInAdvance: a standing decision answers while it is in force, as often as it may, and never for a person who could not.
func TestUseInAdvance(t *testing.T) {
	tests := []struct {
		name   string
		change func(o *office, d *approval.Standing, r *approval.Request)
		used   int // for other requests before
		want   bool
	}{
		{"in force", func(*office, *approval.Standing, *approval.Request) {}, 0, true},
		{"for the last time", func(*office, *approval.Standing, *approval.Request) {}, 1, true},
		{"as often as it may", func(*office, *approval.Standing, *approval.Request) {}, 2, false},
		{"an hour later", func(o *office, _ *approval.Standing, r *approval.Request) {
			o.at = o.at.Add(time.Hour)
			r.Deadline = o.at.Add(time.Hour)
		}, 2, true},
		{"revoked", func(o *office, d *approval.Standing, _ *approval.Request) { d.Revoked, d.RevokedBy = o.at, "bob" }, 0, false},
		{"ended", func(o *office, d *approval.Standing, r *approval.Request) {
			o.at = d.Until
			r.Deadline = o.at.Add(time.Hour)
		}, 0, false},
		{"changed since it was signed", func(_ *office, d *approval.Standing, _ *approval.Request) { d.PerHour = 50 }, 0, false},
		{"signed by nobody", func(_ *office, d *approval.Standing, _ *approval.Request) { d.Signer, d.Signature = nil, nil }, 0, false},
		{"of another agent", func(_ *office, _ *approval.Standing, r *approval.Request) {
			r.Plan.Target.Agent = "crm/bot"
			r.Question = r.Plan.Question()
			r.Digest, _ = approval.DigestOf(r.Plan)
		}, 0, false},
		{"of a request that its signer may not answer", func(_ *office, _ *approval.Standing, r *approval.Request) { r.Terms.Not = []string{"lea"} }, 0, false},
		{"of the last agent at work", func(o *office, _ *approval.Standing, _ *approval.Request) {
			o.agents = []string{"billing/bot", "billing/other", "crm/bot"}
			o.hold(t, "billing/other", "")
		}, 0, false},
		{"while another is at work", func(o *office, _ *approval.Standing, _ *approval.Request) {
			o.agents = []string{"billing/bot", "billing/other", "billing/third"}
			o.hold(t, "billing/other", "")
		}, 0, true},
		{"while a session of the other is held", func(o *office, _ *approval.Standing, _ *approval.Request) {
			o.agents = []string{"billing/bot", "billing/other"}
			o.hold(t, "billing/other", "s")
		}, 0, true},
		{"of an only agent", func(o *office, _ *approval.Standing, _ *approval.Request) {
			o.agents = []string{"billing/bot", "crm/bot"}
		}, 0, true},
		{"of what needs two", func(_ *office, _ *approval.Standing, r *approval.Request) { r.Terms.Need = 2 }, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOffice(t)
			d, err := approval.Standing{
				Action: "quarantine", Rules: []string{"leak"}, Agents: []string{"billing/*"}, Lease: time.Hour, PerHour: 2, Until: o.at.Add(3 * time.Hour), Reason: "faster than we are",
			}.Propose(approval.Principal{ID: "ana", Role: approval.Responder}, o.at)
			if err != nil {
				t.Fatal(err)
			}
			if d, err = o.signer.SignStanding(d, approval.Principal{ID: "lea", Role: approval.Lead}, o.at); err != nil {
				t.Fatal(err)
			}
			if err := o.store.SaveStanding(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			for n := range tt.used {
				if ok, err := o.store.UseStanding(t.Context(), d.ID, strings.Repeat("x", n+1), d.PerHour, o.at); err != nil || !ok {
					t.Fatal(ok, err)
				}
			}
			tt.change(o, &d, &o.request)
			if err := o.store.SaveStanding(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			s := &standing{o.store, o.signer, func() []string { return o.agents }, o.now}
			var got *approval.Decision
			for range 2 { // the activity that asks may be tried again
				if got, err = s.Use(t.Context(), o.request, []string{"leak"}); err != nil || (got != nil) != tt.want {
					t.Fatalf("Use = %+v, %v", got, err)
				}
			}
			uses := tt.used
			if tt.want {
				uses++
				if err := got.Grant.Verify(o.signer.Public(), o.request.Plan, o.at); err != nil || got.By.ID != "lea" || got.Grant.Standing != d.ID {
					t.Errorf("%+v: %v", got, err)
				}
			}
			if d, err = o.store.Standing(t.Context(), d.ID); err != nil || d.Uses != uses {
				t.Errorf("it was used %d times, want %d: %v", d.Uses, uses, err)
			}
		})
	}
}

const planned = `name: planned
version: 1.0.0
title: Planned
steps:
  - {id: seal, do: seal, class: record}
  - {id: stop, do: quarantine, class: contain, after: [seal], target: session, lease: 1h, ask: {deadline: 15m, on_expiry: deny}}
  - {id: slow, if: 'incident.findings > 5', do: throttle, class: contain, after: [seal], target: agent, lease: 1h, with: {per_minute: =incident.findings + 2}, ask: {deadline: 15m, on_expiry: deny, need: 2}}
  - {id: wide, do: quarantine, class: contain, after: [seal], target: agent, lease: 1h, blast: {max: 1, not: ["billing/*"]}, ask: {deadline: 15m, on_expiry: deny}}
  - {id: away, do: revoke-token, class: contain, after: [seal], target: agent, irreversible: true, with: {token: t}, ask: {deadline: 15m, on_expiry: deny}}
  - {id: write, do: draft, class: record}
`

// TestPlanPlaybook: a plan resolves targets, renders parameters, computes the change and who would be asked, as the live run would put it to
// people, and does nothing.
func TestPlanPlaybook(t *testing.T) {
	o := newOffice(t)
	p, err := playbooks.Compile("planned.yaml", []byte(planned), action.Descriptions())
	if err != nil {
		t.Fatal(err)
	}
	door, err := gate.Open(t.Context(), o.store, nil, o.now)
	if err != nil {
		t.Fatal(err)
	}
	actions := action.NewCatalogue(o.signer.Public(), door, &governor{}, o.now, action.NewQuarantine(door), action.NewThrottle(door))
	at := &planner{library: map[string]playbooks.Playbook{"planned": p}, policies: o.policies, actions: actions, store: o.store}
	steps, err := at.PlanPlaybook(t.Context(), "INC-1", "planned")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, s := range steps {
		got[s.Step] = strings.Join(s.Lines(), "; ")
	}
	want := map[string]string{
		"seal": "", "write": "",
		"stop": "target: agent billing/bot, session s1; change: the gate denies every tool call of agent billing/bot, session s1; reverts by itself after 1h0m0s; asks 1 of responder, within 15m0s; touches 1",
		"slow": "only if incident.findings > 5, which is false now; target: agent billing/bot; change: the gate denies tool calls of agent billing/bot beyond 2 in any minute; reverts by itself after 1h0m0s; asks 2 of responder, within 15m0s; touches 1",
		"wide": "target: agent billing/bot; change: the gate denies every tool call of agent billing/bot; reverts by itself after 1h0m0s; asks 1 of responder, within 15m0s; touches 1; can't be planned: the playbook must not touch billing/*",
		"away": `target: agent billing/bot; asks 1 of responder, within 15m0s; touches 0; can't be planned: find action: there is no action "revoke-token"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	acts := &workflows.Activities{Offered: action.Descriptions(), Policies: o.policies}
	does := &workflows.Effects{Actions: actions, Count: func(string, string, error) {}}
	i := slices.IndexFunc(steps, func(s api.PlannedStep) bool { return s.Step == "stop" })
	bare := *steps[i].Plan
	bare.Change, bare.Blast, bare.Need = nil, 0, 0
	live, err := acts.Terms(t.Context(), workflows.PlanInput{Plan: bare, Asked: approval.Policy{Deadline: 15 * time.Minute, OnExpiry: "deny"}})
	if err != nil {
		t.Fatal(err)
	}
	live, err = does.Plan(t.Context(), workflows.PlanInput{Incident: "INC-1", Plan: live.Plan})
	if diff := cmp.Diff(live.Plan, *steps[i].Plan); diff != "" || err != nil {
		t.Errorf("people would be asked another thing (-live +planned): %v\n%s", err, diff)
	}
	leases, err := o.store.Leases(t.Context())
	if requests, failed := o.store.Requests(t.Context(), "", 10); failed != nil || err != nil || len(leases) > 0 || len(requests) != 1 || len(o.server.signals)+o.server.updates > 0 {
		t.Errorf("planning left %v and %v: %v %v", leases, requests, err, failed)
	}
	if _, err := at.PlanPlaybook(t.Context(), "INC-1", "none"); approval.Kind(err) != approval.RefusedUnknown {
		t.Errorf("a playbook that is not there: %v", err)
	}
	if _, err := at.PlanPlaybook(t.Context(), "INC-2", "planned"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an incident that is not there: %v", err)
	}
}

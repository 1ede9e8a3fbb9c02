package workflows

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/playbooks"
)

const (
	ana  = "ana"
	hour = time.Hour
	// anything is the word by which the test environment's mocks take any argument.
	anything = "mock.Anything"
)

var bot = event.Agent{ID: "billing/billing-bot", Name: "billing-bot", Service: "billing", Class: "payments"}

// house is one incident workflow on Temporal's test environment, which skips time, with real activities on a real store, vault and
// gate.
type house struct {
	*testing.T
	env    *testsuite.TestWorkflowEnvironment
	acts   *Activities
	does   *Effects
	store  *store.Store
	gate   *gate.Gate
	signer *approval.Signer
	rule   string // digest of the rule's text

	mu    sync.Mutex
	calls []string // activities in the order in which they started
}

// told ignores what activities tell the process.
type told struct{}

// boundless lets everything begin.
type boundless struct{}

func (boundless) Halted(context.Context) error { return nil }

func (boundless) Admit(action.Lease, action.Description, []action.Lease) error { return nil }

// nobody decided anything in advance.
type nobody struct{}

func (nobody) Use(context.Context, approval.Request, []string) (*approval.Decision, error) {
	return nil, nil
}

func (told) Changed(string, string)            {}
func (told) Decided(approval.Request)          {}
func (told) Contained(action.Lease, time.Time) {}
func (told) Unattended(string)                 {}

// session is what the log holds of the incident's session.
type session []event.Event

func (s session) SessionEvents(_ context.Context, _ []pipeline.Raised, take func(*event.Event) error) (Unread, error) {
	for i := range s {
		if err := take(&s[i]); err != nil {
			return Unread{}, err
		}
	}
	return Unread{}, nil
}

func newHouse(t *testing.T) *house {
	t.Helper()
	ctx := t.Context()
	suite := &testsuite.WorkflowTestSuite{}
	suite.SetLogger(sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	h := &house{T: t, env: suite.NewTestWorkflowEnvironment(), signer: approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))}
	// The race detector makes a busy workflow task slower than the SDK's second.
	h.env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: time.Minute})
	h.env.SetTestTimeout(time.Minute) // of waiting for an activity in real time, on a machine that does other work too
	h.env.SetStartTime(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	var err error
	if h.store, err = store.Open(ctx, t.TempDir()+"/store.db"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.store.Close() })
	vault, err := evidence.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vault.Close() })
	if h.rule, err = vault.Put(ctx, []byte("id: rule\n")); err != nil {
		t.Fatal(err)
	}
	if h.gate, err = gate.Open(ctx, h.store, nil, h.env.Now); err != nil {
		t.Fatal(err)
	}
	actions := action.NewCatalogue(h.signer.Public(), h.gate, boundless{}, h.env.Now, action.NewQuarantine(h.gate))
	h.acts = &Activities{Store: h.store, Vault: vault, Session: h.events(), Memory: diary{}, Offered: action.Descriptions(), Decided: nobody{}, Tell: told{}, Now: h.env.Now}
	h.does = &Effects{Actions: actions, Store: h.store, Count: func(string, string, error) {}, Now: h.env.Now}
	h.env.RegisterActivity(h.acts)
	h.env.RegisterActivity(h.does)
	h.env.RegisterWorkflow(Incident)
	h.env.RegisterWorkflow(ContainmentLease)
	called := func(info *activity.Info) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.calls = append(h.calls, info.ActivityType.Name)
	}
	h.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) { called(info) })
	h.env.SetOnLocalActivityStartedListener(func(info *activity.Info, _ context.Context, _ []any) { called(info) })
	return h
}

// diary is what an agent keeps: two tables, or a database that does not answer, by the name of the agent's memory.
type diary map[string][]string

func (d diary) Of(agent string) []string { return d[agent] }

func (diary) Read(_ context.Context, memory string, put func(string, []byte, int) error) error {
	if memory == "down" {
		return errors.New("connection refused")
	}
	if err := put("notes.facts", []byte("{\"a\": 1}\n"), 0); err != nil {
		return err
	}
	return put("notes.links", nil, 3)
}

func (h *house) events() session {
	at := h.env.Now().Add(-time.Minute)
	return session{
		{ID: "e1", Kind: event.KindPrompt, Time: at, Agent: bot, Content: []event.Content{{Role: event.RolePrompt, Text: "pay the invoice"}}},
		{
			ID: "e2", Kind: event.KindToolResult, Time: at.Add(time.Second), Agent: bot, Tool: &event.Tool{Name: "send_money", Effect: event.EffectEgress},
			Destinations: []event.Destination{{Kind: "account", Value: "US133000000121212121212"}},
		},
	}
}

// finding is one that proposes a containment.
func (h *house) finding(id string) pipeline.Raised {
	at := h.env.Now().Add(-time.Minute)
	return pipeline.Raised{Ingested: at.Add(time.Second), Positions: []pipeline.Position{{Sequence: 1}}, Finding: detect.Finding{
		ID: id, Source: detect.SourceRule, Rule: "rule", Digest: h.rule, Title: "Money went where the user did not send it", Severity: detect.High,
		Confidence: detect.HighConfidence, Lane: detect.Propose, Playbook: "quarantine-agent", Agent: bot, Session: "s1", Tool: "send_money",
		First: at, Time: at.Add(time.Second), Events: []string{"e2"},
	}}
}

func library(t *testing.T) map[string]playbooks.Playbook {
	t.Helper()
	all, err := playbooks.Read(action.Descriptions(), playbooks.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// at does something at a time after the start.
func (h *house) at(after time.Duration, do func()) { h.env.RegisterDelayedCallback(do, after) }

func (h *house) signal(after time.Duration, name string, arg any) {
	h.at(after, func() { h.env.SignalWorkflow(name, arg) })
}

// run starts the incident with finding f1, and closes it in the end so that its workflow ends.
func (h *house) run() *house {
	h.Helper()
	h.signal(0, SignalFound, h.finding("f1"))
	end := h.close(100 * hour)
	h.execute(IncidentInput{Playbooks: library(h.T), GrantKey: h.signer.Public()})
	if err := h.env.GetWorkflowError(); err != nil || end.err != nil {
		h.Fatalf("the incident ended with %v, closing it with %v", err, end.err)
	}
	return h
}

func (h *house) execute(in IncidentInput) {
	h.Helper()
	h.env.ExecuteWorkflow(Incident, in)
	if !h.env.IsWorkflowCompleted() {
		h.Fatal("the incident did not end")
	}
}

// answer is what the sender of an update learns.
type answer struct {
	sent, done bool
	err        error
}

// kind is the kind of a refusal; "" for an update that was taken.
func (a *answer) kind() string {
	var refusal *temporal.ApplicationError
	if errors.As(a.err, &refusal) {
		return refusal.Type()
	}
	return ""
}

func (h *house) update(after time.Duration, name string, arg func() any) *answer {
	a := new(answer)
	h.at(after, func() {
		a.sent = true
		h.env.UpdateWorkflow(name, "", &testsuite.TestUpdateCallback{
			OnAccept:   func() {},
			OnReject:   func(err error) { a.err = err },
			OnComplete: func(_ any, err error) { a.done, a.err = true, err },
		}, arg())
	})
	return a
}

func (h *house) close(after time.Duration) *answer {
	return h.update(after, UpdateClose, func() any {
		d := incident.Disposition{Verdict: incident.TruePositive, Reasoning: "seen it", By: "lea", At: h.env.Now()}
		return Closing{Incident: h.latest(), Disposition: d}
	})
}

// latest is the id of the incident that is open, or of the last one.
func (h *house) latest() (id string) {
	h.Helper()
	for _, i := range h.incidents() {
		if id == "" || i.Status != incident.Closed {
			id = i.ID
		}
	}
	return id
}

func (h *house) ask(after time.Duration, by string) *answer {
	return h.update(after, UpdateAsk, func() any {
		return HumanAsk{Incident: h.latest(), By: by, Via: "cli", Target: approval.Target{Agent: bot.ID}, Lease: hour, Reason: "it goes on"}
	})
}

// decide sends ana's decision on the request that waits, changed by change, if it is not nil.
func (h *house) decide(after time.Duration, verb approval.Verb, change func(*approval.Decision)) *answer {
	return h.update(after, UpdateDecide, func() any {
		waiting := h.requests(approval.Pending)
		if len(waiting) == 0 {
			waiting = h.requests("")
		}
		return h.decision(waiting[0], verb, change)
	})
}

// decision is as the control plane sends it: an approval is signed after everything else is as it is.
func (h *house) decision(r approval.Request, verb approval.Verb, change func(*approval.Decision)) approval.Decision {
	d := approval.Decision{
		Request: r.ID, Verb: verb, Digest: r.Digest, Reason: "not what the user asked for", At: h.env.Now(),
		By: approval.Principal{ID: ana, Role: approval.Responder, Via: "cli"},
	}
	grant := func() {
		if g, err := h.signer.Sign(r, d); err == nil {
			d.Grant = g
		}
	}
	grant()
	if change != nil {
		signed := d.Grant
		if change(&d); d.Grant == signed {
			d.Grant = nil
			grant()
		}
	}
	return d
}

func read[T any](h *house, v T, err error) T {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
	return v
}

func (h *house) requests(state approval.State) []approval.Request {
	h.Helper()
	list, err := h.store.Requests(context.Background(), state, 100)
	return read(h, list, err)
}

func (h *house) incidents() []incident.Incident {
	h.Helper()
	list, err := h.store.Incidents(context.Background(), 100)
	return read(h, list, err)
}

func (h *house) incident() incident.Incident {
	h.Helper()
	list := h.incidents()
	if len(list) != 1 {
		h.Fatalf("there are %d incidents, want 1", len(list))
	}
	return list[0]
}

// status is the incident's at a time after the start.
func (h *house) status(after time.Duration, want incident.Status) {
	h.at(after, func() {
		if got := h.incident().Status; got != want {
			h.Errorf("after %s the incident is %s, want %s", after, got, want)
		}
	})
}

// denied is what the gate says at a time after the start.
func (h *house) denied(after time.Duration, want bool) {
	h.at(after, func() {
		if got := !h.gate.Check(gate.Query{Agent: bot.ID, Tool: "send_money"}).Allow; got != want {
			h.Errorf("after %s the gate denies: %v, want %v", after, got, want)
		}
	})
}

// states are those of all requests, in the order in which they were asked.
func (h *house) states() []approval.State {
	h.Helper()
	all := h.requests("")
	slices.SortFunc(all, func(a, b approval.Request) int { return a.Revision - b.Revision })
	var out []approval.State
	for _, r := range all {
		out = append(out, r.State)
	}
	return out
}

// rows are the keys of the ledger's rows of a kind, oldest first.
func (h *house) rows(kind string) []string {
	h.Helper()
	all, err := h.store.Ledger(context.Background(), "", 1000)
	if _, broken := h.store.VerifyLedger(context.Background()); err != nil || broken != nil {
		h.Fatal(err, broken)
	}
	var out []string
	for _, r := range slices.Backward(all) {
		if r.Kind == kind {
			out = append(out, r.Key)
		}
	}
	return out
}

func (h *house) entries(kind string) []incident.Entry {
	h.Helper()
	all, err := h.store.Timeline(context.Background(), h.incident().ID)
	return slices.DeleteFunc(read(h, all, err), func(e incident.Entry) bool { return e.Kind != kind })
}

func (h *house) containments() []string { h.Helper(); return h.rows(ledger.KindContainment) }

package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/testdata"
)

// DemoOptions set up a demonstration.
type DemoOptions struct {
	Data   string
	Port   int // of OTLP over HTTP; gRPC and the console follow. 0 takes free ports.
	Out    io.Writer
	Logger *slog.Logger
}

// Demo runs Tocsin on recorded telemetry of real agents: it replays their history so that the baselines learn, then a session in
// which text in a tool's output hijacks one of them. Everything goes over the network interfaces that agents and people use.
type Demo struct {
	o        DemoOptions
	app      *App
	cancel   context.CancelFunc
	running  chan error
	user     string
	password string
	token    string
}

const (
	demoUser    = "ana"
	demoTimeout = 60 * time.Second
	// demoDistance is the time between two sessions of a replayed history.
	demoDistance = 20 * time.Minute
)

// NewDemo starts everything on a data directory.
func NewDemo(ctx context.Context, o DemoOptions) (*Demo, error) {
	d := &Demo{o: o, user: demoUser, password: rand.Text()[:16], running: make(chan error, 1)}
	hash, err := auth.HashPassword(d.password)
	if err != nil {
		return nil, err
	}
	cfg := Config{Data: o.Data, Users: []User{{Name: d.user, PasswordHash: hash, Role: approval.Lead}}}
	for i, address := range []*string{&cfg.Listen.OTLPHTTP, &cfg.Listen.OTLPGRPC, &cfg.Listen.Console} {
		port := 0
		if o.Port != 0 {
			port = o.Port + i
		}
		*address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	cfg.defaults()
	d.say("Starting the event log, the workflow engine, the store and the console …")
	if d.app, err = New(ctx, cfg, o.Logger); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel = cancel
	go func() { d.running <- d.app.Run(run) }()
	return d, nil
}

// Close stops everything.
func (d *Demo) Close() error {
	d.cancel()
	return errors.Join(<-d.running, d.app.Close())
}

func (d *Demo) say(format string, args ...any) { fmt.Fprintf(d.o.Out, format+"\n", args...) }

// play sends the history, a normal session and the hijacked one, and returns the request that waits for a decision.
func (d *Demo) play(ctx context.Context) (approval.Request, error) {
	now := time.Now()
	d.say("Replaying the recorded history of four agents, so that their baselines learn …")
	group, groupCtx := errgroup.WithContext(ctx)
	// Agents of one class share its clock: histories side by side would move it on between a span and its root, which names the agent.
	for _, class := range [][]string{{"billing-bot", "refund-bot"}, {"support-desk"}, {"research-crew"}} {
		group.Go(func() error {
			for _, name := range class {
				if err := d.send(groupCtx, name, now.Add(-time.Hour)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return approval.Request{}, err
	}
	d.say("A normal session of billing-bot, then one in which an invoice tells it to send money elsewhere …")
	if err := d.send(ctx, "billing-bot-control", now.Add(-20*time.Minute)); err != nil {
		return approval.Request{}, err
	}
	if err := d.send(ctx, "billing-bot-hijacked", time.Now().Add(-2*time.Second)); err != nil {
		return approval.Request{}, err
	}
	return d.await(ctx)
}

// send posts a capture as its agent's exporter did, its last session beginning at a time.
func (d *Demo) send(ctx context.Context, name string, end time.Time) error {
	file, err := testdata.Captures.Open("captures/" + name + ".jsonl")
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	defer file.Close()
	var requests []ingest.Request
	if err := ingest.ReadCapture(file, func(r ingest.Request) error { requests = append(requests, r); return nil }); err != nil {
		return fmt.Errorf("read capture %s: %w", name, err)
	}
	if requests, err = Spread(requests, end, demoDistance); err != nil {
		return fmt.Errorf("read capture %s: %w", name, err)
	}
	for _, r := range requests {
		if err := d.post(ctx, "http://"+d.app.Addresses.OTLPHTTP+r.Path, r.ContentType, r.Body, nil); err != nil {
			return err
		}
	}
	return nil
}

// post sends a body and decodes the answer into v, if there is one.
func (d *Demo) post(ctx context.Context, url, contentType string, body []byte, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", contentType)
	return d.do(request, v)
}

func (d *Demo) do(request *http.Request, v any) error {
	if d.token != "" {
		request.Header.Set("Authorization", "Bearer "+d.token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", request.Method, request.URL.Path, response.Status, text)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(text, v)
}

// until polls until a condition holds; the demonstration ends on an error rather than hang.
func (d *Demo) until(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case err := <-d.running:
			d.running <- err
			return fmt.Errorf("%s: Tocsin stopped: %w", what, err)
		case <-ticker.C:
		}
	}
}

// await waits for the incident's request.
func (d *Demo) await(ctx context.Context) (r approval.Request, err error) {
	err = d.until(ctx, "wait for the request", func() (bool, error) {
		list, err := d.app.store.Requests(ctx, approval.Pending, 10)
		if len(list) > 0 {
			r = list[0]
		}
		return len(list) > 0, err
	})
	return r, err
}

// Watch plays the demonstration for a person: it shows the incident and how to decide, and waits for what they do.
func (d *Demo) Watch(ctx context.Context) error {
	r, err := d.play(ctx)
	if err != nil {
		return err
	}
	i, err := d.app.store.Incident(ctx, r.Incident)
	if err != nil {
		return err
	}
	alerts, err := d.app.store.Alerts(ctx, i.ID, 20)
	if err != nil {
		return err
	}
	console := "http://" + d.app.Addresses.Console
	d.say("\n%s  %s, %s\n  %s", i.ID, i.Severity, i.Status, i.Title)
	for _, a := range alerts {
		d.say("  %-8s %s: %s", a.Finding.Source, a.Finding.Rule, incident.Visible(a.Finding.Reason, 300))
	}
	d.say("\nWaiting for you: %s (plan digest %s)", incident.Visible(r.Question, 300), r.Digest[:12])
	d.say("  in the console       %s/incidents/%s   (user %s, password %s)", console, i.ID, d.user, d.password)
	d.say("  on the command line  tocsin sign-in --server %s --user %s", console, d.user)
	d.say("                       tocsin approvals show %s --server %s", r.ID, console)
	d.say("                       tocsin approvals approve %s --server %s --digest %s --reason \"not what the user asked for\"", r.ID, console, r.Digest[:12])
	d.say("  ask the gate         tocsin gate check --gate http://%s --agent %s", d.app.Addresses.OTLPHTTP, incident.Visible(r.Plan.Target.Agent, 300))
	d.say("Stop with Ctrl-C.\n")
	return d.watchDecision(ctx, r)
}

func (d *Demo) watchDecision(ctx context.Context, r approval.Request) error {
	changes := d.app.hub.subscribe(ctx)
	for state := r.State; ; {
		now, err := d.app.store.Request(ctx, r.ID)
		if err != nil {
			return ignoreCancel(err)
		}
		if now.State != state {
			state = now.State
			d.say("The request is %s.", state)
		}
		if lease, ok := d.app.gate.Lease(r.ID); ok && !lease.Verified.IsZero() && state == approval.Approved {
			answer := d.app.gate.Check(gate.Query{Agent: r.Plan.Target.Agent})
			d.say("Contained in %s. The gate now answers: %s", lease.Verified.Sub(now.Decision.At).Round(time.Millisecond), incident.Visible(answer.Reason, 300))
			<-ctx.Done()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		}
	}
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// DemoSummary is what really happened in an automatic demonstration.
type DemoSummary struct {
	Events          int     `json:"events"`
	Agents          int     `json:"agents"`
	Findings        int     `json:"findings"`
	Incidents       int     `json:"incidents"`
	Decision        string  `json:"decision"`
	Contained       bool    `json:"contained"`
	TimeToContain   float64 `json:"time_to_contain_seconds"` // decision to verified effect
	Dwell           float64 `json:"dwell_seconds"`
	GateDenied      bool    `json:"gate_denied"`
	EvidenceSHA256  string  `json:"evidence_sha256"` // of the manifest over all evidence
	Draft           string  `json:"draft"`
	SecondsToAsking float64 `json:"seconds_to_request"` // from the start of the process' demonstration
}

// Auto plays the demonstration with a scripted on-call, who signs in and decides through the same API as a person. It returns an
// error unless everything that the summary says really happened.
func (d *Demo) Auto(ctx context.Context) (DemoSummary, error) {
	start := time.Now()
	r, err := d.play(ctx)
	if err != nil {
		return DemoSummary{}, err
	}
	asked := time.Since(start)
	console := "http://" + d.app.Addresses.Console
	if err := d.decide(ctx, console, r); err != nil {
		return DemoSummary{}, err
	}
	var file api.Case
	err = d.until(ctx, "wait for the containment", func() (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, console+"/api/v1/incidents/"+r.Incident, nil)
		if err != nil {
			return false, err
		}
		if err := d.do(request, &file); err != nil {
			return false, err
		}
		return file.Contained && !file.Incident.Times.Contained.IsZero() && tells(file, "Contained, verified by a probe"), nil
	})
	if err != nil {
		return DemoSummary{}, err
	}
	s, err := d.summarise(ctx, r, file)
	s.SecondsToAsking = asked.Seconds()
	return s, err
}

// tells reports whether the post-mortem says something already.
func tells(file api.Case, text string) bool {
	return slices.ContainsFunc(file.Drafts, func(d store.Draft) bool { return d.Name == "post-mortem" && strings.Contains(d.Markdown, text) })
}

// decide signs in, looks at the incident, and approves.
func (d *Demo) decide(ctx context.Context, console string, r approval.Request) error {
	credentials, err := json.Marshal(map[string]string{"user": d.user, "password": d.password})
	if err != nil {
		return err
	}
	var session struct {
		Token string `json:"token"`
	}
	if err := d.post(ctx, console+"/api/v1/sign-in", "application/json", credentials, &session); err != nil {
		return err
	}
	d.token = session.Token
	if err := d.post(ctx, console+"/api/v1/incidents/"+r.Incident+"/notice", "application/json", []byte("{}"), nil); err != nil {
		return err
	}
	body, err := json.Marshal(api.DecideBody{Verb: approval.Approve, Digest: r.Digest, Reason: "The account came out of an invoice, not from the user."})
	if err != nil {
		return err
	}
	return d.post(ctx, console+"/api/v1/approvals/"+r.ID+"/decide", "application/json", body, nil)
}

// summarise reads what happened from where it is recorded, and checks each part.
func (d *Demo) summarise(ctx context.Context, r approval.Request, file api.Case) (s DemoSummary, err error) {
	decided, err := d.app.store.Request(ctx, r.ID)
	if err != nil {
		return s, err
	}
	incidents, err := d.app.store.Incidents(ctx, 100)
	if err != nil {
		return s, err
	}
	alerts, err := d.app.store.Alerts(ctx, "", 1000)
	if err != nil {
		return s, err
	}
	agents, err := d.app.facts.Agents(ctx)
	if err != nil {
		return s, err
	}
	for _, detector := range d.app.detectors {
		s.Events += detector.processed()
	}
	s.Agents, s.Findings, s.Incidents, s.Decision, s.Contained = len(agents), len(alerts), len(incidents), string(decided.State), file.Contained
	times := file.Incident.Times
	s.Dwell = times.Noticed.Sub(times.FirstBad).Seconds()
	s.TimeToContain = times.Contained.Sub(times.Decided).Seconds()
	query, err := json.Marshal(gate.Query{Agent: r.Plan.Target.Agent, Tool: "send_money"})
	if err != nil {
		return s, err
	}
	var answer api.GateAnswer
	if err := d.post(ctx, "http://"+d.app.Addresses.OTLPHTTP+"/v1/gate/check", "application/json", query, &answer); err != nil {
		return s, err
	}
	s.GateDenied = !answer.Allow
	if s.EvidenceSHA256, err = d.checkEvidence(ctx, file); err != nil {
		return s, err
	}
	if s.Draft, err = d.writeDraft(file); err != nil {
		return s, err
	}
	return s, s.check()
}

// checkEvidence reads every artefact back from the vault, which checks its hash, and returns the manifest's.
func (d *Demo) checkEvidence(ctx context.Context, file api.Case) (manifest string, err error) {
	for _, item := range file.Evidence {
		if _, err := d.app.vault.Get(ctx, item.SHA256); err != nil {
			return "", err
		}
		if item.Name == "manifest.json" { // the last one is the newest
			manifest = item.SHA256
		}
	}
	return manifest, nil
}

func (d *Demo) writeDraft(file api.Case) (string, error) {
	for _, draft := range file.Drafts {
		if draft.Name != "post-mortem" {
			continue
		}
		name := filepath.Join(filepath.Dir(d.o.Data), "post-mortem-"+file.Incident.ID+".md")
		if err := os.WriteFile(name, []byte(draft.Markdown), 0o600); err != nil {
			return "", fmt.Errorf("write draft: %w", err)
		}
		return name, nil
	}
	return "", nil
}

// check names the first thing that did not happen.
func (s DemoSummary) check() error {
	for _, c := range []struct {
		ok   bool
		what string
	}{
		{s.Events > 1000, "fewer than 1000 events were processed"},
		{s.Agents == 4, "there are not exactly four agents"},
		{s.Findings > 0, "nothing was found"},
		{s.Incidents == 1, "there is not exactly one incident"},
		{s.Decision == string(approval.Approved), "the request was not approved"},
		{s.Contained, "the agent is not contained"},
		{s.TimeToContain > 0, "the time to contain was not measured"},
		{s.Dwell > 0, "the dwell time was not measured"},
		{s.GateDenied, "the gate did not deny"},
		{len(s.EvidenceSHA256) == 64, "there is no sealed evidence"},
		{s.Draft != "", "there is no draft"},
	} {
		if !c.ok {
			return fmt.Errorf("check the demonstration: %s", c.what)
		}
	}
	return nil
}

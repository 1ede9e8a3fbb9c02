package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/testdata"
)

// running is a whole Tocsin with its embedded servers, and what a person or an agent does with it over HTTP.
type running struct {
	*testing.T
	*App
	tokens map[string]string
	keys   map[string]*keyed // people's browsers, with their security keys
}

const password = "correct horse battery staple"

// quickRule and quickPlaybook ask a question that nobody can answer in time.
const (
	quickRule = `id: quick
version: 1.0.0
title: Quick wire
severity: high
confidence: high
lane: propose
on: [tool.result]
key: session
when: tool.name == "wire_now"
tags: {asi: [ASI01], atlas: [AML.T0053]}
triage: Look at it.
playbook: quick
tests:
  - {name: fires, fires: 1, events: [{at: 0s, kind: tool.result, tool: wire_now}]}
  - {name: is quiet, fires: 0, events: [{at: 0s, kind: tool.result, tool: wire_later}]}
`
	quickPlaybook = `name: quick
version: 1.0.0
title: Ask quickly
steps:
  - {id: seal, do: seal, class: record}
  - {id: stop, do: quarantine, class: contain, after: [seal], target: agent, lease: 60m, ask: {deadline: 1s, on_expiry: deny}}
`
)

func configured(t testing.TB) Config {
	t.Helper()
	hash, err := auth.HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"rules/quick.yaml": quickRule, "playbooks/quick.yaml": quickPlaybook} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Data: filepath.Join(dir, "data")}
	cfg.Rules.Dir, cfg.Playbooks.Dir = filepath.Join(dir, "rules"), filepath.Join(dir, "playbooks")
	for name, role := range map[string]approval.Role{"ana": approval.Responder, "bob": approval.Lead, "nora": approval.Lead, "carl": approval.Lead, "eve": approval.Viewer, "billing-bot": approval.Responder} {
		cfg.Users = append(cfg.Users, User{Name: name, PasswordHash: hash, Role: role})
	}
	for _, address := range []*string{&cfg.Listen.OTLPHTTP, &cfg.Listen.OTLPGRPC, &cfg.Listen.Console} {
		*address = "127.0.0.1:0"
	}
	cfg.defaults()
	return cfg
}

// start runs a whole Tocsin until stop is called or the test ends.
func start(t *testing.T, cfg Config) (h *running, stop func()) {
	t.Helper()
	a, stop := launch(t, cfg)
	return &running{T: t, App: a, tokens: make(map[string]string), keys: make(map[string]*keyed)}, stop
}

// launch runs an App, changed before it runs, until stop is called or the test ends.
func launch(t testing.TB, cfg Config, before ...func(*App)) (a *App, stop func()) {
	t.Helper()
	a, err := New(t.Context(), cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range before {
		fn(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(stop)
	return a, stop
}

func (h *running) console(path string) string { return "http://" + h.Addresses.Console + path }

// call sends a request to the API as a person, or as nobody, and returns the status and the body.
func (h *running) call(person, method, path string, body any) (int, []byte) {
	h.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		h.Fatal(err)
	}
	request, err := http.NewRequestWithContext(h.Context(), method, h.console(path), bytes.NewReader(text))
	if err != nil {
		h.Fatal(err)
	}
	if person != "" {
		request.Header.Set("Authorization", "Bearer "+h.token(person))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		h.Fatal(err)
	}
	return response.StatusCode, answer
}

// ok is a call that must succeed.
func (h *running) ok(person, method, path string, body any) {
	h.Helper()
	if status, answer := h.call(person, method, path, body); status != http.StatusOK {
		h.Fatalf("%s %s as %s: %d %s", method, path, person, status, answer)
	}
}

func (h *running) token(person string) string {
	h.Helper()
	if h.tokens[person] == "" {
		var session struct{ Token string }
		status, answer := h.call("", http.MethodPost, "/api/v1/sign-in", map[string]string{"user": person, "password": password})
		if err := json.Unmarshal(answer, &session); err != nil || session.Token == "" {
			h.Fatalf("sign in as %s: %d %s", person, status, answer)
		}
		h.tokens[person] = session.Token
	}
	return h.tokens[person]
}

// send posts requests as agents' exporters do.
func (h *running) send(requests ...ingest.Request) {
	h.Helper()
	for _, r := range requests {
		response, err := http.Post("http://"+h.Addresses.OTLPHTTP+r.Path, r.ContentType, bytes.NewReader(r.Body))
		if err != nil {
			h.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		if response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
			h.Fatalf("post %s: %s %s: %v", r.Path, response.Status, answer, err)
		}
	}
}

// capture is a recorded session's or history's requests, its last session beginning at a time.
func capture(t *testing.T, name string, end time.Time) []ingest.Request {
	t.Helper()
	file, err := testdata.Captures.Open("captures/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var requests []ingest.Request
	if err := ingest.ReadCapture(file, func(r ingest.Request) error { requests = append(requests, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if requests, err = Spread(requests, end, demoDistance); err != nil {
		t.Fatal(err)
	}
	return requests
}

// hijacked is the hijacked session as another one, with a trace and a conversation of its own.
func hijacked(t *testing.T, n int) (requests []ingest.Request, session string) {
	t.Helper()
	requests = capture(t, "billing-bot-hijacked", time.Now().Add(-2*time.Second))
	old := traceID.FindSubmatch(requests[0].Body)[1]
	fresh := slices.Concat(fmt.Appendf(nil, "%04x", n), old[4:])
	for i := range requests {
		requests[i].Body = bytes.ReplaceAll(requests[i].Body, old, fresh)
		requests[i].Body = bytes.ReplaceAll(requests[i].Body, []byte("bill-cv8fazxu1b"), fmt.Appendf(nil, "bill-%d", n))
	}
	return requests, string(fresh)
}

// quick is an event that the quick rule fires on.
func quick(session, tool string) ingest.Request {
	body := fmt.Sprintf(`{"kind":"tool.result","time":%q,"agent":{"name":"billing-bot","service":"billing","class":"payments"},"session":{"id":%q},"tool":{"name":%q}}`,
		time.Now().UTC().Format(time.RFC3339Nano), session, tool)
	return ingest.Request{Path: "/v1/events", ContentType: "application/json", Body: []byte(body)}
}

// until polls until a condition holds.
func (h *running) until(what string, holds func() bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute) // a busy machine is no failure
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			h.Fatalf("waited too long for %s", what)
		case <-ticker.C:
		}
	}
}

// asked waits for the request about a session whose agent is known by its name.
func (h *running) asked(session string) (r approval.Request) {
	h.Helper()
	h.until("a request about session "+session, func() bool {
		for _, waiting := range h.requests(approval.Pending) {
			i, err := h.store.Incident(h.Context(), waiting.Incident)
			if err != nil {
				h.Fatal(err)
			}
			if i.Session == session && waiting.Plan.Target.Agent == "billing/billing-bot" {
				r = waiting
			}
		}
		return r.ID != ""
	})
	return r
}

func (h *running) requests(state approval.State) []approval.Request {
	h.Helper()
	list, err := h.store.Requests(h.Context(), state, 1000)
	if err != nil {
		h.Fatal(err)
	}
	return list
}

func (h *running) request(id string) approval.Request {
	h.Helper()
	r, err := h.store.Request(h.Context(), id)
	if err != nil {
		h.Fatal(err)
	}
	return r
}

func (h *running) incidents() []incident.Incident {
	h.Helper()
	list, err := h.store.Incidents(h.Context(), 1000)
	if err != nil {
		h.Fatal(err)
	}
	return list
}

func (h *running) alerts() []store.Alert {
	h.Helper()
	list, err := h.store.Alerts(h.Context(), "", 1000)
	if err != nil {
		h.Fatal(err)
	}
	return list
}

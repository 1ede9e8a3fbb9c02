package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// TestLiveIsReplay runs the captures live and replays the same requests: the findings are equal byte for byte. Then it sends everything
// again, in the same process and after a restart: nothing is found, opened or asked twice.
func TestLiveIsReplay(t *testing.T) {
	cfg := configured(t)
	h, stop := start(t, cfg)
	now := time.Now()
	requests := slices.Concat(
		capture(t, "billing-bot", now.Add(-time.Hour)), capture(t, "refund-bot", now.Add(-time.Hour)), capture(t, "support-desk", now.Add(-time.Hour)),
		capture(t, "research-crew", now.Add(-time.Hour)), capture(t, "billing-bot-control", now.Add(-20*time.Minute)), capture(t, "billing-bot-hijacked", now.Add(-2*time.Second)),
	)
	h.send(requests...)
	h.barrier("live")
	want := replayed(t, cfg.Rules.Dir, requests)
	if len(want) == 0 {
		t.Fatal("the replay finds nothing")
	}
	if diff := cmp.Diff(want, h.findings()); diff != "" {
		t.Fatalf("live findings differ from the replay's (-replay +live):\n%s", diff)
	}
	h.until("the question about the hijacked session", func() bool { return len(h.requests(approval.Pending)) > 0 })
	before := h.census()

	h.send(regrouped(t, requests)...)
	h.barrier("again")
	if diff := cmp.Diff(before, h.census()); diff != "" {
		t.Errorf("the same events sent again changed something (-before +after):\n%s", diff)
	}
	stop()
	h, _ = start(t, cfg)
	h.send(regrouped(t, requests[len(requests)-40:])...)
	h.barrier("restarted")
	if diff := cmp.Diff(before, h.census()); diff != "" {
		t.Errorf("the same events after a restart changed something (-before +after):\n%s", diff)
	}
	h.settled()
}

// barrier returns when everything that was sent before was handled: a finding that was sent last, through the partition of all agents
// that something is found of, has led to a request that expired.
func (h *running) barrier(session string) {
	h.Helper()
	h.send(quick(session, "wire_now"))
	h.until("the barrier "+session, func() bool {
		return slices.ContainsFunc(h.incidents(), func(i incident.Incident) bool { return i.Session == session && i.Status == incident.Open && asks(h, i) })
	})
}

func asks(h *running, i incident.Incident) bool {
	list, err := h.store.IncidentRequests(h.Context(), i.ID)
	return err == nil && len(list) == 1 && list[0].State == "expired"
}

// findings are those of the store, by id, without the barriers'.
func (h *running) findings() []string {
	h.Helper()
	var out []string
	for _, a := range h.alerts() {
		if a.Finding.Rule != "quick" {
			out = append(out, encoded(h.T, a.Finding))
		}
	}
	slices.Sort(out)
	return out
}

func encoded(t *testing.T, f detect.Finding) string {
	t.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// replayed are the findings of an offline run. A finding that is reported again under its agent's name takes the place of the first.
func replayed(t *testing.T, rules string, requests []ingest.Request) []string {
	t.Helper()
	read, err := ReadRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile(read.Rules)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReplay(set, pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	byID := make(map[string]string)
	for _, request := range requests {
		err = r.Request(t.Context(), request, func(raised []pipeline.Raised) error {
			for _, one := range raised {
				byID[one.Finding.ID] = encoded(t, one.Finding)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for _, text := range byID {
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// census counts what must not be doubled.
func (h *running) census() string {
	h.Helper()
	open, asked := 0, 0
	for _, i := range h.incidents() {
		if !strings.Contains(i.Title, "Quick wire") {
			open++
		}
	}
	for _, r := range h.requests("") {
		if !strings.HasPrefix(r.Plan.Playbook, "quick@") {
			asked++
		}
	}
	return fmt.Sprintf("%d findings, %d incidents, %d requests", len(h.findings()), open, asked)
}

// settled closes the incident whose request waits. That it can be closed proves that its workflow took in all that it was sent.
func (h *running) settled() {
	h.Helper()
	h.until("the question about the hijacked session", func() bool { return len(h.requests(approval.Pending)) > 0 })
	before := h.census()
	r := h.requests("pending")
	if len(r) != 1 {
		h.Fatalf("%d requests wait, want 1", len(r))
	}
	h.ok("ana", http.MethodPost, "/api/v1/approvals/"+r[0].ID+"/decide", api.DecideBody{Verb: "deny", Digest: r[0].Digest, Reason: "a test"})
	h.until("the incident to close", func() bool {
		status, _ := h.call("bob", http.MethodPost, "/api/v1/incidents/"+r[0].Incident+"/close", api.CloseBody{Verdict: incident.Expected, Reason: "a test"})
		return status == http.StatusOK
	})
	if diff := cmp.Diff(before, h.census()); diff != "" {
		h.Error(diff)
	}
}

// regrouped merges pairs of requests, so that the log takes them for new batches: the detector alone recognises their events.
func regrouped(t *testing.T, requests []ingest.Request) []ingest.Request {
	t.Helper()
	type spans struct {
		ResourceSpans []json.RawMessage `json:"resourceSpans"`
	}
	var out []ingest.Request
	for pair := range slices.Chunk(requests, 2) {
		var merged spans
		for _, r := range pair {
			var one spans
			if err := json.Unmarshal(r.Body, &one); err != nil || r.Path != "/v1/traces" {
				t.Fatalf("merge %s: %v", r.Path, err)
			}
			merged.ResourceSpans = append(merged.ResourceSpans, one.ResourceSpans...)
		}
		body, err := json.Marshal(merged)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ingest.Request{Path: "/v1/traces", ContentType: "application/json", Body: body})
	}
	return out
}

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// hostile is what an agent may call itself and its events.
const hostile = "e\x1b[2J\u202e\u009b31m"

// desk is a server with one incident and its request. It remembers what was decided.
type desk struct {
	*httptest.Server
	request approval.Request
	decided []api.DecideBody
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	plan := approval.Plan{Action: "quarantine", Class: approval.Contain, Target: approval.Target{Agent: "billing/" + hostile}, Lease: time.Hour}
	digest, err := approval.DigestOf(plan)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{request: approval.Request{ID: "INC-0123456789abcdef-R1", Plan: plan, Digest: digest, Question: plan.Question(), Requester: "playbook:x", State: approval.Pending}}
	about := incident.Incident{ID: "INC-0123456789abcdef", Agent: event.Agent{ID: hostile}, Session: hostile, Title: hostile, Status: incident.Closed}
	mux := http.NewServeMux()
	answer := func(pattern string, v func() any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v()) })
	}
	answer("GET /api/v1/approvals", func() any { return []approval.Request{d.request} })
	answer("GET /api/v1/approvals/"+d.request.ID, func() any { return d.request })
	answer("GET /api/v1/incidents", func() any { return []incident.Incident{about, {ID: "INC-0123456700000000"}} })
	answer("GET /api/v1/incidents/"+about.ID, func() any {
		return api.Case{
			Incident: about, Requests: []approval.Request{d.request},
			Alerts:   []store.Alert{{Finding: detect.Finding{Chain: &detect.Chain{Origin: hostile, Arg: hostile, Value: hostile}}}},
			Timeline: []incident.Entry{{Actor: hostile, Text: hostile, Quote: hostile, Ref: hostile}},
		}
	})
	mux.HandleFunc("POST /api/v1/approvals/"+d.request.ID+"/decide", func(w http.ResponseWriter, r *http.Request) {
		var body api.DecideBody
		_ = json.NewDecoder(r.Body).Decode(&body)
		d.decided = append(d.decided, body)
		_ = json.NewEncoder(w).Encode(d.request)
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

func (d *desk) server() server { return server{address: address{Server: d.URL, Token: "t"}} }

// TestApproveNeedsALook: a decision is sent only for a plan that somebody looked at.
func TestApproveNeedsALook(t *testing.T) {
	whole := newDesk(t).request.Digest
	tests := []struct {
		name, id, digest, typed string
		interactive             bool
		change                  func(*approval.Request)
		want                    string // the digest that is sent; "" for none
	}{
		{name: "a script without a digest", typed: "yes\n"},
		{name: "a person who says yes", typed: "yes\n", interactive: true, want: whole},
		{name: "a person who says no", typed: "no\n", interactive: true},
		{name: "the digest", digest: whole, want: whole},
		{name: "its beginning", digest: whole[:12], want: whole},
		{name: "the beginning of the id", id: "INC-01234567-R1", digest: whole[:12], want: whole},
		{name: "the beginning of another request's id", id: "INC-01234567-R2", digest: whole[:12]},
		{name: "too little of the id", id: "INC-0123-R1", digest: whole[:12]},
		{name: "another digest", digest: strings.Repeat("0", 12), want: strings.Repeat("0", 12)},
		{name: "a plan that the digest is not of", digest: whole[:12], change: func(r *approval.Request) { r.Plan.Target.Agent = "other"; r.Question = r.Plan.Question() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			id := d.request.ID
			if tt.id != "" {
				id = tt.id
			}
			if tt.change != nil {
				tt.change(&d.request)
			}
			var out, said bytes.Buffer
			c := approveCmd{decision: decision{server: d.server(), ID: id, Reason: "seen", Digest: tt.digest}}
			err := c.Run(t.Context(), &stdio{in: strings.NewReader(tt.typed), out: &out, err: &said, interactive: tt.interactive})
			var want []api.DecideBody
			if tt.want != "" {
				want = []api.DecideBody{{Verb: approval.Approve, Digest: tt.want, Reason: "seen"}}
			}
			if diff := cmp.Diff(want, d.decided); diff != "" || (err == nil) != (tt.want != "") {
				t.Errorf("%v; sent (-want +got):\n%s", err, diff)
			}
			if tt.want != "" && !strings.Contains(said.String(), whole) {
				t.Errorf("the plan is not shown: %s", said.String())
			}
		})
	}
}

// TestTerminalIsSafe: no command passes on what a terminal would interpret.
func TestTerminalIsSafe(t *testing.T) {
	d := newDesk(t)
	asJSON := d.server()
	asJSON.JSON = true
	for name, run := range map[string]func(*stdio) error{
		"show":      (&incidentsShowCmd{server: d.server(), ID: "INC-0123456789"}).run(t),
		"list":      func(std *stdio) error { return (&incidentsListCmd{d.server()}).Run(t.Context(), std) },
		"json":      (&incidentsShowCmd{server: asJSON, ID: "INC-0123456789"}).run(t),
		"approvals": func(std *stdio) error { return (&approvalsListCmd{server: d.server()}).Run(t.Context(), std) },
		"approvals show": func(std *stdio) error {
			return (&approvalsShowCmd{server: d.server(), ID: d.request.ID}).Run(t.Context(), std)
		},
	} {
		var out bytes.Buffer
		if err := run(&stdio{out: &out, err: &out}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) }); i >= 0 || out.Len() == 0 {
			t.Errorf("%s prints what a terminal interprets, at %d: %q", name, i, out.String())
		}
		if name == "json" {
			var back api.Case
			if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Incident.Session != hostile {
				t.Errorf("the JSON gives back %q: %v", back.Incident.Session, err)
			}
		}
	}
	if err := (&incidentsShowCmd{server: d.server(), ID: "INC-01234567"}).run(t)(&stdio{}); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("the beginning of two ids gives %v", err)
	}
}

func (c *incidentsShowCmd) run(t *testing.T) func(*stdio) error {
	return func(std *stdio) error { return c.Run(t.Context(), std) }
}

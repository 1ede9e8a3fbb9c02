package action

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// mcpServer is a server of the protocol's own SDK, behind a check of one agent's token, which stands aside where a test answers.
type mcpServer struct {
	*httptest.Server
	answer http.HandlerFunc
}

func startMCP(t *testing.T) *mcpServer {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "bank", Version: "1"}, nil)
	real := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	m := &mcpServer{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case m.answer != nil:
			m.answer(w, r)
		case r.Header.Get("Authorization") != "Bearer hush":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			real.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

type bearer struct{}

func (bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer hush")
	return http.DefaultTransport.RoundTrip(r)
}

// begin is an agent that begins a session. The last protocol that has sessions is asked for.
func (m *mcpServer) begin(t *testing.T) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	transport := &mcp.StreamableClientTransport{Endpoint: m.URL, HTTPClient: &http.Client{Transport: bearer{}}}
	s, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // one that was ended has nothing to close
	if s.ID() == "" {
		t.Fatal("the session has no id")
	}
	return s
}

func (m *mcpServer) action(t *testing.T, session string) (*EndMCPSession, approval.Plan) {
	t.Helper()
	o := EndMCPSessionOptions{Servers: map[string]MCPServerOptions{"bank": {Agent: "a", URL: m.URL, TokenFile: file(t, "hush\n")}}}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	return NewEndMCPSession(o), approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"server": "bank", "session": session}}
}

func TestEndMCPSession(t *testing.T) {
	m := startMCP(t)
	ended, other := m.begin(t), m.begin(t)
	a, plan := m.action(t, ended.ID())
	c, d, in := granted(t, a, plan)
	if diff := cmp.Diff([]string{fmt.Sprintf("%s ends session %q", host(m.URL), ended.ID())}, in.Plan.Change); diff != "" || in.Plan.Blast != 1 {
		t.Error(diff)
	}
	if holds, err := a.Verify(t.Context(), Lease{Plan: in.Plan}); err != nil || holds {
		t.Fatalf("proved before it was applied: %v", err)
	}
	if err := ended.Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	l, err := c.Apply(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(t.Context(), l); err != nil {
		t.Errorf("applied again: %v", err)
	}
	if l, err = c.Verify(t.Context(), l); err != nil || l.Verified.IsZero() {
		t.Errorf("%+v %v", l, err)
	}
	if err := ended.Ping(t.Context(), nil); err == nil {
		t.Error("the session that was ended goes on")
	}
	if err := other.Ping(t.Context(), nil); err != nil {
		t.Errorf("another session was ended: %v", err)
	}
	if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), "hush") {
		t.Error("the lease holds the token", err)
	}
	if _, err := a.Plan(t.Context(), Input{Plan: plan}); err == nil || !strings.Contains(err.Error(), "there is nothing to end") {
		t.Errorf("planned again: %v", err)
	}
	// A 404 of whatever took the server's place proves nothing.
	for _, status := range []int{http.StatusNotFound, http.StatusBadGateway, http.StatusTemporaryRedirect, http.StatusMethodNotAllowed} {
		m.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && status != http.StatusTemporaryRedirect {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.WriteHeader(status)
		}
		if holds, err := a.Verify(t.Context(), l); holds != (status == http.StatusMethodNotAllowed) {
			t.Errorf("%d: proved %v %v", status, holds, err)
		}
	}
	if err := a.Apply(t.Context(), l); err == nil || !strings.Contains(err.Error(), "lets no client end a session") {
		t.Errorf("Apply = %v", err)
	}
}

func TestEndMCPSessionRefuses(t *testing.T) {
	m := startMCP(t)
	session := m.begin(t)
	for _, tt := range []struct {
		name   string
		change func(a *EndMCPSession, p *approval.Plan)
		want   string
	}{
		{"another agent", func(_ *EndMCPSession, p *approval.Plan) { p.Target.Agent = "b" }, "is for agent a, not for agent b"},
		{"no such server", func(_ *EndMCPSession, p *approval.Plan) { p.Params["server"] = "x" }, `has no "x"`},
		{"no id", func(_ *EndMCPSession, p *approval.Plan) { p.Params["session"] = "" }, "is no id of a session"},
		{"hostile id", func(_ *EndMCPSession, p *approval.Plan) { p.Params["session"] = "a\r\nX-Admin: yes" }, "is no id of a session"},
		{"no such session", func(_ *EndMCPSession, p *approval.Plan) { p.Params["session"] = "x" }, "there is nothing to end"},
		{"another's token", func(a *EndMCPSession, _ *approval.Plan) {
			a.options.Servers["bank"] = MCPServerOptions{Agent: "a", URL: m.URL, TokenFile: file(t, "guess")}
		}, "answers 401 to a ping"},
	} {
		a, plan := m.action(t, session.ID())
		tt.change(a, &plan)
		if _, err := a.Plan(t.Context(), Input{Plan: plan}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	for field, o := range map[string]MCPServerOptions{
		"agent":      {URL: m.URL},
		"url":        {Agent: "a", URL: "http://mcp.example.com"},
		"token_file": {Agent: "a", URL: m.URL, TokenFile: "/nowhere"},
	} {
		o := EndMCPSessionOptions{Servers: map[string]MCPServerOptions{"bank": o}}
		if err := o.Check(); err == nil || !strings.HasPrefix(err.Error(), "servers.bank."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

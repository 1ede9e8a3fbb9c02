package gate

import (
	"context"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
)

// envoy is a client of the service over the network, as Envoy is one.
func envoy(t *testing.T, x *ExtAuthz) authv3.AuthorizationClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	x.Register(s)
	go s.Serve(listener)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

func request(principal, body string, route map[string]string, headers ...string) *authv3.CheckRequest {
	h := make(map[string]string)
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: principal, Address: &corev3.Address{}}, ContextExtensions: route,
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "POST", Headers: h, Body: body}},
	}}
}

func TestExtAuthz(t *testing.T) {
	const call, agent, tool = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"send","arguments":{"name":"x"}}}`, "x-tocsin-agent", "x-tocsin-tool"
	tools := map[string]string{"spiffe://x/shop": "shop/bot"}
	for _, tt := range []struct {
		name       string
		lease      action.Lease
		principals map[string]string
		in         *authv3.CheckRequest
		want       action.Word
	}{
		{"other agent", lease("r1", approval.Target{Agent: "a"}), nil, request("", "", nil, agent, "b"), action.Allow},
		{"agent", lease("r1", approval.Target{Agent: "a"}), nil, request("", "", nil, agent, "a"), action.Deny},
		{"no agent", lease("r1", approval.Target{Agent: "a"}), nil, request("", "", nil), action.Deny},
		{"the route goes before the header", lease("r1", approval.Target{Agent: "a"}), nil, request("", "", map[string]string{"agent": "a"}, agent, "b"), action.Deny},
		{"session", lease("r1", approval.Target{Agent: "a", Session: "s"}), nil, request("", "", nil, agent, "a", "mcp-session-id", "s"), action.Deny},
		{"other session", lease("r1", approval.Target{Agent: "a", Session: "s"}), nil, request("", "", nil, agent, "a", "mcp-session-id", "s2"), action.Allow},
		{"tool by header", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", "", nil, agent, "a", tool, "send"), action.Deny},
		{"other tool by header", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", "", nil, agent, "a", tool, "list"), action.Allow},
		{"tool by body", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", call, nil, agent, "a"), action.Deny},
		{"the body goes before the header", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", call, nil, agent, "a", tool, "list"), action.Deny},
		{"another tool by body", lease("r1", approval.Target{Agent: "a", Tool: "other"}), nil, request("", call, nil, agent, "a"), action.Allow},
		{"the server by route", lease("r1", approval.Target{Agent: "a", Tool: "mcp__crm__send"}), nil, request("", call, map[string]string{"tool": "mcp__crm__send"}, agent, "a"), action.Deny},
		{"list of tools", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", `{"jsonrpc":"2.0","method":"tools/list"}`, nil, agent, "a"), action.Allow},
		{"several calls", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", "["+call+"]", nil, agent, "a", tool, "list"), action.Deny},
		{"cut body", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", call[:40], nil, agent, "a", tool, "list"), action.Deny},
		{"two names", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", `{"method":"tools/call","params":{"name":"send","name":"list"}}`, nil, agent, "a"), action.Deny},
		{"a name in another case", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", `{"method":"tools/call","params":{"Name":"send","name":"list"}}`, nil, agent, "a"), action.Deny},
		{"two methods", lease("r1", approval.Target{Agent: "a", Tool: "send"}), nil, request("", `{"method":"tools/call","params":{"name":"send"},"method":"ping"}`, nil, agent, "a"), action.Deny},
		{"by certificate", lease("r1", approval.Target{Agent: "shop/bot"}), tools, request("spiffe://x/shop", "", nil, agent, "b"), action.Deny},
		{"unknown certificate", lease("r1", approval.Target{Agent: "shop/bot"}), tools, request("spiffe://x/other", "", nil, agent, "b"), action.Deny},
		{"a human's word", leaseOf("r1", action.NameAskHuman, approval.Target{Agent: "a"}, ""), nil, request("", "", nil, agent, "a"), action.Ask},
		{"only reads", leaseOf("r1", action.NameReadOnly, approval.Target{Agent: "a"}, ""), nil, request("", `{"method":"resources/read"}`, nil, agent, "a"), action.Allow},
		{"does not only read", leaseOf("r1", action.NameReadOnly, approval.Target{Agent: "a"}, ""), nil, request("", call, nil, agent, "a"), action.Deny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := ""
			x := NewExtAuthz(newFixture(t, tt.lease).Gate, ExtAuthzOptions{Principals: tt.principals}, nil, func(word string, _ time.Duration) { seen = word })
			got, err := envoy(t, x).Check(t.Context(), tt.in)
			if err != nil || seen != tt.want.String() || got.GetDynamicMetadata().GetFields()["answer"].GetStringValue() != seen {
				t.Fatalf("%v %v, observed %s, want %s", got, err, seen, tt.want)
			}
			if allowed := codes.Code(got.GetStatus().GetCode()) == codes.OK; allowed != (tt.want == action.Allow) {
				t.Errorf("%v", got)
			}
			if denied := got.GetDeniedResponse(); tt.want != action.Allow && (denied.GetStatus().GetCode() != 403 || denied.GetHeaders()[0].GetHeader().GetValue() != seen) {
				t.Errorf("%v", denied)
			}
		})
	}
}

func TestExtAuthzAuthenticates(t *testing.T) {
	x := NewExtAuthz(newFixture(t).Gate, ExtAuthzOptions{}, func(token string) (string, bool) { return "envoy", token == "secret" }, func(string, time.Duration) {})
	client := envoy(t, x)
	for token, want := range map[string]codes.Code{"": codes.Unauthenticated, "Bearer guess": codes.Unauthenticated, "Bearer secret": codes.OK} {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", token)
		if _, err := client.Check(ctx, request("", "", nil, "x-tocsin-agent", "a")); status.Code(err) != want {
			t.Errorf("%q: %v, want %s", token, err, want)
		}
	}
}

// Whatever the body is, reading it ends, and what is read is a call that every reader understands alike.
func FuzzMCPTool(f *testing.F) {
	f.Add(`{"method":"tools/call","params":{"name":"send"}}`)
	f.Add(`{"method":"tools/list"}`)
	f.Add(`[{"method":"tools/call"}]`)
	f.Fuzz(func(t *testing.T, body string) {
		if tool, ok := mcpTool([]byte(body)); ok == (tool == "") {
			t.Errorf("%q: %q %v", body, tool, ok)
		}
	})
}

package gate

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tocsin-dr/tocsin/internal/action"
)

// ExtAuthzOptions say how a request at Envoy names its agent, session and tool.
type ExtAuthzOptions struct {
	AgentHeader   string `yaml:"agent_header"`
	SessionHeader string `yaml:"session_header"`
	ToolHeader    string `yaml:"tool_header"`
	// Principals name the agents by what their certificates prove at Envoy (SPIFFE id or DNS name). Where there are any, a peer that
	// is none of them is denied, and no header names an agent.
	Principals map[string]string `yaml:"principals"`
}

// ExtAuthz serves the gate as Envoy's envoy.service.auth.v3.Authorization. Safe for concurrent use.
type ExtAuthz struct {
	authv3.UnimplementedAuthorizationServer
	gate    *Gate
	options ExtAuthzOptions
	// authenticate checks a bearer token; nil lets everybody ask.
	authenticate func(token string) (name string, ok bool)
	observe      func(verdict string, took time.Duration)
}

// NewExtAuthz returns the service.
func NewExtAuthz(g *Gate, o ExtAuthzOptions, authenticate func(string) (string, bool), observe func(string, time.Duration)) *ExtAuthz {
	o.AgentHeader = strings.ToLower(cmp.Or(o.AgentHeader, "x-tocsin-agent"))
	o.SessionHeader = strings.ToLower(cmp.Or(o.SessionHeader, "mcp-session-id"))
	o.ToolHeader = strings.ToLower(cmp.Or(o.ToolHeader, "x-tocsin-tool"))
	return &ExtAuthz{gate: g, options: o, authenticate: authenticate, observe: observe}
}

// Register adds the service to a server.
func (x *ExtAuthz) Register(s *grpc.Server) { authv3.RegisterAuthorizationServer(s, x) }

// Check implements the service. Envoy can't ask a human: what a human must allow is denied, and the answer says so in a header, for a
// gateway in front that can. Why it was denied goes into the metadata that Envoy logs, and not to the agent.
func (x *ExtAuthz) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	start := x.gate.now()
	if x.authenticate != nil {
		md, _ := metadata.FromIncomingContext(ctx)
		token, _ := strings.CutPrefix(strings.Join(md.Get("authorization"), ","), "Bearer ")
		if _, ok := x.authenticate(token); !ok {
			return nil, grpcstatus.Error(codes.Unauthenticated, "the gate needs a bearer token of the configuration's tokens")
		}
	}
	answer := Answer{Reason: "the request names no agent"}
	if q := x.query(in.GetAttributes()); q.Agent != "" {
		answer = x.gate.Check(q)
	}
	word := answer.Word()
	x.observe(word.String(), x.gate.now().Sub(start))
	return response(answer, word)
}

func response(answer Answer, word action.Word) (*authv3.CheckResponse, error) {
	why, err := structpb.NewStruct(map[string]any{"answer": word.String(), "reason": strings.ToValidUTF8(answer.Reason, "?"), "lease": strings.ToValidUTF8(answer.Lease, "?")})
	if err != nil {
		return nil, grpcstatus.Error(codes.Internal, "the answer can't be encoded")
	}
	if word == action.Allow {
		return &authv3.CheckResponse{
			Status: &status.Status{Code: int32(codes.OK)}, DynamicMetadata: why,
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
		}, nil
	}
	header := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "x-tocsin-answer", Value: word.String()}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)}, DynamicMetadata: why,
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: http.StatusForbidden}, Headers: []*corev3.HeaderValueOption{header}, Body: "Tocsin: " + word.String() + "\n",
		}},
	}, nil
}

// query reads who asks for what: the agent from its certificate, else from the route (context_extensions, which the operator of Envoy
// writes), else from a header, which Envoy must set itself. A tool that the body of an MCP request names goes before the header. Where
// they differ, none is named, which is answered as if it were any.
func (x *ExtAuthz) query(a *authv3.AttributeContext) Query {
	route, request := a.GetContextExtensions(), a.GetRequest().GetHttp()
	headers := request.GetHeaders()
	q := Query{
		Agent:   cmp.Or(route["agent"], headers[x.options.AgentHeader]),
		Session: cmp.Or(route["session"], headers[x.options.SessionHeader]),
		Tool:    cmp.Or(route["tool"], headers[x.options.ToolHeader]),
	}
	if len(x.options.Principals) > 0 {
		q.Agent = x.options.Principals[a.GetSource().GetPrincipal()]
	}
	body := request.GetRawBody()
	if len(body) == 0 {
		body = []byte(request.GetBody())
	}
	if tool, ok := mcpTool(body); ok {
		if named := q.Tool; named != "" && !sameTool(named, tool) {
			tool = ""
		}
		q.Tool = tool
	} else if len(body) > 0 {
		q.Tool = "" // a body that can't be read may call anything
	}
	return q
}

// sameTool reports whether a route or header and a body name one tool. The body knows no server.
func sameTool(named, tool string) bool {
	return named == tool || strings.HasPrefix(named, "mcp__") && strings.HasSuffix(named, "__"+tool)
}

// mcpTool reads which tool one request of the Model Context Protocol calls; of another method the method itself stands for it, as it
// reads or writes by its name. A key that is there twice, or in another case, could mean another call to whoever reads it, and makes
// the body unreadable, like several requests in one body.
func mcpTool(body []byte) (tool string, ok bool) {
	var request map[string]json.RawMessage
	var method string
	if !once(body, &request, "jsonrpc", "method", "params") || json.Unmarshal(request["method"], &method) != nil || method == "" {
		return "", false
	}
	if method != "tools/call" {
		return method, true
	}
	var params map[string]json.RawMessage
	if !once(request["params"], &params, "name") || json.Unmarshal(params["name"], &tool) != nil || tool == "" {
		return "", false
	}
	return tool, true
}

// once reads an object, and reports whether it is one in which no key is there twice and none differs from the wanted by case alone.
func once(text []byte, into *map[string]json.RawMessage, wanted ...string) bool {
	if json.Unmarshal(text, into) != nil || *into == nil {
		return false
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	keys := 0
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			continue
		case json.Delim('}'), json.Delim(']'):
			depth--
			continue
		}
		if depth != 1 {
			continue
		}
		keys++
		key, _ := token.(string)
		for _, w := range wanted {
			if key != w && strings.EqualFold(key, w) {
				return false
			}
		}
		var value json.RawMessage // with the key, its value is taken
		if d.Decode(&value) != nil {
			return false
		}
	}
	return keys == len(*into)
}

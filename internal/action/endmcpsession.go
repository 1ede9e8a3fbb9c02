package action

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameEndMCPSession is the name in playbooks and plans.
const NameEndMCPSession = "end-mcp-session"

// EndMCPSessionOptions are the MCP servers where an agent's sessions may be ended, by name.
type EndMCPSessionOptions struct {
	Servers map[string]MCPServerOptions `yaml:"servers"`
}

// MCPServerOptions are of one server with the transport Streamable HTTP, as one agent uses it.
type MCPServerOptions struct {
	Agent string `yaml:"agent"`
	URL   string `yaml:"url"`
	// TokenFile holds the agent's own bearer token, so that a server which knows whose a session is ends no other's.
	TokenFile string `yaml:"token_file"`
}

// Check names the first option that can't be right.
func (o *EndMCPSessionOptions) Check() error {
	if len(o.Servers) == 0 {
		return badOption("servers", "is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Servers)) {
		s, field := o.Servers[name], "servers."+name
		if s.Agent == "" {
			return badOption(field+".agent", "is missing")
		}
		if err := checkURL(field+".url", s.URL); err != nil {
			return err
		}
		if s.TokenFile == "" {
			continue
		}
		if err := checkSecret(field+".token_file", s.TokenFile); err != nil {
			return err
		}
	}
	return nil
}

// EndMCPSession ends a session with an MCP server, as its client could (Model Context Protocol 2025-06-18, Transports, Session
// Management).
type EndMCPSession struct {
	irreversible
	noLag
	noSnapshot
	options EndMCPSessionOptions
	client  *http.Client
}

// NewEndMCPSession returns the action.
func NewEndMCPSession(o EndMCPSessionOptions) *EndMCPSession {
	return &EndMCPSession{options: o, client: newClient(nil)}
}

// Describe implements Action.
func (e *EndMCPSession) Describe() Description {
	return Description{
		Name: NameEndMCPSession, Class: approval.Contain, Targets: []string{"agent"}, Idempotent: true, Irreversible: true,
		Effect:      "The agent's session with an MCP server is ended, and what the server kept for it is lost.",
		Undo:        "It can't be undone: the agent begins a new session.",
		DoesNotStop: "An agent that begins a new session, calls that run already, and sessions with other servers.",
		Params:      map[string]string{"server": "a name of actions.end_mcp_session.servers", "session": "the id in the header Mcp-Session-Id"},
		Required:    []string{"server", "session"},
	}
}

// sessionID is what the protocol allows, bounded.
var sessionID = regexp.MustCompile(`^[\x21-\x7e]{1,256}$`)

func (e *EndMCPSession) server(p approval.Plan) (MCPServerOptions, string, error) {
	o, ok := e.options.Servers[p.Params["server"]]
	switch {
	case !ok:
		return o, "", fmt.Errorf("server: actions.end_mcp_session.servers has no %q", p.Params["server"])
	case o.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "":
		return o, "", fmt.Errorf("server: %q is for agent %s, not for %s", p.Params["server"], o.Agent, p.Target)
	case !sessionID.MatchString(p.Params["session"]):
		return o, "", fmt.Errorf("session: %.80q is no id of a session", p.Params["session"])
	}
	return o, p.Params["session"], nil
}

// Plan implements Action.
func (e *EndMCPSession) Plan(ctx context.Context, in Input) (Change, error) {
	o, session, err := e.server(in.Plan)
	if err != nil {
		return Change{}, err
	}
	switch status, err := e.ping(ctx, o, session); {
	case err != nil:
		return Change{}, err
	case status == http.StatusNotFound:
		return Change{}, fmt.Errorf("%s has no session %q: there is nothing to end", host(o.URL), session)
	case status != http.StatusOK:
		return Change{}, fmt.Errorf("%s answers %d to a ping of session %q, so that its end could not be proved", host(o.URL), status, session)
	}
	return Change{Lines: []string{fmt.Sprintf("%s ends session %q", host(o.URL), session)}, Blast: 1}, nil
}

// Apply implements Action. A session that is not there has ended.
func (e *EndMCPSession) Apply(ctx context.Context, l Lease) error {
	o, session, err := e.server(l.Plan)
	if err != nil {
		return err
	}
	status, err := e.call(ctx, o, http.MethodDelete, session, "")
	switch {
	case err != nil:
		return err
	case status == http.StatusMethodNotAllowed:
		return fmt.Errorf("%s lets no client end a session", host(o.URL))
	case status/100 != 2 && status != http.StatusNotFound:
		return fmt.Errorf("%s answers %d to the end of a session", host(o.URL), status)
	}
	return nil
}

// Verify implements Action: the server does not know the session any more, and it is the server that says so, because it says another
// thing of a request without any.
func (e *EndMCPSession) Verify(ctx context.Context, l Lease) (bool, error) {
	o, session, err := e.server(l.Plan)
	if err != nil {
		return false, err
	}
	status, err := e.ping(ctx, o, session)
	if err != nil || status != http.StatusNotFound {
		return false, err
	}
	status, err = e.call(ctx, o, http.MethodDelete, "", "")
	if err == nil && (status == http.StatusNotFound || status >= 500) {
		err = errors.New("the server is not where it was: that it has no session proves nothing")
	}
	return err == nil, err
}

func (e *EndMCPSession) ping(ctx context.Context, o MCPServerOptions, session string) (int, error) {
	return e.call(ctx, o, http.MethodPost, session, `{"jsonrpc":"2.0","id":"tocsin","method":"ping"}`)
}

func (e *EndMCPSession) call(ctx context.Context, o MCPServerOptions, method, session, body string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, method, o.URL, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	if o.TokenFile != "" {
		token, err := readSecret(o.TokenFile)
		if err != nil {
			return 0, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	status, _, err := call(e.client, r)
	return status, err
}

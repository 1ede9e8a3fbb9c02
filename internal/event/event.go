// Package event defines what Tocsin knows about one thing an agent did or that was done to it: the canonical Event, its
// checks and limits, and the tokens by which a value is recognised again. It decodes no wire format and keeps no state.
package event

import (
	"encoding/json"
	"time"
)

// Schema is the version of the canonical event. It grows when a field changes its meaning; new optional fields keep it.
const Schema = 1

// Kind says what happened: one verb for each thing a detection can tell apart.
type Kind string

// The kinds of events. A decoder maps what it can't place to KindOther and keeps its attributes.
const (
	KindAgentInvoke  Kind = "agent.invoke"  // an agent was asked to work; usually the root of a trace
	KindModelCall    Kind = "model.call"    // a model was called
	KindToolRequest  Kind = "tool.request"  // the model asked for a tool; nothing ran yet
	KindToolDecision Kind = "tool.decision" // somebody allowed or denied a tool call
	KindToolResult   Kind = "tool.result"   // a tool ran, or failed
	KindPrompt       Kind = "prompt"        // a person or program gave the agent text
	KindResponse     Kind = "response"      // the agent's answer
	KindMCPServer    Kind = "mcp.server"    // a tool server connected, failed or changed
	KindRetrieval    Kind = "retrieval"     // documents were fetched for the model
	KindMemory       Kind = "memory"        // the agent's memory was read or written
	KindGuardrail    Kind = "guardrail"     // a guardrail gave a verdict
	KindSession      Kind = "session"       // a session started, ended or changed its mode
	KindConfig       Kind = "config"        // the agent's settings, plugins or hooks changed
	KindAuth         Kind = "auth"          // a sign-in or a credential's use
	KindOther        Kind = "other"         // linked to an agent, of no other kind
)

// KindBaseline is a person's decision about an agent's baseline. Tocsin alone puts it into the log, where it has its place among the
// events: Kinds does not list it, so that Check refuses it from a sender.
const KindBaseline Kind = "baseline"

// Attributes of a KindBaseline.
const (
	AttrChange  = "change"
	AttrBy      = "by"
	AttrReason  = "reason"
	AttrSender  = "sender"  // of the session that is expected
	AttrSession = "session" // that is expected
)

// Kinds lists every kind, in the order of the constants.
func Kinds() []Kind {
	return []Kind{
		KindAgentInvoke, KindModelCall, KindToolRequest, KindToolDecision, KindToolResult, KindPrompt,
		KindResponse, KindMCPServer, KindRetrieval, KindMemory, KindGuardrail, KindSession, KindConfig, KindAuth, KindOther,
	}
}

// Outcome is how it ended, as far as the sender says. Agent-side outcomes are claims: clients report success for failed commands.
type Outcome string

// The outcomes. The zero value means that the sender did not say.
const (
	OutcomeUnknown Outcome = ""
	OutcomeSuccess Outcome = "success"
	OutcomeFailure Outcome = "failure"
	OutcomeDenied  Outcome = "denied"
)

// Event is one thing an agent did or that was done to it. Its JSON form is the schema of POST /v1/events. Unset fields are
// left out. Every string may come from an attacker; Check bounds sizes, and displays neutralise text.
type Event struct {
	// ID is the same for every report of the same happening, so that a retry or a double report is one event; see NewID.
	ID      string  `json:"id"`
	Schema  int     `json:"schema,omitempty"`
	Kind    Kind    `json:"kind"`
	Outcome Outcome `json:"outcome,omitempty"`
	// Time is when it happened by the sender's clock, UTC. Detections run on it; the wall clock decides nothing.
	Time time.Time `json:"time"`
	// Ingested is when Tocsin received it. It is set by ingest, serves measures alone, and never reaches a detection.
	Ingested time.Time `json:"ingested,omitzero"`
	// Seq orders events of one session that share a time; 0 is unknown.
	Seq      int64         `json:"seq,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`

	Tenant    string    `json:"tenant,omitempty"`
	Source    Source    `json:"source,omitzero"`
	Agent     Agent     `json:"agent"`
	Session   Session   `json:"session,omitzero"`
	Principal Principal `json:"principal,omitzero"`
	Trace     Trace     `json:"trace,omitzero"`

	Tool     *Tool     `json:"tool,omitempty"`
	Decision *Decision `json:"decision,omitempty"`
	Model    *Model    `json:"model,omitempty"`
	// Destinations are where data went or came from: hosts, addresses, accounts, channels.
	Destinations []Destination `json:"destinations,omitempty"`
	// Content is text that belongs to the event and not to a tool: prompts, responses, documents.
	Content []Content `json:"content,omitempty"`
	Error   string    `json:"error,omitempty"`
	// Labels are low-cardinality facts of the deployment (environment, team).
	Labels map[string]string `json:"labels,omitempty"`
	// Attrs keeps what no other field took, as text, so that nothing a sender said is lost within the limits.
	Attrs map[string]string `json:"attrs,omitempty"`
}

// Source says who told us and how. Authn is the only part that a sender can't choose.
type Source struct {
	Dialect        string `json:"dialect,omitempty"` // which mapping read it: gen_ai, openinference, claude_code, json
	Scope          string `json:"scope,omitempty"`   // instrumentation scope
	Product        string `json:"product,omitempty"`
	ProductVersion string `json:"product_version,omitempty"`
	Instance       string `json:"instance,omitempty"` // service.instance.id
	// Authn is the ingest credential that delivered the event: the trusted identity. Empty where ingest asks for none.
	Authn string `json:"authn,omitempty"`
}

// Agent identifies who acted. ID is stable over restarts and versions and is what baselines, incidents and the gate key on.
type Agent struct {
	// ID is service/name, or the service alone while the name is unknown; see AgentID.
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Service string `json:"service,omitempty"` // service.name: the unit of deployment
	// Class names agents of one role, which are each other's peers in baselines. It also decides the log partition, so that
	// peers are learned in one place. Default: the service's namespace, else the service, else Unclassed.
	Class     string `json:"class,omitempty"`
	Version   string `json:"version,omitempty"`
	Framework string `json:"framework,omitempty"`
	Parent    string `json:"parent,omitempty"` // ID of the agent that delegated to this one
	// Ancestors are the IDs of the agents above the parent, as far as the sender says: the root first, at most MaxAncestors.
	Ancestors []string `json:"ancestors,omitempty"`
	// Basis says how we know the name: attr, ancestor, service, stitched, client.
	Basis string `json:"basis,omitempty"`
}

// Session is one conversation or run of an agent. ID falls back to the trace where the client names no conversation.
type Session struct {
	ID   string `json:"id,omitempty"`
	Turn string `json:"turn,omitempty"`
	// Basis says what stands in for the ID where the client named none: trace or agent. The agent itself does not know such an id,
	// so it will not name it when it asks the gate.
	Basis string `json:"basis,omitempty"`
	// Root is set on the event that opens or closes the whole run: the root of its trace.
	Root bool `json:"root,omitempty"`
}

// What stands in for a session's id.
const (
	SessionOfTrace = "trace"
	SessionOfAgent = "agent"
)

// Principal is on whose behalf the agent acted, as claimed by the sender.
type Principal struct {
	ID    string `json:"id,omitempty"`
	Email string `json:"email,omitempty"`
	Org   string `json:"org,omitempty"`
}

// Trace is the position in a distributed trace (W3C Trace Context; hex ids).
type Trace struct {
	TraceID  string `json:"trace_id,omitempty"`
	SpanID   string `json:"span_id,omitempty"`
	ParentID string `json:"parent_id,omitempty"`
	Name     string `json:"name,omitempty"`
}

// Tool is a call of a tool, or the request for one.
type Tool struct {
	// Name is bare: export_customers, never mcp__crm__export_customers. Server is the tool server, if any.
	Name   string `json:"name"`
	Server string `json:"server,omitempty"`
	CallID string `json:"call_id,omitempty"`
	// Effect is what the call does to the world, as far as Tocsin can tell from its name; see ToolEffect.
	Effect Effect `json:"effect,omitempty"`
	// Args holds each argument value that is text, number or boolean, by its path ("to", "items.0.id").
	Args []Arg `json:"args,omitempty"`
	// ArgsState says what became of the arguments on their way: full, truncated, redacted, absent, hashed.
	ArgsState State   `json:"args_state,omitempty"`
	Result    Content `json:"result,omitzero"`
	// Command, Path and URL are the parsed forms of well-known tools' arguments.
	Command string `json:"command,omitempty"`
	Path    string `json:"path,omitempty"`
	URL     string `json:"url,omitempty"`
	// PrivatePath: the path, or a path in the command, was a well-known place of credentials before policy removed it.
	PrivatePath bool `json:"private_path,omitempty"`
	// Redacted: the client hid the tool's name, so that rules on names are blind here.
	Redacted bool `json:"redacted,omitempty"`
}

// Arg is one value among a tool call's arguments.
type Arg struct {
	Path string `json:"path"`
	// Value is the text of the value; empty where policy forbids storing it, and then Tokens stands for it.
	Value string `json:"value,omitempty"`
	// Tokens are the salted token hashes of a value that was not stored; see Hasher.
	Tokens Hashes `json:"tokens,omitempty"`
	// Provenance is where the value was seen before. It is set by the detector shard; a sender's claim is discarded.
	Provenance Provenance `json:"provenance,omitempty"`
	// Origin is the ID of the event that first carried the value, for provenance tool_output.
	Origin string `json:"origin,omitempty"`
}

// Provenance is where an argument's value was seen before the call.
type Provenance string

// The provenances. Unknown means that there was nothing to look at (redacted, absent).
const (
	ProvenanceUnknown    Provenance = ""
	ProvenancePrompt     Provenance = "prompt"      // in the prompt or the operator's text of the session
	ProvenanceHistory    Provenance = "history"     // this agent used it before, in other sessions
	ProvenanceToolOutput Provenance = "tool_output" // in a tool's output of the session, and in neither of the above
	ProvenanceNowhere    Provenance = "nowhere"     // the model made it
)

// Decision is a verdict about a tool call that was taken at the agent's side.
type Decision struct {
	Effect string `json:"effect,omitempty"` // allow, deny, ask
	By     string `json:"by,omitempty"`     // user, config, hook, policy, sandbox, gateway
	Mode   string `json:"mode,omitempty"`   // the client's permission mode
	Reason string `json:"reason,omitempty"`
}

// Model is a model call's identity and size. InputTokens counts all input, cached tokens included.
type Model struct {
	Provider     string `json:"provider,omitempty"`
	Name         string `json:"name,omitempty"`
	InputTokens  int64  `json:"input_tokens,omitempty"`
	CachedTokens int64  `json:"cached_tokens,omitempty"`
	OutputTokens int64  `json:"output_tokens,omitempty"`
	CostMicros   int64  `json:"cost_micros,omitempty"` // millionths of a US dollar, as the client says
}

// Destination is one place that data went to or came from.
type Destination struct {
	Kind  string `json:"kind"` // host, email, account, channel
	Value string `json:"value"`
	Arg   string `json:"arg,omitempty"` // the path of the argument that named it
}

// State says what became of a text on its way. Redacted, absent and empty are three different things.
type State string

// The states of content.
const (
	StateFull      State = "full"
	StateTruncated State = "truncated"
	StateRedacted  State = "redacted"
	StateAbsent    State = "absent"
	StateHashed    State = "hashed"
)

// Roles of content.
const (
	RoleSystem   = "system"
	RolePrompt   = "prompt"
	RoleResponse = "response"
	RoleDocument = "document"
)

// Content is a text with what became of it.
type Content struct {
	Role   string `json:"role,omitempty"`
	State  State  `json:"state,omitempty"`
	Text   string `json:"text,omitempty"`
	Size   int    `json:"size,omitempty"` // bytes before truncation
	Tokens Hashes `json:"tokens,omitempty"`
	// Signs are what a text that was not stored showed. A sender that keeps its texts to itself may set them too.
	Signs Signs `json:"signs,omitzero"`
}

// Signs are what detections look for in a whole text and could not find in its hashes.
type Signs struct {
	Hidden    bool `json:"hidden,omitempty"`    // see HasHidden
	Instructs bool `json:"instructs,omitempty"` // see Instructs
	Private   bool `json:"private,omitempty"`   // see Private
}

// Arg returns the text of the argument at path, or "".
func (t *Tool) Arg(path string) string {
	if t == nil {
		return ""
	}
	for _, a := range t.Args {
		if a.Path == path {
			return a.Value
		}
	}
	return ""
}

// Unclassed is the class of agents that name neither class nor service. Together they know what is usual; alone, each would learn from
// nothing.
const Unclassed = "unclassed"

// AgentID builds the stable identity of an agent from its unit of deployment and its name.
func AgentID(service, name string) string {
	switch {
	case name == "" || name == service:
		return service
	case service == "":
		return name
	}
	return service + "/" + name
}

// Clone copies the parts of an event that a detector shard changes. The rest is shared.
func (e *Event) Clone() Event {
	out := *e
	if e.Tool != nil {
		tool := *e.Tool
		tool.Args = append([]Arg(nil), tool.Args...)
		out.Tool = &tool
	}
	return out
}

// MarshalLine returns the event as one line of JSON, without a trailing newline.
func (e *Event) MarshalLine() ([]byte, error) { return json.Marshal(e) }

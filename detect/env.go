package detect

import (
	"regexp"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Env is what a rule's expression sees: one event, what its session did before, and what the baseline says. A field that is
// not here does not compile. One Env belongs to one shard and is filled anew for each event.
type Env struct {
	Kind       string        `expr:"kind"`    // what happened: tool.result, prompt and so on
	Outcome    string        `expr:"outcome"` // success, failure, denied, or empty where the sender did not say
	Error      string        `expr:"error"`   // the error's text
	Text       string        `expr:"text"`    // the event's content, all roles joined
	Agent      AgentEnv      `expr:"agent"`
	Delegation DelegationEnv `expr:"delegation"`
	Session    SessionFacts  `expr:"session"`
	Tool       ToolEnv       `expr:"tool"`
	Decision   DecisionEnv   `expr:"decision"`
	Model      ModelEnv      `expr:"model"`
	// Destinations are where data went to or came from.
	Destinations []DestinationEnv `expr:"destinations"`
	Baseline     BaselineEnv      `expr:"baseline"`
	Finding      FindingEnv       `expr:"finding"` // empty on anything but a finding
	Principal    PrincipalEnv     `expr:"principal"`
	// Instructs: a text of the event that the operator did not write (a tool's output, a document) addresses the agent as an instruction.
	Instructs bool `expr:"instructs"`
	// Hidden: a text of the event, whoever wrote it, holds characters that people can't see.
	Hidden bool `expr:"hidden"`

	// Arg returns the value of a tool argument by its path, "" where there is none.
	Arg func(path string) string `expr:"arg"`
	// Number returns a tool argument as a number, 0 where it is none.
	Number func(path string) float64 `expr:"number"`
	// Provenance returns where an argument's value came from, "" where that is unknown.
	Provenance func(path string) string `expr:"provenance"`
	// ArgFrom reports whether any argument's value came from there.
	ArgFrom func(provenance string) bool `expr:"arg_from"`
	// Attr returns an attribute or label that no field took, "" where there is none.
	Attr func(name string) string `expr:"attr"`
	// Listed reports whether a lookup table has an entry for the text.
	Listed func(table, key string) bool `expr:"listed"`
	// Lookup returns the text of a lookup table's entry, "" where there is none.
	Lookup func(table, key string) string `expr:"lookup"`

	// What a sequence kept of its earlier steps, by slot. No author writes these: an expression that names a step is rewritten.
	KeptText   func(slot int) string  `expr:"kept_text"`
	KeptNumber func(slot int) float64 `expr:"kept_number"`
	KeptBool   func(slot int) bool    `expr:"kept_bool"`

	event  *event.Event
	tables map[string]*Table
	kept   []value
	says   BaselineEnv // with the functions of Baseline
	probe  *probe      // asks the index of the set that was last evaluated
	asked  *index
	meter  *Meter

	args, signature []byte // the memory of Tool.Args and Tool.Signature
}

// FindingEnv is a finding of another rule, of a baseline, or about Tocsin itself.
type FindingEnv struct {
	Rule     string `expr:"rule"`     // its rule's id
	Source   string `expr:"source"`   // rule or baseline
	Severity string `expr:"severity"` // low, medium, high, critical
	Lane     string `expr:"lane"`     // hunt, shadow, alert, propose
	Risk     int    `expr:"risk"`     // 0 to 100
}

// AgentEnv is the acting agent.
type AgentEnv struct {
	ID        string `expr:"id"`      // stable over restarts and versions
	Name      string `expr:"name"`    // empty where only the service is known
	Service   string `expr:"service"` // the unit of deployment
	Class     string `expr:"class"`   // agents of one role
	Version   string `expr:"version"`
	Framework string `expr:"framework"`
	Parent    string `expr:"parent"` // id of the agent that delegated to this one, where the sender says so
}

// DelegationEnv is who delegated to the acting agent, as far as senders link agents: by spans that lie in each other, by a parent that
// they name, or by a hand-off. The shard fills it in; each field costs O(1) an event, because a chain has at most 17 agents.
type DelegationEnv struct {
	// Chain lists the ids of the agents from the root to this one, which is the last.
	Chain []string `expr:"chain"`
	Depth int      `expr:"depth"` // how many agents are above this one, up to 16; 0 where nobody delegated to it
	Root  string   `expr:"root"`  // id of the first of the chain
	// RootName is its name.
	RootName string `expr:"root_name"`
	// Tainted: an agent above read text that the operator did not write, in the session in which it last acted.
	Tainted bool `expr:"tainted"`
	// Instructed: that text addressed it as an instruction.
	Instructed bool `expr:"instructed"`
	// SawPrivate: an agent above read credentials or personal data there.
	SawPrivate bool `expr:"saw_private"`
	// RootEffects lists the effects of the tool calls that the root made itself, now or before.
	RootEffects []string `expr:"root_effects"`
}

// SessionFacts is what the session did before this event. The shard keeps them; each costs O(1) an event.
type SessionFacts struct {
	ID string `expr:"id" json:"id"` // the conversation or run
	// Tainted: text that the operator did not write (a tool's output) was read.
	Tainted bool `expr:"tainted" json:"tainted,omitempty"`
	// TaintedBy is the event that first did.
	TaintedBy string `expr:"tainted_by" json:"tainted_by,omitempty"`
	// HiddenText: a tool's output held characters that people can't see (bidi controls, tag characters, zero width).
	HiddenText bool `expr:"hidden_text" json:"hidden_text,omitempty"`
	// Instructed: a tool's output held text that addresses the agent as an instruction.
	Instructed bool `expr:"instructed" json:"instructed,omitempty"`
	// SawPrivate: a tool's output or a path held credentials or personal data.
	SawPrivate bool `expr:"saw_private" json:"saw_private,omitempty"`
	// TaintedAgent is the agent that first did.
	TaintedAgent string `expr:"tainted_agent" json:"tainted_agent,omitempty"`
	// TaintedTool is the tool that first brought it.
	TaintedTool string `expr:"tainted_tool" json:"tainted_tool,omitempty"`
	// PrivateBy is the event that first held credentials or personal data.
	PrivateBy string `expr:"private_by" json:"private_by,omitempty"`
	// PrivateAgent is the agent that first read them.
	PrivateAgent string `expr:"private_agent" json:"private_agent,omitempty"`
	// Prompted: a prompt of the user was seen.
	Prompted bool `expr:"prompted" json:"prompted,omitempty"`
	// Agents counts the agents that acted in the session, up to 64.
	Agents int `expr:"agents" json:"agents,omitempty"`
	// ToolCalls counts the tool calls that returned.
	ToolCalls int `expr:"tool_calls" json:"tool_calls,omitempty"`
	// Decisions counts the decisions about tool calls that the client sent.
	Decisions int `expr:"decisions" json:"decisions,omitempty"`
	// Denied counts the events that were denied.
	Denied int `expr:"denied" json:"denied,omitempty"`
}

// PrincipalEnv is on whose behalf the agent acted, as the sender claims.
type PrincipalEnv struct {
	ID string `expr:"id"`
}

// ToolEnv is the tool call, with the parsed forms of well-known arguments.
type ToolEnv struct {
	Name    string `expr:"name"`    // bare: export_customers, never mcp__crm__export_customers
	Server  string `expr:"server"`  // the tool server, if any
	Effect  string `expr:"effect"`  // read, write, egress, exec, or empty where its name says nothing
	Command string `expr:"command"` // the command line of a shell
	// Commands are the simple commands of Command, taken apart as a shell does.
	Commands []CommandEnv `expr:"commands"`
	Path     string       `expr:"path"` // the file of a file tool
	URL      string       `expr:"url"`
	Host     string       `expr:"host"` // of url, lower case
	// CallID is the client's id of the call, which its decision carries too.
	CallID string `expr:"call_id"`
	// Remote is the first place that the call names: a destination, else the host of a URL in the command, "" where there is none.
	Remote string `expr:"remote"`
	// Args are all argument values, one a line.
	Args string `expr:"args"`
	// Signature is name and arguments: equal for equal calls.
	Signature string `expr:"signature"`
	Result    string `expr:"result"`   // what the tool returned
	Redacted  bool   `expr:"redacted"` // the client hid the tool's name
	// Hidden: the result holds characters that people can't see.
	Hidden bool `expr:"hidden"`
	// Instructs: the result addresses the agent as an instruction.
	Instructs bool `expr:"instructs"`
	// PrivatePath: the path, or a path in the command, is a well-known place of credentials.
	PrivatePath bool `expr:"private_path"`
}

// DecisionEnv is a verdict taken at the agent's side.
type DecisionEnv struct {
	Effect string `expr:"effect"` // allow, deny, ask
	By     string `expr:"by"`     // user, config, hook, policy, sandbox, gateway
	Mode   string `expr:"mode"`   // the client's permission mode
}

// ModelEnv is a model call.
type ModelEnv struct {
	Provider     string `expr:"provider"`
	Name         string `expr:"name"`
	InputTokens  int    `expr:"input_tokens"` // cached tokens included
	OutputTokens int    `expr:"output_tokens"`
}

// DestinationEnv is a place that data went to or came from.
type DestinationEnv struct {
	Kind       string `expr:"kind"`       // host, email, account, channel
	Value      string `expr:"value"`      // lower case for hosts and email addresses
	Provenance string `expr:"provenance"` // of the argument that named it
}

// BaselineEnv is what the agent's baseline says. The shard fills in plain values, and the functions read them alone. While it is
// learning, what it is asked is unknown: a comparison of it neither holds nor fails.
type BaselineEnv struct {
	Ready bool    `expr:"ready"` // it has learned enough to say anything
	P     float64 `expr:"p"`     // how likely a normal event is at least as surprising as this one; unknown while it is learning
	// Tool says whether the agent used this tool before: known, new, or unknown while the baseline is learning.
	Tool string `expr:"tool"`
	// Destination says the same of where data goes: new if any destination is.
	Destination string `expr:"destination"`
	// FirstSeen reports whether a feature of the event ("tool", "destination", "argument") is new for the agent, or which arguments the tool was given ("shape") for its class; unknown while the baseline is learning.
	FirstSeen func(feature string) bool `expr:"first_seen"`
	// Rarity returns how surprising a feature is, in bits: 10 are one in a thousand. 0 where the event has none; unknown while the baseline is learning.
	Rarity func(feature string) float64 `expr:"rarity"`
	// Known reports whether the baseline can say something about a feature of this event.
	Known func(feature string) bool `expr:"known"`

	Why      string            `expr:"-"` // how far it has learned
	Features []BaselineFeature `expr:"-"`
}

// BaselineFeature is one way in which a baseline looked at the event.
type BaselineFeature struct {
	Name        string // tool, destination, argument or shape
	Bits        float64
	Familiarity string // known, new or unknown
}

// feature is what the baseline said of a feature, the zero value where it said nothing.
func (b *BaselineEnv) feature(name string) BaselineFeature {
	for i := range b.Features {
		if b.Features[i].Name == name {
			return b.Features[i]
		}
	}
	return BaselineFeature{}
}

// Measure has a meter take the time of the rules that are judged with this environment.
func (env *Env) Measure(m *Meter) { env.meter = m }

// NewEnv returns an Env whose functions look at the event it is filled with.
func NewEnv() *Env {
	env := &Env{event: &event.Event{}}
	env.Arg = func(path string) string { return env.event.Tool.Arg(path) }
	env.Number = env.number
	env.Provenance = env.provenance
	env.ArgFrom = env.argFrom
	env.Listed = func(table, key string) bool { _, ok := env.tables[table].Lookup(key); return ok }
	env.Lookup = func(table, key string) string { text, _ := env.tables[table].Lookup(key); return text }
	env.says.FirstSeen = func(name string) bool { return env.Baseline.feature(name).Familiarity == "new" }
	env.says.Rarity = func(name string) float64 { return env.Baseline.feature(name).Bits }
	env.says.Known = func(name string) bool {
		f := env.Baseline.feature(name)
		return f.Familiarity == "known" || f.Familiarity == "new"
	}
	env.KeptText = func(slot int) string { return env.kept[slot].Text }
	env.KeptNumber = func(slot int) float64 { return env.kept[slot].Number }
	env.KeptBool = func(slot int) bool { return env.kept[slot].Number != 0 }
	env.Attr = func(name string) string {
		if v, ok := env.event.Attrs[name]; ok {
			return v
		}
		return env.event.Labels[name]
	}
	return env
}

// Fill makes the Env show an event whose arguments' provenance is set. Set.Evaluate completes what only some rules need.
func (env *Env) Fill(e *event.Event, session SessionFacts, baseline BaselineEnv) {
	env.event, env.Finding = e, FindingEnv{}
	env.Kind, env.Outcome, env.Error = string(e.Kind), string(e.Outcome), e.Error
	env.Agent = AgentEnv{ID: e.Agent.ID, Name: e.Agent.Name, Service: e.Agent.Service, Class: e.Agent.Class, Version: e.Agent.Version, Framework: e.Agent.Framework, Parent: e.Agent.Parent}
	env.Delegation = DelegationEnv{Chain: append(env.Delegation.Chain[:0], e.Agent.ID), Root: e.Agent.ID, RootName: e.Agent.ID[strings.LastIndex(e.Agent.ID, "/")+1:]}
	env.Session, env.Baseline = session, baseline
	env.Baseline.FirstSeen, env.Baseline.Rarity, env.Baseline.Known = env.says.FirstSeen, env.says.Rarity, env.says.Known
	env.Text, env.Instructs, env.Hidden = "", false, false
	env.Principal = PrincipalEnv{ID: e.Principal.ID}
	env.Tool, env.Decision, env.Model = ToolEnv{}, DecisionEnv{}, ModelEnv{}
	if t := e.Tool; t != nil {
		env.Tool = toolEnv(t)
	}
	if d := e.Decision; d != nil {
		env.Decision = DecisionEnv{Effect: d.Effect, By: d.By, Mode: d.Mode}
	}
	if m := e.Model; m != nil {
		env.Model = ModelEnv{Provider: m.Provider, Name: m.Name, InputTokens: int(m.InputTokens), OutputTokens: int(m.OutputTokens)}
	}
	env.Destinations = env.Destinations[:0]
	for _, d := range e.Destinations {
		env.Destinations = append(env.Destinations, DestinationEnv{Kind: d.Kind, Value: d.Value, Provenance: env.provenance(d.Arg)})
	}
}

func toolEnv(t *event.Tool) ToolEnv {
	env := ToolEnv{
		Name: t.Name, Server: t.Server, Effect: string(t.Effect), Command: t.Command, Path: t.Path, URL: t.URL,
		Result: t.Result.Text, Redacted: t.Redacted, CallID: t.CallID,
	}
	env.Host = hostOf(t.URL)
	return env
}

var commandURL = regexp.MustCompile(`(?i)\bhttps?://(?:[^/\s@"']*@)?([^/\s:?#"'\\]+)`)

// remote is the first place that the call names.
func (env *Env) remote(t *event.Tool) string {
	if len(env.Destinations) > 0 {
		return env.Destinations[0].Value
	}
	if strings.Contains(t.Command, "://") {
		if m := commandURL.FindStringSubmatch(t.Command); m != nil {
			return strings.ToLower(m[1])
		}
	}
	return ""
}

func joinContent(contents []event.Content) string {
	if len(contents) == 1 {
		return contents[0].Text
	}
	n := 0
	for i := range contents {
		n += len(contents[i].Text) + 1
	}
	var b strings.Builder
	b.Grow(n)
	for i := range contents {
		b.WriteString(contents[i].Text)
		b.WriteByte('\n')
	}
	return b.String()
}

// number keeps a rule from a run-time error that an argument's text could cause.
func (env *Env) number(path string) float64 {
	return parseNumber(env.event.Tool.Arg(path))
}

func (env *Env) provenance(path string) string {
	if env.event.Tool == nil {
		return ""
	}
	for _, a := range env.event.Tool.Args {
		if a.Path == path {
			return string(a.Provenance)
		}
	}
	return ""
}

func (env *Env) argFrom(provenance string) bool {
	if env.event.Tool == nil {
		return false
	}
	for _, a := range env.event.Tool.Args {
		if a.Provenance != "" && string(a.Provenance) == provenance {
			return true
		}
	}
	return false
}

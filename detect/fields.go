package detect

import (
	"net/url"
	"strings"
	"unsafe"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// lazy is a set of Env's fields that cost time on each event and are therefore completed only where something reads them.
type lazy uint8

const (
	lazyText lazy = 1 << iota
	lazyArgs
	lazySignature
	lazyCommands
	lazyHidden
	lazyInstructs
	lazyPrivatePath
	lazyRemote
)

// lazyFields gives the lazily completed fields by their last name, as compiled.named has them.
func lazyFields() map[string]lazy {
	return map[string]lazy{
		"text": lazyText, "args": lazyArgs, "signature": lazySignature, "commands": lazyCommands,
		"hidden": lazyHidden, "instructs": lazyInstructs, "private_path": lazyPrivatePath,
		"remote": lazyRemote,
	}
}

// lazyOf returns what must be completed before a field is read by its dotted path.
func lazyOf(path string) lazy {
	name, tool := strings.CutPrefix(path, "tool.")
	if !tool && path != "text" && path != "hidden" && path != "instructs" {
		return 0
	}
	return lazyFields()[name]
}

// fieldTable reads Env's fields without reflection. A field that is not in it is read by expr alone: rules on it are right, and
// not indexed.
type fieldTable struct {
	texts   map[string]func(*Env) string
	ints    map[string]func(*Env) int
	floats  map[string]func(*Env) float64
	flags   map[string]func(*Env) bool
	command map[string]func(*CommandEnv) string // of an element of tool.commands
	dest    map[string]func(*DestinationEnv) string
}

func newFieldTable() *fieldTable {
	return &fieldTable{
		texts: map[string]func(*Env) string{
			"kind": func(e *Env) string { return e.Kind }, "outcome": func(e *Env) string { return e.Outcome },
			"error": func(e *Env) string { return e.Error }, "text": func(e *Env) string { return e.Text },
			"agent.id": func(e *Env) string { return e.Agent.ID }, "agent.name": func(e *Env) string { return e.Agent.Name },
			"agent.service": func(e *Env) string { return e.Agent.Service }, "agent.class": func(e *Env) string { return e.Agent.Class },
			"agent.version": func(e *Env) string { return e.Agent.Version }, "agent.framework": func(e *Env) string { return e.Agent.Framework },
			"agent.parent": func(e *Env) string { return e.Agent.Parent }, "principal.id": func(e *Env) string { return e.Principal.ID },
			"delegation.root": func(e *Env) string { return e.Delegation.Root }, "delegation.root_name": func(e *Env) string { return e.Delegation.RootName },
			"session.tainted_agent": func(e *Env) string { return e.Session.TaintedAgent }, "session.tainted_tool": func(e *Env) string { return e.Session.TaintedTool },
			"session.private_by": func(e *Env) string { return e.Session.PrivateBy }, "session.private_agent": func(e *Env) string { return e.Session.PrivateAgent },
			"session.id": func(e *Env) string { return e.Session.ID }, "session.tainted_by": func(e *Env) string { return e.Session.TaintedBy },
			"tool.name": func(e *Env) string { return e.Tool.Name }, "tool.server": func(e *Env) string { return e.Tool.Server },
			"tool.effect": func(e *Env) string { return e.Tool.Effect }, "tool.command": func(e *Env) string { return e.Tool.Command },
			"tool.path": func(e *Env) string { return e.Tool.Path }, "tool.url": func(e *Env) string { return e.Tool.URL },
			"tool.host": func(e *Env) string { return e.Tool.Host }, "tool.args": func(e *Env) string { return e.Tool.Args },
			"tool.signature": func(e *Env) string { return e.Tool.Signature }, "tool.result": func(e *Env) string { return e.Tool.Result },
			"decision.effect": func(e *Env) string { return e.Decision.Effect }, "decision.by": func(e *Env) string { return e.Decision.By },
			"decision.mode": func(e *Env) string { return e.Decision.Mode }, "model.provider": func(e *Env) string { return e.Model.Provider },
			"model.name":    func(e *Env) string { return e.Model.Name },
			"baseline.tool": func(e *Env) string { return e.Baseline.Tool }, "baseline.destination": func(e *Env) string { return e.Baseline.Destination },
			"tool.call_id": func(e *Env) string { return e.Tool.CallID }, "tool.remote": func(e *Env) string { return e.Tool.Remote },
			"finding.rule": func(e *Env) string { return e.Finding.Rule }, "finding.source": func(e *Env) string { return e.Finding.Source },
			"finding.severity": func(e *Env) string { return e.Finding.Severity }, "finding.lane": func(e *Env) string { return e.Finding.Lane },
		},
		ints: map[string]func(*Env) int{
			"session.tool_calls": func(e *Env) int { return e.Session.ToolCalls }, "session.denied": func(e *Env) int { return e.Session.Denied },
			"session.agents": func(e *Env) int { return e.Session.Agents }, "session.decisions": func(e *Env) int { return e.Session.Decisions },
			"delegation.depth":   func(e *Env) int { return e.Delegation.Depth },
			"finding.risk":       func(e *Env) int { return e.Finding.Risk },
			"model.input_tokens": func(e *Env) int { return e.Model.InputTokens }, "model.output_tokens": func(e *Env) int { return e.Model.OutputTokens },
		},
		floats: map[string]func(*Env) float64{
			"baseline.p": func(e *Env) float64 { return e.Baseline.P },
		},
		flags: map[string]func(*Env) bool{
			"delegation.tainted": func(e *Env) bool { return e.Delegation.Tainted }, "delegation.instructed": func(e *Env) bool { return e.Delegation.Instructed },
			"delegation.saw_private": func(e *Env) bool { return e.Delegation.SawPrivate },
			"session.tainted":        func(e *Env) bool { return e.Session.Tainted }, "session.hidden_text": func(e *Env) bool { return e.Session.HiddenText },
			"session.instructed": func(e *Env) bool { return e.Session.Instructed }, "session.saw_private": func(e *Env) bool { return e.Session.SawPrivate },
			"tool.redacted": func(e *Env) bool { return e.Tool.Redacted }, "tool.hidden": func(e *Env) bool { return e.Tool.Hidden },
			"tool.instructs": func(e *Env) bool { return e.Tool.Instructs }, "tool.private_path": func(e *Env) bool { return e.Tool.PrivatePath },
			"baseline.ready": func(e *Env) bool { return e.Baseline.Ready }, "session.prompted": func(e *Env) bool { return e.Session.Prompted },
			"hidden": func(e *Env) bool { return e.Hidden }, "instructs": func(e *Env) bool { return e.Instructs },
		},
		command: map[string]func(*CommandEnv) string{
			"name": func(c *CommandEnv) string { return c.Name }, "text": func(c *CommandEnv) string { return c.Text },
			"from": func(c *CommandEnv) string { return c.From },
		},
		dest: map[string]func(*DestinationEnv) string{
			"kind": func(d *DestinationEnv) string { return d.Kind }, "value": func(d *DestinationEnv) string { return d.Value },
			"provenance": func(d *DestinationEnv) string { return d.Provenance },
		},
	}
}

// hostOf returns the host of a URL in lower case, as url.Parse reads it and without its allocations for the ordinary ones.
func hostOf(raw string) string {
	_, rest, ok := strings.Cut(raw, "://")
	scheme := raw[:len(raw)-len(rest)]
	if !ok || scheme != "https://" && scheme != "http://" {
		return parsedHost(raw)
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host := rest[:end]
	for i := range len(rest) {
		c := rest[i]
		plain := i >= end || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.'
		if !plain || c <= ' ' || c >= 0x7f || c == '%' {
			return parsedHost(raw)
		}
	}
	return host
}

func parsedHost(raw string) string {
	if raw == "" {
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// completeMore fills in the lazily completed fields that are needed and not done yet, and returns what is done now.
func (env *Env) completeMore(need, done lazy) lazy {
	need &^= done
	if need == 0 {
		return done
	}
	if need&lazyText != 0 {
		env.Text = joinContent(env.event.Content)
	}
	for i := range env.event.Content {
		c := &env.event.Content[i]
		env.Hidden = env.Hidden || need&lazyHidden != 0 && c.HasHidden()
		env.Instructs = env.Instructs || need&lazyInstructs != 0 && c.Role == event.RoleDocument && c.Instructs()
	}
	if t := env.event.Tool; t != nil {
		env.completeTool(t, need)
	}
	return done | need
}

func (env *Env) completeTool(t *event.Tool, need lazy) {
	if need&lazyArgs != 0 {
		env.Tool.Args, env.args = joinArgs(env.args[:0], t)
	}
	if need&lazySignature != 0 {
		env.Tool.Signature, env.signature = signature(env.signature[:0], t)
	}
	if need&lazyCommands != 0 && t.Command != "" {
		env.Tool.Commands = parseCommands(t.Command)
	}
	if need&lazyHidden != 0 {
		env.Tool.Hidden = t.Result.HasHidden()
		env.Hidden = env.Hidden || env.Tool.Hidden
	}
	if need&lazyInstructs != 0 {
		env.Tool.Instructs = t.Result.Instructs()
		env.Instructs = env.Instructs || env.Tool.Instructs
	}
	if need&lazyPrivatePath != 0 {
		env.Tool.PrivatePath = t.NamesPrivatePath()
	}
	if need&lazyRemote != 0 {
		env.Tool.Remote = env.remote(t)
	}
}

// joinArgs and signature make their text in memory that the next event's takes. It is as good as the rest of an Env: what is kept of
// it is a copy.
func joinArgs(room []byte, t *event.Tool) (text string, _ []byte) {
	for i := range t.Args {
		room = append(append(room, t.Args[i].Value...), '\n')
	}
	return seen(room)
}

func signature(room []byte, t *event.Tool) (text string, _ []byte) {
	room = append(append(append(room, t.Server...), '/'), t.Name...)
	for i := range t.Args {
		room = append(append(append(append(room, 0), t.Args[i].Path...), '='), t.Args[i].Value...)
	}
	return seen(room)
}

// maxSeen bounds the memory that waits for the next event's text, in bytes.
const maxSeen = 1 << 20

// seen is the text that stands in room, and room for the next one.
func seen(room []byte) (string, []byte) {
	text := unsafe.String(unsafe.SliceData(room), len(room))
	if cap(room) > maxSeen {
		room = nil
	}
	return text, room
}

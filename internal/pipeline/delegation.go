package pipeline

import (
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Bounds of what is known about delegations.
const (
	maxDepth      = event.MaxAncestors // agents above one
	maxParents    = 2 * maxAgents      // links of one session
	maxDelegators = 4096               // of one class
)

// delegator is what matters of an agent to those that it delegates to: what it did, and what the session read in which it last acted.
type delegator struct {
	Parent     string `json:"parent,omitempty"` // there
	Tainted    bool   `json:"tainted,omitempty"`
	Instructed bool   `json:"instructed,omitempty"`
	SawPrivate bool   `json:"saw_private,omitempty"`
	Effects    uint8  `json:"effects,omitempty"` // of its tool calls, a bit for each of effects
	Touched    int    `json:"touched"`
}

func (d *delegator) touched() int { return d.Touched }

// effects are the effects of tool calls in the order of their bits.
func effects() []event.Effect {
	return []event.Effect{event.EffectRead, event.EffectWrite, event.EffectEgress, event.EffectExec}
}

// link notes who delegated to the event's agent in this session. A parent that acts in another session brings who is above it there.
// Within a trace the parent is in the same session, and its own spans may come later: what another session says of it does not count.
func (c *class) link(e *event.Event, ses *session) {
	if e.Agent.Parent == "" || ses.Parents[foldID(e.Agent.ID)] == e.Agent.Parent {
		return
	}
	chain := append(slices.Clone(e.Agent.Ancestors), e.Agent.Parent, e.Agent.ID)
	for len(chain) <= maxDepth && e.Trace.ParentID == "" && !slices.Contains(ses.Agents, chain[0]) {
		d := c.Delegators[own(e, chain[0])]
		if d == nil || d.Parent == "" || slices.Contains(chain, d.Parent) {
			break
		}
		chain = slices.Insert(chain, 0, d.Parent)
	}
	for i := range len(chain) - 1 {
		ses.delegated(chain[i+1], chain[i])
	}
}

// delegated notes a link, and a later one of the same agent in its place.
func (s *session) delegated(agent, parent string) {
	key := foldID(agent)
	if _, ok := s.Parents[key]; key == foldID(parent) || !ok && len(s.Parents) >= maxParents {
		return
	}
	if s.Parents == nil {
		s.Parents = make(map[string]string)
	}
	s.Parents[key] = parent
}

// foldID makes an agent's id of a name as a tool call spells it: transfer_to_refund_agent is for the Refund Agent.
func foldID(id string) string { return strings.ReplaceAll(strings.ToLower(id), " ", "_") }

// delegation says who delegated to the event's agent; ok is false where nobody did. No agent stands in a chain twice: one that is called
// from below itself is taken for the one above.
func (c *class) delegation(e *event.Event, ses *session) (out detect.DelegationEnv, ok bool) {
	if c.link(e, ses); len(ses.Parents) == 0 {
		return out, false
	}
	chain := []string{e.Agent.ID}
	for len(chain) <= maxDepth {
		parent := ses.Parents[foldID(chain[len(chain)-1])]
		if parent == "" || slices.Contains(chain, parent) {
			break
		}
		chain = append(chain, parent)
	}
	if len(chain) == 1 {
		return out, false
	}
	slices.Reverse(chain)
	out = detect.DelegationEnv{Chain: chain, Depth: len(chain) - 1, Root: chain[0], RootName: chain[0][strings.LastIndex(chain[0], "/")+1:]}
	for i, id := range chain[:len(chain)-1] {
		d := c.Delegators[own(e, id)]
		if d == nil {
			continue
		}
		out.Tainted, out.Instructed, out.SawPrivate = out.Tainted || d.Tainted, out.Instructed || d.Instructed, out.SawPrivate || d.SawPrivate
		for bit, effect := range effects() {
			if i == 0 && d.Effects&(1<<bit) != 0 {
				out.RootEffects = append(out.RootEffects, string(effect))
			}
		}
	}
	return out, true
}

// noteDelegator notes, once the session knows the event, what it means for the agents that its agent delegates to.
func (c *class) noteDelegator(e *event.Event, ses *session) {
	to := delegate(e)
	if to != "" {
		ses.delegated(event.AgentID(e.Agent.Service, to), e.Agent.ID)
	}
	if c.Delegators == nil {
		c.Delegators = make(map[string]*delegator)
	}
	var room [keyRoom]byte
	d := c.Delegators[string(appendOwn(room[:0], e, e.Agent.ID))]
	if d == nil {
		if len(c.Delegators) >= maxDelegators {
			for _, id := range stalest(c.Delegators, (*delegator).touched) {
				delete(c.Delegators, id)
				c.Evicted["delegators"]++
			}
		}
		d = &delegator{}
		c.Delegators[own(e, e.Agent.ID)] = d
	}
	d.Touched, d.Parent = c.Touched, ses.Parents[foldID(e.Agent.ID)]
	d.Tainted, d.Instructed, d.SawPrivate = ses.Facts.Tainted, ses.Facts.Instructed, ses.Facts.SawPrivate
	if e.Tool != nil && to == "" && e.Kind == event.KindToolResult && e.Outcome != event.OutcomeDenied {
		if bit := slices.Index(effects(), e.Tool.Effect); bit >= 0 {
			d.Effects |= 1 << bit
		}
	}
}

// delegate returns the name of the agent that a tool call hands work to, "" for any other call: a hand-off (OpenAI Agents SDK, LangGraph),
// a sub-agent of a coding agent.
func delegate(e *event.Event) string {
	if e.Tool == nil || e.Outcome == event.OutcomeDenied {
		return ""
	}
	for _, prefix := range []string{"transfer_to_", "handoff_to_", "delegate_to_"} {
		if name, ok := strings.CutPrefix(e.Tool.Name, prefix); ok {
			return name
		}
	}
	if slices.Contains([]string{"Task", "Agent", "spawn_agent", "handoff", "delegate"}, e.Tool.Name) {
		for _, path := range []string{"subagent_type", "agent_name", "agent"} {
			if name := e.Tool.Arg(path); name != "" && len(name) <= event.MaxNameBytes {
				return name
			}
		}
	}
	return ""
}

package pipeline

import (
	"iter"
	"maps"
	"slices"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Bounds of the sessions of one class that are held. What was held longest makes room.
const (
	maxHeld      = 512
	maxHeldBytes = 8 << 20
)

// held is a session in which something was found. Its calls teach nothing until a person says that they are the agent's work.
type held struct {
	Calls []pending `json:"calls"`
	Since int       `json:"since"` // the shard's count of events
	Bytes int       `json:"bytes"`
}

func (h *held) touched() int { return h.Since }

// hold keeps a session's calls.
func (c *class) hold(id string, calls []pending) {
	if len(calls) == 0 {
		return
	}
	h := c.Held[id]
	if h == nil {
		if c.Held == nil {
			c.Held = make(map[string]*held)
		}
		h = &held{Since: c.Touched, Bytes: sessionBytes + len(id)}
		c.Held[id] = h
		c.HeldBytes += h.Bytes
	}
	for i := range calls {
		if len(h.Calls) >= maxPending {
			break
		}
		n := pendingBytes(calls[i].Event, &calls[i].Observation)
		h.Calls, h.Bytes, c.HeldBytes = append(h.Calls, calls[i]), h.Bytes+n, c.HeldBytes+n
	}
	if len(c.Held) > maxHeld || c.HeldBytes > maxHeldBytes {
		for _, old := range stalest(c.Held, (*held).touched) {
			c.letGo(old)
			c.Evicted["held"]++
		}
	}
}

func (c *class) letGo(id string) *held {
	h := c.Held[id]
	if h != nil {
		c.HeldBytes -= h.Bytes
		delete(c.Held, id)
	}
	return h
}

// change does what a person decided about a baseline.
func (c *class) change(e *event.Event) {
	change := baselines.Change{Kind: e.Attrs[event.AttrChange], By: e.Attrs[event.AttrBy], Why: e.Attrs[event.AttrReason], At: e.Time}
	if change.Kind != baselines.Expected {
		c.Model.Change(e.Agent.ID, change)
		return
	}
	id := sessionKey(e.Attrs[event.AttrSender], e.Attrs[event.AttrSession])
	if ses := c.Sessions[id]; ses != nil { // what it still holds back teaches when it falls silent
		ses.Findings, ses.Ruled = 0, 0
	}
	if h := c.letGo(id); h != nil {
		for agent, calls := range byAgent(h.Calls) {
			c.Model.Expect(agent, calls)
		}
	}
}

// byAgent are the calls of each agent of a session, in the order of the agents' ids.
func byAgent(calls []pending) iter.Seq2[string, []baselines.Observation] {
	of := make(map[string][]baselines.Observation)
	for _, p := range calls {
		of[p.Agent] = append(of[p.Agent], p.Observation)
	}
	return func(yield func(string, []baselines.Observation) bool) {
		for _, agent := range slices.Sorted(maps.Keys(of)) {
			if !yield(agent, of[agent]) {
				return
			}
		}
	}
}

// Package gate is Tocsin's own enforcement point: it answers, before an agent acts, whether it may. It holds the leases in force
// in memory and in a store that survives it; it decides nothing, and no load can make it forget a lease.
package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Store keeps leases over restarts.
type Store interface {
	SaveLease(ctx context.Context, l action.Lease) error
	Leases(ctx context.Context) ([]action.Lease, error)
	// Lease returns a lease, lifted or not, if there is one.
	Lease(ctx context.Context, id string) (l action.Lease, found bool, err error)
}

// Query is what is about to happen.
type Query struct {
	Agent   string `json:"agent"` // id: service/name, or the service alone
	Session string `json:"session,omitempty"`
	Tool    string `json:"tool,omitempty"` // bare, or as mcp__server__tool
}

// Answer is the gate's word, with the reason for people.
type Answer struct {
	Allow  bool      `json:"allow"`
	Reason string    `json:"reason"`
	Lease  string    `json:"lease,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// Gate answers checks. Safe for concurrent use; Check takes no lock.
type Gate struct {
	store Store
	now   func() time.Time

	write  sync.Mutex // one writer at a time; readers see the old index or the new one
	leases atomic.Pointer[index]
}

// index finds leases by the agents that they are about. It never changes once it is published.
type index struct {
	all     []action.Lease
	byAgent map[string][]held
	below   map[string][]held // by service: leases on its agents
}

// held is a lease with its target's tool taken apart.
type held struct {
	action.Lease
	server, tool string
}

func newIndex(leases []action.Lease) *index {
	x := &index{all: leases, byAgent: make(map[string][]held), below: make(map[string][]held)}
	for _, l := range leases {
		if l.Plan.Action != action.NameQuarantine { // its effect is elsewhere
			continue
		}
		h := held{Lease: l}
		h.server, h.tool = event.SplitToolName(l.Plan.Target.Tool)
		agent := l.Plan.Target.Agent
		x.byAgent[agent] = append(x.byAgent[agent], h)
		for service := parent(agent); service != ""; service = parent(service) {
			x.below[service] = append(x.below[service], h)
		}
	}
	return x
}

// parent is the service of an agent; none for an id without one.
func parent(agent string) string { return agent[:max(0, strings.LastIndexByte(agent, '/'))] }

// Open returns a gate with the leases of its store.
func Open(ctx context.Context, store Store, now func() time.Time) (*Gate, error) {
	g := &Gate{store: store, now: now}
	leases, err := store.Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	g.leases.Store(newIndex(leases))
	return g, nil
}

// Check answers a query from memory. What a query leaves out must not be a way around a lease: one that does not name its session or
// tool is denied where a lease is about one of the agent's, and one that names only a service where it is about one of its agents.
// A lease on a service is about all its agents, because whose call it was is not always known.
func (g *Gate) Check(q Query) Answer {
	leases := g.leases.Load()
	if len(leases.all) == 0 {
		return Answer{Allow: true, Reason: "no lease is in force"}
	}
	a := asked{Query: q, now: g.now()}
	a.Agent, a.Session = event.ClipName(q.Agent), event.ClipName(q.Session)
	a.server, a.tool = event.SplitToolName(q.Tool)
	a.server, a.tool = event.ClipName(a.server), event.ClipName(a.tool)
	for agent := a.Agent; agent != ""; agent = parent(agent) {
		if l := a.denied(leases.byAgent[agent]); l != nil {
			return l.answer("")
		}
	}
	if l := a.denied(leases.below[a.Agent]); l != nil {
		return l.answer(", and the question names its service alone")
	}
	return Answer{Allow: true, Reason: "no lease is in force"}
}

// asked is a query in the form in which events name things.
type asked struct {
	Query
	server, tool string
	now          time.Time
}

// denied returns the first lease in force that the query does not clearly lie outside of.
func (a *asked) denied(leases []held) *held {
	for i := range leases {
		l := &leases[i]
		if l.InForce(a.now) && !other(l.Plan.Target.Session, a.Session) && !other(l.server, a.server) && !other(l.tool, a.tool) {
			return l
		}
	}
	return nil
}

// other reports whether a query names another than the one that a lease is about.
func other(leased, asked string) bool { return leased != "" && asked != "" && leased != asked }

func (l *held) answer(why string) Answer {
	return Answer{
		Reason: fmt.Sprintf("%s is quarantined until %s by decision of %s (incident %s)%s", l.Plan.Target, l.Ends.UTC().Format(time.RFC3339), l.Approver, l.Incident, why),
		Lease:  l.ID, Until: l.Ends,
	}
}

// Apply puts a lease in force: durable first, then in memory. A lease that is there already is returned as it is. One that was lifted
// is not put in force again: its grant was for one containment.
func (g *Gate) Apply(ctx context.Context, l action.Lease) (action.Lease, error) {
	g.write.Lock()
	defer g.write.Unlock()
	if known, ok := g.Lease(l.ID); ok {
		return known, nil
	}
	known, found, err := g.store.Lease(ctx, l.ID)
	switch {
	case err != nil:
		return action.Lease{}, fmt.Errorf("apply lease: %w", err)
	case found && !known.Lifted.IsZero():
		return action.Lease{}, fmt.Errorf("apply lease: %w", action.ErrLifted)
	case found: // it ended, or was saved by a try that failed after it
		l = known
	}
	if err := g.store.SaveLease(ctx, l); err != nil {
		return action.Lease{}, fmt.Errorf("apply lease: %w", err)
	}
	g.replace(l)
	return l, nil
}

// Find returns a lease, lifted or not, if there is one.
func (g *Gate) Find(ctx context.Context, id string) (action.Lease, bool, error) {
	return g.store.Lease(ctx, id)
}

// Update writes a changed lease: verified, or lifted. A lease that was lifted stays so, whatever its writer knew of it.
func (g *Gate) Update(ctx context.Context, l action.Lease) error {
	g.write.Lock()
	defer g.write.Unlock()
	known, found, err := g.store.Lease(ctx, l.ID)
	if err != nil {
		return fmt.Errorf("update lease: %w", err)
	}
	if found && !known.Lifted.IsZero() && l.Lifted.IsZero() {
		return fmt.Errorf("update lease: %w", action.ErrLifted)
	}
	if err := g.store.SaveLease(ctx, l); err != nil {
		return fmt.Errorf("update lease: %w", err)
	}
	g.replace(l)
	return nil
}

// Lease returns a lease that was not lifted.
func (g *Gate) Lease(id string) (action.Lease, bool) {
	all := g.leases.Load().all
	i := slices.IndexFunc(all, func(l action.Lease) bool { return l.ID == id })
	if i < 0 {
		return action.Lease{}, false
	}
	return all[i], true
}

// InForce returns the leases that hold now, by agent and id.
func (g *Gate) InForce() []action.Lease {
	var out []action.Lease
	now := g.now()
	for _, l := range g.leases.Load().all {
		if l.InForce(now) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b action.Lease) int {
		return strings.Compare(a.Plan.Target.Agent+a.ID, b.Plan.Target.Agent+b.ID)
	})
	return out
}

// replace publishes a new index with the lease in it, or without it once it was lifted. Ended leases go too: their end is final.
func (g *Gate) replace(l action.Lease) {
	var fresh []action.Lease
	now := g.now()
	for _, o := range g.leases.Load().all {
		if o.ID != l.ID && o.InForce(now) {
			fresh = append(fresh, o)
		}
	}
	if l.Lifted.IsZero() {
		fresh = append(fresh, l)
	}
	g.leases.Store(newIndex(fresh))
}

// Denies implements action.Enforcer: it asks the gate in every way in which the target may ask. While the lease is in force, another
// one that denies it too is proof as well.
func (g *Gate) Denies(t approval.Target, lease string) bool {
	l, ok := g.Lease(lease)
	if !ok || !l.InForce(g.now()) {
		return false
	}
	return !slices.ContainsFunc(spellings(t), func(q Query) bool { return g.Check(q).Allow })
}

// spellings are the queries of a target: by its own id and by its service's, with the bare name of a tool and with a server's.
func spellings(t approval.Target) []Query {
	out := []Query{Query(t)}
	if service := parent(t.Agent); service != "" {
		out = append(out, Query{Agent: service, Session: t.Session, Tool: t.Tool})
	}
	if server, tool := event.SplitToolName(t.Tool); server != "" {
		out = append(out, Query{Agent: t.Agent, Session: t.Session, Tool: tool})
	} else if tool != "" {
		out = append(out, Query{Agent: t.Agent, Session: t.Session, Tool: "mcp__any__" + tool})
	}
	return out
}

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
	Agent   string `json:"agent"` // id: service/name
	Session string `json:"session,omitempty"`
	Tool    string `json:"tool,omitempty"`
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

	write  sync.Mutex // one writer at a time; readers see the old map or the new one
	leases atomic.Pointer[map[string][]action.Lease]
}

// Open returns a gate with the leases of its store.
func Open(ctx context.Context, store Store, now func() time.Time) (*Gate, error) {
	g := &Gate{store: store, now: now}
	leases, err := store.Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	byAgent := make(map[string][]action.Lease)
	for _, l := range leases {
		byAgent[l.Plan.Target.Agent] = append(byAgent[l.Plan.Target.Agent], l)
	}
	g.leases.Store(&byAgent)
	return g, nil
}

// Check answers a query from memory. A query that does not name its session or tool is denied where a lease is about one of the
// agent's: leaving a field out must not be a way around it.
func (g *Gate) Check(q Query) Answer {
	now := g.now()
	for _, l := range (*g.leases.Load())[q.Agent] {
		t := l.Plan.Target
		if !l.InForce(now) || other(t.Session, q.Session) || other(t.Tool, q.Tool) {
			continue
		}
		return Answer{
			Reason: fmt.Sprintf("%s is quarantined until %s by decision of %s (incident %s)", t, l.Ends.UTC().Format(time.RFC3339), l.Approver, l.Incident),
			Lease:  l.ID, Until: l.Ends,
		}
	}
	return Answer{Allow: true, Reason: "no lease is in force"}
}

// other reports whether a query names another than the one that a lease is about.
func other(leased, asked string) bool { return leased != "" && asked != "" && leased != asked }

// Apply puts a lease in force: durable first, then in memory. A lease that is there already is returned as it is. One that was lifted
// is not put in force again: its grant was for one containment.
func (g *Gate) Apply(ctx context.Context, l action.Lease) (action.Lease, error) {
	g.write.Lock()
	defer g.write.Unlock()
	if known, ok := g.find(l.ID, l.Plan.Target.Agent); ok {
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
	for agent := range *g.leases.Load() {
		if l, ok := g.find(id, agent); ok {
			return l, true
		}
	}
	return action.Lease{}, false
}

// InForce returns the leases that hold now, by agent and end.
func (g *Gate) InForce() []action.Lease {
	var out []action.Lease
	now := g.now()
	for _, list := range *g.leases.Load() {
		for _, l := range list {
			if l.InForce(now) {
				out = append(out, l)
			}
		}
	}
	slices.SortFunc(out, func(a, b action.Lease) int {
		return strings.Compare(a.Plan.Target.Agent+a.ID, b.Plan.Target.Agent+b.ID)
	})
	return out
}

func (g *Gate) find(id, agent string) (action.Lease, bool) {
	list := (*g.leases.Load())[agent]
	i := slices.IndexFunc(list, func(l action.Lease) bool { return l.ID == id })
	if i < 0 {
		return action.Lease{}, false
	}
	return list[i], true
}

// replace publishes a new map with the lease in it, or without it once it was lifted. Ended leases go too: their end is final.
func (g *Gate) replace(l action.Lease) {
	old := *g.leases.Load()
	fresh := make(map[string][]action.Lease, len(old)+1)
	now := g.now()
	for agent, list := range old {
		for _, o := range list {
			if o.ID != l.ID && o.InForce(now) {
				fresh[agent] = append(fresh[agent], o)
			}
		}
	}
	if l.Lifted.IsZero() {
		agent := l.Plan.Target.Agent
		fresh[agent] = append(fresh[agent], l)
	}
	g.leases.Store(&fresh)
}

// Denies implements action.Enforcer: it asks the gate as the target would. While the lease is in force, another one that denies it
// too is proof as well.
func (g *Gate) Denies(t approval.Target, lease string) bool {
	l, ok := g.Lease(lease)
	return ok && l.InForce(g.now()) && !g.Check(Query(t)).Allow
}

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
	// SaveLease writes a changed lease; action.ErrLifted where it was lifted and the change does not say so.
	SaveLease(ctx context.Context, l action.Lease) error
	// BeginLease stores a lease that admit does not refuse beside those of a time, or returns the one of its id that is stored already.
	BeginLease(ctx context.Context, l action.Lease, since time.Time, admit func(begun []action.Lease) error) (action.Lease, error)
	Leases(ctx context.Context) ([]action.Lease, error)
	// Lease returns a lease, lifted or not, if there is one.
	Lease(ctx context.Context, id string) (l action.Lease, found bool, err error)
}

// Query is what is about to happen.
type Query struct {
	Agent   string `json:"agent"` // id: service/name, or the service alone
	Session string `json:"session,omitempty"`
	Tool    string `json:"tool,omitempty"` // bare, or as mcp__server__tool
	// Effect is what the call does, where whoever asks knows: read, write, egress or exec. It can't make an answer milder.
	Effect event.Effect `json:"effect,omitempty"`
}

// Answer is the gate's word, with the reason for people.
type Answer struct {
	Allow bool `json:"allow"`
	// Ask means that a human must allow this very call. Allow is then false, for whoever knows no third word.
	Ask    bool      `json:"ask,omitempty"`
	Reason string    `json:"reason"`
	Lease  string    `json:"lease,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// Word is the answer without its reason.
func (a Answer) Word() action.Word {
	switch {
	case a.Allow:
		return action.Allow
	case a.Ask:
		return action.Ask
	}
	return action.Deny
}

// Gate answers checks. Safe for concurrent use; Check takes no lock.
type Gate struct {
	store Store
	tools map[string]event.Effect
	now   func() time.Time

	write  sync.Mutex // one writer at a time; readers see the old index or the new one
	leases atomic.Pointer[index]
}

// index finds leases by the agents that they are about. It never changes once it is published, but for the calls that leases count.
type index struct {
	all     []action.Lease
	byAgent map[string][]held
	below   map[string][]held // by service: leases on its agents
	calls   map[string]*calls // by lease that counts
}

// held is a lease with its target's tool taken apart.
type held struct {
	action.Lease
	server, tool string
	calls        *calls // of a lease that counts, else nil
}

// newIndex keeps of an earlier index what its leases have counted.
func newIndex(leases []action.Lease, earlier map[string]*calls) *index {
	x := &index{all: leases, byAgent: make(map[string][]held), below: make(map[string][]held), calls: make(map[string]*calls)}
	for _, l := range leases {
		if !action.AtGate(l.Plan.Action) { // its effect is elsewhere
			continue
		}
		h := held{Lease: l}
		h.server, h.tool = event.SplitToolName(l.Plan.Target.Tool)
		if l.Plan.Action == action.NameThrottle {
			if h.calls = earlier[l.ID]; h.calls == nil {
				h.calls = &calls{most: action.PerMinute(l.Plan)}
			}
			x.calls[l.ID] = h.calls
		}
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

// Open returns a gate with the leases of its store. tools are the effects of tools whose names don't tell them, by the bare name or as
// mcp__server__tool.
func Open(ctx context.Context, store Store, tools map[string]event.Effect, now func() time.Time) (*Gate, error) {
	g := &Gate{store: store, tools: tools, now: now}
	leases, err := store.Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	g.leases.Store(newIndex(leases, nil))
	return g, nil
}

// Check answers a query from memory, by the strictest of all leases that it does not clearly lie outside of. What a query leaves out
// must not be a way around a lease: one that does not name its session or tool is answered by a lease about one of the agent's, and
// one that names only a service by a lease about one of its agents. A lease on a service is about all its agents, because whose call it
// was is not always known.
func (g *Gate) Check(q Query) Answer {
	leases := g.leases.Load()
	if len(leases.all) == 0 {
		return Answer{Allow: true, Reason: "no lease is in force"}
	}
	a := asked{Query: q, now: g.now()}
	return g.check(leases, &a)
}

func (g *Gate) check(leases *index, a *asked) Answer {
	a.Agent, a.Session = event.ClipName(a.Agent), event.ClipName(a.Session)
	a.server, a.tool = event.SplitToolName(a.Tool)
	a.server, a.tool = event.ClipName(a.server), event.ClipName(a.tool)
	for agent := a.Agent; agent != "" && a.word != action.Deny; agent = parent(agent) {
		g.weigh(a, leases.byAgent[agent], "")
	}
	if a.word != action.Deny {
		g.weigh(a, leases.below[a.Agent], ", and the question names its service alone")
	}
	// A call that is denied anyway uses up none of what is allowed.
	if a.counted && a.word != action.Deny {
		g.count(a, leases)
	}
	if a.by == nil {
		return Answer{Allow: true, Reason: "no lease is in force"}
	}
	return a.by.answer(a.word, a.why)
}

// asked is a query in the form in which events name things, and the strictest word about it so far.
type asked struct {
	Query
	server, tool string
	now          time.Time

	word    action.Word
	by      *held
	why     string
	counted bool              // a lease that counts is about it
	scratch map[*calls]*calls // of a probe: it counts here, and not against the agent
}

// weigh takes the strictest word of leases in force that the query does not clearly lie outside of.
func (g *Gate) weigh(a *asked, leases []held, why string) {
	for i := range leases {
		l := &leases[i]
		if !l.covers(a) {
			continue
		}
		var word action.Word
		switch l.Plan.Action {
		case action.NameThrottle:
			a.counted = true
			continue
		case action.NameAskHuman:
			word = action.Ask
		case action.NameReadOnly:
			if g.reads(a) {
				continue
			}
			word = action.Deny
		default: // quarantine; an action that this gate does not know denies rather than passes
			word = action.Deny
		}
		if word > a.word {
			a.word, a.by, a.why = word, l, why
		}
		if word == action.Deny {
			return
		}
	}
}

// count counts the call against every lease that counts and denies it where one has had enough.
func (g *Gate) count(a *asked, leases *index) {
	take := func(list []held, why string) {
		for i := range list {
			l := &list[i]
			if l.calls == nil || !l.covers(a) {
				continue
			}
			c := l.calls
			if a.scratch != nil {
				if a.scratch[c] == nil {
					a.scratch[c] = &calls{most: c.most}
				}
				c = a.scratch[c]
			}
			if !c.take(a.now) {
				a.word, a.by, a.why = action.Deny, l, why
			}
		}
	}
	for agent := a.Agent; agent != ""; agent = parent(agent) {
		take(leases.byAgent[agent], "")
	}
	take(leases.below[a.Agent], ", and the question names its service alone")
}

// covers reports whether the lease is in force and the query does not clearly lie outside of it.
func (l *held) covers(a *asked) bool {
	return l.InForce(a.now) && !other(l.Plan.Target.Session, a.Session) && !other(l.server, a.server) && !other(l.tool, a.tool)
}

// other reports whether a query names another than the one that a lease is about.
func other(leased, asked string) bool { return leased != "" && asked != "" && leased != asked }

// reads reports whether a call surely has no effect but to take data in. The table goes before the name; who asks can make a call
// stricter by its effect, and never milder, because an agent has a hand in what it is asked with.
func (g *Gate) reads(a *asked) bool {
	if a.Effect != event.EffectUnknown && a.Effect != event.EffectRead || a.tool == "" {
		return false
	}
	effect, ok := g.tools[a.Tool]
	if !ok {
		effect, ok = g.tools[a.tool]
	}
	if ok {
		return effect == event.EffectRead
	}
	return event.OnlyReads(a.tool)
}

func (l *held) answer(word action.Word, why string) Answer {
	what := "is quarantined"
	switch l.Plan.Action {
	case action.NameReadOnly:
		what = "may only read"
	case action.NameAskHuman:
		what = "needs a human's word for each call"
	case action.NameThrottle:
		what = fmt.Sprintf("may make %d calls a minute, and made them,", l.calls.most)
	}
	return Answer{
		Ask:    word == action.Ask,
		Reason: fmt.Sprintf("%s %s until %s by decision of %s (incident %s)%s", l.Plan.Target, what, l.Ends.UTC().Format(time.RFC3339), l.Approver, l.Incident, why),
		Lease:  l.ID, Until: l.Ends,
	}
}

// Apply puts a lease in force: durable first, then in memory. A lease that is there already is returned as it is. One that was lifted
// is not put in force again: its grant was for one containment.
func (g *Gate) Apply(ctx context.Context, l action.Lease, admit func(begun []action.Lease) error) (action.Lease, error) {
	g.write.Lock()
	defer g.write.Unlock()
	if known, ok := g.Lease(l.ID); ok {
		return known, nil
	}
	l, err := g.store.BeginLease(ctx, l, g.now().Add(-action.LimitWindow), admit)
	if err == nil && !l.Lifted.IsZero() {
		err = action.ErrLifted
	}
	if err != nil {
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
	g.leases.Store(newIndex(fresh, g.leases.Load().calls))
}

// Probe implements action.Enforcer: it asks in every way in which the target may ask, calls times at one instant, and returns the
// mildest of the last answers. Its calls count for nobody. While the lease is in force, another one that answers as strictly is proof
// as well.
func (g *Gate) Probe(lease, tool string, times int) action.Word {
	l, ok := g.Lease(lease)
	if !ok || !l.InForce(g.now()) {
		return action.Allow
	}
	t := l.Plan.Target
	if t.Tool == "" {
		t.Tool = tool
	}
	mildest := action.Deny
	leases, now := g.leases.Load(), g.now()
	for _, q := range spellings(t) {
		scratch, last := make(map[*calls]*calls), action.Allow
		for range times {
			last = g.check(leases, &asked{Query: q, now: now, scratch: scratch}).Word()
		}
		mildest = min(mildest, last)
	}
	return mildest
}

// spellings are the queries of a target: by its own id and by its service's, with the bare name of a tool and with a server's.
func spellings(t approval.Target) []Query {
	out := []Query{{Agent: t.Agent, Session: t.Session, Tool: t.Tool}}
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

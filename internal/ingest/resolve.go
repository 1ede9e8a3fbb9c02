package ingest

import (
	"slices"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// maxAncestors bounds the walk to the root, so that a request whose spans are their own ancestors ends.
const maxAncestors = 256

type spanKey struct {
	trace traceID
	span  spanID
}

// forest is the part of the traces that one request holds. Most clients name the agent and the conversation on some spans only.
type forest struct {
	spans  map[spanKey]*draft
	traces map[traceID]*tree
}

// tree is what a request holds of one trace.
type tree struct {
	root   *draft
	strong *draft // the first agent that has a name of its own
	ai     bool   // a dialect knows one of its spans
}

// clear empties a forest for the next request. Maps cost by their size to be cleared, so large ones are given up.
func (f *forest) clear() {
	if max(len(f.spans), len(f.traces)) > minSlab {
		*f = forest{}
	}
	clear(f.spans)
	clear(f.traces)
}

// plant fills an empty forest.
func (f *forest) plant(drafts []draft) {
	if f.spans == nil {
		f.spans, f.traces = make(map[spanKey]*draft, len(drafts)), map[traceID]*tree{}
	}
	for i := range drafts {
		d := &drafts[i]
		t := f.traces[d.span.trace]
		if t == nil {
			t = &tree{}
			f.traces[d.span.trace] = t
		}
		if d.dialect == nil {
			continue
		}
		f.spans[spanKey{d.span.trace, d.span.id}] = d
		d.ownName, d.ownSession = d.Agent.Name, d.Session.ID
		if d.span.parent == (spanID{}) && t.root == nil {
			t.root = d
		}
		t.ai = t.ai || d.dialect != generic
		if s := t.strong; d.Kind == event.KindAgentInvoke && d.Agent.Name != "" && !d.weak && (s == nil || d.Time.Before(s.Time)) {
			t.strong = d
		}
	}
	for _, t := range f.traces {
		if t.root != nil && t.root.weak && t.strong != nil {
			t.root.ownName = t.strong.Agent.Name
		}
	}
}

// walk calls visit for the nearest ancestor, its parent, and so on, last the root of the trace, until visit returns true.
func (f *forest) walk(d *draft, visit func(*draft) bool) {
	parent := d.span.parent
	for range maxAncestors {
		a := f.spans[spanKey{d.span.trace, parent}]
		if a == nil || a == d {
			break
		}
		if visit(a) {
			return
		}
		parent = a.span.parent
	}
	if root := f.traces[d.span.trace].root; root != nil && root != d {
		visit(root)
	}
}

// resolve fills in the agent and the session from the span itself, else its nearest ancestor, else the root of its trace.
func (f *forest) resolve(d *draft) {
	name, basis := d.ownName, "attr"
	if name != d.Agent.Name {
		basis = "stitched"
	}
	if name == "" {
		basis = "ancestor"
		f.walk(d, func(a *draft) bool { name = a.ownName; return name != "" })
	}
	if name == "" && d.fallback != "" {
		name, basis = d.fallback, "attr"
	}
	if name == "" {
		basis = "service"
	}
	d.Agent.Name, d.Agent.Basis = name, basis
	f.delegation(d, name)
	if d.Session.ID = d.ownSession; d.Session.ID == "" {
		f.walk(d, func(a *draft) bool { d.Session.ID = a.ownSession; return d.Session.ID != "" })
	}
	d.sessionOfTrace()
	d.Session.Root = d.Kind == event.KindAgentInvoke && d.span.parent == spanID{}
}

// delegation fills in the agents above the span's, nearest first: each ancestor that has another name than the one below it.
func (f *forest) delegation(d *draft, name string) {
	var above []string
	f.walk(d, func(a *draft) bool {
		if n := a.ownName; name != "" && n != "" && n != name {
			above, name = append(above, event.AgentID(a.Agent.Service, n)), n
		}
		return len(above) > event.MaxAncestors
	})
	if len(above) > 0 {
		d.Agent.Parent, d.Agent.Ancestors = above[0], above[1:]
		slices.Reverse(d.Agent.Ancestors)
	}
}

// sessionOfTrace takes the trace for the session of an event that names none.
func (d *draft) sessionOfTrace() {
	if d.Session.ID == "" && d.Trace.TraceID != "" {
		d.Session.ID, d.Session.Basis = d.Trace.TraceID, event.SessionOfTrace
	}
}

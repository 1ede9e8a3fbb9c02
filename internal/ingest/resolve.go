package ingest

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// maxAncestors bounds the walk to the root, so that a request whose spans are their own ancestors ends.
const maxAncestors = 256

type spanKey struct {
	trace pcommon.TraceID
	span  pcommon.SpanID
}

// forest is the part of the traces that one request holds. Most clients name the agent and the conversation on some spans only.
type forest struct {
	spans map[spanKey]*draft
	roots map[pcommon.TraceID]*draft
	ai    map[pcommon.TraceID]bool
	names map[*draft]string // the agent's name that each span gives itself
	convs map[*draft]string
}

func newForest(drafts []*draft) *forest {
	f := &forest{
		spans: map[spanKey]*draft{}, roots: map[pcommon.TraceID]*draft{}, ai: map[pcommon.TraceID]bool{},
		names: map[*draft]string{}, convs: map[*draft]string{},
	}
	strong := map[pcommon.TraceID]*draft{} // the first agent of a trace that has a name of its own
	for _, d := range drafts {
		if d.dialect == nil {
			continue
		}
		id := d.span.TraceID()
		f.spans[spanKey{id, d.span.SpanID()}] = d
		f.names[d], f.convs[d] = d.Agent.Name, d.Session.ID
		if d.span.ParentSpanID().IsEmpty() && f.roots[id] == nil {
			f.roots[id] = d
		}
		if d.dialect != generic {
			f.ai[id] = true
		}
		if s := strong[id]; d.Kind == event.KindAgentInvoke && d.Agent.Name != "" && !d.weak && (s == nil || d.Time.Before(s.Time)) {
			strong[id] = d
		}
	}
	for id, root := range f.roots {
		if s := strong[id]; root.weak && s != nil {
			f.names[root] = s.Agent.Name
		}
	}
	return f
}

// walk calls visit for the nearest ancestor, its parent, and so on, last the root of the trace, until visit returns true.
func (f *forest) walk(d *draft, visit func(*draft) bool) {
	id, parent := d.span.TraceID(), d.span.ParentSpanID()
	for range maxAncestors {
		a := f.spans[spanKey{id, parent}]
		if a == nil || a == d {
			break
		}
		if visit(a) {
			return
		}
		parent = a.span.ParentSpanID()
	}
	if root := f.roots[id]; root != nil && root != d {
		visit(root)
	}
}

// resolve fills in the agent and the session from the span itself, else its nearest ancestor, else the root of its trace.
func (f *forest) resolve(d *draft) {
	name, basis := f.names[d], "attr"
	if name != d.Agent.Name {
		basis = "stitched"
	}
	if name == "" {
		basis = "ancestor"
		f.walk(d, func(a *draft) bool { name = f.names[a]; return name != "" })
	}
	if name == "" && d.fallback != "" {
		name, basis = d.fallback, "attr"
	}
	if name == "" {
		basis = "service"
	}
	d.Agent.Name, d.Agent.Basis = name, basis
	f.delegation(d, name)
	if d.Session.ID = f.convs[d]; d.Session.ID == "" {
		f.walk(d, func(a *draft) bool { d.Session.ID = f.convs[a]; return d.Session.ID != "" })
	}
	d.sessionOfTrace()
	d.Session.Root = d.Kind == event.KindAgentInvoke && d.span.ParentSpanID().IsEmpty()
}

// delegation fills in the agents above the span's, nearest first: each ancestor that has another name than the one below it.
func (f *forest) delegation(d *draft, name string) {
	var above []string
	f.walk(d, func(a *draft) bool {
		if n := f.names[a]; name != "" && n != "" && n != name {
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

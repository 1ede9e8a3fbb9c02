// Package ingest turns what clients send (OTLP traces and logs, JSON events) into canonical events and serves the endpoints that
// receive it. It keeps no state about sessions, judges nothing, and stores nothing itself: it answers a client only after the log
// has the events.
//
// A dialect is one file: a table from attribute to event field and the code for what a table can't say. It is used by one line in
// dialects.
package ingest

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// ContentPolicy says whether texts (prompts, responses, arguments, results) may be stored.
type ContentPolicy string

// The content policies. Under ContentHashed salted token hashes stand for each text, argument and destination; errors, reasons,
// and those attributes that no dialect declares free of content are dropped.
const (
	ContentFull   ContentPolicy = "full"
	ContentHashed ContentPolicy = "hashed"
)

// Options are the settings of a Mapper.
type Options struct {
	// Hasher makes the token hashes. Without one, ContentHashed uses a random salt, so that hashes match within this Mapper only.
	Hasher *event.Hasher
	// Content is full if empty. A value that is not known hides content: a misspelt policy must not leak it.
	Content ContentPolicy
	// MaySpeak refuses events of agents that the sender, named by its credential, may not speak for; nil lets all speak for all.
	MaySpeak func(authn string, a event.Agent) error
}

// Receipt is what the receiver knows of a delivery and the sender can't choose.
type Receipt struct {
	Authn string    // the credential that delivered it
	At    time.Time // when it arrived
}

// Rejection names an item that can't be kept, and why.
type Rejection struct {
	Item   string `json:"item"`
	Reason string `json:"reason"`
}

// Mapper makes canonical events out of decoded telemetry. It holds settings alone and is safe for concurrent use.
type Mapper struct {
	hasher   *event.Hasher // nil while content is stored
	dialects []dialect
	maySpeak func(authn string, a event.Agent) error
	events   sync.Pool // of *[]event.Event, all empty
}

// room returns memory for n events.
func (m *Mapper) room(n int) []event.Event {
	if room, ok := m.events.Get().(*[]event.Event); ok && cap(*room) >= n {
		return *room
	}
	return make([]event.Event, 0, n)
}

// maxRoom is the most events whose memory is used again.
const maxRoom = 1024

// reuse takes the memory of events that nobody needs any more.
func (m *Mapper) reuse(events []event.Event) {
	if cap(events) > maxRoom {
		return
	}
	clear(events)
	events = events[:0]
	m.events.Put(&events)
}

// NewMapper returns a Mapper.
func NewMapper(opts Options) *Mapper {
	m := &Mapper{dialects: dialects(), maySpeak: opts.MaySpeak}
	if opts.Content == ContentFull || opts.Content == "" {
		return m
	}
	m.hasher = opts.Hasher
	if m.hasher == nil {
		salt := make([]byte, 32)
		_, _ = rand.Read(salt) // never fails
		m.hasher = event.NewHasher(salt)
	}
	return m
}

// batch is the outcome of one request.
type batch struct {
	events   []event.Event
	rejected []Rejection
	left     []Rejection // what items that were kept are without
	ignored  int
	cut      bool // values nested too deep were left out before anything was read
}

// traces maps the spans of one request. The events are ordered by time, sequence and id; an item that can't be kept is named in the
// rejections and rejects no other. Spans that have nothing to do with an agent are left out silently.
//
// The time of an agent.invoke, a model.call and other is their start, of anything that brings data back (tool.result, retrieval,
// memory, guardrail) their end, so that ordering by time puts a prompt before the calls it caused, and a result after its call.
func (m *Mapper) traces(t *telemetry, r Receipt) batch {
	t.drafts = slices.Grow(t.drafts[:0], len(t.spans)) // they point at each other and must not move
	for i, resource := range t.resources {
		base := newBase(resource.attrs)
		for j, scope := range t.scopes[resource.from:resource.to] {
			start := base.in(scope.name)
			for k := range t.spans[scope.from:scope.to] {
				span := &t.spans[scope.from+k]
				d := t.draft(place{i, j, k})
				d.span = span
				d.begin(&start, span.attrs)
				m.readSpan(d)
			}
		}
	}
	t.forest.plant(t.drafts)
	b := batch{events: m.room(len(t.drafts))}
	for i := range t.drafts {
		d := &t.drafts[i]
		if d.dialect == nil || d.dialect == generic && !t.forest.traces[d.span.trace].ai {
			b.ignored++
			continue
		}
		t.forest.resolve(d)
		m.finish(&b, d, r)
	}
	sortEvents(b.events)
	return b
}

func (m *Mapper) readSpan(d *draft) {
	d.Trace = event.Trace{Name: d.span.name}
	d.Trace.TraceID, d.Trace.SpanID, d.Trace.ParentID = hexIDs(d.span.trace, d.span.id, d.span.parent)
	d.dialect = generic
	for i := range m.dialects {
		if m.dialects[i].isSpan(d) {
			d.dialect = &m.dialects[i]
			break
		}
	}
	if d.dialect.span == nil {
		d.dialect = nil
		return
	}
	d.Source.Dialect = d.dialect.name
	d.apply(d.dialect.fields)
	d.dialect.span(d)
	d.spanTimes()
	d.spanOutcome()
	if d.Trace.TraceID != "" && d.Trace.SpanID != "" {
		d.ID = event.NewID(d.Tenant, d.Kind, d.Trace.TraceID, d.Trace.SpanID)
	}
}

// hexIDs spells the ids of a span, in one piece of memory. One that is all zero is none.
func hexIDs(trace traceID, id, parent spanID) (traceText, idText, parentText string) {
	var buf [2*len(trace) + 4*len(id)]byte
	hex.Encode(buf[:], trace[:])
	hex.Encode(buf[2*len(trace):], id[:])
	hex.Encode(buf[2*len(trace)+2*len(id):], parent[:])
	all := string(buf[:])
	if trace != (traceID{}) {
		traceText = all[:2*len(trace)]
	}
	if id != (spanID{}) {
		idText = all[2*len(trace) : 2*len(trace)+2*len(id)]
	}
	if parent != (spanID{}) {
		parentText = all[2*len(trace)+2*len(id):]
	}
	return traceText, idText, parentText
}

// logs maps the records of one request, as traces does.
func (m *Mapper) logs(t *telemetry, r Receipt) batch {
	b := batch{events: make([]event.Event, 0, len(t.records))}
	for i, resource := range t.resources {
		base := newBase(resource.attrs)
		for j, scope := range t.scopes[resource.from:resource.to] {
			start := base.in(scope.name)
			for k := range t.records[scope.from:scope.to] {
				record := &t.records[scope.from+k]
				d := t.draft(place{i, j, k})
				d.begin(&start, record.attrs)
				if !m.readLog(d, record) {
					b.ignored++
					continue
				}
				m.finish(&b, d, r)
			}
		}
	}
	sortEvents(b.events)
	return b
}

// readLog reports whether a dialect knew the record.
func (m *Mapper) readLog(d *draft, rec *otlpRecord) bool {
	for i := range m.dialects {
		dialect := &m.dialects[i]
		if dialect.log == nil || !dialect.isLog(d) {
			continue
		}
		d.dialect, d.Source.Dialect = dialect, dialect.name
		d.Trace.TraceID, d.Trace.SpanID, _ = hexIDs(rec.trace, rec.span, spanID{})
		d.Time = stamp(cmp.Or(rec.time, rec.observed))
		dialect.log(d, rec)
		if d.Agent.Basis == "" {
			d.Agent.Basis = "service"
		}
		return true
	}
	return false
}

// finish makes the events of a draft fit to be logged: redacted, checked, hashed where policy wants it, and identified.
func (m *Mapper) finish(b *batch, d *draft, r Receipt) {
	d.Content = limitContent(d.Content)
	if d.Kind == event.KindToolResult && d.Tool != nil && d.Tool.Result.State == "" {
		d.Tool.Result.State = event.StateAbsent
	}
	d.Attrs = d.text(m.hasher != nil)
	for _, key := range d.deep {
		b.left = append(b.left, Rejection{Item: d.item(), Reason: fmt.Sprintf("attribute %.80q: nested deeper than %d, left out", key, maxValueDepth)})
	}
	for i := range d.more { // what a span implies shares its origin
		e := &d.more[i]
		e.Source, e.Agent, e.Session, e.Principal, e.Trace, e.Labels = d.Source, d.Agent, d.Session, d.Principal, d.Trace, d.Labels
	}
	item := d.item
	m.add(b, &d.Event, item, r)
	for i := range d.more {
		m.add(b, &d.more[i], item, r)
	}
}

// add seals an event and keeps it, or says why not.
func (m *Mapper) add(b *batch, e *event.Event, item func() string, r Receipt) {
	if err := m.seal(e, r); err != nil {
		b.rejected = append(b.rejected, Rejection{Item: item(), Reason: err.Error()})
		return
	}
	b.events = append(b.events, *e)
}

// maxSkew is how far a sender's clock may be ahead. An event from further ahead would make every session of its class look silent for
// long enough to be ended, and with it what the session had read would be forgotten. It is half of what a session may be silent for.
const maxSkew = 5 * time.Minute

// seal brings one event into the form in which it is logged. Secrets go first, so that nothing later can carry one.
func (m *Mapper) seal(e *event.Event, r Receipt) error {
	e.Ingested, e.Source.Authn = r.At, r.Authn
	bound(e)
	redact(e)
	derive := e.ID == ""
	if derive {
		e.ID = "-" // Check refuses an event without one
	}
	if err := e.Check(); err != nil {
		return err
	}
	if !r.At.IsZero() && e.Time.After(r.At.Add(maxSkew)) {
		return fmt.Errorf("time: %s is more than %s ahead of the clock here; detections run on event time", e.Time.Format(time.RFC3339), maxSkew)
	}
	if m.maySpeak != nil {
		if err := m.maySpeak(r.Authn, e.Agent); err != nil {
			return err
		}
	}
	if m.hasher != nil {
		m.hash(e)
		if err := e.Check(); err != nil { // hashes have limits too
			return err
		}
	}
	if derive {
		e.ID = contentID(e)
	}
	return nil
}

// contentID identifies an event that has no join key by all that it says. When and by whom it was delivered is no part of that, nor is
// what stands in for a session.
func contentID(e *event.Event) string {
	c := *e
	c.ID, c.Ingested, c.Source.Authn, c.Session.Basis = "", time.Time{}, "", ""
	line, err := c.MarshalLine()
	if err != nil { // an Event holds nothing that JSON can't; the time and kind still tell most apart
		line = []byte(e.Time.String())
	}
	return event.NewID(e.Tenant, e.Kind, string(line))
}

// sortEvents orders events by time, sequence and id, and leaves those in their order that have the same. Events are large, so their
// places are sorted, and each event is moved once.
func sortEvents(events []event.Event) {
	compare := func(i, j int) int {
		a, b := &events[i], &events[j]
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Seq, b.Seq), strings.Compare(a.ID, b.ID))
	}
	from, sorted := make([]int, len(events)), true
	for i := range from {
		from[i] = i
		sorted = sorted && (i == 0 || compare(i-1, i) <= 0)
	}
	if sorted {
		return
	}
	slices.SortStableFunc(from, compare)
	for i := range from {
		if from[i] == i {
			continue
		}
		held, at := events[i], i // a cycle of places
		for from[at] != i {
			next := from[at]
			events[at], from[at] = events[next], at
			at = next
		}
		events[at], from[at] = held, at
	}
}

// stamp is the zero time for 0, which in OTLP means that the sender did not say.
func stamp(nanos uint64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(nanos)).UTC()
}

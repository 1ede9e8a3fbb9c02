package ingest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// dialect is one client's way of describing what an agent does.
type dialect struct {
	name   string
	isSpan func(*draft) bool
	isLog  func(*draft) bool
	// fields are applied in order, and the first that sets a field wins.
	fields []field
	// span and log set the kind and what takes more than one attribute. A dialect without the one ignores that signal.
	span func(*draft)
	log  func(*draft, *otlpRecord)
	// meta lists attributes, or prefixes of them that end in a dot, whose text is never content, so that ContentHashed keeps it.
	// Numbers and booleans are always kept.
	meta []string
}

// dialects lists the dialects; the first that recognises an item reads it.
func dialects() []dialect {
	return []dialect{claudeCode(), openInference(), genAI()}
}

// generic reads spans that no dialect knows and that lie in a trace with one that is known: the HTTP call beneath a tool tells
// where data went.
var generic = &dialect{
	name: "otel_generic",
	fields: []field{
		{"url.full", host},
		{"http.url", host},
		{"server.address", host},
		{"net.peer.name", host},
		{"error.type", errorType},
	},
	span: func(d *draft) { d.Kind = event.KindOther },
	meta: []string{"http.request.method", "http.method", "error.type", "network.", "rpc."},
}

// field sets one part of an event from one attribute. set reports whether the attribute is fully told by that; if not, it stays
// among the attributes.
type field struct {
	key string
	set func(*draft, *value) bool
}

// draft is an event in the making.
type draft struct {
	event.Event
	place   place
	scope   string
	dialect *dialect
	attrs   []attribute // what no field took is of another kind than kindTaken
	span    *otlpSpan   // nil for a log record
	deep    []string    // attributes that are nested too deep to be read
	op      string      // the dialect's own word for the kind
	failed  bool
	errType string
	// ownName and ownSession are the agent's name and the session that the item gives itself; see forest.
	ownName, ownSession string
	arena               *arena
	// fallback names the agent where neither the span nor an ancestor does.
	fallback string
	// weak: the agent's name is only the name of its span, which for the root of a workflow is the workflow's.
	weak bool
	more []event.Event // further events that the item implies
}

// place is where in the request an item is: in which resource and scope, and which of the scope's.
type place struct{ resource, scope, item int }

// item names the item for its sender.
func (d *draft) item() string {
	parts := logParts()
	if d.span != nil {
		parts = spanParts()
	}
	return fmt.Sprintf("%s[%d].%s[%d].%s[%d] %.80q", parts[0], d.place.resource, parts[1], d.place.scope, parts[2], d.place.item, d.Trace.Name)
}

// resourceAttrs are the facts about the machine that are worth a place in each event: they tell one copy of an agent from
// another. Command lines are left out because they hold prompts and keys.
var resourceAttrs = []string{"host.name", "host.id", "container.id", "cloud.account.id", "cloud.region", "process.owner"}

// base is what all items of a resource, and then of a scope, have in common.
type base struct {
	event.Event
	attrs []attribute
}

func newBase(attrs []attribute) base {
	var b base
	get := func(key string) string {
		if v := first(attrs, key); v != nil && v.shallow(maxValueDepth) {
			return v.asText()
		}
		return ""
	}
	b.Agent.Service, b.Agent.Version = get("service.name"), get("service.version")
	if b.Agent.Class = get("tocsin.agent.class"); b.Agent.Class == "" {
		b.Agent.Class = get("service.namespace")
	}
	b.Source.Instance = get("service.instance.id")
	for _, key := range resourceAttrs {
		if v := get(key); v != "" {
			b.attrs = append(b.attrs, attribute{key, textValue(v)})
		}
	}
	for i := range attrs {
		if key := attrs[i].key; isLabel(key) {
			b.label(key, get(key))
		}
	}
	return b
}

// label sets a label of a resource, or of one of its items.
func (b *base) label(key, text string) { b.Labels = with(b.Labels, key, text) }

func with(labels map[string]string, key, text string) map[string]string {
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = text
	return labels
}

// in returns what the items of a scope have in common.
func (b base) in(scope string) base {
	b.Source.Scope = scope
	b.Agent.Framework = framework(scope)
	return b
}

// first returns the first of the attributes with a name, or nil.
func first(attrs []attribute, key string) *value {
	for i := range attrs {
		if attrs[i].key == key {
			return &attrs[i].value
		}
	}
	return nil
}

// manyAttrs is from when on a map is made to find attributes that are sent twice.
const manyAttrs = 64

// draft returns a new draft.
func (t *telemetry) draft(at place) *draft {
	t.drafts = append(t.drafts, draft{})
	d := &t.drafts[len(t.drafts)-1]
	d.place, d.arena = at, &t.arena
	return d
}

// begin starts from what resource and scope say, and takes over the attributes; of two with one name the later counts. Attributes
// nested deeper than maxValueDepth are not read.
func (d *draft) begin(b *base, attrs []attribute) {
	d.Event, d.scope = b.Event, b.Source.Scope
	d.Labels = maps.Clone(b.Labels)
	d.attrs = append(d.arena.take(len(b.attrs) + len(attrs) + 2)[:0], b.attrs...) // 2 more for what dialects put back
	var places map[string]int
	if len(attrs) > manyAttrs {
		places = make(map[string]int, len(attrs)+len(b.attrs))
		for i := range d.attrs {
			places[d.attrs[i].key] = i
		}
	}
	for i := range attrs {
		a := &attrs[i]
		switch {
		case !a.shallow(maxValueDepth):
			d.deep = append(d.deep, a.key)
		case isLabel(a.key):
			d.Labels = with(d.Labels, a.key, a.asText())
		case places == nil:
			d.set(a.key, a.value)
		default:
			at, ok := places[a.key]
			if !ok {
				at = len(d.attrs)
				places[a.key], d.attrs = at, append(d.attrs, *a)
			}
			d.attrs[at].value = a.value
		}
	}
}

func isLabel(key string) bool {
	return key == "deployment.environment.name" || key == "team.id" || strings.HasPrefix(key, "k8s.")
}

// frameworks maps a part of an instrumentation scope's name to the framework it instruments; the first match counts.
var frameworks = [][2]string{
	{"langchain", "langchain"},
	{"openai-agents", "openai-agents"},
	{"openai_agents", "openai-agents"},
	{"openai", "openai"},
	{"crewai", "crewai"},
	{"claude_code", "claude-code"},
}

func framework(scope string) string {
	for _, f := range frameworks {
		if strings.Contains(scope, f[0]) {
			return f[1]
		}
	}
	if scope == "gen_ai" {
		return "ai-sdk"
	}
	return ""
}

func (d *draft) apply(fields []field) {
	for i := range fields {
		v := d.find(fields[i].key)
		if v == nil {
			continue
		}
		// A null is what some clients send for "none".
		if v.kind == kindEmpty || fields[i].set(d, v) {
			v.kind = kindTaken
		}
	}
}

// find returns an attribute that no field took, or nil.
func (d *draft) find(key string) *value {
	for i := range d.attrs {
		if a := &d.attrs[i]; a.key == key && a.kind != kindTaken {
			return &a.value
		}
	}
	return nil
}

// set puts an attribute among those that no field took.
func (d *draft) set(key string, v value) {
	if old := first(d.attrs, key); old != nil {
		*old = v
		return
	}
	d.attrs = append(d.attrs, attribute{key, v})
}

// attr returns an attribute's text without taking it.
func (d *draft) attr(key string) string {
	if v := d.find(key); v != nil {
		return v.asText()
	}
	return ""
}

func (d *draft) has(key string) bool { return d.find(key) != nil }

// text returns what no field took.
func (d *draft) text(hide bool) map[string]string {
	n := 0
	for i := range d.attrs {
		if k := d.attrs[i].kind; k != kindTaken && k != kindEmpty {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make(map[string]string, n)
	for i := range d.attrs {
		a := &d.attrs[i]
		switch a.kind {
		case kindTaken, kindEmpty:
			continue
		case kindBool, kindInt, kindDouble:
		default:
			if hide && !d.isMeta(a.key) {
				continue
			}
		}
		out[a.key] = a.asText()
	}
	return out
}

func (d *draft) isMeta(key string) bool {
	return slices.Contains(resourceAttrs, key) || slices.ContainsFunc(d.dialect.meta, func(m string) bool {
		return key == m || strings.HasSuffix(m, ".") && strings.HasPrefix(key, m)
	})
}

func (d *draft) tool() *event.Tool {
	if d.Tool == nil {
		d.Tool = &event.Tool{}
	}
	return d.Tool
}

func (d *draft) model() *event.Model {
	if d.Model == nil {
		d.Model = &event.Model{}
	}
	return d.Model
}

func (d *draft) decision() *event.Decision {
	if d.Decision == nil {
		d.Decision = &event.Decision{}
	}
	return d.Decision
}

// endKind reports whether such an event happens when its span ends. See Traces.
func endKind(k event.Kind) bool {
	return k == event.KindToolResult || k == event.KindRetrieval || k == event.KindMemory || k == event.KindGuardrail
}

func (d *draft) spanTimes() {
	start, end := d.span.start, d.span.end
	at := start
	if endKind(d.Kind) && end != 0 || start == 0 {
		at = end
	}
	d.Time = stamp(at)
	if start != 0 && end > start {
		d.Duration = stamp(end).Sub(stamp(start))
	}
}

// spanOutcome derives the outcome from several signals, because no client sends all of them.
func (d *draft) spanOutcome() {
	failed, message := d.failed || d.errType != "", ""
	if d.span.status == statusError {
		failed, message = true, d.span.message
	}
	for _, attrs := range d.span.exceptions {
		failed = true
		if v := first(attrs, "exception.message"); v != nil && message == "" && v.shallow(maxValueDepth) {
			message = v.asText()
		}
	}
	switch {
	case failed:
		d.Outcome = event.OutcomeFailure
		if d.Error == "" {
			d.Error = message
		}
		if d.Error == "" {
			d.Error = d.errType
		}
	case d.Outcome == "" && d.Kind != event.KindOther:
		d.Outcome = event.OutcomeSuccess
	}
}

// str sets a text. A different value that comes later is left among the attributes.
func str(at func(*draft) *string) func(*draft, *value) bool {
	return func(d *draft, v *value) bool {
		s, p := v.asText(), at(d)
		if *p == "" {
			*p = s
		}
		return *p == s
	}
}

// num sets a count. Clients send counts as integers, floats and texts.
func num(at func(*draft) *int64) func(*draft, *value) bool {
	return func(d *draft, v *value) bool {
		n, ok := number(v)
		if !ok {
			return false
		}
		p := at(d)
		if *p == 0 {
			*p = int64(n)
		}
		return *p == int64(n)
	}
}

// number reads a non-negative number of any spelling that an int64 can hold.
func number(v *value) (float64, bool) {
	var n float64
	switch v.kind {
	case kindInt:
		n = float64(int64(v.num))
	case kindDouble:
		n = math.Float64frombits(v.num)
	case kindText:
		var err error
		if n, err = strconv.ParseFloat(strings.TrimSpace(v.text), 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return n, n >= 0 && n < math.MaxInt64
}

func boolean(v *value) (is, ok bool) {
	if v.kind == kindBool {
		return v.num != 0, true
	}
	is, err := strconv.ParseBool(strings.TrimSpace(v.asText()))
	return is, err == nil
}

func millis(d *draft, v *value) bool {
	n, ok := number(v)
	if ok && n < float64(math.MaxInt64/int64(time.Millisecond)) {
		d.Duration = time.Duration(n * float64(time.Millisecond))
	}
	return ok
}

func host(d *draft, v *value) bool {
	if len(d.Destinations) == 0 {
		d.Destinations = []event.Destination{{Kind: "host", Value: event.HostOf(v.asText())}}
	}
	return false
}

func errorType(d *draft, v *value) bool {
	d.errType = v.asText()
	return false // Error may hold the message instead
}

// args sets a tool's arguments from a map or from JSON in a text.
func args(d *draft, v *value) bool {
	t := d.tool()
	switch {
	case v.kind == kindMap, v.kind == kindList:
		t.Args, t.ArgsState = event.FlattenArgs(v.raw())
	case isRedacted(v.asText()):
		t.ArgsState = event.StateRedacted
	default:
		t.Args, t.ArgsState = event.ParseArgs(v.asText())
	}
	return true
}

func result(d *draft, v *value) bool {
	d.tool().Result = content("", v.asText())
	return true
}

// content keeps apart what was there, what was empty and what the client had hidden. What is not there has no Content at all.
func content(role, text string) event.Content {
	if isRedacted(text) {
		return event.Content{Role: role, State: event.StateRedacted}
	}
	return event.Content{Role: role, State: event.StateFull, Text: text}
}

func isRedacted(text string) bool {
	if len(text) > 32 {
		return false
	}
	switch strings.ToUpper(strings.TrimSpace(text)) {
	case "<REDACTED>", "[REDACTED]", "__REDACTED__":
		return true
	}
	return false
}

// limitContent drops the oldest prompts where there are more texts than an event may have: a long conversation is repeated in each
// model call, and its newest part and the answer matter.
func limitContent(all []event.Content) []event.Content {
	excess := len(all) - event.MaxContents
	if excess <= 0 {
		return all
	}
	return slices.DeleteFunc(all, func(c event.Content) bool {
		drop := excess > 0 && c.Role == event.RolePrompt
		if drop {
			excess--
		}
		return drop
	})
}

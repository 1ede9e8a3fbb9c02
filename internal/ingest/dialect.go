package ingest

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

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
	log  func(*draft, plog.LogRecord)
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
	set func(*draft, pcommon.Value) bool
}

// draft is an event in the making.
type draft struct {
	event.Event
	item    string // where in the request it is
	scope   string
	dialect *dialect
	attrs   map[string]pcommon.Value // what no field took
	span    ptrace.Span
	isSpan  bool
	deep    []string // attributes that are nested too deep to be read
	op      string   // the dialect's own word for the kind
	failed  bool
	errType string
	// fallback names the agent where neither the span nor an ancestor does.
	fallback string
	// weak: the agent's name is only the name of its span, which for the root of a workflow is the workflow's.
	weak bool
	more []event.Event // further events that the item implies
}

// newDraft starts from what the resource says. Attributes nested deeper than maxValueDepth are not read.
func newDraft(base event.Event, scope pcommon.InstrumentationScope, attrs pcommon.Map, item string) *draft {
	d := &draft{Event: base, item: item, scope: scope.Name(), attrs: make(map[string]pcommon.Value, attrs.Len())}
	d.Labels = maps.Clone(base.Labels)
	d.Attrs = nil
	d.Source.Scope = scope.Name()
	d.Agent.Framework = framework(scope.Name())
	for k, v := range base.Attrs {
		d.attrs[k] = pcommon.NewValueStr(v)
	}
	for k, v := range attrs.All() {
		if !shallow(v, maxValueDepth) {
			d.deep = append(d.deep, k)
			continue
		}
		if !isLabel(k) {
			d.attrs[k] = v
			continue
		}
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		d.Labels[k] = v.AsString()
	}
	return d
}

// resourceAttrs are the facts about the machine that are worth a place in each event: they tell one copy of an agent from
// another. Command lines are left out because they hold prompts and keys.
var resourceAttrs = []string{"host.name", "host.id", "container.id", "cloud.account.id", "cloud.region", "process.owner"}

func resource(res pcommon.Resource) event.Event {
	var e event.Event
	get := func(key string) string {
		if v, ok := res.Attributes().Get(key); ok && shallow(v, maxValueDepth) {
			return v.AsString()
		}
		return ""
	}
	e.Agent.Service, e.Agent.Version = get("service.name"), get("service.version")
	if e.Agent.Class = get("tocsin.agent.class"); e.Agent.Class == "" {
		e.Agent.Class = get("service.namespace")
	}
	e.Source.Instance = get("service.instance.id")
	e.Attrs, e.Labels = map[string]string{}, map[string]string{}
	for _, key := range resourceAttrs {
		if v := get(key); v != "" {
			e.Attrs[key] = v
		}
	}
	for k := range res.Attributes().All() {
		if isLabel(k) {
			e.Labels[k] = get(k)
		}
	}
	return e
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
	for _, f := range fields {
		v, ok := d.attrs[f.key]
		if !ok {
			continue
		}
		// A null is what some clients send for "none".
		if v.Type() == pcommon.ValueTypeEmpty || f.set(d, v) {
			delete(d.attrs, f.key)
		}
	}
}

// attr returns an attribute's text without taking it.
func (d *draft) attr(key string) string {
	if v, ok := d.attrs[key]; ok {
		return v.AsString()
	}
	return ""
}

func (d *draft) has(key string) bool {
	_, ok := d.attrs[key]
	return ok
}

// text returns what no field took.
func (d *draft) text(hide bool) map[string]string {
	out := make(map[string]string, len(d.attrs))
	for k, v := range d.attrs {
		switch v.Type() {
		case pcommon.ValueTypeEmpty:
			continue
		case pcommon.ValueTypeBool, pcommon.ValueTypeInt, pcommon.ValueTypeDouble:
		default:
			if hide && !d.isMeta(k) {
				continue
			}
		}
		out[k] = v.AsString()
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
	start, end := d.span.StartTimestamp(), d.span.EndTimestamp()
	at := start
	if endKind(d.Kind) && end != 0 || start == 0 {
		at = end
	}
	d.Time = stamp(at)
	if start != 0 && end > start {
		d.Duration = end.AsTime().Sub(start.AsTime())
	}
}

// spanOutcome derives the outcome from several signals, because no client sends all of them.
func (d *draft) spanOutcome() {
	failed, message := d.failed || d.errType != "", ""
	if d.span.Status().Code() == ptrace.StatusCodeError {
		failed, message = true, d.span.Status().Message()
	}
	for _, e := range d.span.Events().All() {
		if e.Name() != "exception" {
			continue
		}
		failed = true
		if v, ok := e.Attributes().Get("exception.message"); ok && message == "" && shallow(v, maxValueDepth) {
			message = v.AsString()
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
func str(at func(*draft) *string) func(*draft, pcommon.Value) bool {
	return func(d *draft, v pcommon.Value) bool {
		s, p := v.AsString(), at(d)
		if *p == "" {
			*p = s
		}
		return *p == s
	}
}

// num sets a count. Clients send counts as integers, floats and texts.
func num(at func(*draft) *int64) func(*draft, pcommon.Value) bool {
	return func(d *draft, v pcommon.Value) bool {
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
func number(v pcommon.Value) (float64, bool) {
	var n float64
	switch v.Type() {
	case pcommon.ValueTypeInt:
		n = float64(v.Int())
	case pcommon.ValueTypeDouble:
		n = v.Double()
	case pcommon.ValueTypeStr:
		var err error
		if n, err = strconv.ParseFloat(strings.TrimSpace(v.Str()), 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return n, n >= 0 && n < math.MaxInt64
}

func boolean(v pcommon.Value) (value, ok bool) {
	if v.Type() == pcommon.ValueTypeBool {
		return v.Bool(), true
	}
	value, err := strconv.ParseBool(strings.TrimSpace(v.AsString()))
	return value, err == nil
}

func millis(d *draft, v pcommon.Value) bool {
	n, ok := number(v)
	if ok && n < float64(math.MaxInt64/int64(time.Millisecond)) {
		d.Duration = time.Duration(n * float64(time.Millisecond))
	}
	return ok
}

func host(d *draft, v pcommon.Value) bool {
	if len(d.Destinations) == 0 {
		d.Destinations = []event.Destination{{Kind: "host", Value: hostOf(v.AsString())}}
	}
	return false
}

func errorType(d *draft, v pcommon.Value) bool {
	d.errType = v.AsString()
	return false // Error may hold the message instead
}

// args sets a tool's arguments from a map or from JSON in a text.
func args(d *draft, v pcommon.Value) bool {
	t := d.tool()
	switch {
	case isRedacted(v.AsString()):
		t.ArgsState = event.StateRedacted
	case v.Type() == pcommon.ValueTypeMap, v.Type() == pcommon.ValueTypeSlice:
		t.Args, t.ArgsState = event.FlattenArgs(v.AsRaw())
	default:
		t.Args, t.ArgsState = event.ParseArgs(v.AsString())
	}
	return true
}

func result(d *draft, v pcommon.Value) bool {
	d.tool().Result = content("", v.AsString())
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

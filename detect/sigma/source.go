package sigma

import (
	"maps"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// source is a log source of Sigma in terms of this engine's events: which kinds they have, and what each field is.
type source struct {
	name string
	on   []event.Kind
	// guard is what makes an event one of the source's.
	guard []string
	// each is the list whose elements are the source's records, where one event holds several; the fields are those of an element.
	each    string
	fields  map[string]field
	capture string
	// keywords are the texts in which a value without a field is looked for.
	keywords []field
	windows  bool
	notes    []string
}

// kind says how a field's values are compared.
type kind int

const (
	plainText    kind = iota
	program           // a path of which only the base name is known
	originalName      // a program's name without a path
	command           // a command line that a launcher may stand before
	query             // of a URL
	stem              // path of a URL
	extension         // of the path of a URL
	address           // a host by its IP address
	number
	boolean
	outbound // true in every event
)

// field is a field of a log source.
type field struct {
	kind kind
	expr string
	// lower: the text is in lower case already.
	lower bool
	// positive is why the field can't be negated: it is not known of every record.
	positive string
	capture  string
	on       []event.Kind // for a source whose kinds follow from its fields
	guard    string       // what must hold for the field to be there
}

const ran = `outcome != "denied"`

// processFields are those of process_creation. A process is one command of a command line.
var processFields = map[string]field{
	"CommandLine": {kind: command, expr: ".text"},
	"Image":       {kind: program, expr: ".name", lower: true},
	"OriginalFileName": {
		kind: originalName, expr: ".name", lower: true,
		positive: "the name inside of a program's file is not known, so that it can't be told from the name of the file",
	},
}

var hostField = field{expr: ".value", lower: true}

// hostFields are those of connections and look-ups. A connection is one destination of an event.
var hostFields = map[string]field{
	"DestinationHostname": hostField, "dst_host": hostField, "QueryName": hostField, "query": hostField, "dns.question.name": hostField,
	"DestinationIp": {kind: address, expr: ".value", lower: true, positive: "a host that is given by its name has no known address"},
	"dst_ip":        {kind: address, expr: ".value", lower: true, positive: "a host that is given by its name has no known address"},
	"Initiated":     {kind: outbound},
}

// webFields are those of proxies and web servers: the request that a tool made.
var webFields = map[string]field{
	"c-uri":        {expr: "tool.url"},
	"cs-uri":       {expr: "tool.url"},
	"cs-host":      {expr: "tool.host", lower: true},
	"r-dns":        {expr: "tool.host", lower: true},
	"c-uri-query":  {kind: query, expr: "tool.url"},
	"cs-uri-query": {kind: query, expr: "tool.url"},
	"c-uri-stem":   {kind: stem, expr: "tool.url"},
	"cs-uri-stem":  {kind: stem, expr: "tool.url"},

	"c-uri-extension": {kind: extension, expr: "tool.url"},
}

var pathField = map[string]field{"TargetFilename": {expr: "tool.path"}, "FileName": {expr: "tool.path"}}

var (
	results = []event.Kind{event.KindToolResult}
	removes = `tool.name matches "(?i)delete|remove|unlink"`
)

// sources are the categories that have a counterpart.
var sources = map[string]source{
	"process_creation": {
		on: results, guard: []string{ran}, each: "tool.commands", fields: processFields, capture: "arguments",
		notes: []string{"Sees the commands that a tool was asked to run, not the processes that these start."},
	},
	"file_event":         {on: results, guard: []string{ran, `tool.effect == "write"`, "!(" + removes + ")"}, fields: pathField, capture: "arguments", notes: fileNotes},
	"file_delete":        {on: results, guard: []string{ran, `tool.effect == "write"`, removes}, fields: pathField, capture: "arguments", notes: fileNotes},
	"file_access":        {on: results, guard: []string{ran, `tool.effect == "read"`}, fields: pathField, capture: "arguments", notes: fileNotes},
	"network_connection": {on: results, guard: []string{ran}, each: "destinations", fields: hostFields, capture: "arguments", notes: hostNotes},
	"dns_query":          {on: results, guard: []string{ran}, each: "destinations", fields: hostFields, capture: "arguments", notes: hostNotes},
	"dns":                {on: results, guard: []string{ran}, each: "destinations", fields: hostFields, capture: "arguments", notes: hostNotes},
	"proxy":              {on: results, guard: []string{ran, `tool.url != ""`}, fields: webFields, capture: "arguments", notes: hostNotes},
	"webserver": {
		on: results, guard: []string{ran, `tool.url != ""`}, fields: webFields, capture: "arguments",
		notes: []string{"Sees the requests that a tool makes to a web server, not those that a server receives."},
	},
}

var (
	fileNotes = []string{"Sees the path that a file tool was given, as it was given, not what a command does to files."}
	hostNotes = []string{"Sees the hosts and URLs among a tool's arguments, not what a command connects to."}
)

// agentProducts name the telemetry of agents itself as a log source. Its fields are those of the rule language.
var agentProducts = []string{"agent", "ai", "ai_agent", "genai", "llm", "tocsin"}

// agentFields are the fields of agents' events by the names of the rule language, and by those of the OpenTelemetry conventions.
var agentFields = map[string]field{
	"outcome": {expr: "outcome"}, "error": {expr: "error", capture: "content"},
	"agent.id": {expr: "agent.id"}, "agent.name": {expr: "agent.name"}, "agent.service": {expr: "agent.service"},
	"agent.class": {expr: "agent.class"}, "agent.version": {expr: "agent.version"}, "agent.framework": {expr: "agent.framework"},
	"gen_ai.agent.id": {expr: "agent.id"}, "gen_ai.agent.name": {expr: "agent.name"}, "service.name": {expr: "agent.service"},
	"session.id": {expr: "session.id"}, "gen_ai.conversation.id": {expr: "session.id"},
	"session.tainted": {kind: boolean, expr: "session.tainted"}, "session.hidden_text": {kind: boolean, expr: "session.hidden_text"},
	"session.instructed": {kind: boolean, expr: "session.instructed"}, "session.saw_private": {kind: boolean, expr: "session.saw_private"},
	"session.tool_calls": {kind: number, expr: "session.tool_calls"}, "session.denied": {kind: number, expr: "session.denied"},
	"tool.name": {expr: "tool.name", on: results}, "gen_ai.tool.name": {expr: "tool.name", on: results},
	"tool.server": {expr: "tool.server", on: results}, "tool.effect": {expr: "tool.effect", on: results},
	"tool.command": {expr: "tool.command", on: results, capture: "arguments"},
	"tool.path":    {expr: "tool.path", on: results, capture: "arguments"},
	"tool.url":     {expr: "tool.url", on: results, capture: "arguments"}, "url.full": {expr: "tool.url", on: results, capture: "arguments"},
	"tool.host": {expr: "tool.host", lower: true, on: results, capture: "arguments"},
	"tool.args": {expr: "tool.args", on: results, capture: "arguments"}, "gen_ai.tool.call.arguments": {expr: "tool.args", on: results, capture: "arguments"},
	"tool.result": {expr: "tool.result", on: results, capture: "content"}, "gen_ai.tool.call.result": {expr: "tool.result", on: results, capture: "content"},
	"decision.effect": {expr: "decision.effect", on: []event.Kind{event.KindToolDecision}},
	"decision.by":     {expr: "decision.by", on: []event.Kind{event.KindToolDecision}},
	"decision.mode":   {expr: "decision.mode", on: []event.Kind{event.KindToolDecision}},
	"model.provider":  {expr: "model.provider", on: modelCalls}, "gen_ai.provider.name": {expr: "model.provider", on: modelCalls},
	"model.name": {expr: "model.name", on: modelCalls}, "gen_ai.request.model": {expr: "model.name", on: modelCalls},
	"model.input_tokens":         {kind: number, expr: "model.input_tokens", on: modelCalls},
	"gen_ai.usage.input_tokens":  {kind: number, expr: "model.input_tokens", on: modelCalls},
	"model.output_tokens":        {kind: number, expr: "model.output_tokens", on: modelCalls},
	"gen_ai.usage.output_tokens": {kind: number, expr: "model.output_tokens", on: modelCalls},
	"text":                       {expr: "text", on: []event.Kind{event.KindPrompt, event.KindResponse}, capture: "content"},
	"prompt":                     {expr: "text", on: []event.Kind{event.KindPrompt}, guard: `kind == "prompt"`, capture: "content"},
	"response":                   {expr: "text", on: []event.Kind{event.KindResponse}, guard: `kind == "response"`, capture: "content"},
}

var modelCalls = []event.Kind{event.KindModelCall}

// agentKeywords are the texts of an agent's event.
var agentKeywords = []field{
	{expr: "text", on: []event.Kind{event.KindPrompt, event.KindResponse}, capture: "content"},
	{expr: "tool.args", on: results},
	{expr: "tool.result", on: results},
	{expr: "error"},
}

// argPrefix begins the name of a field that is one argument of a tool.
const argPrefix = "tool.args."

// sourceOf returns the log source of a rule, or why there is none.
func sourceOf(d *document) (*source, *Problem) {
	at := d.get("logsource")
	category, product, service := scalar(child(at, "category")), scalar(child(at, "product")), scalar(child(at, "service"))
	name := strings.Join(slices.DeleteFunc([]string{product, category, service}, func(s string) bool { return s == "" }), "/")
	refuse := func(why string) (*source, *Problem) {
		return nil, d.problem(at, "logsource", ReasonSource, "%q %s", name, why)
	}
	if at == nil {
		return refuse("is missing")
	}
	if slices.Contains(agentProducts, product) && (category == "" || category == "application") {
		s := source{name: name, fields: agentFields, capture: "metadata", keywords: agentKeywords}
		if service != "" {
			if !slices.Contains(event.Kinds(), event.Kind(service)) {
				return refuse("has a service that is no kind of event" + strict.Suggest(service, kindNames()))
			}
			s.on = []event.Kind{event.Kind(service)}
		}
		return &s, nil
	}
	s, ok := sources[category]
	switch {
	case !ok && category == "":
		return refuse("is not sent by any source of agents")
	case !ok:
		return refuse("is a category that no source of agents sends; there are " + strings.Join(slices.Sorted(maps.Keys(sources)), ", "))
	case service != "":
		return refuse("is the log of one service, which no source of agents sends")
	case category != "proxy" && category != "webserver" && !slices.Contains([]string{"", "linux", "macos", "windows"}, product):
		return refuse("is the log of a product that is no host of agents")
	case product != "" && (category == "proxy" || category == "webserver"):
		return refuse("is the log of one product, which no source of agents sends")
	}
	s.name, s.windows = name, product == "windows"
	return &s, nil
}

func kindNames() []string {
	var out []string
	for _, k := range event.Kinds() {
		out = append(out, string(k))
	}
	return out
}

// field finds a field of the source; the text says why there is none.
func (s *source) field(name string) (field, string) {
	if f, ok := s.fields[name]; ok {
		return f, ""
	}
	if arg, ok := strings.CutPrefix(name, argPrefix); ok && arg != "" && len(s.keywords) > 0 {
		return field{expr: "arg(" + quote(arg) + ")", on: results, capture: "arguments"}, ""
	}
	known := slices.Sorted(maps.Keys(s.fields))
	if near := strict.Suggest(name, known); near != "" {
		return field{}, "no source of agents sends it" + near
	}
	if len(known) > 8 {
		return field{}, "no source of agents sends it"
	}
	return field{}, "no source of agents sends it; known of " + s.name + " are " + strings.Join(known, ", ")
}

// numeric is the field as a number: that of an argument is read by another function.
func (f field) numeric() (field, bool) {
	if f.kind == number {
		return f, true
	}
	if rest, ok := strings.CutPrefix(f.expr, "arg("); ok {
		f.kind, f.expr = number, "number("+rest
		return f, true
	}
	return f, false
}

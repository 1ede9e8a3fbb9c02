package ingest

import (
	"strconv"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// openInference reads the spans of Arize's OpenInference instrumentations.
func openInference() dialect {
	return dialect{
		name:   "openinference",
		isSpan: func(d *draft) bool { return d.has("openinference.span.kind") },
		fields: openInferenceFields(),
		span:   openInferenceSpan,
		meta: []string{
			"error.type", "llm.finish_reason", "input.mime_type", "output.mime_type", "graph.node.", "tag.tags", "llm.system",
		},
	}
}

func openInferenceFields() []field {
	return []field{
		{"openinference.span.kind", str(func(d *draft) *string { return &d.op })},
		{"agent.name", str(func(d *draft) *string { return &d.Agent.Name })},
		{"session.id", str(func(d *draft) *string { return &d.Session.ID })},
		{"user.id", str(func(d *draft) *string { return &d.Principal.ID })},
		{"metadata", langChainMetadata},
		{"llm.provider", str(func(d *draft) *string { return &d.model().Provider })},
		{"llm.system", llmSystem},
		{"llm.model_name", str(func(d *draft) *string { return &d.model().Name })},
		{"embedding.model_name", str(func(d *draft) *string { return &d.model().Name })},
		{"llm.token_count.prompt", num(func(d *draft) *int64 { return &d.model().InputTokens })},
		{"llm.token_count.completion", num(func(d *draft) *int64 { return &d.model().OutputTokens })},
		{"llm.token_count.prompt_details.cache_read", num(func(d *draft) *int64 { return &d.model().CachedTokens })},
		{"error.type", errorType},
	}
}

// openInferenceKinds holds the kinds that need nothing else; CHAIN is an agent only at the root.
var openInferenceKinds = map[string]event.Kind{
	"AGENT": event.KindAgentInvoke, "LLM": event.KindModelCall, "EMBEDDING": event.KindModelCall, "TOOL": event.KindToolResult,
	"RETRIEVER": event.KindRetrieval, "RERANKER": event.KindRetrieval, "GUARDRAIL": event.KindGuardrail,
}

func openInferenceSpan(d *draft) {
	root := d.span.parent == spanID{}
	d.Kind = openInferenceKinds[d.op]
	if d.op == "CHAIN" && root {
		d.Kind = event.KindAgentInvoke
	}
	switch d.Kind {
	case event.KindAgentInvoke:
		d.agentSpan(root)
	case event.KindModelCall:
		d.llmSpan()
	case event.KindToolResult:
		d.toolSpan()
	case event.KindRetrieval:
		d.retrieverSpan()
	case event.KindGuardrail:
		d.guardrailSpan()
	case "":
		d.Kind = event.KindOther
		d.set("openinference.span.kind", textValue(d.op))
	}
	if d.op != "AGENT" {
		d.fallback = d.attr("graph.node.id")
	}
}

// agentSpan names an AGENT span by its own name where nothing else does. The root of an OpenAI Agents workflow is an AGENT too; it
// has no graph.node.id, and the agents beneath it have.
func (d *draft) agentSpan(root bool) {
	if d.op == "AGENT" && d.Agent.Name == "" {
		d.Agent.Name, d.weak = d.Trace.Name, !d.has("graph.node.id")
	}
	if in, ok := d.take("input.value"); ok {
		d.agentInput(in, root)
	}
	if out, ok := d.take("output.value"); ok {
		decoded := d.decoded(&out)
		all := d.messages(&decoded)
		// The output repeats the whole conversation; its last message is the answer.
		for len(all) > 1 && (all[0].role != event.RoleResponse || all[0].text == "" || hasResponse(all[1:])) {
			all = all[1:]
		}
		if len(all) > 0 {
			d.add(all[:1], event.RoleResponse)
		} else if decoded.kind == kindText {
			d.Content = append(d.Content, content(event.RoleResponse, decoded.text))
		} else {
			d.set("output.value", out)
		}
	}
}

func hasResponse(all []message) bool {
	for _, m := range all {
		if m.role == event.RoleResponse && m.text != "" {
			return true
		}
	}
	return false
}

// agentInput takes the messages of the input. An input without messages is a prompt only at the root: further down, a framework
// passes its state, and with it what tools returned.
func (d *draft) agentInput(in value, root bool) {
	decoded := d.decoded(&in)
	switch all := d.messages(&decoded); {
	case len(all) > 0:
		d.add(all, event.RoleSystem, event.RolePrompt)
	case decoded.kind == kindText || root:
		d.Content = append(d.Content, content(event.RolePrompt, in.asText()))
	default:
		d.set("input.value", in)
	}
}

func (d *draft) llmSpan() {
	asked, answered := d.nested("llm.input_messages."), d.nested("llm.output_messages.")
	in, out := d.messages(&asked), d.messages(&answered)
	if raw, ok := d.take("input.value"); ok {
		decoded := d.decoded(&raw)
		all := d.messages(&decoded)
		switch {
		case len(in) == 0 && len(all) == 0:
			d.set("input.value", raw)
		case len(in) == 0:
			in = all
		default: // LangChain's flattened messages lack the system's text
			for i, m := range in {
				if m.role == event.RoleSystem && m.text == "" && i < len(all) && all[i].role == m.role {
					in[i].text = all[i].text
				}
			}
		}
	}
	if raw, ok := d.take("output.value"); ok && len(out) == 0 {
		decoded := d.decoded(&raw)
		if out = d.messages(&decoded); len(out) == 0 {
			d.set("output.value", raw)
		}
	}
	d.add(in, event.RoleSystem, event.RolePrompt)
	d.add(out, event.RoleResponse)
	// The plain OpenAI instrumentation has no spans for tools: what the model asked for is all that is known of a call.
	if strings.Contains(d.scope, "instrumentation-openai") && !strings.Contains(d.scope, "agents") {
		d.requests(out)
	}
}

func (d *draft) requests(out []message) {
	for _, m := range out {
		for _, c := range m.calls {
			if len(d.more) == event.MaxArgs {
				return
			}
			t := &event.Tool{Name: c.name, CallID: c.id}
			if c.args.kind == kindText {
				t.Args, t.ArgsState = event.ParseArgs(c.args.text)
			} else if c.args.kind != kindEmpty {
				t.Args, t.ArgsState = event.FlattenArgs(c.args.raw())
			}
			e := event.Event{Kind: event.KindToolRequest, Time: stamp(d.span.end), Tool: t, Tenant: d.Tenant}
			if e.Time.IsZero() {
				e.Time = stamp(d.span.start)
			}
			if d.Trace.TraceID != "" && d.Trace.SpanID != "" {
				e.ID = event.NewID(d.Tenant, e.Kind, d.Trace.TraceID, d.Trace.SpanID, c.id, strconv.Itoa(len(d.more)))
			}
			d.more = append(d.more, e)
		}
	}
}

func (d *draft) toolSpan() {
	t := d.tool()
	t.Name = d.Trace.Name
	if v, ok := d.take("tool.name"); ok {
		t.Name = v.asText()
	}
	for _, key := range []string{"tool_call.id", "tool.id"} {
		if v, ok := d.take(key); ok && t.CallID == "" {
			t.CallID = v.asText()
		}
	}
	in, ok := d.take("input.value")
	if !ok {
		in, ok = d.take("tool.parameters")
	}
	if ok {
		args(d, &in)
	}
	out, ok := d.take("output.value")
	if !ok {
		return
	}
	t.Result = content("", out.asText())
	// LangChain wraps the result: {"output":{"kwargs":{"content":…,"tool_call_id":…,"status":…}}}
	decoded := d.decoded(&out)
	m := &decoded
	if wrapped := m.get("output"); wrapped != nil && wrapped.kind == kindMap {
		m = wrapped
	}
	kwargs := m.get("kwargs")
	if kwargs == nil || kwargs.kind != kindMap {
		return
	}
	said := kwargs.get("content")
	if text := partsText(said, 0); text != "" || said != nil && said.kind == kindText {
		t.Result = content("", text)
	}
	if t.CallID == "" {
		t.CallID = kwargs.get("tool_call_id").str()
	}
	d.failed = kwargs.get("status").str() == "error"
}

func (d *draft) retrieverSpan() {
	if in, ok := d.take("input.value"); ok {
		d.Content = append(d.Content, content(event.RolePrompt, in.asText()))
	}
	documents := d.nested("retrieval.documents.")
	n := 0
	if documents.kind == kindList {
		n = len(documents.items)
	}
	for i := range n {
		if text := documents.items[i].get("document").get("content").str(); text != "" {
			d.Content = append(d.Content, content(event.RoleDocument, text))
		}
	}
	if out, ok := d.take("output.value"); ok && n == 0 {
		d.Content = append(d.Content, content(event.RoleDocument, out.asText()))
	}
}

func (d *draft) guardrailSpan() {
	v := d.find("guardrail.triggered")
	if v == nil {
		return
	}
	if triggered, ok := boolean(v); ok {
		d.decision().By, d.Decision.Effect = "policy", "allow"
		if triggered {
			d.Decision.Effect, d.Outcome = "deny", event.OutcomeDenied
		}
	}
}

func (d *draft) take(key string) (value, bool) {
	at := d.find(key)
	if at == nil {
		return value{}, false
	}
	v := *at
	at.kind = kindTaken
	return v, v.kind != kindEmpty
}

// llmSystem names the provider only where llm.provider doesn't, and only for model calls: every span carries it.
func llmSystem(d *draft, v *value) bool {
	if d.op != "LLM" && d.op != "EMBEDDING" {
		return false
	}
	if d.model().Provider == "" {
		d.Model.Provider = v.asText()
	}
	return d.Model.Provider == v.asText()
}

// langChainMetadata reads what LangChain says on every span. The rest of it stays among the attributes.
func langChainMetadata(d *draft, v *value) bool {
	m := d.decoded(v)
	for _, f := range []struct {
		key string
		at  *string
	}{
		{"lc_agent_name", &d.Agent.Name},
		{"session_id", &d.Session.ID},
		{"thread_id", &d.Session.ID},
		{"conversation_id", &d.Session.ID},
		{"user_id", &d.Principal.ID},
	} {
		if *f.at == "" {
			*f.at = m.get(f.key).str()
		}
	}
	return false
}

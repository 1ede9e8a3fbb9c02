package ingest

import (
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

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
	root := d.span.ParentSpanID().IsEmpty()
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
		d.attrs["openinference.span.kind"] = pcommon.NewValueStr(d.op)
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
		all := messages(decoded(out), 0)
		// The output repeats the whole conversation; its last message is the answer.
		for len(all) > 1 && (all[0].role != event.RoleResponse || all[0].text == "" || hasResponse(all[1:])) {
			all = all[1:]
		}
		if len(all) > 0 {
			d.add(all[:1], event.RoleResponse)
		} else if text, ok := plain(out); ok {
			d.Content = append(d.Content, content(event.RoleResponse, text))
		} else {
			d.attrs["output.value"] = out
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
func (d *draft) agentInput(in pcommon.Value, root bool) {
	if all := messages(decoded(in), 0); len(all) > 0 {
		d.add(all, event.RoleSystem, event.RolePrompt)
		return
	}
	if text, ok := plain(in); ok || root {
		if !ok {
			text = in.AsString()
		}
		d.Content = append(d.Content, content(event.RolePrompt, text))
		return
	}
	d.attrs["input.value"] = in
}

func (d *draft) llmSpan() {
	in := messages(d.nested("llm.input_messages."), 0)
	out := messages(d.nested("llm.output_messages."), 0)
	if raw, ok := d.take("input.value"); ok {
		all := messages(decoded(raw), 0)
		switch {
		case len(in) == 0 && len(all) == 0:
			d.attrs["input.value"] = raw
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
		if out = messages(decoded(raw), 0); len(out) == 0 {
			d.attrs["output.value"] = raw
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
			if text, ok := c.args.(string); ok {
				t.Args, t.ArgsState = event.ParseArgs(text)
			} else if c.args != nil {
				t.Args, t.ArgsState = event.FlattenArgs(c.args)
			}
			e := event.Event{Kind: event.KindToolRequest, Time: stamp(d.span.EndTimestamp()), Tool: t, Tenant: d.Tenant}
			if e.Time.IsZero() {
				e.Time = stamp(d.span.StartTimestamp())
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
		t.Name = v.AsString()
	}
	for _, key := range []string{"tool_call.id", "tool.id"} {
		if v, ok := d.take(key); ok && t.CallID == "" {
			t.CallID = v.AsString()
		}
	}
	in, ok := d.take("input.value")
	if !ok {
		in, ok = d.take("tool.parameters")
	}
	if ok {
		args(d, in)
	}
	out, ok := d.take("output.value")
	if !ok {
		return
	}
	t.Result = content("", out.AsString())
	// LangChain wraps the result: {"output":{"kwargs":{"content":…,"tool_call_id":…,"status":…}}}
	m, _ := decoded(out).(map[string]any)
	if wrapped, ok := m["output"].(map[string]any); ok {
		m = wrapped
	}
	kwargs, ok := m["kwargs"].(map[string]any)
	if !ok {
		return
	}
	if text, ok := kwargs["content"].(string); ok {
		t.Result = content("", text)
	} else if text := partsText(kwargs["content"], 0); text != "" {
		t.Result = content("", text)
	}
	if t.CallID == "" {
		t.CallID = asString(kwargs["tool_call_id"])
	}
	d.failed = asString(kwargs["status"]) == "error"
}

func (d *draft) retrieverSpan() {
	if in, ok := d.take("input.value"); ok {
		d.Content = append(d.Content, content(event.RolePrompt, in.AsString()))
	}
	list, _ := d.nested("retrieval.documents.").([]any)
	for _, item := range list {
		doc, _ := item.(map[string]any)
		inner, _ := doc["document"].(map[string]any)
		if text := asString(inner["content"]); text != "" {
			d.Content = append(d.Content, content(event.RoleDocument, text))
		}
	}
	if out, ok := d.take("output.value"); ok && len(list) == 0 {
		d.Content = append(d.Content, content(event.RoleDocument, out.AsString()))
	}
}

func (d *draft) guardrailSpan() {
	v, ok := d.attrs["guardrail.triggered"]
	if !ok {
		return
	}
	if triggered, ok := boolean(v); ok {
		d.decision().By, d.Decision.Effect = "policy", "allow"
		if triggered {
			d.Decision.Effect, d.Outcome = "deny", event.OutcomeDenied
		}
	}
}

func (d *draft) take(key string) (pcommon.Value, bool) {
	v, ok := d.attrs[key]
	delete(d.attrs, key)
	return v, ok && v.Type() != pcommon.ValueTypeEmpty
}

// plain returns a text that is not JSON.
func plain(v pcommon.Value) (string, bool) {
	text, ok := decoded(v).(string)
	return text, ok
}

// llmSystem names the provider only where llm.provider doesn't, and only for model calls: every span carries it.
func llmSystem(d *draft, v pcommon.Value) bool {
	if d.op != "LLM" && d.op != "EMBEDDING" {
		return false
	}
	if d.model().Provider == "" {
		d.Model.Provider = v.AsString()
	}
	return d.Model.Provider == v.AsString()
}

// langChainMetadata reads what LangChain says on every span. The rest of it stays among the attributes.
func langChainMetadata(d *draft, v pcommon.Value) bool {
	m, _ := decoded(v).(map[string]any)
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
			*f.at = asString(m[f.key])
		}
	}
	return false
}

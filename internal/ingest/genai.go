package ingest

import (
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// genAI reads spans of the OpenTelemetry GenAI and MCP conventions from 1.37 on, and the spellings they had before and got since.
func genAI() dialect {
	return dialect{
		name: "gen_ai",
		isSpan: func(d *draft) bool {
			return d.has("gen_ai.operation.name") || d.has("gen_ai.provider.name") || d.has("mcp.method.name") || d.has("gen_ai.system")
		},
		fields: genAIFields(),
		span:   genAISpan,
		meta: []string{
			"error.type", "gen_ai.operation.name", "gen_ai.response.id", "gen_ai.response.model", "gen_ai.response.finish_reasons",
			"gen_ai.tool.type", "gen_ai.output.type", "gen_ai.agent.id", "gen_ai.data_source.id", "gen_ai.workflow.name",
			"gen_ai.guardrail.verdict.type", "gen_ai.guardrail.action.type", "gen_ai.memory.store.id", "gen_ai.memory.record.id", "mcp.method.name",
			"mcp.protocol.version", "jsonrpc.", "rpc.", "network.",
		},
	}
}

// genAIFields is a function, as each field's setter is made when the Mapper is: nothing is shared that could be changed.
func genAIFields() []field {
	return []field{
		{"gen_ai.operation.name", str(func(d *draft) *string { return &d.op })},
		{"gen_ai.agent.name", str(func(d *draft) *string { return &d.Agent.Name })},
		{"gen_ai.agent.version", func(d *draft, v *value) bool { d.Agent.Version = v.asText(); return true }},
		{"gen_ai.conversation.id", str(func(d *draft) *string { return &d.Session.ID })},
		{"session.id", str(func(d *draft) *string { return &d.Session.ID })},
		{"user.id", str(func(d *draft) *string { return &d.Principal.ID })},
		{"enduser.id", str(func(d *draft) *string { return &d.Principal.ID })},
		{"user.email", str(func(d *draft) *string { return &d.Principal.Email })},
		{"gen_ai.provider.name", str(func(d *draft) *string { return &d.model().Provider })},
		{"gen_ai.system", str(func(d *draft) *string { return &d.model().Provider })},
		{"gen_ai.request.model", str(func(d *draft) *string { return &d.model().Name })},
		{"gen_ai.response.model", str(func(d *draft) *string { return &d.model().Name })},
		{"gen_ai.usage.input_tokens", num(func(d *draft) *int64 { return &d.model().InputTokens })},
		{"gen_ai.usage.prompt_tokens", num(func(d *draft) *int64 { return &d.model().InputTokens })},
		{"gen_ai.usage.output_tokens", num(func(d *draft) *int64 { return &d.model().OutputTokens })},
		{"gen_ai.usage.completion_tokens", num(func(d *draft) *int64 { return &d.model().OutputTokens })},
		{"gen_ai.usage.cache_read.input_tokens", num(func(d *draft) *int64 { return &d.model().CachedTokens })},
		{"gen_ai.tool.name", str(func(d *draft) *string { return &d.tool().Name })},
		{"gen_ai.tool.call.id", str(func(d *draft) *string { return &d.tool().CallID })},
		{"gen_ai.tool.call_id", str(func(d *draft) *string { return &d.tool().CallID })},
		{"gen_ai.tool.call.arguments", args},
		{"gen_ai.tool.call.result", result},
		{"error.type", errorType},
		{"gen_ai.system_instructions", conversation(event.RoleSystem, event.RoleSystem)},
		{"gen_ai.input.messages", conversation(event.RolePrompt, event.RoleSystem, event.RolePrompt)},
		{"gen_ai.prompt", conversation(event.RolePrompt, event.RoleSystem, event.RolePrompt)},
		{"gen_ai.output.messages", conversation(event.RoleResponse, event.RoleResponse)},
		{"gen_ai.completion", conversation(event.RoleResponse, event.RoleResponse)},
		{"gen_ai.retrieval.query.text", conversation(event.RolePrompt, event.RolePrompt)},
		{"gen_ai.retrieval.documents", document},
		{"gen_ai.memory.records", document},
	}
}

var genAIKinds = map[string]event.Kind{
	"chat": event.KindModelCall, "generate_content": event.KindModelCall, "text_completion": event.KindModelCall,
	"embeddings": event.KindModelCall, "invoke_agent": event.KindAgentInvoke, "invoke_workflow": event.KindAgentInvoke,
	"create_agent": event.KindConfig, "execute_tool": event.KindToolResult, "retrieval": event.KindRetrieval,
	"search_memory": event.KindMemory, "create_memory": event.KindMemory, "update_memory": event.KindMemory,
	"upsert_memory": event.KindMemory, "delete_memory": event.KindMemory, "create_memory_store": event.KindMemory,
	"delete_memory_store": event.KindMemory, "run_guardrail": event.KindGuardrail,
}

// providers maps the provider names that were renamed.
var providers = map[string]string{
	"vertex_ai": "gcp.vertex_ai", "gemini": "gcp.gemini", "az.ai.inference": "azure.ai.inference", "az.ai.openai": "azure.ai.openai",
}

func genAISpan(d *draft) {
	d.Kind = genAIKinds[d.op]
	if d.op == "" {
		d.Kind = d.kindWithoutOperation()
	}
	if d.Kind == "" {
		d.Kind = event.KindOther
	}
	// These kinds have more than one operation.
	if d.Kind == event.KindOther || d.Kind == event.KindMemory || d.Kind == event.KindConfig {
		d.set("gen_ai.operation.name", textValue(d.op))
	}
	// Releases before 1.37 flattened the messages.
	prompt, completion := d.nested("gen_ai.prompt."), d.nested("gen_ai.completion.")
	d.add(d.messages(&prompt), event.RoleSystem, event.RolePrompt)
	d.add(d.messages(&completion), event.RoleResponse)
	if d.Model != nil {
		if p, ok := providers[d.Model.Provider]; ok {
			d.Model.Provider = p
		}
	}
	address := d.attr("server.address")
	switch {
	case d.Kind == event.KindToolResult:
		// Destinations of a tool are read from its arguments; the address is where an MCP server is reached.
		if d.has("mcp.method.name") && d.tool().Server == "" && !strings.HasPrefix(d.Tool.Name, "mcp__") {
			d.Tool.Server = address
		}
		d.tool()
	case address != "":
		d.Destinations = []event.Destination{{Kind: "host", Value: event.HostOf(address)}}
	}
}

// kindWithoutOperation serves the spans of before gen_ai.operation.name was required.
func (d *draft) kindWithoutOperation() event.Kind {
	switch {
	case d.attr("mcp.method.name") == "tools/call", d.Tool != nil && d.Tool.Name != "" && !d.has("mcp.method.name"):
		return event.KindToolResult
	case d.Model != nil && d.Model.Name != "":
		return event.KindModelCall
	}
	return event.KindOther
}

func document(d *draft, v *value) bool {
	d.Content = append(d.Content, content(event.RoleDocument, v.asText()))
	return true
}

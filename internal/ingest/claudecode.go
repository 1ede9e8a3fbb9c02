package ingest

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// claudeCode reads the log records of Claude Code and its Agent SDK. Its spans (a beta) tell the same happenings again and are
// left out.
func claudeCode() dialect {
	is := func(d *draft) bool {
		return strings.HasPrefix(d.scope, "com.anthropic.claude_code") || d.Agent.Service == "claude-code"
	}
	events := claudeEvents()
	return dialect{
		name: "claude_code", isSpan: is, isLog: is,
		fields: claudeFields(),
		log:    func(d *draft, rec *otlpRecord) { claudeLog(d, rec, events) },
		meta: []string{
			"event.name", "anthropic.provider", "terminal.type", "app.", "message.uuid", "request_id", "query_source", "speed", "effort",
			"tool_source", "mcp_server_scope", "error_type", "error_category", "auth_method", "action", "status", "transport_type",
			"server_scope", "server_name", "is_plugin", "error_code", "managed_settings.", "plugin.", "plugin_id_hash", "marketplace.",
			"enabled_via", "safe_mode", "hook_event", "hook_type", "hook_source", "hook_name", "from_mode", "to_mode", "trigger",
			"skill.name", "mcp_server.name", "mcp_tool.name", "prompt_length", "tool_input_size_bytes", "command_source", "vcs.ref.head.",
		},
	}
}

func claudeFields() []field {
	return []field{
		{"event.name", str(func(d *draft) *string { return &d.op })},
		{"event.sequence", num(func(d *draft) *int64 { return &d.Seq })},
		{"agent.name", str(func(d *draft) *string { return &d.Agent.Name })},
		{"session.id", str(func(d *draft) *string { return &d.Session.ID })},
		{"prompt.id", str(func(d *draft) *string { return &d.Session.Turn })},
		{"user.account_uuid", str(func(d *draft) *string { return &d.Principal.ID })},
		{"user.id", str(func(d *draft) *string { return &d.Principal.ID })},
		{"user.email", str(func(d *draft) *string { return &d.Principal.Email })},
		{"organization.id", str(func(d *draft) *string { return &d.Principal.Org })},
		{"app.version", str(func(d *draft) *string { return &d.Source.ProductVersion })},
		{"event.timestamp", claudeTime},
		{"duration_ms", millis},
		{"error", str(func(d *draft) *string { return &d.Error })},
		{"success", claudeSuccess},
	}
}

// claudeEvent is what an event's name says: its kind, and the fields that only such an event has.
type claudeEvent struct {
	kind   event.Kind
	fields []field
}

func claudeEvents() map[string]claudeEvent {
	return map[string]claudeEvent{
		"user_prompt":               {event.KindPrompt, []field{{"prompt", text(event.RolePrompt)}, {"prompt_text", text(event.RolePrompt)}}},
		"assistant_response":        {event.KindResponse, append(claudeModel(), field{"response", text(event.RoleResponse)})},
		"api_request":               {event.KindModelCall, claudeModel()},
		"tool_decision":             {event.KindToolDecision, append(claudeTool(), field{"decision", claudeVerdict}, field{"source", claudeBy}, field{"permission_mode", claudeMode})},
		"tool_result":               {event.KindToolResult, append(claudeTool(), field{"decision_type", claudeVerdict}, field{"decision_source", claudeBy})},
		"mcp_server_connection":     {event.KindMCPServer, []field{{"status", claudeStatus}}},
		"permission_mode_changed":   {event.KindSession, nil},
		"plugin_loaded":             {event.KindConfig, nil},
		"plugin_installed":          {event.KindConfig, nil},
		"hook_registered":           {event.KindConfig, nil},
		"managed_settings_resolved": {event.KindConfig, nil},
		"auth":                      {event.KindAuth, nil},
	}
}

func claudeTool() []field {
	return []field{
		{"tool_name", str(func(d *draft) *string { return &d.tool().Name })},
		{"tool_use_id", str(func(d *draft) *string { return &d.tool().CallID })},
		{"tool_parameters", claudeParameters},
		{"tool_input", args},
		{"tool_result_size_bytes", claudeResultSize},
	}
}

func claudeModel() []field {
	return []field{
		{"model", str(func(d *draft) *string { return &d.model().Name })},
		{"input_tokens", num(func(d *draft) *int64 { return &d.model().InputTokens })},
		{"output_tokens", num(func(d *draft) *int64 { return &d.model().OutputTokens })},
		{"cache_read_tokens", num(func(d *draft) *int64 { return &d.model().CachedTokens })},
		// The client counts cached tokens apart; InputTokens counts all input. Those that were read are added in claudeLog.
		{"cache_creation_tokens", addInput},
		{"cost_usd_micros", num(func(d *draft) *int64 { return &d.model().CostMicros })},
		{"cost_usd", claudeCost},
	}
}

func claudeLog(d *draft, rec *otlpRecord, events map[string]claudeEvent) {
	d.Source.Product, d.Source.ProductVersion = "claude-code", d.Agent.Version
	if v := d.attr("app.version"); v != "" {
		d.Source.ProductVersion = v
	}
	sequenced := d.has("event.sequence")
	d.apply(d.dialect.fields)
	// The name is an attribute; the body repeats it with a prefix, and other SDKs may use OTLP's own field.
	d.op = strings.TrimPrefix(cmp.Or(d.op, rec.name, rec.body.str()), "claude_code.")
	known := events[d.op]
	d.Kind = cmp.Or(known.kind, event.KindOther)
	d.apply(known.fields)
	d.Trace.Name = d.op
	if d.Model != nil {
		d.Model.InputTokens += d.Model.CachedTokens
		d.Model.Provider = "anthropic"
	}
	if strings.HasSuffix(d.op, "_error") {
		d.Outcome = event.OutcomeFailure
	}
	if t := d.Tool; t != nil {
		t.Redacted = t.Server == "" && slices.Contains([]string{"mcp_tool", "custom", "third-party"}, t.Name)
	}
	if d.Agent.Name != "" {
		d.Agent.Basis = "attr"
	}
	d.claudeID(sequenced)
	d.sessionOfTrace()
}

// claudeID makes the reports of one tool call one event, and of everything else one event for each sequence number. The time is
// part of it because a resumed session counts from 0 again.
func (d *draft) claudeID(sequenced bool) {
	switch {
	case d.Session.ID == "":
	case d.Tool != nil && d.Tool.CallID != "":
		d.ID = event.NewID(d.Tenant, d.Kind, d.Session.ID, d.Tool.CallID)
	case sequenced:
		d.ID = event.NewID(d.Tenant, d.Kind, d.Session.ID, strconv.FormatInt(d.Seq, 10), strconv.FormatInt(d.Time.UnixNano(), 10))
	}
}

func claudeTime(d *draft, v *value) bool {
	at, err := time.Parse(time.RFC3339Nano, v.asText())
	if d.Time.IsZero() && err == nil {
		d.Time = at
	}
	return err == nil
}

func claudeSuccess(d *draft, v *value) bool {
	ok, known := boolean(v)
	switch {
	case !known:
	case ok:
		d.Outcome = event.OutcomeSuccess
	default:
		d.Outcome = event.OutcomeFailure
	}
	return known
}

func claudeStatus(d *draft, v *value) bool {
	switch v.asText() {
	case "connected":
		d.Outcome = event.OutcomeSuccess
	case "failed":
		d.Outcome = event.OutcomeFailure
	}
	return false
}

// claudeParameters reads the summary that goes with a call. It names the MCP tool that tool_name hides; for a decision, which has
// no tool_input, it is also all that is known of the arguments.
func claudeParameters(d *draft, v *value) bool {
	t := d.tool()
	found, state := event.ParseArgs(v.asText())
	for _, a := range found {
		switch a.Path {
		case "mcp_server_name":
			t.Server = a.Value
		case "mcp_tool_name":
			t.Name = a.Value
		case "full_command":
			t.Command = a.Value
		}
	}
	if !d.has("tool_input") {
		t.Args = slices.DeleteFunc(found, func(a event.Arg) bool { return a.Path == "mcp_server_name" || a.Path == "mcp_tool_name" })
		if len(t.Args) > 0 || state == event.StateRedacted {
			t.ArgsState = state
		}
	}
	return true
}

func claudeResultSize(d *draft, v *value) bool {
	n, ok := number(v)
	if ok && n < math.MaxInt32 {
		d.tool().Result.Size = int(n)
	}
	return ok
}

func claudeVerdict(d *draft, v *value) bool {
	switch s := v.asText(); s {
	case "accept":
		d.decision().Effect = "allow"
	case "reject":
		d.decision().Effect, d.Outcome = "deny", event.OutcomeDenied
	default:
		d.decision().Effect = s
	}
	return true
}

// claudeBy folds the ways in which a user answers into one; which it was is the reason.
func claudeBy(d *draft, v *value) bool {
	by := v.asText()
	if strings.HasPrefix(by, "user_") {
		d.decision().Reason, by = by, "user"
	}
	d.decision().By = by
	return true
}

func claudeMode(d *draft, v *value) bool {
	d.decision().Mode = v.asText()
	return true
}

func claudeCost(d *draft, v *value) bool {
	n, ok := number(v)
	if ok && d.model().CostMicros == 0 {
		d.Model.CostMicros = int64(math.Round(n * 1e6))
	}
	return ok
}

func addInput(d *draft, v *value) bool {
	n, ok := number(v)
	if ok {
		d.model().InputTokens += int64(n)
	}
	return ok
}

// text sets the event's one text of a role. Clients send it twice under two names.
func text(role string) func(*draft, *value) bool {
	return func(d *draft, v *value) bool {
		if len(d.Content) == 0 {
			d.Content = append(d.Content, content(role, v.asText()))
		}
		return true
	}
}

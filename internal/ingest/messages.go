package ingest

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// maxMessageDepth bounds how deep a message is looked into, and maxValueDepth how deep an attribute may be nested.
const (
	maxMessageDepth = 16
	maxValueDepth   = 32
)

// message is one turn of a conversation with a model. Who said it decides whether it is trusted, so a role that is not known is
// none of them.
type message struct {
	role  string // a role of event.Content, or "" for tools' output and anything else
	text  string
	calls []call
}

type call struct {
	id, name string
	args     any // JSON text or a decoded value
}

// roles maps the spellings of a role. Messages of tools are hostile data and have none.
var roles = map[string]string{
	"user": event.RolePrompt, "human": event.RolePrompt, "HumanMessage": event.RolePrompt, "HumanMessageChunk": event.RolePrompt,
	"assistant": event.RoleResponse, "ai": event.RoleResponse, "model": event.RoleResponse, "AIMessage": event.RoleResponse,
	"AIMessageChunk": event.RoleResponse,
	"system":         event.RoleSystem, "developer": event.RoleSystem, "SystemMessage": event.RoleSystem,
}

// decoded returns an attribute's value: a structure as it is, a text that is JSON decoded, any other text as a string.
func decoded(v pcommon.Value) any {
	if v.Type() != pcommon.ValueTypeStr {
		return v.AsRaw()
	}
	var out any
	text := strings.TrimSpace(v.Str())
	if text == "" || text[0] != '{' && text[0] != '[' || jsonDepth([]byte(text)) > maxJSONDepth || json.Unmarshal([]byte(text), &out) != nil {
		return v.Str()
	}
	return out
}

// messages finds the messages in a decoded value: a list of them, an object with a list, or one alone; in the forms of the
// semantic conventions, of OpenAI, of OpenInference's flattened attributes and of LangChain's serialised objects.
func messages(v any, depth int) []message {
	if depth > maxMessageDepth {
		return nil
	}
	switch v := v.(type) {
	case []any:
		var out []message
		for _, item := range v {
			out = append(out, messages(item, depth+1)...)
		}
		return out
	case map[string]any:
		for _, wrapper := range []string{"messages", "message"} {
			if inner, ok := v[wrapper]; ok {
				return messages(inner, depth+1)
			}
		}
		if m, ok := oneMessage(v); ok {
			return []message{m}
		}
	}
	return nil
}

func oneMessage(v map[string]any) (message, bool) {
	role, body := asString(v["role"]), v
	if kwargs, ok := v["kwargs"].(map[string]any); ok { // LangChain: {"lc":1,"id":[…,"HumanMessage"],"kwargs":{…}}
		if id, ok := v["id"].([]any); ok && len(id) > 0 {
			role, body = asString(id[len(id)-1]), kwargs
		}
	}
	if role == "" {
		return message{}, false
	}
	m := message{role: roles[role]}
	for _, key := range []string{"content", "contents", "parts"} {
		if m.text == "" {
			m.text = partsText(body[key], 0)
		}
		m.calls = append(m.calls, calls(body[key])...)
	}
	m.calls = append(m.calls, calls(body["tool_calls"])...)
	return m, true
}

// partsText joins the parts of a message that are text. Parts of other types, above all tool results, are left out.
func partsText(v any, depth int) string {
	if depth > maxMessageDepth {
		return ""
	}
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var texts []string
		for _, part := range v {
			if t := partsText(part, depth+1); t != "" {
				texts = append(texts, t)
			}
		}
		return strings.Join(texts, "\n")
	case map[string]any:
		if inner, ok := v["message_content"]; ok {
			return partsText(inner, depth+1)
		}
		switch asString(v["type"]) {
		case "text", "input_text", "output_text":
			if t := asString(v["text"]); t != "" {
				return t
			}
			return asString(v["content"])
		}
	}
	return ""
}

// calls finds the tool calls that a message asks for.
func calls(v any) []call {
	list, _ := v.([]any)
	var out []call
	for _, item := range list {
		m, _ := item.(map[string]any)
		if inner, ok := m["tool_call"].(map[string]any); ok {
			m = inner
		}
		fn, ok := m["function"].(map[string]any)
		if !ok {
			fn = m
		}
		name := asString(fn["name"])
		if name == "" || !ok && asString(m["type"]) != "tool_call" {
			continue
		}
		c := call{id: asString(m["id"]), name: name, args: fn["arguments"]}
		if c.args == nil {
			c.args = fn["args"]
		}
		out = append(out, c)
	}
	return out
}

// add appends the texts of the messages that have one of the wanted roles.
func (d *draft) add(all []message, wanted ...string) {
	for _, m := range all {
		if m.text != "" && slices.Contains(wanted, m.role) {
			d.Content = append(d.Content, content(m.role, m.text))
		}
	}
}

// conversation returns a setter that takes an attribute's messages of the wanted roles. bare is the role of a text that is no
// message at all.
func conversation(bare string, wanted ...string) func(*draft, pcommon.Value) bool {
	return func(d *draft, v pcommon.Value) bool {
		value := decoded(v)
		if all := messages(value, 0); len(all) > 0 {
			d.add(all, wanted...)
			return true
		}
		text := partsText(value, 0)
		if text == "" {
			if text = v.AsString(); text == "[]" || text == "{}" {
				return true
			}
		}
		d.Content = append(d.Content, content(bare, text))
		return true
	}
}

// nested builds the value that the attributes with a prefix flatten ("llm.input_messages.0.message.role"), and takes them. Keys
// that are numbers make a list.
func (d *draft) nested(prefix string) any {
	var keys []string
	for key := range d.attrs {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys) // "0" and "0.x" can't both be kept; the order must not decide by chance
	root := map[string]any{}
	for _, key := range keys {
		at, parts := root, strings.SplitN(key[len(prefix):], ".", maxMessageDepth)
		for _, p := range parts[:len(parts)-1] {
			next, ok := at[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[p] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = d.attrs[key].AsRaw()
		delete(d.attrs, key)
	}
	return lists(root)
}

// lists turns maps whose keys are all numbers into lists in the order of the numbers.
func lists(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	numeric := len(m) > 0
	for k, item := range m {
		m[k] = lists(item)
		if _, err := strconv.Atoi(k); err != nil {
			numeric = false
		}
	}
	if !numeric {
		return m
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		i, _ := strconv.Atoi(a)
		j, _ := strconv.Atoi(b)
		if i != j {
			return i - j
		}
		return strings.Compare(a, b)
	})
	out := make([]any, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out
}

func asString(v any) string {
	s, _ := v.(string)
	return s
}

// hostOf returns the host of a URL, or the text itself where it is not one.
func hostOf(text string) string {
	if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
		text = u.Hostname()
	}
	return strings.ToLower(text)
}

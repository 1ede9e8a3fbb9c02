package ingest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unsafe"

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
	args     value // JSON in a text, or a structure
}

// roles maps the spellings of a role. Messages of tools are hostile data and have none.
var roles = map[string]string{
	"user": event.RolePrompt, "human": event.RolePrompt, "HumanMessage": event.RolePrompt, "HumanMessageChunk": event.RolePrompt,
	"assistant": event.RoleResponse, "ai": event.RoleResponse, "model": event.RoleResponse, "AIMessage": event.RoleResponse,
	"AIMessageChunk": event.RoleResponse,
	"system":         event.RoleSystem, "developer": event.RoleSystem, "SystemMessage": event.RoleSystem,
}

// decoded returns an attribute's value: a structure as it is, a text that is JSON decoded, any other text as a text.
func (d *draft) decoded(v *value) value {
	if v.kind != kindText {
		return *v
	}
	text := strings.TrimSpace(v.text)
	if text == "" || text[0] != '{' && text[0] != '[' {
		return *v
	}
	var out value
	r := jsonReader{text: unsafe.Slice(unsafe.StringData(text), len(text)), arena: d.arena}
	height := len(d.arena.stack)
	if r.value(&out) != nil || r.end() != nil {
		d.arena.drop(height)
		return *v
	}
	return out
}

// messages finds the messages in a decoded value: a list of them, an object with a list, or one alone; in the forms of the
// semantic conventions, of OpenAI, of OpenInference's flattened attributes and of LangChain's serialised objects.
func (d *draft) messages(v *value) []message {
	from := len(d.arena.messages)
	d.arena.messages = appendMessages(d.arena.messages, v, 0)
	return d.arena.messages[from:len(d.arena.messages):len(d.arena.messages)]
}

func appendMessages(out []message, v *value, depth int) []message {
	if depth > maxMessageDepth {
		return out
	}
	switch v.kind {
	case kindList:
		for i := range v.items {
			out = appendMessages(out, &v.items[i].value, depth+1)
		}
	case kindMap:
		for _, wrapper := range [...]string{"messages", "message"} {
			if inner := v.get(wrapper); inner != nil {
				return appendMessages(out, inner, depth+1)
			}
		}
		if m, ok := oneMessage(v); ok {
			return append(out, m)
		}
	}
	return out
}

func oneMessage(v *value) (message, bool) {
	role, body := v.get("role").str(), v
	if kwargs := v.get("kwargs"); kwargs != nil && kwargs.kind == kindMap { // LangChain: {"lc":1,"id":[…,"HumanMessage"],"kwargs":{…}}
		if id := v.get("id"); id != nil && id.kind == kindList && len(id.items) > 0 {
			role, body = id.items[len(id.items)-1].str(), kwargs
		}
	}
	if role == "" {
		return message{}, false
	}
	m := message{role: roles[role]}
	for _, key := range [...]string{"content", "contents", "parts"} {
		part := body.get(key)
		if m.text == "" {
			m.text = partsText(part, 0)
		}
		m.calls = appendCalls(m.calls, part)
	}
	m.calls = appendCalls(m.calls, body.get("tool_calls"))
	return m, true
}

// partsText joins the parts of a message that are text. Parts of other types, above all tool results, are left out.
func partsText(v *value, depth int) string {
	if v == nil || depth > maxMessageDepth {
		return ""
	}
	switch v.kind {
	case kindText:
		return v.text
	case kindList:
		var texts []string
		for i := range v.items {
			if t := partsText(&v.items[i].value, depth+1); t != "" {
				texts = append(texts, t)
			}
		}
		return strings.Join(texts, "\n")
	case kindMap:
		if inner := v.get("message_content"); inner != nil {
			return partsText(inner, depth+1)
		}
		switch v.get("type").str() {
		case "text", "input_text", "output_text":
			if t := v.get("text").str(); t != "" {
				return t
			}
			return v.get("content").str()
		}
	}
	return ""
}

// appendCalls finds the tool calls that a message asks for.
func appendCalls(out []call, v *value) []call {
	if v == nil || v.kind != kindList {
		return out
	}
	for i := range v.items {
		m := &v.items[i].value
		if inner := m.get("tool_call"); inner != nil && inner.kind == kindMap {
			m = inner
		}
		fn := m.get("function")
		ok := fn != nil && fn.kind == kindMap
		if !ok {
			fn = m
		}
		name := fn.get("name").str()
		if name == "" || !ok && m.get("type").str() != "tool_call" {
			continue
		}
		c := call{id: m.get("id").str(), name: name}
		for _, key := range [...]string{"arguments", "args"} {
			if args := fn.get(key); args != nil && c.args.kind == kindEmpty {
				c.args = *args
			}
		}
		out = append(out, c)
	}
	return out
}

// add appends the texts of the messages that have one of the wanted roles.
func (d *draft) add(all []message, wanted ...string) {
	if d.Content == nil && len(all) > 0 {
		d.Content = make([]event.Content, 0, max(len(all), 4)) // most have a system's text, a prompt and an answer
	}
	for _, m := range all {
		if m.text != "" && slices.Contains(wanted, m.role) {
			d.Content = append(d.Content, content(m.role, m.text))
		}
	}
}

// conversation returns a setter that takes an attribute's messages of the wanted roles. bare is the role of a text that is no
// message at all.
func conversation(bare string, wanted ...string) func(*draft, *value) bool {
	return func(d *draft, v *value) bool {
		decoded := d.decoded(v)
		if all := d.messages(&decoded); len(all) > 0 {
			d.add(all, wanted...)
			return true
		}
		text := partsText(&decoded, 0)
		if text == "" {
			if text = v.asText(); text == "[]" || text == "{}" {
				return true
			}
		}
		d.Content = append(d.Content, content(bare, text))
		return true
	}
}

// nested builds the value that the attributes with a prefix flatten ("llm.input_messages.0.message.role"), and takes them. Keys
// that are numbers make a list.
func (d *draft) nested(prefix string) value {
	height := len(d.arena.stack)
	for i := range d.attrs {
		if a := &d.attrs[i]; a.kind != kindTaken && strings.HasPrefix(a.key, prefix) {
			d.arena.stack = append(d.arena.stack, attribute{a.key[len(prefix):], a.value})
			a.kind = kindTaken
		}
	}
	found := d.arena.stack[height:]
	// "0" and "0.x" can't both be kept; the order must not decide by chance. It also brings together what has the same beginning.
	slices.SortFunc(found, func(a, b attribute) int { return comparePaths(a.key, b.key) })
	root := value{kind: kindMap}
	for i := range found {
		root.put(d.arena, found[i].key, found[i].value, maxMessageDepth)
	}
	d.arena.drop(height)
	root.lists()
	return root
}

// comparePaths orders paths by their parts: a dot comes before anything else.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '.':
			return -1
		case y == '.':
			return 1
		default:
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// put sets what is at a path of at most limit parts. Paths come in order, so only the last item can have the same name.
func (v *value) put(arena *arena, path string, leaf value, limit int) {
	name, rest, deeper := strings.Cut(path, ".")
	if limit == 1 {
		name, rest, deeper = path, "", false
	}
	if n := len(v.items); n == 0 || v.items[n-1].key != name {
		v.items = arena.push(v.items, attribute{key: name})
	}
	at := &v.items[len(v.items)-1].value
	switch {
	case !deeper:
		*at = leaf
	case at.kind != kindMap:
		*at = value{kind: kindMap}
		fallthrough
	default:
		at.put(arena, rest, leaf, limit-1)
	}
}

// lists turns maps whose keys are all numbers into lists in the order of the numbers.
func (v *value) lists() {
	if v.kind != kindMap || len(v.items) == 0 {
		return
	}
	numeric := true
	for i := range v.items {
		v.items[i].lists()
		numeric = numeric && isNumber(v.items[i].key)
	}
	if !numeric {
		return
	}
	v.kind = kindList
	slices.SortFunc(v.items, func(a, b attribute) int {
		i, _ := strconv.Atoi(a.key)
		j, _ := strconv.Atoi(b.key)
		return cmp.Or(cmp.Compare(i, j), strings.Compare(a.key, b.key))
	})
}

// isNumber is true for a key of a list. That most are none is seen without making an error.
func isNumber(key string) bool {
	if key == "" || key[0] > '9' {
		return false
	}
	_, err := strconv.Atoi(key)
	return err == nil
}

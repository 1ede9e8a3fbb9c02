// Package slackfake is a Slack for tests: a workspace with users, groups and channels that answers the Web API, opens sockets, and
// sends signed requests, and that refuses what the real one refuses. It says nothing about how Slack looks, and it is no part of the
// product.
package slackfake

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	sdk "github.com/slack-go/slack"
)

// What every fake workspace has.
const (
	Team       = "T0TOCSIN"
	App        = "A0TOCSIN"
	Bot        = "B0TOCSIN"
	BotUser    = "U0TOCSIN"
	Channel    = "C0AGENTS"
	BotToken   = "xoxb-fake"
	AppToken   = "xapp-fake"
	Secret     = "8f742231b10e8888abcd99yyyzzz85a5"
	ackWithin  = 5 * time.Second // longer than Slack waits, because tests share the machine
	maxViewSet = 100
)

// Message is a message as it stands now.
type Message struct {
	Channel, TS, Thread string
	To                  string // the only user who sees it, if it is ephemeral
	Text                string
	Blocks              json.RawMessage
	Metadata            json.RawMessage
}

// View is a window as its user sees it.
type View struct {
	ID, Hash, User string
	Callback       string
	Private        string
	NotifyOnClose  bool
	Body           json.RawMessage
	Errors         map[string]string
}

// Fault is what a method does once instead of its work.
type Fault struct {
	Status     int           // an HTTP status; with 429, RetryAfter says how long
	RetryAfter time.Duration // in whole seconds
	Error      string        // Slack's word for a failure
	Commit     bool          // do the work all the same, and then fail
	Cut        bool          // close the connection instead of answering
}

// Surface is a message or window that the code under test made, for checks against Slack's own type definitions.
type Surface struct {
	Kind string // blocks or view
	Body json.RawMessage
}

// Fake is the workspace. Safe for concurrent use.
type Fake struct {
	t      testing.TB
	server *httptest.Server
	// Now is the time of signed requests; time.Now if it is not set. Set it before the first click.
	Now func() time.Time
	// Callback takes the interactions by HTTP; without one they go over the socket.
	Callback string

	mu       sync.Mutex
	ts       int64
	users    map[string]sdk.User
	groups   map[string][]string
	messages []*Message
	views    map[string]*View
	triggers map[string]string // unused tickets to the user who clicked
	calls    map[string]int
	faults   map[string][]Fault
	surfaces []Surface
	sockets  map[*socket]bool
	deaf     bool
	scopes   string
	last     []byte // the last interaction
	opened   int
	windows  int
}

// New starts a workspace that ends with the test.
func New(t testing.TB) *Fake {
	f := &Fake{
		t: t, Now: time.Now, ts: 1_700_000_000_000_000, users: make(map[string]sdk.User), groups: make(map[string][]string), views: make(map[string]*View),
		triggers: make(map[string]string), calls: make(map[string]int), faults: make(map[string][]Fault), sockets: make(map[*socket]bool),
		scopes: "chat:write,users:read,usergroups:read,im:write",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/{method}", f.serve)
	mux.HandleFunc("/link", f.link)
	f.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		f.Drop()
		f.server.Close()
	})
	return f
}

// API is where the Web API is.
func (f *Fake) API() string { return f.server.URL + "/api/" }

// AddUser adds a user, of the workspace unless it names another.
func (f *Fake) AddUser(u sdk.User) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u.TeamID == "" {
		u.TeamID = Team
	}
	f.users[u.ID] = u
}

// SetGroup sets who is in a user group.
func (f *Fake) SetGroup(id string, users ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups[id] = users
}

// SetScopes sets the scopes that the bot token has.
func (f *Fake) SetScopes(scopes ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scopes = strings.Join(scopes, ",")
}

// Fail makes the next calls of a method fail, one for each fault.
func (f *Fake) Fail(method string, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[method] = append(f.faults[method], faults...)
}

// Mend forgets the faults of a method.
func (f *Fake) Mend(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.faults, method)
}

// Calls counts the calls of a method, those that failed too.
func (f *Fake) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// Messages are those of the channel that everybody sees and that are in no thread, in order.
func (f *Fake) Messages() []Message {
	return f.list(func(m *Message) bool { return m.Thread == "" && m.To == "" })
}

// Thread are the replies to a message.
func (f *Fake) Thread(ts string) []Message {
	return f.list(func(m *Message) bool { return m.Thread == ts })
}

// Ephemeral are the messages that only one user saw.
func (f *Fake) Ephemeral(user string) []Message {
	return f.list(func(m *Message) bool { return m.To == user })
}

func (f *Fake) list(keep func(*Message) bool) (out []Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		if keep(m) {
			out = append(out, *m)
		}
	}
	return out
}

// Delete removes a message, as people can.
func (f *Fake) Delete(ts string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = slices.DeleteFunc(f.messages, func(m *Message) bool { return m.TS == ts })
}

// View returns the newest window of a user.
func (f *Fake) View(user string) (View, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var newest *View
	for _, v := range f.views {
		if v.User == user && (newest == nil || viewNumber(v.ID) > viewNumber(newest.ID)) {
			newest = v
		}
	}
	if newest == nil {
		return View{}, false
	}
	return *newest, true
}

func viewNumber(id string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "V"))
	if err != nil {
		return 0
	}
	return n
}

// Surfaces are all messages and windows that were sent, each once.
func (f *Fake) Surfaces() []Surface {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := make(map[string]bool)
	return slices.DeleteFunc(slices.Clone(f.surfaces), func(s Surface) bool {
		known := seen[string(s.Body)]
		seen[string(s.Body)] = true
		return known
	})
}

// answer is the body of a response.
type answer map[string]any

func no(code string) answer { return answer{"ok": false, "error": code} }

func (f *Fake) serve(w http.ResponseWriter, r *http.Request) {
	method := r.PathValue("method")
	in, token, err := arguments(r)
	if err != nil {
		f.reply(w, no("invalid_arguments"))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	var fault *Fault
	if waiting := f.faults[method]; len(waiting) > 0 {
		fault, f.faults[method] = &waiting[0], waiting[1:]
	}
	if fault == nil || fault.Commit {
		out := f.do(method, in, token)
		if fault == nil {
			w.Header().Set("X-OAuth-Scopes", f.scopes)
			f.reply(w, out)
			return
		}
	}
	f.fail(w, *fault)
}

func (f *Fake) fail(w http.ResponseWriter, fault Fault) {
	switch {
	case fault.Cut:
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			err = conn.Close()
		}
		if err != nil {
			f.t.Errorf("cut a connection: %v", err)
		}
	case fault.Status == http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter/time.Second)))
		w.WriteHeader(fault.Status)
	case fault.Status != 0:
		w.WriteHeader(fault.Status)
	default:
		f.reply(w, no(fault.Error))
	}
}

func (f *Fake) reply(w http.ResponseWriter, out answer) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		f.t.Logf("the client went away: %v", err)
	}
}

// arguments reads a call's arguments, which come as a form or as JSON, and its token.
func arguments(r *http.Request) (in map[string]json.RawMessage, token string, err error) {
	in = make(map[string]json.RawMessage)
	token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		if r.ContentLength == 0 {
			return in, token, nil
		}
		return in, token, json.NewDecoder(r.Body).Decode(&in)
	}
	if err := r.ParseForm(); err != nil {
		return nil, "", err
	}
	for k, v := range r.Form {
		text, err := json.Marshal(v[0])
		if err != nil {
			return nil, "", err
		}
		in[k] = text
	}
	if t := r.Form.Get("token"); t != "" {
		token = t
	}
	return in, token, nil
}

func text(in map[string]json.RawMessage, name string) string {
	var s string
	if json.Unmarshal(in[name], &s) != nil {
		return ""
	}
	return s
}

// do is a method's work.
func (f *Fake) do(method string, in map[string]json.RawMessage, token string) answer {
	if method == "apps.connections.open" {
		if token != AppToken {
			return no("invalid_auth")
		}
		f.opened++
		return answer{"ok": true, "url": "ws" + strings.TrimPrefix(f.server.URL, "http") + "/link?n=" + strconv.Itoa(f.opened)}
	}
	if token != BotToken {
		return no("invalid_auth")
	}
	switch method {
	case "auth.test":
		return answer{"ok": true, "team_id": Team, "user_id": BotUser, "bot_id": Bot, "url": "https://fake.slack.com/"}
	case "bots.info":
		return answer{"ok": true, "bot": map[string]string{"id": Bot, "app_id": App}}
	case "users.info":
		u, ok := f.users[text(in, "user")]
		if !ok {
			return no("user_not_found")
		}
		return answer{"ok": true, "user": u}
	case "usergroups.users.list":
		users, ok := f.groups[text(in, "usergroup")]
		if !ok {
			return no("no_such_subteam")
		}
		return answer{"ok": true, "users": users}
	case "chat.postMessage", "chat.postEphemeral", "chat.update":
		return f.post(method, in)
	case "views.open", "views.update":
		return f.window(method, in)
	}
	return no("unknown_method")
}

// stamp is a timestamp that no other message has.
func (f *Fake) stamp() string {
	f.ts++
	return fmt.Sprintf("%d.%06d", f.ts/1_000_000, f.ts%1_000_000)
}

func (f *Fake) post(method string, in map[string]json.RawMessage) answer {
	channel := text(in, "channel")
	if channel != Channel {
		return no("channel_not_found")
	}
	blocks := json.RawMessage(text(in, "blocks"))
	if err := Validate("blocks", blocks); err != nil {
		f.t.Errorf("%s: invalid blocks: %v\n%s", method, err, blocks)
		return no("invalid_blocks")
	}
	for _, name := range []string{"link_names", "parse"} {
		if v := text(in, name); v != "" && v != "0" && v != "none" && v != "false" {
			f.t.Errorf("%s: %s is set: Slack would make mentions and links of names", method, name)
		}
	}
	f.surfaces = append(f.surfaces, Surface{"blocks", blocks})
	if method == "chat.update" {
		at := slices.IndexFunc(f.messages, func(m *Message) bool { return m.Channel == channel && m.TS == text(in, "ts") && m.To == "" })
		if at < 0 {
			return no("message_not_found")
		}
		m := f.messages[at]
		m.Text, m.Blocks = text(in, "text"), blocks
		return answer{"ok": true, "channel": channel, "ts": m.TS, "text": m.Text}
	}
	m := &Message{Channel: channel, TS: f.stamp(), Thread: text(in, "thread_ts"), Text: text(in, "text"), Blocks: blocks, Metadata: json.RawMessage(text(in, "metadata"))}
	if method == "chat.postEphemeral" {
		m.To = text(in, "user")
		if _, ok := f.users[m.To]; !ok {
			return no("user_not_in_channel")
		}
	}
	f.messages = append(f.messages, m)
	return answer{"ok": true, "channel": channel, "ts": m.TS, "message_ts": m.TS}
}

func (f *Fake) window(method string, in map[string]json.RawMessage) answer {
	body := in["view"]
	if err := Validate("view", body); err != nil {
		f.t.Errorf("%s: invalid view: %v\n%s", method, err, body)
		return no("invalid_arguments")
	}
	f.surfaces = append(f.surfaces, Surface{"view", body})
	if method == "views.open" {
		ticket := text(in, "trigger_id")
		user, ok := f.triggers[ticket]
		if !ok {
			return no("expired_trigger_id")
		}
		delete(f.triggers, ticket)
		f.windows++
		v := &View{ID: fmt.Sprintf("V%d", f.windows), User: user}
		f.views[v.ID] = v
		return f.fill(v, body)
	}
	v, ok := f.views[text(in, "view_id")]
	if !ok {
		return no("not_found")
	}
	if hash := text(in, "hash"); hash != "" && hash != v.Hash {
		return no("hash_conflict")
	}
	return f.fill(v, body)
}

func (f *Fake) fill(v *View, body json.RawMessage) answer {
	var set struct {
		Private  string `json:"private_metadata"`
		Callback string `json:"callback_id"`
		Notify   bool   `json:"notify_on_close"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return no("invalid_arguments")
	}
	v.Body, v.Private, v.Callback, v.NotifyOnClose, v.Hash, v.Errors = body, set.Private, set.Callback, set.Notify, f.stamp(), nil
	return answer{"ok": true, "view": map[string]any{"id": v.ID, "hash": v.Hash, "type": "modal"}}
}

// socket is one connection over which interactions go.
type socket struct {
	conn  *websocket.Conn
	write sync.Mutex
	acks  map[string]chan json.RawMessage // under the fake's lock
}

func (f *Fake) link(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		f.t.Logf("open a socket: %v", err)
		return
	}
	s := &socket{conn: conn, acks: make(map[string]chan json.RawMessage)}
	f.mu.Lock()
	f.sockets[s] = true
	deaf := f.deaf
	f.mu.Unlock()
	if !deaf {
		s.send(f.t, map[string]any{"type": "hello", "num_connections": 1, "connection_info": map[string]string{"app_id": App}})
	}
	for {
		var ack struct {
			EnvelopeID string          `json:"envelope_id"`
			Payload    json.RawMessage `json:"payload"`
		}
		if err := conn.ReadJSON(&ack); err != nil {
			break
		}
		f.mu.Lock()
		if c := s.acks[ack.EnvelopeID]; c != nil {
			c <- ack.Payload
			delete(s.acks, ack.EnvelopeID)
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	delete(f.sockets, s)
	f.mu.Unlock()
	if err := conn.Close(); err != nil {
		f.t.Logf("close a socket: %v", err)
	}
}

func (s *socket) send(t testing.TB, v any) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.conn.WriteJSON(v); err != nil {
		t.Logf("write to a socket: %v", err)
	}
}

// Ping pings every socket, as Slack does, unless they are deaf.
func (f *Fake) Ping() {
	for _, s := range f.open() {
		s.write.Lock()
		if err := s.conn.WriteControl(websocket.PingMessage, []byte("ping"), time.Now().Add(time.Second)); err != nil {
			f.t.Logf("ping: %v", err)
		}
		s.write.Unlock()
	}
}

// Sockets counts those that hear.
func (f *Fake) Sockets() int { return len(f.open()) }

func (f *Fake) open() []*socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return nil
	}
	return slices.Collect(maps.Keys(f.sockets))
}

// Deaf makes the sockets stay open and bring nothing, or work again.
func (f *Fake) Deaf(deaf bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = deaf
}

// Drop closes all sockets.
func (f *Fake) Drop() {
	f.mu.Lock()
	all := slices.Collect(maps.Keys(f.sockets))
	f.mu.Unlock()
	for _, s := range all {
		if err := s.conn.Close(); err != nil {
			f.t.Logf("close a socket: %v", err)
		}
	}
}

// form is the body of a signed request.
func form(payload []byte) string { return url.Values{"payload": {string(payload)}}.Encode() }

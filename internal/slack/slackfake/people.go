package slackfake

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Interaction is what a user does. Tests change it before they send it.
type Interaction map[string]any

// common is what every interaction tells.
func (f *Fake) common(kind, user string) Interaction {
	return Interaction{
		"type": kind, "api_app_id": App, "token": "verification-token", "enterprise": nil, "is_enterprise_install": false,
		"team": map[string]any{"id": Team, "domain": "fake"}, "user": map[string]any{"id": user, "username": strings.ToLower(user), "team_id": Team},
	}
}

// Press is a click on a button of a message; it has a ticket that opens one window.
func (f *Fake) Press(m Message, action, user string) Interaction {
	f.t.Helper()
	value, block, found := findButton(m.Blocks, action)
	if !found {
		f.t.Fatalf("the message has no button %q: %s", action, m.Blocks)
	}
	f.mu.Lock()
	ticket := "trigger." + f.stamp()
	f.triggers[ticket] = user
	stamp := f.stamp()
	f.mu.Unlock()
	in := f.common("block_actions", user)
	in["trigger_id"] = ticket
	in["response_url"] = f.server.URL + "/response"
	in["channel"] = map[string]any{"id": m.Channel, "name": "agents"}
	in["container"] = map[string]any{"type": "message", "message_ts": m.TS, "channel_id": m.Channel, "is_ephemeral": m.To != ""}
	in["message"] = map[string]any{"type": "message", "ts": m.TS, "user": BotUser, "bot_id": Bot, "text": m.Text, "blocks": m.Blocks}
	in["state"] = map[string]any{"values": map[string]any{}}
	in["actions"] = []map[string]any{{"type": "button", "action_id": action, "block_id": block, "value": value, "action_ts": stamp}}
	return in
}

// Click presses a button.
func (f *Fake) Click(m Message, action, user string) error {
	f.t.Helper()
	_, err := f.Send(f.Press(m, action, user))
	return err
}

// Fill is the answer of a window: values are by block, which has an input of the same name.
func (f *Fake) Fill(v View, values map[string]string) Interaction {
	in := f.common("view_submission", v.User)
	f.mu.Lock()
	in["trigger_id"] = "trigger." + f.stamp() // no two submissions are alike
	f.mu.Unlock()
	in["view"] = f.viewOf(v, values)
	in["response_urls"] = []any{}
	return in
}

func (f *Fake) viewOf(v View, values map[string]string) map[string]any {
	state := make(map[string]any)
	for block, value := range values {
		field := map[string]any{"type": "plain_text_input", "value": value}
		if block == "decision" {
			field = map[string]any{"type": "radio_buttons", "selected_option": map[string]any{"value": value, "text": map[string]any{"type": "plain_text", "text": value}}}
			if value == "" {
				field["selected_option"] = nil
			}
		}
		state[block] = map[string]any{block: field}
	}
	return map[string]any{
		"id": v.ID, "team_id": Team, "type": "modal", "hash": v.Hash, "private_metadata": v.Private, "callback_id": v.Callback,
		"notify_on_close": v.NotifyOnClose, "state": map[string]any{"values": state}, "app_id": App, "bot_id": Bot, "root_view_id": v.ID,
	}
}

// Submit sends a window and does what the answer asks for: closes it, changes it, or shows errors at its inputs.
func (f *Fake) Submit(v View, values map[string]string) error {
	f.t.Helper()
	body, err := f.Send(f.Fill(v, values))
	if err != nil {
		return err
	}
	return f.obey(v.ID, body)
}

func (f *Fake) obey(id string, body []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.views[id]
	if len(bytes.TrimSpace(body)) == 0 || string(bytes.TrimSpace(body)) == "null" {
		delete(f.views, id)
		return nil
	}
	var reply struct {
		Action string            `json:"response_action"`
		View   json.RawMessage   `json:"view"`
		Errors map[string]string `json:"errors"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return fmt.Errorf("read the answer %q: %w", body, err)
	}
	switch reply.Action {
	case "errors":
		v.Errors = reply.Errors
	case "update":
		if err := Validate("view", reply.View); err != nil {
			f.t.Errorf("the answer has an invalid view: %v\n%s", err, reply.View)
			return err
		}
		f.surfaces = append(f.surfaces, Surface{"view", reply.View})
		f.fill(v, reply.View)
	default:
		return fmt.Errorf("the answer asks for %q", reply.Action)
	}
	return nil
}

// Close closes a window, and tells if it asks for that.
func (f *Fake) Close(v View) error {
	f.t.Helper()
	f.mu.Lock()
	delete(f.views, v.ID)
	f.mu.Unlock()
	if !v.NotifyOnClose {
		return nil
	}
	in := f.common("view_closed", v.User)
	in["view"], in["is_cleared"] = f.viewOf(v, nil), false
	_, err := f.Send(in)
	return err
}

// ErrUnanswered says that an interaction was not taken: Slack shows its user a warning.
var ErrUnanswered = errors.New("the interaction was not answered")

// Send sends an interaction over HTTP or over a socket, and returns the answer's body.
func (f *Fake) Send(in Interaction) ([]byte, error) {
	f.t.Helper()
	payload, err := json.Marshal(in)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	f.last = payload
	f.mu.Unlock()
	return f.deliver(payload)
}

// Repeat sends the last interaction once more, as Slack does where an answer was lost.
func (f *Fake) Repeat() ([]byte, error) {
	f.mu.Lock()
	payload := f.last
	f.mu.Unlock()
	return f.deliver(payload)
}

func (f *Fake) deliver(payload []byte) ([]byte, error) {
	if f.Callback != "" {
		r, err := f.Request(form(payload), f.Now())
		if err != nil {
			return nil, err
		}
		return Do(r)
	}
	return f.overSocket(payload)
}

// Request is a signed request with a body, not sent yet.
func (f *Fake) Request(body string, at time.Time) (*http.Request, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, f.Callback, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	stamp := strconv.FormatInt(at.Unix(), 10)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Slack-Request-Timestamp", stamp)
	r.Header.Set("X-Slack-Signature", Sign(stamp, body))
	return r, nil
}

// Sign is Slack's signature of a body.
func Sign(stamp, body string) string {
	mac := hmac.New(sha256.New, []byte(Secret))
	mac.Write([]byte("v0:" + stamp + ":" + body))
	return "v0=" + hex.EncodeToString(mac.Sum(nil))
}

// Do sends a request and returns the body of a good answer.
func Do(r *http.Request) ([]byte, error) {
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return body, fmt.Errorf("%w: %s", ErrUnanswered, response.Status)
	}
	return body, nil
}

func (f *Fake) overSocket(payload []byte) ([]byte, error) {
	all := f.open()
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no socket is open", ErrUnanswered)
	}
	s := all[0] // any socket may get it
	acked := make(chan json.RawMessage, 1)
	f.mu.Lock()
	envelope := "E" + f.stamp()
	s.acks[envelope] = acked
	f.mu.Unlock()
	s.send(f.t, map[string]any{"type": "interactive", "envelope_id": envelope, "accepts_response_payload": true, "payload": json.RawMessage(payload)})
	timer := time.NewTimer(ackWithin)
	defer timer.Stop()
	select {
	case body := <-acked:
		return body, nil
	case <-timer.C:
		return nil, ErrUnanswered
	}
}

// Payload is the interaction as the form that is sent by HTTP.
func Payload(in Interaction) (string, error) {
	text, err := json.Marshal(in)
	return form(text), err
}

// findButton finds a button by its action.
func findButton(blocks json.RawMessage, action string) (value, block string, found bool) {
	var all []struct {
		ID       string            `json:"block_id"`
		Elements []json.RawMessage `json:"elements"`
	}
	if json.Unmarshal(blocks, &all) != nil {
		return "", "", false
	}
	for _, b := range all {
		for _, raw := range b.Elements {
			var e struct {
				Type   string `json:"type"`
				Action string `json:"action_id"`
				Value  string `json:"value"`
			}
			if json.Unmarshal(raw, &e) == nil && e.Type == "button" && e.Action == action {
				return e.Value, b.ID, true
			}
		}
	}
	return "", "", false
}

// HasButton reports whether a message has a button.
func HasButton(m Message, action string) bool {
	_, _, found := findButton(m.Blocks, action)
	return found
}

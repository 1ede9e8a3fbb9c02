package slack

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

// TestSignature sends requests that differ from a good one in one thing each.
func TestSignature(t *testing.T) {
	for name, c := range map[string]struct {
		age    time.Duration
		change func(r *http.Request)
		secret string
		want   int
	}{
		"good":                 {want: 200},
		"299 s old":            {age: 299 * time.Second, want: 200},
		"299 s ahead":          {age: -299 * time.Second, want: 200},
		"301 s old":            {age: 301 * time.Second, want: 401},
		"301 s ahead":          {age: -301 * time.Second, want: 401},
		"no signature":         {change: func(r *http.Request) { r.Header.Del("X-Slack-Signature") }, want: 401},
		"no timestamp":         {change: func(r *http.Request) { r.Header.Del("X-Slack-Request-Timestamp") }, want: 401},
		"words for a time":     {change: func(r *http.Request) { r.Header.Set("X-Slack-Request-Timestamp", "now") }, want: 401},
		"another version":      {change: func(r *http.Request) { set(r, func(s string) string { return strings.Replace(s, "v0=", "v1=", 1) }) }, want: 401},
		"no version":           {change: func(r *http.Request) { set(r, func(s string) string { return strings.TrimPrefix(s, "v0=") }) }, want: 401},
		"a flipped bit":        {change: func(r *http.Request) { set(r, flip) }, want: 401},
		"half of it":           {change: func(r *http.Request) { set(r, func(s string) string { return s[:35] }) }, want: 401},
		"another secret":       {secret: "another", want: 401},
		"an empty secret here": {secret: "-", want: 401},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			_, m := h.post(1)
			switch c.secret {
			case "":
			case "-":
				h.slack.o.SigningSecret = ""
			default:
				h.slack.o.SigningSecret = c.secret
			}
			body, err := slackfake.Payload(h.fake.Press(m, actLooking, ana))
			h.must(err)
			r, err := h.fake.Request(body, h.time.Now().Add(-c.age))
			h.must(err)
			right := r.Header.Get("X-Slack-Signature")
			if c.secret == "-" { // what anybody can sign
				mac := hmac.New(sha256.New, nil)
				mac.Write([]byte("v0:" + r.Header.Get("X-Slack-Request-Timestamp") + ":" + body))
				set(r, func(string) string { return "v0=" + hex.EncodeToString(mac.Sum(nil)) })
			}
			if c.change != nil {
				c.change(r)
			}
			answer, err := slackfake.Do(r)
			if (err == nil) != (c.want == 200) {
				t.Errorf("the answer is %v, want %d", err, c.want)
			}
			if c.want == 401 {
				if string(answer) != "unauthorized\n" {
					t.Errorf("the answer says %q", answer)
				}
				if h.meter.failed["signature"] != 1 {
					t.Error("it was not counted")
				}
			}
			h.settled()
			if noticed := len(h.desk.noticed) == 1; noticed != (c.want == 200) {
				t.Errorf("noticed by %v", h.desk.noticed)
			}
			code := strings.TrimPrefix(right, "v0=")
			if strings.Contains(string(answer), code) || strings.Contains(h.log.String(), code) {
				t.Error("the right signature is told")
			}
		})
	}
}

func set(r *http.Request, change func(string) string) {
	r.Header.Set("X-Slack-Signature", change(r.Header.Get("X-Slack-Signature")))
}

func flip(s string) string {
	last := byte('0')
	if s[len(s)-1] == '0' {
		last = '1'
	}
	return s[:len(s)-1] + string(last)
}

// The very same request, sent again within its time, has no effect and is no error; with another signature it is known by its body.
func TestReplay(t *testing.T) {
	h := open(t)
	_, m := h.post(1)
	body, err := slackfake.Payload(h.fake.Press(m, actLooking, ana))
	h.must(err)
	for n := range 4 {
		r, err := h.fake.Request(body, h.time.Now().Add(time.Duration(n/2)*time.Second))
		h.must(err)
		if _, err := slackfake.Do(r); err != nil {
			t.Error(err)
		}
	}
	h.settled()
	if len(h.desk.noticed) != 1 {
		t.Errorf("noticed %d times, want once", len(h.desk.noticed))
	}
}

func TestBodyLimit(t *testing.T) {
	h := open(t)
	r, err := h.fake.Request("payload="+strings.Repeat("x", maxBody), h.time.Now())
	h.must(err)
	if _, err := slackfake.Do(r); err == nil {
		t.Error("a body over the limit was taken")
	}
}

// A message that is no interaction of ours is answered and forgotten; it is not stored.
func TestStrangeMessages(t *testing.T) {
	h := open(t)
	for _, payload := range []string{``, `{`, `null`, `[]`, `{"type":"shortcut"}`, `{"type":"block_actions"}`, `{"type":"block_actions","actions":[{"action_id":"open","block_id":"b"}]}`} {
		if _, err := h.slack.accept(h.Context(), []byte(payload)); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
	h.settled()
	if h.desk.asked != 0 || len(h.desk.noticed) != 0 {
		t.Error("a strange message had an effect")
	}
}

// A full inbox, or a store that fails, answers that nothing was taken.
func TestNotStored(t *testing.T) {
	h := open(t)
	_, m := h.post(1)
	h.slack.o.Box = fullBox{h.slack.o.Box}
	if err := h.fake.Click(m, actLooking, ana); err == nil {
		t.Error("Slack was told that a message was taken which was not stored")
	}
}

// Whoever tells of a change, or brings an answer, must not wait for the store to be read.
func TestReadingHoldsNobody(t *testing.T) {
	h := open(t, func(h *house) {
		h.o.Box = readBox{h.o.Box, func() {
			if !h.slack.mu.TryLock() {
				t.Error("the door is locked while the inbox is read")
				return
			}
			h.slack.mu.Unlock()
		}}
	})
	if _, _, err := h.slack.next(t.Context()); err != nil {
		t.Error(err)
	}
}

type readBox struct {
	Box
	reading func()
}

func (b readBox) EachInbox(ctx context.Context, limit int, take func(id string, at time.Time, body []byte)) error {
	b.reading()
	return b.Box.EachInbox(ctx, limit, take)
}

type fullBox struct{ Box }

func (fullBox) CountInbox(ctx context.Context) (int, error) { return maxWaiting, nil }

// FuzzRead decodes what anybody could send; nothing panics, and what is no interaction is an error or claims nothing.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"type":"view_submission","view":{"private_metadata":"a.b","state":{"values":{"decision":{"decision":{"selected_option":{"value":"approve"}}}}}}}`))
	f.Add([]byte(`{"type":"block_actions","actions":[{"block_id":"b","action_id":"review","value":"v1.a.1.b"}],"container":{"message_ts":"1.1"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := read(body)
		if err == nil && !json.Valid(body) {
			t.Errorf("%q was read as %+v", body, c)
		}
	})
}

// FuzzSeal: no text but what the key signed opens.
func FuzzSeal(f *testing.F) {
	s := sealer{[]byte("0123456789abcdef")}
	f.Add(s.button("INC-1-R1", 1), "INC-1-R1", 1)
	f.Add("v1.a.1.b", "a", 2)
	f.Fuzz(func(t *testing.T, text, request string, revision int) {
		if id, rev, err := s.openButton(text); err == nil && s.button(id, rev) != text {
			t.Errorf("%q opens as %q %d", text, id, rev)
		}
		if w, err := s.openPrivate(text); err == nil {
			t.Errorf("%q opens as %+v", text, w)
		}
		other := sealer{[]byte("another key of 16")}
		if _, _, err := other.openButton(s.button(request, revision)); err == nil {
			t.Error("another key's button opens")
		}
	})
}

// A link is made of the console's base and an id of ours and nothing else.
func TestPage(t *testing.T) {
	s := &Slack{o: Options{Console: "https://tocsin.example"}}
	for _, c := range [][3]string{{"INC-1", "", "/incidents/INC-1"}, {"INC-1", "INC-1-R1", "/approvals/INC-1-R1"}, {"", "INC-1|<evil>/../x", "/approvals"}} {
		if got := s.page(c[0], c[1]); got != "https://tocsin.example"+c[2] {
			t.Errorf("%q and %q give %q", c[0], c[1], got)
		}
	}
}

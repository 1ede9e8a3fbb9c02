package action

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/dial"
)

// NameNotifyWebhook is the name in playbooks and plans.
const NameNotifyWebhook = "notify-webhook"

// NotifyWebhookOptions are the receivers, by name.
type NotifyWebhookOptions struct {
	Receivers map[string]WebhookOptions `yaml:"receivers"`
	// Networks are prefixes that receivers may be in although they are private or loopback.
	Networks []netip.Prefix `yaml:"networks"`
}

// WebhookOptions are of one receiver.
type WebhookOptions struct {
	URL        string `yaml:"url"`
	SecretFile string `yaml:"secret_file"` // the key of the signature, 32 bytes or more
}

// minWebhookKey is the least length of a key (RFC 2104, section 3: no shorter than the hash's output).
const minWebhookKey = sha256.Size

// Check names the first option that can't be right.
func (o *NotifyWebhookOptions) Check() error {
	if len(o.Receivers) == 0 {
		return badOption("receivers", "is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Receivers)) {
		r, field := o.Receivers[name], "receivers."+name
		if err := checkURL(field+".url", r.URL); err != nil {
			return err
		}
		if err := checkSecret(field+".secret_file", r.SecretFile); err != nil {
			return err
		}
		if key, err := readSecret(r.SecretFile); err != nil || len(key) < minWebhookKey {
			return badOption(field+".secret_file", "%s has %d bytes, want at least %d", r.SecretFile, len(key), minWebhookKey)
		}
	}
	return nil
}

// NotifyWebhook tells a receiver that people named in advance what they approved to say, word for word.
//
// The body is JSON. Tocsin-Signature is "v1=" and the HMAC-SHA256 (RFC 2104), in hex, of the text of Tocsin-Timestamp (seconds since
// 1970), a full stop, and the body. A receiver compares it in constant time, refuses a time that is more than five minutes away, and
// refuses an Idempotency-Key that it has seen.
type NotifyWebhook struct {
	irreversible
	noLag
	noSnapshot
	options NotifyWebhookOptions
	client  *http.Client
	now     func() time.Time
	pause   func(context.Context, time.Duration) error
}

// NewNotifyWebhook returns the action.
func NewNotifyWebhook(o NotifyWebhookOptions, now func() time.Time) *NotifyWebhook {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: dial.Guard(o.Networks, "actions.notify_webhook.networks")}
	return &NotifyWebhook{options: o, client: newClient(d.DialContext), now: now, pause: pause}
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Describe implements Action.
func (w *NotifyWebhook) Describe() Description {
	return Description{
		Name: NameNotifyWebhook, Class: approval.Speak, Targets: []string{"agent", "session", "tool"}, Irreversible: true, Unverified: true,
		Effect:      "A text is sent to a receiver outside.",
		Undo:        "It can't be undone: what was said stays said.",
		DoesNotStop: "Anything: it tells and contains nothing.",
		Params:      map[string]string{"receiver": "a name of actions.notify_webhook.receivers", "text": fmt.Sprintf("what is said, at most %d bytes", maxSaid)},
		Required:    []string{"receiver", "text"},
	}
}

const maxSaid = 4 << 10

// Plan implements Action. The lines hold the whole text, because that is what people approve.
func (w *NotifyWebhook) Plan(_ context.Context, in Input) (Change, error) {
	r, ok := w.options.Receivers[in.Plan.Params["receiver"]]
	if !ok {
		return Change{}, fmt.Errorf("receiver: actions.notify_webhook.receivers has no %q", in.Plan.Params["receiver"])
	}
	text := in.Plan.Params["text"]
	if text == "" || len(text) > maxSaid || !utf8.ValidString(text) {
		return Change{}, fmt.Errorf("text: want 1 to %d bytes of UTF-8", maxSaid)
	}
	return Change{Lines: []string{
		fmt.Sprintf("POST to %s (receiver %q), about %s:", r.URL, in.Plan.Params["receiver"], in.Plan.Target), strconv.Quote(text),
	}, Blast: 1}, nil
}

// message is the body.
type message struct {
	Version   int             `json:"version"`
	Request   string          `json:"request"`
	Incident  string          `json:"incident"`
	Target    approval.Target `json:"target"`
	Text      string          `json:"text"`
	Approvers string          `json:"approvers"`
}

// triesToSay bounds the tries of one Apply.
const triesToSay = 3

// Apply implements Action. It tries again only where the receiver cannot have taken it: no connection was made, or the receiver says
// by 429 or 503 that it did not. All else leaves the outcome unknown, and a second try is for people to decide.
func (w *NotifyWebhook) Apply(ctx context.Context, l Lease) error {
	return w.send(ctx, l, l.Plan.Params["text"])
}

func (w *NotifyWebhook) send(ctx context.Context, l Lease, text string) error {
	r, ok := w.options.Receivers[l.Plan.Params["receiver"]]
	if !ok {
		return fmt.Errorf("receiver: actions.notify_webhook.receivers has no %q", l.Plan.Params["receiver"])
	}
	body, err := json.Marshal(message{1, l.ID, l.Incident, l.Plan.Target, text, l.Approver})
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	for try := 1; ; try++ {
		again, err := w.say(ctx, r, l.ID, body)
		if err == nil || !again || try == triesToSay {
			return err
		}
		if err := w.pause(ctx, time.Duration(try)*time.Second); err != nil {
			return err
		}
	}
}

// say sends the body once. again means that surely nothing was taken.
func (w *NotifyWebhook) say(ctx context.Context, r WebhookOptions, id string, body []byte) (again bool, err error) {
	key, err := readSecret(r.SecretFile)
	if err != nil {
		return false, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	// The transport repeats a request by itself where it carries an idempotency key or can be read again; neither is ours to decide.
	request.GetBody = nil
	at := strconv.FormatInt(w.now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", strconv.Quote(id))
	request.Header.Set("Tocsin-Timestamp", at)
	request.Header.Set("Tocsin-Signature", "v1="+signV1(key, at, body))
	status, _, err := call(w.client, request)
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "dial":
		return true, err
	case err != nil:
		return false, err
	case status >= 200 && status < 300:
		return false, nil
	}
	u, _ := url.Parse(r.URL)
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable, fmt.Errorf("%s answered with status %d", u.Host, status)
}

// signV1 is version 1 of the signature.
func signV1(key, at string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify implements Action: nothing shows that somebody read it.
func (w *NotifyWebhook) Verify(context.Context, Lease) (bool, error) { return false, nil }

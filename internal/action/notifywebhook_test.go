package action

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

var webhookKey = strings.Repeat("k", 32)

// webhook is the action with one receiver that runs here, and what it waited.
func webhook(t *testing.T, at string, networks ...string) (*NotifyWebhook, *[]time.Duration) {
	t.Helper()
	o := NotifyWebhookOptions{Receivers: map[string]WebhookOptions{"soc": {URL: at, SecretFile: file(t, webhookKey)}}}
	for _, n := range networks {
		o.Networks = append(o.Networks, netip.MustParsePrefix(n))
	}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	w := NewNotifyWebhook(o, func() time.Time { return noon })
	waited := new([]time.Duration)
	w.pause = func(ctx context.Context, d time.Duration) error {
		*waited = append(*waited, d)
		return ctx.Err()
	}
	return w, waited
}

func said(text string) approval.Plan {
	return approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"receiver": "soc", "text": text}}
}

// The receiver checks the signature as the documents say, with nothing of ours.
func TestNotifyWebhook(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, []byte(webhookKey))
		fmt.Fprintf(mac, "%s.%s", r.Header.Get("Tocsin-Timestamp"), body)
		if r.Header.Get("Tocsin-Signature") != "v1="+hex.EncodeToString(mac.Sum(nil)) {
			t.Error("the signature does not verify")
		}
		got = append(got, r.Header.Get("Tocsin-Timestamp"), r.Header.Get("Idempotency-Key"), string(body))
	}))
	defer server.Close()
	w, _ := webhook(t, server.URL+"/hook", "127.0.0.0/8")
	c, d, in := granted(t, w, said("agent <a> is held"))
	wantLines := []string{`POST to ` + server.URL + `/hook (receiver "soc"), about agent a:`, `"agent <a> is held"`}
	if diff := cmp.Diff(wantLines, in.Plan.Change); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		l, err := c.Apply(t.Context(), in)
		if err != nil || l.Lifted.IsZero() {
			t.Fatalf("%+v %v", l, err)
		}
		if l, err = c.Verify(t.Context(), l); err != nil || !l.Verified.IsZero() {
			t.Errorf("%+v %v: nothing proves that it was read", l, err)
		}
	}
	want := []string{"1772366400", `"r1"`, `{"version":1,"request":"r1","incident":"INC-1","target":{"agent":"a"},"text":"agent \u003ca\u003e is held","approvers":"ada, bob"}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), webhookKey) {
		t.Error("the lease holds the key", err)
	}
	// One person can't have it said.
	in.Request, in.Grants = "r2", in.Grants[:1]
	if _, err := c.Apply(t.Context(), in); !errors.Is(err, ErrGrants) {
		t.Errorf("said with one person's grant: %v", err)
	}
}

// A message is sent again only where the receiver surely did not take it.
func TestNotifyWebhookTries(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers []int // 0 cuts the connection
		tries   int
		want    string
	}{
		{"taken", []int{202}, 1, ""},
		{"busy, then taken", []int{503, 429, 200}, 3, ""},
		{"busy for ever", []int{503, 503, 503, 200}, 3, "answered with status 503"},
		{"failed inside", []int{500, 200}, 1, "answered with status 500"},
		{"refused", []int{403, 200}, 1, "answered with status 403"},
		{"cut off", []int{0, 200}, 1, "EOF"},
		{"sent elsewhere by GET", []int{302, 200}, 1, "answered with status 302"},
		{"sent elsewhere", []int{307, 200}, 1, "answered with status 307"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys := make(map[string]bool)
			tries := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				keys[r.Header.Get("Idempotency-Key")] = true
				status := tt.answers[tries]
				tries++
				if status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
			}))
			defer server.Close()
			w, waited := webhook(t, server.URL, "127.0.0.1/32")
			err := w.Apply(t.Context(), Lease{ID: "r1", Plan: said("x")})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Apply = %v, want %q", err, tt.want)
			}
			server.Close() // what it wrote is read below
			if tries != tt.tries || len(keys) != 1 || len(*waited) != tries-1 {
				t.Errorf("%d tries with %d keys, waited %v, want %d tries", tries, len(keys), *waited, tt.tries)
			}
		})
	}
	// Nobody listens: nothing was taken.
	w, waited := webhook(t, "http://127.0.0.1:1/", "127.0.0.1/32")
	if err := w.Apply(t.Context(), Lease{Plan: said("x")}); err == nil || len(*waited) != triesToSay-1 {
		t.Errorf("%v after %d pauses", err, len(*waited))
	}
}

// The transport sends a request again by itself where a connection that it used before dies; a message it must not.
func TestNotifyWebhookOnAnOldConnection(t *testing.T) {
	tries := 0
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if tries++; tries > 1 {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	w, _ := webhook(t, server.URL, "127.0.0.1/32")
	if err := w.Apply(t.Context(), Lease{ID: "r1", Plan: said("x")}); err != nil {
		t.Fatal(err)
	}
	err := w.Apply(t.Context(), Lease{ID: "r2", Plan: said("x")})
	server.Close() // what it wrote is read below
	if err == nil || tries != 2 {
		t.Errorf("%v after %d requests, want 2", err, tries)
	}
}

// A process that dies between sending and writing leaves an unknown outcome, which nobody repeats.
func TestNotifyWebhookIsNotRepeated(t *testing.T) {
	tries := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { tries++; panic(http.ErrAbortHandler) }))
	defer server.Close()
	w, _ := webhook(t, server.URL, "127.0.0.1/32")
	c, _, in := granted(t, w, said("x"))
	if _, err := c.Apply(t.Context(), in); err == nil {
		t.Fatal("a connection that was cut is no error")
	}
	_, err := c.Apply(t.Context(), in)
	server.Close() // what it wrote is read below
	if !errors.Is(err, ErrUnknown) || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestNotifyWebhookRefuses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the receiver was called") }))
	defer server.Close()
	for _, at := range []string{server.URL, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)} { // as resolved, too
		w, _ := webhook(t, at, "10.0.0.0/8")
		if err := w.Apply(t.Context(), Lease{Plan: said("x")}); err == nil || !strings.Contains(err.Error(), "not a public address") {
			t.Errorf("%s: %v", at, err)
		}
	}
	w, _ := webhook(t, server.URL, "127.0.0.0/8")
	for name, p := range map[string]approval.Plan{
		"no such receiver": {Params: map[string]string{"receiver": "evil", "text": "x"}}, "nothing": said(""), "too long": said(strings.Repeat("x", maxSaid+1)), "no text": said("\xff"),
	} {
		if _, err := w.Plan(t.Context(), Input{Plan: p}); err == nil {
			t.Errorf("%s is planned", name)
		}
	}
}

package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// What to do about a refused credential depends on what was asked: a wrong password is not cured by signing in.
func TestUnauthorized(t *testing.T) {
	console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"not you"}`)
	}))
	defer console.Close()
	ctx, std := context.Background(), &stdio{in: strings.NewReader("wrong\n"), out: io.Discard, err: io.Discard}
	for name, tt := range map[string]struct {
		run  func() error
		want string
	}{
		"sign-in": {func() error {
			return (&signInCmd{server: server{address: address{Server: console.URL}}, User: "ana"}).Run(ctx, std)
		}, "not you"},
		"person": {func() error {
			return (&incidentsListCmd{server{address: address{Server: console.URL, Token: "old"}}}).Run(ctx, std)
		}, "not you: sign in with tocsin sign-in"},
		"the gate": {func() error {
			return (&gateCheckCmd{asker: asker{Gate: console.URL, Wait: time.Minute}, Agent: "a"}).Run(ctx, std)
		}, "not you: set --token or TOCSIN_GATE_TOKEN"},
	} {
		if err := tt.run(); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// The log of a running Tocsin is read whole, or the reader learns that it was not.
func TestReadLive(t *testing.T) {
	const one, two = `{"event":{"id":"a","kind":"prompt"}}`, `{"event":{"id":"b","kind":"prompt"}}`
	for _, tt := range []struct {
		name, answer string
		status       int
		want, err    string
	}{
		{"whole", one + "\n" + two + "\n" + `{"end":2}`, 200, "ab", ""},
		{"empty", `{"end":0}`, 200, "", ""},
		{"cut off", one + "\n" + `{"event":{"id`, 200, "a", "read the event log: cut off after 1 events: unexpected EOF"},
		{"no end", one + "\n", 200, "a", "read the event log: cut off after 1 events: EOF"},
		{"one is missing", one + "\n" + `{"end":2}`, 200, "a", "read the event log: after 1 events: a line without one"},
		{"failed on its way", one + "\n" + `{"error":"the disk is gone"}`, 200, "a", "read the event log: after 1 events: the disk is gone"},
		{"refused", `{"error":"your role may not do that"}`, 403, "", "your role may not do that"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/events" || r.Header.Get("Authorization") != "Bearer t" {
					t.Errorf("asked for %s as %s", r.URL, r.Header.Get("Authorization"))
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.answer)
			}))
			defer console.Close()
			got := ""
			h := history{address: address{Server: console.URL, Token: "t"}, Live: true}
			err := h.read(t.Context(), &stdio{}, nil, func(e *event.Event) error { got += e.ID; return nil })
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("events %q, error %v", got, err)
			}
		})
	}
}

package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
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
		"sign-in": {func() error { return (&signInCmd{server: server{Server: console.URL}, User: "ana"}).Run(ctx, std) }, "not you"},
		"person":  {func() error { return (&incidentsListCmd{server{Server: console.URL, Token: "old"}}).Run(ctx, std) }, "not you: sign in with tocsin sign-in"},
		"the gate": {func() error {
			return (&gateCheckCmd{asker: asker{Gate: console.URL, Wait: time.Minute}, Agent: "a"}).Run(ctx, std)
		}, "not you: set --token or TOCSIN_GATE_TOKEN"},
	} {
		if err := tt.run(); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

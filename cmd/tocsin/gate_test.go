package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestUnreadableHook sends input that an agent made unreadable: too large, or cut.
func TestUnreadableHook(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	for _, tt := range []struct {
		name, gate, onError string
		denied              bool
	}{
		{"agent whose calls a human allows, declared open", `{"allow":false,"ask":true,"reason":"a human's word","on_error":"open"}`, "server", false},
		{"quarantined agent", `{"allow":false,"reason":"quarantined","on_error":"open"}`, "server", true},
		{"allowed agent, declared closed", `{"allow":true,"reason":"no lease is in force","on_error":"closed"}`, "server", true},
		{"allowed agent, closed by its flag", `{"allow":true,"reason":"no lease is in force","on_error":"open"}`, "closed", true},
		{"allowed agent, declared open", `{"allow":true,"reason":"no lease is in force","on_error":"open"}`, "server", false},
	} {
		for name, input := range map[string]string{
			"large": `{"hook_event_name":"PreToolUse","tool_name":"Write","tool_input":"` + strings.Repeat("x", maxHook) + `"}`,
			"cut":   `{"hook_event_name":"PreToolUse","tool_`,
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tt.gate) }))
				defer server.Close()
				var out bytes.Buffer
				hook := &hookCmd{asker: asker{Gate: server.URL, Wait: 5 * time.Second}, Agent: "coder", OnError: tt.onError}
				if err := hook.Run(context.Background(), &stdio{in: strings.NewReader(input), out: &out, err: io.Discard}); err != nil {
					t.Fatalf("error %v: the exit code would let the call pass", err)
				}
				if got := strings.Contains(out.String(), `"deny"`); got != tt.denied {
					t.Errorf("denied: %v, want %v; answer %s", got, tt.denied, out.String())
				}
				if ask := strings.Contains(out.String(), `"permissionDecision":"ask"`); ask != strings.Contains(tt.gate, `"ask"`) {
					t.Errorf("the gate said %s, the hook %s", tt.gate, out.String())
				}
			})
		}
	}
}

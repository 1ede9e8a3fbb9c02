package action

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// text is the draft of every incident.
type text string

func (t *text) DraftText(context.Context, string, string) (string, error) { return string(*t), nil }

// TestSendDraft: what two people approved is sent word for word and once; a text that was edited since is not.
func TestSendDraft(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, string(body))
	}))
	defer server.Close()
	w, _ := webhook(t, server.URL, "127.0.0.0/8")
	draft := text("We stopped it.")
	plan := approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"receiver": "soc", "draft": "customer-notice"}}
	c, d, in := granted(t, NewSendDraft(w, &draft), plan)
	if len(in.Plan.Change) != 2 || !strings.Contains(in.Plan.Change[1], "draft customer-notice, 14 bytes, sha256 ") {
		t.Errorf("the change is %q", in.Plan.Change)
	}
	draft = "We did nothing."
	if _, err := c.Apply(t.Context(), in); !errors.Is(err, ErrChanged) || len(got) > 0 || len(d.leases) > 0 {
		t.Fatalf("another text: %v, sent %q", err, got)
	}
	draft = "We stopped it."
	for range 2 {
		if _, err := c.Apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 || !strings.Contains(got[0], `"text":"We stopped it."`) || !strings.Contains(got[0], `"approvers":"ada, bob"`) {
		t.Errorf("sent was %q", got)
	}
	for _, unfit := range []text{"Whom to ask: ____", text(strings.Repeat("x", maxSent+1))} {
		draft = unfit
		if _, err := c.Plan(t.Context(), in); err == nil {
			t.Errorf("people are asked to send %.20q", string(unfit))
		}
	}
}

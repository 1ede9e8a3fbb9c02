package slack

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

// loosening puts a change into the store that one lead signed, and returns its card.
func (h *house) loosening() (approval.Request, slackfake.Message) {
	h.Helper()
	r := loosen("billing/<!channel>")
	r.Asked, r.Deadline = h.time.Now(), h.time.Now().Add(4*time.Hour)
	r.Votes = []approval.Decision{{Request: r.ID, Verb: approval.Approve, Digest: r.Digest, By: approval.Principal{ID: "carl", Role: approval.Lead}, Reason: "it *has* another job", At: r.Asked}}
	h.must(h.store.SaveRequest(h.Context(), r))
	h.reconcile()
	return r, h.cardOf(r)
}

// The second signature is given in Slack: card, window, answer, card. Whose does not count is refused by the same check as everywhere.
func TestLoosenInSlack(t *testing.T) {
	h := open(t)
	r, m := h.loosening()
	h.wantShown("the card", m.Blocks, "Loosen a baseline?", "1 of 2 approvals: carl.", "it *has* another job", "2 of role:lead", "Roll back, while the copy is kept", string(code(r.Digest)))
	if slackfake.HasButton(m, actLooking) || strings.Contains(string(m.Blocks), "Why:") {
		t.Error("the card is an incident's")
	}
	h.click(m, actReview, ana) // a responder, where leads are asked
	v, _ := h.fake.View(ana)
	h.wantShown("the responder's window", v.Body, "You can't answer this: ana belongs to none of role:lead")
	v = h.window(m, bob)
	h.wantShown("the window", v.Body, r.Question, r.Effect, `"rebase"`, string(code(r.Digest)))
	if shows(v.Body, "Neither yet") {
		t.Error("the window takes a note, and there is no incident to note it in")
	}
	after := h.submit(v, approval.Approve)
	h.wantShown("the window after the answer", after.Body, "Recorded: approved. 2 of 2 approvals.")
	got := h.request(r.ID)
	if got.State != approval.Approved || got.Decision.By.ID != "bob" || got.Decision.By.Via != "slack" {
		t.Errorf("the request is %s by %+v", got.State, got.Decision)
	}
	if len(h.desk.noticed) > 0 {
		t.Errorf("%v noticed an incident that there is none of", h.desk.noticed)
	}
	h.reconcile()
	card := h.cardOf(r)
	h.wantShown("the card afterwards", card.Blocks, "Baseline changed", "Approved by carl, bob", "The change is made.")
	for _, action := range []string{actReview, actDeny} {
		if slackfake.HasButton(card, action) {
			t.Errorf("the decided card still has the button %s", action)
		}
	}
}

// The card says what the store says, whichever door was used: a denial, the end of its time, a change that is still to be made.
func TestLoosenCardFollowsTheStore(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *approval.Request)
		want   []string
		open   bool // the card is still looked at
	}{
		{"denied", func(r *approval.Request) {
			r.Answer(approval.Decision{Verb: approval.Deny, By: approval.Principal{ID: "bob", Via: "cli"}, Reason: "not yet", At: r.Asked.Add(time.Minute)})
		}, []string{"Denied by bob", "not yet"}, false},
		{"expired", func(r *approval.Request) { r.State = approval.Expired }, []string{"1 of 2 people signed by", "Nothing was changed."}, false},
		{"approved and due", func(r *approval.Request) {
			r.Answer(approval.Decision{Verb: approval.Approve, By: approval.Principal{ID: "bob", Via: "console"}, Reason: "seen", At: r.Asked.Add(time.Minute)})
			r.Due = true
		}, []string{"Approved, being carried out"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := open(t)
			r, m := h.loosening()
			tt.change(&r)
			h.must(h.store.SaveRequest(t.Context(), r))
			h.slack.Changed(r.ID)
			if diff := cmp.Diff(map[string]bool{r.ID: true}, h.slack.dirty); diff != "" {
				t.Error(diff)
			}
			h.must(h.slack.reconcile(t.Context(), h.slack.dirty, false, false))
			h.wantShown("the card", h.cardOf(r).Blocks, tt.want...)
			if n := len(h.fake.Thread(m.TS)); n != 1 && n != 2 {
				t.Errorf("the thread has %d notes", n)
			}
			found := false
			h.must(h.store.EachCard(t.Context(), 10, func([]byte) { found = true }))
			if found != tt.open {
				t.Errorf("the card is looked at: %t, want %t", found, tt.open)
			}
		})
	}
}

// A button of a baseline's card that was made for another card, or that no such card has, counts for nothing.
func TestLoosenForged(t *testing.T) {
	h := open(t)
	r, m := h.loosening()
	_, other := h.post(1)
	forged := other
	forged.Blocks = m.Blocks
	h.must(h.fake.Click(forged, actReview, bob))
	h.settled()
	if n := len(h.desk.refusals()); n != 1 || !strings.Contains(h.desk.refusals()[0], approval.RefusedForged) || h.request(r.ID).State != approval.Pending {
		t.Errorf("%d refusals: %v", n, h.desk.refusals())
	}
}

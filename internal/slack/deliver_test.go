package slack

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

// A post that Slack took and did not answer may be there twice, never three times, and the card that Tocsin knows is the one that counts.
func TestAmbiguousPost(t *testing.T) {
	for name, c := range map[string]struct {
		faults []slackfake.Fault
		cards  int
		known  bool
	}{
		"time-out after commit":       {[]slackfake.Fault{{Cut: true, Commit: true}}, 2, true},
		"5xx after commit":            {[]slackfake.Fault{{Status: 503, Commit: true}}, 2, true},
		"5xx":                         {[]slackfake.Fault{{Status: 503}}, 1, true},
		"twice a time-out and commit": {[]slackfake.Fault{{Cut: true, Commit: true}, {Cut: true, Commit: true}}, 2, false},
		"refused":                     {[]slackfake.Fault{{Error: "channel_not_found"}, {Error: "channel_not_found"}, {Error: "channel_not_found"}}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.fake.Fail("chat.postMessage", c.faults...)
			r := h.ask(1)
			for range 6 {
				if err := h.slack.reconcile(t.Context(), nil, false, false); err != nil {
					t.Log(err)
				}
			}
			all := h.fake.Messages()
			if len(all) != c.cards {
				t.Errorf("there are %d cards, want %d", len(all), c.cards)
			}
			p, _, err := h.slack.stored(t.Context(), r.Incident)
			h.must(err)
			if (p.TS != "") != c.known {
				t.Errorf("the card is known at %q", p.TS)
			}
			for _, m := range all {
				if !bytes.Contains(m.Metadata, []byte(r.ID)) {
					t.Errorf("the card carries %s, not its request", m.Metadata)
				}
				h.click(m, actLooking, ana)
			}
			if want := min(1, len(h.desk.noticed)); len(h.desk.noticed) != want || c.known && want != 1 {
				t.Errorf("noticed %d times: only the known card counts", len(h.desk.noticed))
			}
		})
	}
}

// Slack says when to come back, and fifty cards come all the same, each once.
func TestRateLimitBurst(t *testing.T) {
	h := open(t)
	for n := range 50 {
		h.ask(n)
		h.fake.Fail("chat.postMessage", slackfake.Fault{Status: 429, RetryAfter: time.Second})
	}
	h.fake.Fail("chat.update", slackfake.Fault{Status: 429, RetryAfter: 30 * time.Second})
	before := h.time.Now()
	for range 20 {
		if err := h.slack.reconcile(t.Context(), nil, false, false); err == nil {
			break
		}
	}
	if n := len(h.fake.Messages()); n != 50 {
		t.Errorf("there are %d cards, want 50", n)
	}
	if waited := h.time.Now().Sub(before); waited < 50*time.Second {
		t.Errorf("it waited %s in all, want what Slack asked for", waited)
	}
}

// Other failures of a server are not tried again within the call.
func TestNoRetry(t *testing.T) {
	h := open(t)
	h.ask(1)
	h.fake.Fail("chat.postMessage", slackfake.Fault{Status: 500})
	if err := h.slack.reconcile(t.Context(), nil, false, false); err == nil {
		t.Error("a failed post is no error")
	}
	if n := h.fake.Calls("chat.postMessage"); n != 1 {
		t.Errorf("it was posted %d times", n)
	}
}

// A card is changed only where what it shows changed, is posted anew where somebody deleted it, and is left alone once its incident is
// closed.
func TestReconcile(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.reconcile()
	if h.fake.Calls("chat.update") != 0 {
		t.Error("an unchanged card was updated")
	}
	h.fake.Delete(m.TS)
	i, err := h.store.Incident(t.Context(), r.Incident)
	h.must(err)
	i.NoticedBy, i.Times.Noticed = "bob", h.time.Now()
	h.must(h.store.SaveIncident(t.Context(), i))
	h.reconcile()
	h.reconcile()
	again := h.cardOf(r)
	if again.TS == m.TS {
		t.Error("the deleted card is not posted anew")
	}
	i.Status = incident.Closed
	h.save(i, r)
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Incident closed", "Nothing was done")
	calls := h.fake.Calls("chat.update")
	i.Title = "another title"
	h.must(h.store.SaveIncident(t.Context(), i))
	r.State = approval.Expired
	h.must(h.store.SaveRequest(t.Context(), r))
	h.reconcile()
	if h.fake.Calls("chat.update") != calls {
		t.Error("the card of a closed incident was updated")
	}
}

// Nobody is told of a question that was answered before Slack could be reached.
func TestAnsweredElsewhere(t *testing.T) {
	h := open(t)
	r := h.ask(1)
	r.State = approval.Denied
	r.Decision = &approval.Decision{Verb: approval.Deny, By: approval.Principal{ID: "bob"}, At: h.time.Now()}
	h.must(h.store.SaveRequest(t.Context(), r))
	h.reconcile()
	if n := len(h.fake.Messages()); n != 0 {
		t.Errorf("there are %d messages", n)
	}
}

// Each rung tells its groups once, in the thread; a reminder is left out while somebody is looking, a new rung is not.
func TestLadder(t *testing.T) {
	h := open(t)
	r, m := h.post(1, func(_ *incident.Incident, r *approval.Request) {
		r.Terms.From = []approval.Approvers{{Groups: []string{"slack:S0ONCALL"}}}
		r.Terms.Ladder = []approval.Rung{
			{After: 4 * time.Minute}, {After: 5 * time.Minute}, {After: 7 * time.Minute, Tell: []string{"slack:S0SECOND", "oidc:second"}}, {After: 12 * time.Minute, Tell: []string{"slack:S0LEADS"}},
		}
	})
	mentions := func() (out []string) {
		for _, n := range h.fake.Thread(m.TS) {
			for part := range strings.SplitSeq(string(unescape(n.Blocks)), "<!subteam^") {
				if id, _, ok := strings.Cut(part, ">"); ok && strings.HasPrefix(id, "S0") {
					out = append(out, id)
				}
			}
		}
		return out
	}
	want := []string(nil)
	for _, step := range []struct {
		after time.Duration
		adds  []string
	}{{3 * time.Minute, nil}, {90 * time.Second, []string{"S0ONCALL"}}, {45 * time.Second, nil}, {2 * time.Minute, []string{"S0SECOND"}}, {5 * time.Minute, []string{"S0LEADS"}}} {
		h.time.move(step.after)
		if step.after == 45*time.Second {
			h.click(m, actLooking, bob)
		}
		h.reconcile()
		h.reconcile()
		want = append(want, step.adds...)
		if diff := cmp.Diff(want, mentions()); diff != "" {
			t.Fatalf("after %s more, mentioned (want -, got +):\n%s", step.after, diff)
		}
	}
	h.wantShown("the card", h.cardOf(r).Blocks, "escalated, level 4")
}

// What became of a question is shown with its proof, and until when the effect is not whole.
func TestEffect(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.answer(m, ana, approval.Approve)
	decided := h.request(r.ID)
	lease := action.Lease{ID: r.ID, Incident: r.Incident, Plan: r.Plan, Approver: "ana", Ends: h.time.Now().Add(time.Hour), Grants: []approval.Grant{{Approver: "ana", Issued: decided.Decision.At}}}
	step := func(what string, want ...string) {
		h.Helper()
		h.must(h.store.SaveLease(t.Context(), lease))
		h.reconcile()
		h.wantShown(what, h.cardOf(r).Blocks, want...)
	}
	h.reconcile()
	h.wantShown("approved", h.cardOf(r).Blocks, "Approved, being carried out")
	lease.Applied = h.time.Now().Add(time.Second)
	step("applied", "the effect is not proved yet")
	lease.Verified, lease.Effective, lease.Lag = h.time.Now().Add(2*time.Second), h.time.Now().Add(5*time.Minute), "tokens that were handed out stay good"
	step("contained", "Contained · high", "a probe saw the effect 2.0 s after the decision", "What it had is still effective until 2026-11-26 14:05:00 UTC: tokens that were handed out stay good")
	h.time.move(63 * time.Minute)
	step("overdue", "NOT undone")
	lease.Lifted, lease.LiftedBy = h.time.Now(), "its end"
	step("reverted", "Containment ended", "by its end")
	var notes []string
	for _, n := range h.fake.Thread(m.TS) {
		notes = append(notes, string(n.Blocks))
	}
	if len(notes) != 5 {
		t.Errorf("%d notes, want one for each of the five transitions:\n%s", len(notes), strings.Join(notes, "\n"))
	}
}

// An approved containment that is not in force must not look like one that is.
func TestFailed(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.answer(m, ana, approval.Approve)
	h.must(h.store.AddEntry(t.Context(), r.Incident, incident.Entry{At: h.time.Now(), Actor: "tocsin", Source: "workflow", Kind: "note", Ref: r.ID, Text: "The containment failed; its effect is unknown: <!here> timeout"}))
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Approved, but NOT in force", "its effect is unknown")
}

// What waits for a worker is not in force, and the card says why; when it was done the card says no longer that it waits, also where nothing
// can prove the effect.
func TestWaitsForWorker(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.answer(m, ana, approval.Approve)
	h.must(h.store.AddEntry(t.Context(), r.Incident, incident.Entry{At: h.time.Now(), Actor: "tocsin", Source: "workflow", Kind: "note", Ref: r.ID, Text: "No worker has taken it within 15s"}))
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Approved, but NOT in force", "No worker has taken it")
	lease := action.Lease{ID: r.ID, Incident: r.Incident, Plan: r.Plan, Approver: "ana", Applied: h.time.Now(), Ends: h.time.Now().Add(time.Hour)}
	h.must(h.store.SaveLease(t.Context(), lease))
	h.must(h.store.AddEntry(t.Context(), r.Incident, incident.Entry{At: h.time.Now(), Actor: "tocsin", Source: "gate", Kind: "containment", Ref: r.ID, Text: "Done"}))
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Approved, being carried out", "the effect is not proved yet")
}

// One card holds all questions of an incident that are open at once.
func TestSeveralQuestions(t *testing.T) {
	h := open(t)
	r, _ := h.post(1)
	second := r
	second.ID, second.Revision, second.Plan.Target.Tool = r.Incident+"-R2", 2, "send_money"
	second.Question = second.Plan.Question()
	var err error
	second.Digest, err = approval.DigestOf(second.Plan)
	h.must(err)
	h.must(h.store.SaveRequest(t.Context(), second))
	h.reconcile()
	if n := len(h.fake.Messages()); n != 1 {
		t.Fatalf("there are %d cards", n)
	}
	h.wantShown("the card", h.cardOf(r).Blocks, r.Question, second.Question)
	h.answer(h.cardOf(r), ana, approval.Approve) // the first button is the first question's
	h.reconcile()
	if first, other := h.request(r.ID).State, h.request(second.ID).State; first != approval.Approved || other != approval.Pending {
		t.Errorf("the first is %s, the second %s", first, other)
	}
	h.wantShown("the card", h.cardOf(r).Blocks, "Approved by ana", second.Question+" ana is looking. 0 of 1 approvals.", "Approve a containment?")
}

// pager is a webhook that takes calls.
func pager(t *testing.T) (url string, calls func() []pagerCall) {
	got := make(chan pagerCall, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var c pagerCall
		if err == nil {
			err = json.Unmarshal(body, &c)
		}
		if err != nil {
			t.Error(err)
		}
		got <- c
	}))
	t.Cleanup(server.Close)
	return server.URL, func() (out []pagerCall) {
		for {
			select {
			case c := <-got:
				out = append(out, c)
			default:
				return out
			}
		}
	}
}

// When Slack is out for a minute people are told in another way, and of each question once; when it is back, the cards are brought up to
// date, and one summary takes the place of what they missed.
func TestOutage(t *testing.T) {
	at, calls := pager(t)
	h := open(t, func(h *house) { h.o.Pager = at })
	r, m := h.post(1)
	assess := func(after time.Duration) {
		h.Helper()
		h.time.move(after)
		h.slack.introduce(t.Context())
		h.must(h.slack.assess(t.Context()))
	}
	assess(0)
	h.fake.Fail("auth.test", slices.Repeat([]slackfake.Fault{{Error: "token_revoked"}}, 5)...)
	assess(time.Second)
	assess(50 * time.Second)
	if got := calls(); len(got) != 0 {
		t.Errorf("the pager was called early: %+v", got)
	}
	assess(20 * time.Second)
	got := calls()
	if len(got) != 1 || len(got[0].Waiting) != 1 || got[0].Waiting[0].Request != r.ID || !strings.Contains(got[0].Text, "token_revoked") {
		t.Errorf("the pager was told %+v", got)
	}
	if ok, text := h.slack.State(); ok || !strings.Contains(text, "revoked") {
		t.Errorf("the health is %v %q", ok, text)
	}
	h.fake.Fail("chat.postMessage", slices.Repeat([]slackfake.Fault{{Error: "token_revoked"}}, 50)...)
	second := h.ask(2)
	if err := h.slack.reconcile(t.Context(), nil, false, false); err == nil {
		t.Error("a card was posted in an outage")
	}
	assess(time.Second)
	if got := calls(); len(got) != 1 || len(got[0].Waiting) != 1 || got[0].Waiting[0].Request != second.ID {
		t.Errorf("the pager was told %+v of the second question", got)
	}
	assess(time.Second)
	if got := calls(); len(got) != 0 {
		t.Errorf("the pager was told again: %+v", got)
	}
	// While Slack is out somebody decides elsewhere.
	h.must(h.desk.Answer(t.Context(), approval.Decision{Request: r.ID, Verb: approval.Approve, Digest: r.Digest, By: approval.Principal{ID: "bob", Role: approval.Lead, Via: "cli"}, Reason: "by hand", At: h.time.Now()}))
	h.fake.Mend("auth.test")
	h.fake.Mend("chat.postMessage")
	assess(time.Second)
	if ok, text := h.slack.State(); !ok {
		t.Errorf("the health is %q", text)
	}
	h.wantShown("the first card", h.cardOf(r).Blocks, "Approved by bob")
	if n := len(h.fake.Thread(m.TS)); n != 0 {
		t.Errorf("%d notes flood the thread", n)
	}
	h.cardOf(second)
	all := h.fake.Messages()
	if len(all) != 3 {
		t.Fatalf("there are %d messages, want two cards and a summary", len(all))
	}
	h.wantShown("the summary", all[2].Blocks, "1 questions wait")
	if diff := cmp.Diff([]bool{true, false}, h.meter.degraded); diff != "" {
		t.Errorf("degraded (want -, got +):\n%s", diff)
	}
}

// A card that can't be posted is an outage too, whatever else works.
func TestUndelivered(t *testing.T) {
	h := open(t)
	h.fake.Fail("chat.postMessage", slices.Repeat([]slackfake.Fault{{Status: 500}}, 50)...)
	h.ask(1)
	if err := h.slack.reconcile(t.Context(), nil, false, false); err == nil {
		t.Error("a failed post is no error")
	}
	h.time.move(61 * time.Second)
	h.slack.introduce(t.Context())
	h.must(h.slack.assess(t.Context()))
	if ok, text := h.slack.State(); ok || !strings.Contains(text, "could not be posted") {
		t.Errorf("the health is %v %q", ok, text)
	}
}

// A token that lacks a scope, or is another workspace's, is told with what to do.
func TestScopes(t *testing.T) {
	h := open(t)
	h.fake.SetScopes("chat:write", "users:read")
	h.slack.introduce(t.Context())
	h.must(h.slack.assess(t.Context()))
	if _, text := h.slack.State(); !strings.Contains(text, "missing_scope") {
		t.Errorf("the health says %q", text)
	}
	h.fake.SetScopes(scopes()...)
	h.o.Team = "T9OTHER"
	h.start()
	if why, _ := h.slack.health.problem(ModeHTTP, time.Time{}, h.time.Now()); h.slack.identity() != nil || !strings.Contains(why, "slack.team") {
		t.Errorf("the token of another workspace was taken; the problem is %q", why)
	}
}

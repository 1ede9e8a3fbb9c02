package slack

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

// TestApprove is the whole way of an answer: card, window, answer, card.
func TestApprove(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	h.wantShown("the window", v.Body, r.Question, r.Effect, r.DoesNotStop, r.Plan.Evidence[0], "DE89-EVIL", string(code(r.Digest)))
	h.time.move(7 * time.Second)
	after := h.submit(v, approval.Approve)
	h.wantShown("the window after the answer", after.Body, "Recorded: approved. 1 of 1 approvals.")
	got := h.request(r.ID)
	if got.State != approval.Approved || got.Decision.By.ID != "ana" || got.Decision.By.Via != "slack" || got.Decision.Looked != 7*time.Second {
		t.Errorf("the request is %s, decided %+v", got.State, got.Decision)
	}
	h.reconcile()
	card := h.cardOf(r)
	h.wantShown("the card", card.Blocks, "Approved by ana", "not what the user asked for", r.Plan.Target.Agent)
	for _, action := range []string{actReview, actDeny, actLooking} {
		if slackfake.HasButton(card, action) {
			t.Errorf("the decided card still has the button %s", action)
		}
	}
	if n := len(h.fake.Thread(m.TS)); n != 1 {
		t.Errorf("the thread has %d notes, want 1", n)
	}
	if diff := cmp.Diff([]string{"ana"}, h.desk.noticed); diff != "" {
		t.Errorf("noticed (want -, got +):\n%s", diff)
	}
}

func TestDeny(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.click(m, actDeny, bob)
	v, _ := h.fake.View(bob)
	h.must(h.fake.Submit(v, map[string]string{inReason: "it is a drill"}))
	h.settled()
	if got := h.request(r.ID); got.State != approval.Denied || got.Decision.By.ID != "bob" {
		t.Errorf("the request is %s by %+v", got.State, got.Decision)
	}
}

// What is missing in a window is said at its inputs and reaches nobody.
func TestMissingInputs(t *testing.T) {
	h := open(t)
	_, m := h.post(1)
	v := h.window(m, ana)
	for name, c := range map[string]struct {
		values map[string]string
		want   []string
	}{
		"no decision":      {map[string]string{inDecision: "", inReason: "because"}, []string{inDecision}},
		"short reason":     {map[string]string{inDecision: "approve", inReason: " a "}, []string{inReason}},
		"nothing":          {map[string]string{}, []string{inDecision, inReason}},
		"very long reason": {map[string]string{inDecision: "approve", inReason: strings.Repeat("é", maxReason+1)}, []string{inReason}},
	} {
		h.must(h.fake.Submit(v, c.values))
		shown, _ := h.fake.View(ana)
		var got []string
		for block := range shown.Errors {
			got = append(got, block)
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: errors at (want -, got +):\n%s", name, diff)
		}
	}
	if h.desk.asked != 0 {
		t.Errorf("%d answers were sent", h.desk.asked)
	}
}

// Nobody decides who is not surely one of the people that may, and each try is recorded.
func TestWhoMayNot(t *testing.T) {
	users := map[string]sdk.User{
		"guest":        {ID: "U1", IsRestricted: true},
		"single guest": {ID: "U1", IsUltraRestricted: true},
		"bot":          {ID: "U1", IsBot: true},
		"app":          {ID: "U1", IsAppUser: true},
		"workflow bot": {ID: "U1", IsWorkflowBot: true},
		"deactivated":  {ID: "U1", Deleted: true},
		"stranger":     {ID: "U1", IsStranger: true},
		"other team":   {ID: "U1", TeamID: "T9OTHER"},
		"unlinked":     {ID: "U2"},
		"unknown user": {ID: "U3"},
	}
	for name, u := range users {
		t.Run(name, func(t *testing.T) {
			h := open(t, func(h *house) {
				h.o.People["U1"] = "ana" // even a person's own second account
				if name != "unknown user" {
					h.fake.AddUser(u)
				}
			})
			r, m := h.post(1)
			h.click(m, actReview, u.ID)
			h.click(m, actLooking, u.ID)
			v, _ := h.fake.View(u.ID)
			h.wantShown("the window", v.Body, "Refused, and recorded")
			if name == "unlinked" {
				h.wantShown("the window", v.Body, "slack.people")
			}
			want := fmt.Sprintf("slack:%s/%s click %s", slackfake.Team, u.ID, approval.RefusedIdentity)
			if diff := cmp.Diff([]string{want, want}, h.desk.refusals()); diff != "" {
				t.Errorf("recorded (want -, got +):\n%s", diff)
			}
			if got := h.request(r.ID); got.State != approval.Pending || h.desk.asked != 0 || len(h.desk.noticed) != 0 {
				t.Errorf("the request is %s, %d answers were sent, noticed by %v", got.State, h.desk.asked, h.desk.noticed)
			}
		})
	}
}

// A person whose account is deactivated after the window opened can't answer any more.
func TestDeactivatedMeanwhile(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	h.fake.AddUser(sdk.User{ID: ana, Deleted: true})
	h.wantShown("the window", h.submit(v, approval.Approve).Body, "Refused, and recorded")
	if got := h.request(r.ID); got.State != approval.Pending {
		t.Errorf("the request is %s", got.State)
	}
	if diff := cmp.Diff([]string{"slack:" + slackfake.Team + "/" + ana + " approve identity"}, h.desk.refusals()); diff != "" {
		t.Errorf("recorded (want -, got +):\n%s", diff)
	}
}

// What does not come from our card, window, workspace and app counts for nothing.
func TestForgedClaims(t *testing.T) {
	press := func(change func(h *house, in slackfake.Interaction)) func(*house, approval.Request, slackfake.Message) {
		return func(h *house, _ approval.Request, m slackfake.Message) {
			in := h.fake.Press(m, actReview, ana)
			change(h, in)
			if _, err := h.fake.Send(in); err != nil {
				h.Error(err)
			}
		}
	}
	fill := func(change func(h *house, r approval.Request, v *slackfake.View, in slackfake.Interaction)) func(*house, approval.Request, slackfake.Message) {
		return func(h *house, r approval.Request, m slackfake.Message) {
			v := h.window(m, ana)
			change(h, r, &v, nil)
			in := h.fake.Fill(v, map[string]string{inDecision: "approve", inReason: "because I say so"})
			change(h, r, &v, in)
			if _, err := h.fake.Send(in); err != nil {
				h.Error(err)
			}
		}
	}
	value := func(in slackfake.Interaction) map[string]any { return in["actions"].([]map[string]any)[0] }
	for name, c := range map[string]struct {
		do   func(*house, approval.Request, slackfake.Message)
		kind string
	}{
		"another app":       {press(func(_ *house, in slackfake.Interaction) { in["api_app_id"] = "A9EVIL" }), approval.RefusedIdentity},
		"another workspace": {press(func(_ *house, in slackfake.Interaction) { in["team"] = map[string]any{"id": "T9EVIL"} }), approval.RefusedIdentity},
		"no workspace":      {press(func(_ *house, in slackfake.Interaction) { delete(in, "team") }), approval.RefusedIdentity},
		"another message":   {press(func(_ *house, in slackfake.Interaction) { in["container"].(map[string]any)["message_ts"] = "1.000001" }), approval.RefusedForged},
		"another channel":   {press(func(_ *house, in slackfake.Interaction) { in["container"].(map[string]any)["channel_id"] = "C9" }), approval.RefusedForged},
		"a made-up button":  {press(func(_ *house, in slackfake.Interaction) { value(in)["value"] = "v1.INC-R1.1.00" }), approval.RefusedForged},
		"an empty button":   {press(func(_ *house, in slackfake.Interaction) { value(in)["value"] = "" }), approval.RefusedForged},
		"a changed revision": {press(func(_ *house, in slackfake.Interaction) {
			value(in)["value"] = strings.Replace(value(in)["value"].(string), ".1.", ".2.", 1)
		}), approval.RefusedForged},
		"a question that is gone": {press(func(h *house, in slackfake.Interaction) {
			value(in)["value"] = h.slack.seal.button("INC-gone-R1", 1)
		}), approval.RefusedUnknown},
		"another revision": {press(func(h *house, in slackfake.Interaction) {
			value(in)["value"] = h.slack.seal.button(strings.Split(value(in)["value"].(string), ".")[1], 7)
		}), approval.RefusedDigest},
		"a window's own data": {fill(func(_ *house, _ approval.Request, v *slackfake.View, _ slackfake.Interaction) { v.Private = "e30.00" }), approval.RefusedForged},
		"a button's code for a window": {fill(func(h *house, r approval.Request, v *slackfake.View, _ slackfake.Interaction) {
			v.Private = "e30." + h.slack.seal.mac("button", "e30")
		}), approval.RefusedForged},
		"another person's window": {fill(func(_ *house, _ approval.Request, _ *slackfake.View, in slackfake.Interaction) {
			if in != nil {
				in["user"] = map[string]any{"id": bob, "team_id": slackfake.Team}
			}
		}), approval.RefusedForged},
		"another card's window": {fill(func(h *house, r approval.Request, v *slackfake.View, _ slackfake.Interaction) {
			var err error
			v.Private, err = h.slack.seal.private(window{Request: r.ID, Revision: 1, Digest: r.Digest, Channel: slackfake.Channel, TS: "1.1", User: ana})
			h.must(err)
		}), approval.RefusedForged},
		"a plan that was not shown": {fill(func(h *house, r approval.Request, v *slackfake.View, _ slackfake.Interaction) {
			var err error
			v.Private, err = h.slack.seal.private(window{Request: r.ID, Revision: 1, Digest: strings.Repeat("0", 64), Channel: slackfake.Channel, TS: h.cardOf(r).TS, User: ana})
			h.must(err)
		}), approval.RefusedDigest},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			r, m := h.post(1)
			c.do(h, r, m)
			h.settled()
			got := h.desk.refusals()
			if len(got) != 1 || !strings.HasSuffix(got[0], " "+c.kind) {
				t.Errorf("recorded %v, want one of kind %s", got, c.kind)
			}
			if after := h.request(r.ID); after.State != approval.Pending {
				t.Errorf("the request is %s", after.State)
			}
		})
	}
}

// Policy is judged where it is judged for every door; the window says beforehand what would be refused.
func TestPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*incident.Incident, *approval.Request)
		user   string
		says   string
	}{
		"viewer":    {func(*incident.Incident, *approval.Request) {}, eve, "responder or above may"},
		"requester": {func(_ *incident.Incident, r *approval.Request) { r.Requester = "ana" }, ana, "asked for this action"},
		"owner":     {func(_ *incident.Incident, r *approval.Request) { r.Terms.Not = []string{"ana"} }, ana, "own the agent"},
		"agent":     {func(_ *incident.Incident, r *approval.Request) { r.Agents = append(r.Agents, "ana") }, ana, "own identity"},
		"no group": {func(_ *incident.Incident, r *approval.Request) {
			r.Terms.From = []approval.Approvers{{Groups: []string{"slack:S0ONCALL"}}}
		}, ana, "belongs to none of"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			r, m := h.post(1, c.change)
			v := h.window(m, c.user)
			h.wantShown("the window", v.Body, "You can't answer this", c.says)
			private, err := h.slack.seal.private(window{Request: r.ID, Revision: 1, Digest: r.Digest, Channel: m.Channel, TS: m.TS, User: c.user})
			h.must(err)
			v.Private, v.Callback = private, callDecide // as if it had inputs
			h.wantShown("the answer", h.submit(v, approval.Approve).Body, "does not count")
			if got := h.request(r.ID); got.State != approval.Pending || len(h.desk.refusals()) != 1 {
				t.Errorf("the request is %s, recorded %v", got.State, h.desk.refusals())
			}
		})
	}
}

// Groups of the policies' own file count as those of Slack do.
func TestFileGroup(t *testing.T) {
	h := open(t)
	r, m := h.post(1, func(_ *incident.Incident, r *approval.Request) {
		r.Terms.From = []approval.Approvers{{Groups: []string{"file:leads"}}}
	})
	h.wantShown("the window", h.window(m, ana).Body, "You can't answer this")
	h.wantShown("the answer", h.answer(m, bob, approval.Approve).Body, "Recorded: approved")
	if got := h.request(r.ID); got.State != approval.Approved {
		t.Errorf("the request is %s", got.State)
	}
}

// Whoever left the shift between the question and the answer can't answer.
func TestOffShift(t *testing.T) {
	h := open(t)
	h.fake.SetGroup("S0ONCALL", ana)
	onCall := func(_ *incident.Incident, r *approval.Request) {
		r.Terms.From = []approval.Approvers{{Groups: []string{"slack:S0ONCALL"}}}
	}
	r, m := h.post(1, onCall)
	v := h.window(m, ana)
	h.fake.SetGroup("S0ONCALL", bob)
	h.time.move(groupLife)
	h.wantShown("the answer", h.submit(v, approval.Approve).Body, "does not count", "belongs to none of")
	h.wantShown("the answer", h.answer(m, bob, approval.Approve).Body, "Recorded: approved")
	if got := h.request(r.ID); got.State != approval.Approved || !slices.Contains(got.Decision.By.Groups, "slack:S0ONCALL") {
		t.Errorf("the request is %s by %+v", got.State, got.Decision)
	}
}

// Two ids of one person are one person.
func TestTwoIDsOnePerson(t *testing.T) {
	h := open(t, func(h *house) {
		h.o.People["U0ANA2"] = "ana"
		h.fake.AddUser(sdk.User{ID: "U0ANA2"})
	})
	r, m := h.post(1, func(_ *incident.Incident, r *approval.Request) { r.Terms.Need, r.Plan.Need = 2, 2 })
	h.wantShown("the first answer", h.answer(m, ana, approval.Approve).Body, "1 of 2 approvals")
	v := h.window(m, "U0ANA2")
	h.wantShown("the second answer", h.submit(v, approval.Approve).Body, "does not count", "approved already")
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "1 of 2 approvals: ana.")
	h.wantShown("the third answer", h.answer(m, bob, approval.Approve).Body, "2 of 2 approvals")
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Approved by ana, bob")
	if n := len(h.fake.Thread(m.TS)); n != 2 {
		t.Errorf("the thread has %d notes, want one for each approval", n)
	}
}

// The first answer settles a question; whoever was slower learns who it was.
func TestTwoApprovers(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	first, second := h.window(m, ana), h.window(m, bob)
	h.wantShown("the first answer", h.submit(first, approval.Approve).Body, "Recorded: approved")
	h.wantShown("the second answer", h.submit(second, approval.Deny).Body, "does not count", "ana already decided")
	if got := h.request(r.ID); got.State != approval.Approved {
		t.Errorf("the request is %s", got.State)
	}
}

// A message that comes twice counts once, whichever way it comes.
func TestRepeated(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	h.submit(v, approval.Approve)
	for range 3 {
		if _, err := h.fake.Repeat(); err != nil {
			t.Error(err)
		}
	}
	h.settled()
	if h.desk.asked != 1 || len(h.desk.refusals()) != 0 || h.request(r.ID).State != approval.Approved {
		t.Errorf("%d answers were sent, recorded %v", h.desk.asked, h.desk.refusals())
	}
	// A second window of the same person is another message, and another answer.
	h.wantShown("the double click", h.submit(v, approval.Approve).Body, "does not count")
}

func TestLate(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	h.time.move(16 * time.Minute)
	h.wantShown("the answer", h.submit(v, approval.Approve).Body, "does not count", "expired")
	h.reconcile()
	card := h.cardOf(r)
	h.wantShown("the card", card.Blocks, "Nobody answered", "ask for the containment")
	if slackfake.HasButton(card, actReview) {
		t.Error("the expired card can be answered")
	}
}

// A request whose plan changed has another digest: what was shown is not what would be done.
func TestFactsChanged(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	old := r
	r.State = approval.Superseded
	h.must(h.store.SaveRequest(h.Context(), r))
	next := r
	next.ID, next.Revision, next.State, next.Plan.Target.Session = r.Incident+"-R2", 2, approval.Pending, "s-1"
	next.Question = next.Plan.Question()
	var err error
	next.Digest, err = approval.DigestOf(next.Plan)
	h.must(err)
	h.must(h.store.SaveRequest(h.Context(), next))
	h.wantShown("the old window's answer", h.submit(v, approval.Approve).Body, "does not count", "the facts changed")
	h.reconcile()
	card := h.cardOf(r)
	h.wantShown("the card", card.Blocks, next.Question, "revision 2")
	h.wantShown("the new answer", h.answer(card, ana, approval.Approve).Body, "Recorded: approved")
	stale := h.fake.Press(card, actReview, bob)
	stale["actions"].([]map[string]any)[0]["value"] = h.slack.seal.button(old.ID, old.Revision)
	if _, err := h.fake.Send(stale); err != nil {
		t.Error(err)
	}
	h.settled()
	view, _ := h.fake.View(bob)
	h.wantShown("the stale button's window", view.Body, "No longer asked")
}

// While the workflows can't be reached nothing is said to be recorded, and the answer is sent when they are back.
func TestWorkflowsDown(t *testing.T) {
	for name, back := range map[string]bool{"back in time": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			r, m := h.post(1)
			v := h.window(m, ana)
			h.desk.setDown(true)
			h.must(h.fake.Submit(v, map[string]string{inDecision: "approve", inReason: "because"}))
			view, _ := h.fake.View(ana)
			h.wantShown("the window", view.Body, "Not recorded yet")
			h.putOff()
			if back {
				h.desk.setDown(false)
				h.time.move(retryEvery)
			} else {
				h.time.move(retryFor)
			}
			nudge(h.slack.mail)
			h.settled()
			view, _ = h.fake.View(ana)
			want, state := "Recorded: approved", approval.Approved
			if !back {
				want, state = "Not recorded. Nothing has changed.", approval.Pending
			}
			h.wantShown("the window", view.Body, want)
			if got := h.request(r.ID).State; got != state {
				t.Errorf("the request is %s, want %s", got, state)
			}
		})
	}
}

// A process that ends after Slack was answered and before the answer was sent sends it when it is back.
func TestRestartMidPending(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	h.slack.mu.Lock()
	h.slack.who = nil // nothing can be dealt with, as in a process that is about to end
	h.slack.mu.Unlock()
	h.must(h.fake.Submit(v, map[string]string{inDecision: "approve", inReason: "because"}))
	if h.desk.asked != 0 {
		t.Fatal("the answer was sent")
	}
	h.time.move(time.Second)
	h.start()
	h.settled()
	if got := h.request(r.ID); got.State != approval.Approved {
		t.Errorf("the request is %s", got.State)
	}
	h.reconcile()
	if card := h.cardOf(r); card.TS != m.TS {
		t.Error("the restart posted another card")
	}
}

// A process that ends after the answer was sent and before that was written down does not send it twice.
func TestRestartAfterTheAnswer(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	v := h.window(m, ana)
	got := h.request(r.ID)
	got.Answer(approval.Decision{Request: r.ID, Verb: approval.Approve, By: approval.Principal{ID: "ana"}, At: h.time.Now()})
	h.must(h.store.SaveRequest(h.Context(), got))
	body, err := json.Marshal(h.fake.Fill(v, map[string]string{inDecision: "approve", inReason: "because"}))
	h.must(err)
	_, err = h.store.PutInbox(h.Context(), "left", h.time.Now(), body)
	h.must(err)
	h.time.move(time.Second)
	h.start()
	h.settled()
	if h.desk.asked != 0 || len(h.desk.refusals()) != 0 {
		t.Errorf("%d answers were sent, recorded %v", h.desk.asked, h.desk.refusals())
	}
	view, _ := h.fake.View(ana)
	h.wantShown("the window", view.Body, "Recorded: approved")
}

func TestLookingAndClosing(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.click(m, actLooking, ana)
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "ana is looking. 0 of 1 approvals.")
	if all := h.fake.Ephemeral(ana); len(all) != 1 {
		t.Errorf("ana was answered %d times", len(all))
	}
	v := h.window(m, bob)
	h.must(h.fake.Close(v))
	h.settled()
	if diff := cmp.Diff([]string{"ana", "bob", "bob"}, h.desk.noticed); diff != "" {
		t.Errorf("noticed (want -, got +):\n%s", diff)
	}
	h.click(m, actLooking, eve)
	if diff := cmp.Diff([]string{"eve click role"}, h.desk.refusals()); diff != "" {
		t.Errorf("recorded (want -, got +):\n%s", diff)
	}
	if got := h.request(r.ID); got.State != approval.Pending {
		t.Errorf("the request is %s", got.State)
	}
}

func TestNoteWithoutDecision(t *testing.T) {
	h := open(t)
	r, m := h.post(1)
	h.wantShown("the answer", h.answer(m, ana, verbNote).Body, "Noted. The question still waits")
	if diff := cmp.Diff([]string{"ana: not what the user asked for"}, h.desk.notes); diff != "" {
		t.Errorf("notes (want -, got +):\n%s", diff)
	}
	if got := h.request(r.ID); got.State != approval.Pending || h.desk.asked != 0 {
		t.Errorf("the request is %s", got.State)
	}
}

// What needs a second factor has a link to the console and no way to approve.
func TestStepUp(t *testing.T) {
	h := open(t)
	r, m := h.post(1, func(_ *incident.Incident, r *approval.Request) { r.Terms.StepUp = true })
	if slackfake.HasButton(m, actReview) || slackfake.HasButton(m, actDeny) {
		t.Error("the card can be answered in Slack")
	}
	h.wantShown("the card", m.Blocks, "https://tocsin.example/approvals/"+r.ID)
	in := h.fake.Press(m, actLooking, ana)
	in["actions"].([]map[string]any)[0]["action_id"] = actReview // a client can send what no button does
	if _, err := h.fake.Send(in); err != nil {
		t.Error(err)
	}
	h.settled()
	v, _ := h.fake.View(ana)
	h.wantShown("the window", v.Body, "You can't answer this")
}

// A window whose ticket ran out says so, and nothing else happens.
func TestTicketRanOut(t *testing.T) {
	h := open(t)
	_, m := h.post(1)
	h.fake.Fail("views.open", slackfake.Fault{Error: "expired_trigger_id"})
	h.click(m, actReview, ana)
	all := h.fake.Ephemeral(ana)
	if len(all) != 1 {
		t.Fatalf("ana was answered %d times", len(all))
	}
	h.wantShown("the answer", all[0].Blocks, "Press the button again")
}

// An outcome that comes while its sender gives up waiting is not lost.
func TestOutcomeInTheLastMoment(t *testing.T) {
	h := open(t)
	waits := h.slack.hopeFor("id")
	if !h.slack.fulfil("id", h.slack.outcome("Recorded.", "")) {
		t.Fatal("nobody waited")
	}
	if _, told := h.slack.settle("id", waits); !told {
		t.Error("the outcome is lost")
	}
	if h.slack.fulfil("id", h.slack.outcome("Recorded.", "")) {
		t.Error("somebody still waits")
	}
}

// A click before Slack said who Tocsin is waits until it did.
func TestUnknownSelf(t *testing.T) {
	h := open(t, func(h *house) { h.fake.Fail("auth.test", slackfake.Fault{Status: 500}) })
	_, m := h.post(1)
	h.must(h.fake.Click(m, actLooking, ana))
	if len(h.desk.noticed) != 0 {
		t.Error("a click counted before its workspace could be checked")
	}
	h.putOff()
	h.slack.introduce(context.Background())
	h.time.move(retryEvery)
	nudge(h.slack.mail)
	h.settled()
	if diff := cmp.Diff([]string{"ana"}, h.desk.noticed); diff != "" {
		t.Errorf("noticed (want -, got +):\n%s", diff)
	}
}

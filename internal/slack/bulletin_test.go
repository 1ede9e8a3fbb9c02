package slack

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

func tells(h *house) { h.o.Tell = detect.High }

// asksNothing makes an incident one whose playbook only looks.
func asksNothing(i *incident.Incident, r *approval.Request) { i.Status, r.ID = incident.Open, "" }

// TestBulletin: people are told of a grave incident that asks nothing, and of the question that it asks later.
func TestBulletin(t *testing.T) {
	h := open(t, tells)
	r := h.ask(1, asksNothing)
	h.reconcile()
	if n := len(h.fake.Messages()); n != 0 {
		t.Fatalf("%d messages before the incident had time to ask", n)
	}
	h.time.move(lull)
	h.reconcile()
	m := h.cardOf(r)
	h.wantShown("the card", m.Blocks, "Look at an incident · high", "A payment to an account out of a tool's output", "Nobody has noticed it yet", "DE89-EVIL", "I'm looking")
	h.click(m, actLooking, ana)
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "ana is looking.")
	if diff := cmp.Diff([]string{"ana"}, h.desk.noticed); diff != "" {
		t.Error(diff)
	}

	i, err := h.store.Incident(t.Context(), r.Incident)
	h.must(err)
	r.ID, i.Status, r.Terms.From = i.ID+"-R1", incident.Waiting, []approval.Approvers{{Groups: []string{"slack:S0ONCALL"}}}
	h.save(i, r)
	h.reconcile()
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Approve a containment? · high", "Review…")
	notes := h.fake.Thread(m.TS)
	if len(notes) != 1 {
		t.Fatalf("the thread has %d notes, want that a question came", len(notes))
	}
	h.wantShown("the note", notes[0].Blocks, "a question came: "+r.Question, "<!subteam^S0ONCALL>")
}

// TestBulletinEnds: a closed incident's card says how it was closed.
func TestBulletinEnds(t *testing.T) {
	h := open(t, tells)
	r := h.ask(1, asksNothing)
	h.time.move(lull)
	h.reconcile()
	i, err := h.store.Incident(t.Context(), r.Incident)
	h.must(err)
	i.Status, i.Disposition = incident.Closed, &incident.Disposition{Verdict: incident.FalsePositive, By: "bob", Reasoning: "a *test*"}
	h.must(h.store.SaveIncident(t.Context(), i))
	h.reconcile()
	h.wantShown("the card", h.cardOf(r).Blocks, "Incident closed · high", "Closed by bob as false_positive: “a *test*”.")
}

func TestNobodyIsTold(t *testing.T) {
	tests := []struct {
		name   string
		tell   detect.Severity
		age    time.Duration
		change func(*incident.Incident)
		want   int
	}{
		{"a grave one", detect.High, lull, func(*incident.Incident) {}, 1},
		{"all are told", detect.Low, lull, func(i *incident.Incident) { i.Severity = detect.Low }, 1},
		{"none is told", "", lull, func(*incident.Incident) {}, 0},
		{"not grave enough", detect.High, lull, func(i *incident.Incident) { i.Severity = detect.Medium }, 0},
		{"somebody knows", detect.High, lull, func(i *incident.Incident) { i.Times.Noticed = i.Times.Delivered }, 0},
		{"closed", detect.High, lull, func(i *incident.Incident) { i.Status = incident.Closed }, 0},
		{"old", detect.High, stale, func(*incident.Incident) {}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := open(t, func(h *house) { h.o.Tell = tt.tell })
			h.ask(1, asksNothing, func(i *incident.Incident, _ *approval.Request) { tt.change(i) })
			h.time.move(tt.age)
			h.reconcile()
			if got := len(h.fake.Messages()); got != tt.want {
				t.Errorf("%d cards, want %d", got, tt.want)
			}
		})
	}
}

// TestBulletinAsksNothing: the button that says that somebody looks opens no window for an answer.
func TestBulletinAsksNothing(t *testing.T) {
	h := open(t, tells)
	r := h.ask(1, asksNothing)
	h.time.move(lull)
	h.reconcile()
	m := h.cardOf(r)
	m.Blocks = bytes.ReplaceAll(m.Blocks, []byte(strconv.Quote(actLooking)), []byte(strconv.Quote(actReview)))
	h.click(m, actReview, ana)
	if diff := cmp.Diff([]string{"slack:T0TOCSIN/U0ANA click forged"}, h.desk.refusals()); diff != "" {
		t.Error(diff)
	}
}

package slack

import (
	"encoding/json"
	"testing"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

// TestTypes has the card of each stage, its notes and each window checked against the definitions of Slack's own package.
func TestTypes(t *testing.T) {
	s := drawer()
	var all []slackfake.Surface
	add := func(kind string, v any) {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := slackfake.Validate(kind, body); err != nil {
			t.Error(err)
		}
		all = append(all, slackfake.Surface{Kind: kind, Body: body})
	}
	for _, c := range stages() {
		m, err := s.card(c.facts)
		if err != nil {
			t.Fatal(err)
		}
		add("blocks", m.blocks)
		review := modal("Review", append(s.about(c.facts, c.facts.all[0], []incident.Track{{Name: "data", Summary: "x"}}, nil), decisionInput([]approval.Verb{approval.Approve, approval.Deny, verbNote}), reasonInput())...)
		review.Submit, review.NotifyOnClose, review.CallbackID, review.PrivateMetadata = plain("Send", maxTitle), true, callDecide, "e30.00"
		add("view", review)
	}
	add("view", loading())
	add("view", recording())
	add("view", s.outcome("Recorded.", "INC-1-R1"))
	if err := slackfake.CheckTypes(t, all); err != nil {
		t.Error(err)
	}
}

package slack

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

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
		about := s.about(c.facts, c.facts.all[0], []incident.Track{{Name: "data", Summary: "x"}}, nil)
		if alone(c.facts.incident.ID) {
			about = s.aboutAlone(c.facts.all[0])
		}
		review := modal("Review", append(about, decisionInput([]approval.Verb{approval.Approve, approval.Deny, verbNote}), reasonInput())...)
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

// The manifest that people install asks for what the door needs, and for no more.
func TestManifest(t *testing.T) {
	text, err := os.ReadFile("../../docs/examples/slack-manifest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		OAuth struct {
			Scopes struct{ Bot []string }
		} `yaml:"oauth_config"`
		Settings struct {
			Interactivity struct {
				Enabled bool `yaml:"is_enabled"`
			}
			Socket   bool `yaml:"socket_mode_enabled"`
			Rotation bool `yaml:"token_rotation_enabled"`
		}
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(scopes())), slices.Sorted(slices.Values(m.OAuth.Scopes.Bot))); diff != "" {
		t.Errorf("scopes (want -, got +):\n%s", diff)
	}
	if !m.Settings.Interactivity.Enabled || !m.Settings.Socket || m.Settings.Rotation {
		t.Errorf("the settings are %+v: without interactivity buttons do nothing", m.Settings)
	}
}

package workflows

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// A peer that was found with the same value several times is one fact, however many of our findings hold the value.
func TestPeersAreToldOnce(t *testing.T) {
	h := newHouse(t)
	found := func(id, agent, value string) pipeline.Raised {
		f := h.finding(id)
		f.Finding.Agent, f.Finding.Chain = event.Agent{ID: agent}, &detect.Chain{Value: value}
		return f
	}
	for id, f := range map[string]pipeline.Raised{
		"p1": found("p1", "peer/a", "GB29"), "p2": found("p2", "peer/a", "GB29"), "p3": found("p3", "peer/a", "SE35"),
		"p4": found("p4", "peer/b", "GB29"), "p5": found("p5", "peer/b", "other"), "p6": found("p6", "peer/b", ""), "f1": found("f1", bot.ID, "GB29"),
	} {
		if err := h.store.SaveAlert(t.Context(), store.Alert{Finding: f.Finding, Incident: id}); err != nil {
			t.Fatal(err)
		}
	}
	in := TrackInput{Incident: incident.Incident{Agent: bot}, Raised: []pipeline.Raised{found("f1", bot.ID, "GB29"), found("f2", bot.ID, "GB29"), found("f3", bot.ID, "SE35"), found("f4", bot.ID, "")}}
	peers, err := h.acts.peerFacts(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	got := peers.list()
	fact := func(agent, value string, refs ...string) incident.Fact {
		return incident.Fact{Text: agent + " used the same value from a tool's output: " + value, Refs: refs, Suspicious: true}
	}
	want := []incident.Fact{fact("peer/a", "GB29", "p1", "p2"), fact("peer/a", "SE35", "p3"), fact("peer/b", "GB29", "p4")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

package workflows

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Track runs one line of investigation over recorded facts.
func (a *Activities) Track(ctx context.Context, in TrackInput) (incident.Track, error) {
	start := a.Now().UTC()
	t := incident.Track{Name: in.Name, At: start}
	events, err := a.Session.SessionEvents(ctx, in.Raised)
	if err != nil {
		return t, err
	}
	switch in.Name {
	case "identity":
		t.Facts = identityFacts(events)
	case "data":
		t.Facts = dataFacts(in, events)
	case "peers":
		if t.Facts, err = a.peerFacts(ctx, in); err != nil {
			return t, err
		}
	default:
		return t, fmt.Errorf("there is no track %q", in.Name)
	}
	t.Summary = summary(t.Facts)
	t.Took = a.Now().Sub(start)
	return t, nil
}

func summary(facts []incident.Fact) string {
	n := 0
	for _, f := range facts {
		if f.Suspicious {
			n++
		}
	}
	return fmt.Sprintf("%d facts, %d of them suspicious", len(facts), n)
}

// identityFacts asks who acted: one credential, one instance, one principal, or several.
func identityFacts(events []event.Event) []incident.Fact {
	kinds := []struct {
		what string
		of   func(*event.Event) string
	}{
		{"ingest credential", func(e *event.Event) string { return e.Source.Authn }},
		{"instance", func(e *event.Event) string { return e.Source.Instance }},
		{"principal", func(e *event.Event) string { return e.Principal.ID }},
		{"agent version", func(e *event.Event) string { return e.Agent.Version }},
	}
	var facts []incident.Fact
	for _, k := range kinds {
		seen := make(map[string]string)
		for i := range events {
			if v := k.of(&events[i]); v != "" && seen[v] == "" {
				seen[v] = events[i].ID
			}
		}
		switch values := slices.Sorted(maps.Keys(seen)); len(values) {
		case 0:
			facts = append(facts, incident.Fact{Text: "no " + k.what + " is recorded for the session"})
		case 1:
			facts = append(facts, incident.Fact{Text: fmt.Sprintf("one %s all through: %s", k.what, incident.Visible(values[0], 60)), Refs: []string{seen[values[0]]}})
		default:
			f := incident.Fact{Text: fmt.Sprintf("%d different values of %s in one session", len(values), k.what), Suspicious: true}
			for _, v := range values {
				f.Refs = append(f.Refs, seen[v])
			}
			facts = append(facts, f)
		}
	}
	return neutral(facts)
}

// neutral drops what says neither this nor that when something better is there.
func neutral(facts []incident.Fact) []incident.Fact {
	return slices.DeleteFunc(facts, func(f incident.Fact) bool { return len(f.Refs) == 0 })
}

// dataFacts asks what was read and where data went.
func dataFacts(in TrackInput, events []event.Event) []incident.Fact {
	var facts []incident.Fact
	for i := range events {
		e := &events[i]
		if e.Kind != event.KindToolResult || e.Tool == nil {
			continue
		}
		name := incident.Visible(e.Tool.Name, 60)
		switch {
		case e.Tool.Result.Instructs():
			facts = append(facts, incident.Fact{Text: "the output of " + name + " addresses the agent as an instruction", Refs: []string{e.ID}, Suspicious: true})
		case e.Tool.Result.HasHidden():
			facts = append(facts, incident.Fact{Text: "the output of " + name + " holds hidden characters", Refs: []string{e.ID}, Suspicious: true})
		}
		if e.Tool.Effect == event.EffectEgress && e.Outcome != event.OutcomeDenied {
			facts = append(facts, incident.Fact{Text: fmt.Sprintf("%s went to %s", name, places(e)), Refs: []string{e.ID}, Suspicious: suspicious(in, e.ID)})
		}
	}
	if len(facts) == 0 {
		facts = append(facts, incident.Fact{Text: "nothing was sent to anybody", Refs: eventRefs(in)})
	}
	return facts
}

func places(e *event.Event) string {
	if len(e.Destinations) == 0 {
		return "an unnamed place"
	}
	names := make([]string, 0, len(e.Destinations))
	for _, d := range e.Destinations {
		names = append(names, incident.Visible(d.Value, 80))
	}
	return strings.Join(names, ", ")
}

// suspicious reports whether a finding names the event.
func suspicious(in TrackInput, id string) bool {
	for _, r := range in.Raised {
		if slices.Contains(r.Finding.Events, id) {
			return true
		}
	}
	return false
}

func eventRefs(in TrackInput) []string {
	var refs []string
	for _, r := range in.Raised {
		refs = append(refs, r.Finding.ID)
	}
	return refs
}

// peerWindow is how far back other agents' findings are compared.
const peerWindow = 30 * 24 * time.Hour

// peerFacts asks whether other agents show the same: the same rule, or the same value.
func (a *Activities) peerFacts(ctx context.Context, in TrackInput) ([]incident.Fact, error) {
	alerts, err := a.Store.AlertsSince(ctx, in.Incident.Times.FirstBad.Add(-peerWindow))
	if err != nil {
		return nil, err
	}
	var facts []incident.Fact
	for _, alert := range alerts {
		if alert.Finding.Agent.ID == in.Incident.Agent.ID || len(facts) >= 10 {
			continue
		}
		for _, mine := range in.Raised {
			theirs, ours := alert.Finding.Chain, mine.Finding.Chain
			if theirs != nil && ours != nil && theirs.Value != "" && theirs.Value == ours.Value {
				facts = append(facts, incident.Fact{Text: fmt.Sprintf("%s used the same value from a tool's output", incident.Visible(alert.Finding.Agent.ID, 60)), Refs: []string{alert.Finding.ID}, Suspicious: true})
			}
		}
	}
	if len(facts) == 0 {
		facts = append(facts, incident.Fact{Text: fmt.Sprintf("no other agent has a finding with these values in the %d days before", int(peerWindow.Hours()/24)), Refs: eventRefs(in)})
	}
	return facts, nil
}

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
	"github.com/tocsin-dr/tocsin/internal/store"
)

// An agent decides how many facts there are about it, and what activities hand on must stay below Temporal's 2 MiB.
const (
	maxFacts  = 50
	maxRefs   = 10
	maxPlaces = 5
	maxValues = 1000 // different values of one kind that are told apart
)

// facts are at most maxFacts, the suspicious ones first; the rest is counted.
type facts struct {
	suspicious, others []incident.Fact
	rest, restBad      int
	refs               []string // of the rest
}

func (l *facts) add(f incident.Fact) {
	f.Refs = f.Refs[:min(len(f.Refs), maxRefs)]
	switch {
	case f.Suspicious && len(l.suspicious) < maxFacts:
		l.suspicious = append(l.suspicious, f)
	case !f.Suspicious && len(l.others) < maxFacts:
		l.others = append(l.others, f)
	default:
		l.leave(f)
	}
}

func (l *facts) leave(f incident.Fact) {
	l.rest++
	if f.Suspicious {
		l.restBad++
	}
	if len(f.Refs) > 0 && len(l.refs) < maxRefs {
		l.refs = append(l.refs, f.Refs[0])
	}
}

// list returns the facts. The last of them speaks of those that there is no room for.
func (l *facts) list() []incident.Fact {
	room := maxFacts - len(l.suspicious)
	for len(l.others) > room {
		l.leave(l.others[len(l.others)-1])
		l.others = l.others[:len(l.others)-1]
	}
	all := append(l.suspicious, l.others...)
	if l.rest > 0 {
		all = append(all, incident.Fact{Text: fmt.Sprintf("%d more facts, %d of them suspicious", l.rest, l.restBad), Refs: l.refs, Suspicious: l.restBad > 0})
	}
	return all
}

// Track runs one line of investigation over recorded facts.
func (a *Activities) Track(ctx context.Context, in TrackInput) (incident.Track, error) {
	t := incident.Track{Name: in.Name, At: a.Now().UTC()}
	var found facts
	var err error
	switch in.Name {
	case "identity":
		found, err = a.identityFacts(ctx, in)
	case "data":
		found, err = a.dataFacts(ctx, in)
	case "peers":
		found, err = a.peerFacts(ctx, in)
	default:
		err = fmt.Errorf("there is no track %q", in.Name)
	}
	if err != nil {
		return t, err
	}
	t.Facts = found.list()
	t.Summary = found.summary()
	t.Took = a.Now().Sub(t.At)
	return t, nil
}

func (l *facts) summary() string {
	n := len(l.suspicious) + l.restBad
	return fmt.Sprintf("%d facts, %d of them suspicious", len(l.suspicious)+len(l.others)+l.rest, n)
}

// identityFacts asks who acted: one credential, one instance, one principal, or several.
func (a *Activities) identityFacts(ctx context.Context, in TrackInput) (found facts, err error) {
	kinds := []struct {
		what string
		of   func(*event.Event) string
		seen map[string]string // an event for each value
	}{
		{"ingest credential", func(e *event.Event) string { return e.Source.Authn }, make(map[string]string)},
		{"instance", func(e *event.Event) string { return e.Source.Instance }, make(map[string]string)},
		{"principal", func(e *event.Event) string { return e.Principal.ID }, make(map[string]string)},
		{"agent version", func(e *event.Event) string { return e.Agent.Version }, make(map[string]string)},
	}
	_, err = a.Session.SessionEvents(ctx, in.Raised, func(e *event.Event) error {
		for _, k := range kinds {
			if v := k.of(e); v != "" && k.seen[v] == "" && len(k.seen) < maxValues {
				k.seen[v] = e.ID
			}
		}
		return nil
	})
	for _, k := range kinds {
		switch values := slices.Sorted(maps.Keys(k.seen)); len(values) {
		case 0: // what is not recorded speaks neither for nor against
		case 1:
			found.add(incident.Fact{Text: fmt.Sprintf("one %s all through: %s", k.what, incident.Visible(values[0], 60)), Refs: []string{k.seen[values[0]]}})
		default:
			f := incident.Fact{Text: fmt.Sprintf("%d different values of %s in one session", len(values), k.what), Suspicious: true}
			for _, v := range values[:min(len(values), maxRefs)] {
				f.Refs = append(f.Refs, k.seen[v])
			}
			found.add(f)
		}
	}
	return found, err
}

// dataFacts asks what was read and where data went.
func (a *Activities) dataFacts(ctx context.Context, in TrackInput) (found facts, err error) {
	told := namedBy(in.Raised)
	_, err = a.Session.SessionEvents(ctx, in.Raised, func(e *event.Event) error {
		if e.Kind != event.KindToolResult || e.Tool == nil {
			return nil
		}
		name := incident.Visible(e.Tool.Name, 60)
		switch {
		case e.Tool.Result.Instructs():
			found.add(incident.Fact{Text: "the output of " + name + " addresses the agent as an instruction", Refs: []string{e.ID}, Suspicious: true})
		case e.Tool.Result.HasHidden():
			found.add(incident.Fact{Text: "the output of " + name + " holds hidden characters", Refs: []string{e.ID}, Suspicious: true})
		}
		if e.Tool.Effect == event.EffectEgress && e.Outcome != event.OutcomeDenied {
			found.add(incident.Fact{Text: fmt.Sprintf("%s went to %s", name, places(e)), Refs: []string{e.ID}, Suspicious: told.rank(e) != unnamed})
		}
		return nil
	})
	if len(found.suspicious)+len(found.others) == 0 {
		found.add(incident.Fact{Text: "nothing was sent to anybody", Refs: eventRefs(in)})
	}
	return found, err
}

func places(e *event.Event) string {
	if len(e.Destinations) == 0 {
		return "an unnamed place"
	}
	names := make([]string, 0, maxPlaces+1)
	for _, d := range e.Destinations[:min(len(e.Destinations), maxPlaces)] {
		names = append(names, incident.Visible(d.Value, 80))
	}
	if n := len(e.Destinations) - maxPlaces; n > 0 {
		names = append(names, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
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

// peerFacts asks whether other agents show the same value. An agent that was found with it again and again is one fact.
func (a *Activities) peerFacts(ctx context.Context, in TrackInput) (found facts, err error) {
	mine := make(map[string]bool)
	for _, r := range in.Raised {
		if r.Finding.Chain != nil && r.Finding.Chain.Value != "" {
			mine[r.Finding.Chain.Value] = true
		}
	}
	type shared struct{ agent, value string }
	known := make(map[shared]int)
	var shares []incident.Fact
	err = a.Store.EachAlertSince(ctx, in.Incident.Times.FirstBad.Add(-peerWindow), func(alert store.Alert) {
		f := alert.Finding
		if f.Agent.ID == in.Incident.Agent.ID || f.Chain == nil || !mine[f.Chain.Value] {
			return
		}
		key := shared{f.Agent.ID, f.Chain.Value}
		if i, ok := known[key]; ok {
			if len(shares[i].Refs) < maxRefs {
				shares[i].Refs = append(shares[i].Refs, f.ID)
			}
			return
		}
		text := fmt.Sprintf("%s used the same value from a tool's output: %s", incident.Visible(f.Agent.ID, 60), incident.Visible(f.Chain.Value, 60))
		fact := incident.Fact{Text: text, Refs: []string{f.ID}, Suspicious: true}
		if len(shares) >= maxValues {
			found.leave(fact)
			return
		}
		known[key] = len(shares)
		shares = append(shares, fact)
	})
	for _, fact := range shares {
		found.add(fact)
	}
	if len(found.suspicious) == 0 {
		found.add(incident.Fact{Text: fmt.Sprintf("no other agent has a finding with these values in the %d days before", int(peerWindow.Hours()/24)), Refs: eventRefs(in)})
	}
	return found, err
}

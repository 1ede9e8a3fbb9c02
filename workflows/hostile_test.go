package workflows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// reader is a log that the test makes up.
type reader func(take func(*event.Event) error) (Unread, error)

func (r reader) SessionEvents(_ context.Context, _ []pipeline.Raised, take func(*event.Event) error) (Unread, error) {
	return r(take)
}

// manifest reads the incident's manifest from the vault.
func (h *house) manifest() (m Manifest) {
	h.Helper()
	items, err := h.store.Evidence(context.Background(), h.incident().ID)
	i := slices.IndexFunc(items, func(e incident.EvidenceItem) bool { return e.Name == "manifest.json" })
	if err != nil || i < 0 {
		h.Fatalf("there is no manifest among %+v: %v", items, err)
	}
	text, err := h.acts.Vault.Get(context.Background(), items[i].SHA256)
	if err != nil {
		h.Fatal(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		h.Fatal(err)
	}
	return m
}

// TestLargeSession: an agent whose events are more than the vault takes in one artefact, and more than is sealed of one session,
// is asked about all the same, and what the finding names is in the evidence.
func TestLargeSession(t *testing.T) {
	h := newHouse(t)
	bad := h.events()[1]
	large := event.Event{Kind: event.KindToolResult, Time: bad.Time, Agent: bot, Content: slices.Repeat([]event.Content{{Role: event.RolePrompt, Text: strings.Repeat("x", event.MaxContentBytes)}}, event.MaxContents)}
	const n = 40
	h.acts.Session = reader(func(take func(*event.Event) error) (Unread, error) {
		for i := range n {
			e := large
			e.ID = fmt.Sprint("large", i)
			if err := take(&e); err != nil {
				return Unread{}, err
			}
		}
		return Unread{Damaged: 2, Gone: 1}, take(&bad)
	})
	h.run()
	if len(h.states()) == 0 {
		t.Fatal("nobody was asked")
	}
	m := h.manifest()
	if want := (Unread{Damaged: 2, Gone: 1}); m.Unread != want || m.Events+m.LeftOut != n+1 || m.LeftOut == 0 || m.Missing != 0 {
		t.Errorf("the manifest says %d events, %d left out, %d missing, unread %+v", m.Events, m.LeftOut, m.Missing, m.Unread)
	}
	chunks, last := 0, ""
	for _, item := range m.Items {
		if strings.HasPrefix(item.Name, "events") {
			chunks, last = chunks+1, item.SHA256
		}
		if item.Size > maxArtefact {
			t.Errorf("%s has %d bytes", item.Name, item.Size)
		}
	}
	text, err := h.acts.Vault.Get(t.Context(), last)
	if err != nil || chunks < 4 || !strings.Contains(string(text), `"`+bad.ID+`"`) {
		t.Errorf("there are %d artefacts of events, and the last does not have what the finding names: %v", chunks, err)
	}
	if sealed := h.entries("evidence"); len(sealed) != 1 || !strings.Contains(sealed[0].Text, "left out for want of room; 3 messages of the log could not be read") {
		t.Errorf("the timeline has %+v", sealed)
	}
}

// TestLostRule: the vault lost a rule's text.
func TestLostRule(t *testing.T) {
	h := newHouse(t)
	h.rule = strings.Repeat("0", 64)
	h.run()
	if diff := cmp.Diff([]string{"rule"}, h.manifest().LostRules); diff != "" || len(h.states()) == 0 {
		t.Errorf("requests %v; rules lost (-want +got):\n%s", h.states(), diff)
	}
}

// TestUnsealed: evidence that can't be sealed keeps the incident from asking, and from nothing else.
func TestUnsealed(t *testing.T) {
	h := newHouse(t)
	h.env.OnActivity("Seal", anything, anything).Return(nil, errors.New("the disk is full"))
	h.signal(time.Minute, SignalFound, h.finding("f2"))
	h.at(5*time.Minute, func() {
		if i := h.incident(); i.Findings != 2 {
			t.Errorf("%d findings are recorded while the evidence can't be sealed, want 2", i.Findings)
		}
	})
	asked := h.ask(50*hour, ana)
	h.run()
	if notes := h.entries("note"); len(notes) != 2 || !strings.Contains(notes[0].Text, "the disk is full") {
		t.Errorf("the timeline has the notes %+v", notes)
	}
	if tracks, err := h.store.Tracks(t.Context(), h.incident().ID); err != nil || len(tracks) != 3 || len(h.states()) > 0 || asked.err != nil {
		t.Errorf("%d tracks, requests %v, asking %v: %v", len(tracks), h.states(), asked.err, err)
	}
}

// TestTellingEventsShow: any number of harmless calls leaves room in the timeline for what findings name and where it came from.
func TestTellingEventsShow(t *testing.T) {
	h := newHouse(t)
	events := h.events()
	from, bad := events[1], events[1]
	from.ID = "origin"
	h.acts.Session = reader(func(take func(*event.Event) error) (Unread, error) {
		for i := range 2 * maxEntries {
			e := from
			e.ID = fmt.Sprint("call", i)
			if err := take(&e); err != nil {
				return Unread{}, err
			}
		}
		return Unread{}, errors.Join(take(&from), take(&bad))
	})
	f := h.finding("f1")
	f.Finding.Chain = &detect.Chain{Origin: "origin", Arg: "iban", Value: "US13"}
	h.signal(0, SignalFound, f)
	h.close(100 * hour)
	h.execute(IncidentInput{Playbooks: library(t), GrantKey: h.signer.Public()})
	shown := h.entries("event")
	for _, id := range []string{"origin", bad.ID} {
		if !slices.ContainsFunc(shown, func(e incident.Entry) bool { return e.Ref == id }) {
			t.Errorf("the timeline does not have %s", id)
		}
	}
	if len(shown) != maxEntries {
		t.Errorf("the timeline has %d events, want %d", len(shown), maxEntries)
	}
}

// TestFactsAreBounded: Temporal ends a workflow whose message is larger than 2 MiB.
func TestFactsAreBounded(t *testing.T) {
	h := newHouse(t)
	const n = 700
	id := func(i int) string { return fmt.Sprintf("%0*d", event.MaxIDBytes, i) }
	h.acts.Session = reader(func(take func(*event.Event) error) (Unread, error) {
		for i := range n {
			e := h.events()[1]
			e.ID, e.Source.Instance = id(i), id(i)
			e.Destinations = slices.Repeat([]event.Destination{{Value: strings.Repeat("d", event.MaxNameBytes)}}, event.MaxDestinations)
			if err := take(&e); err != nil {
				return Unread{}, err
			}
		}
		return Unread{}, nil
	})
	f := h.finding("f1")
	f.Finding.Events = []string{id(n - 1)}
	var tracks []incident.Track
	for _, name := range []string{"identity", "data"} {
		track, err := h.acts.Track(t.Context(), TrackInput{Name: name, Raised: []pipeline.Raised{f}})
		if err != nil {
			t.Fatal(err)
		}
		tracks = append(tracks, track)
		for _, fact := range track.Facts {
			if len(fact.Refs) > maxRefs {
				t.Errorf("%s: a fact has %d references", name, len(fact.Refs))
			}
		}
	}
	data := tracks[1]
	if !data.Facts[0].Suspicious || data.Facts[0].Refs[0] != id(n-1) || len(data.Facts) != maxFacts+1 {
		t.Errorf("%d facts, the first is %+v", len(data.Facts), data.Facts[0])
	}
	if got, want := data.Summary, "700 facts, 1 of them suspicious"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if got, want := data.Facts[maxFacts].Text, "650 more facts, 0 of them suspicious"; got != want {
		t.Errorf("the rest is %q, want %q", got, want)
	}
	text, err := json.Marshal(RecordInput{Disposition: incident.FirstPass(f.Finding, tracks, h.env.Now())})
	state, failed := json.Marshal(tracks)
	if err = errors.Join(err, failed); err != nil || len(text) > 16<<10 || len(state) > 128<<10 {
		t.Errorf("the disposition has %d bytes, the tracks %d: %v", len(text), len(state), err)
	}
}

// continued runs an incident until it continues as new while a question waits, and returns the house and the input of the next run.
func (h *house) continued(after time.Duration) (*house, IncidentInput) {
	h.Helper()
	h.at(after, func() { h.env.SetContinueAsNewSuggested(true) })
	positions := make([]pipeline.Position, 4096)
	for i := range positions {
		positions[i] = pipeline.Position{Partition: 3, Sequence: uint64(1_000_000 + i)}
	}
	for i := range 100 {
		f := h.finding(fmt.Sprint("flood", i))
		f.Positions = positions
		f.Finding.Events, f.Finding.Chain = slices.Repeat([]string{strings.Repeat("e", event.MaxIDBytes)}, detect.MaxEvents), &detect.Chain{Value: strings.Repeat("x", event.MaxValueBytes)}
		h.signal(after+time.Second, SignalFound, f)
	}
	h.signal(0, SignalFound, h.finding("f1"))
	h.execute(IncidentInput{Playbooks: library(h.T), GrantKey: h.signer.Public()})
	in := h.next()
	if text, err := json.Marshal(in); err != nil || len(text) > 1<<20 {
		h.Errorf("the next run starts with %d bytes: %v", len(text), err)
	}
	next := newHouse(h.T)
	next.store, next.gate, next.acts, next.does = h.store, h.gate, h.acts, h.does
	next.env.RegisterActivity(h.acts)
	next.env.RegisterActivity(h.does)
	next.env.SetStartTime(h.env.Now())
	h.acts.Now, h.does.Now = next.env.Now, next.env.Now
	return next, in
}

// TestContinueWhileAsking: a flood of findings while nobody answers must not fill the history; the question stays the same one.
func TestContinueWhileAsking(t *testing.T) {
	h, in := newHouse(t).continued(time.Minute)
	before := in.State.Requests[0]
	taken := h.decide(time.Minute, approval.Approve, nil)
	h.denied(2*time.Minute, true)
	h.status(2*time.Minute, incident.Contained)
	h.close(100 * hour)
	h.execute(in)
	if err := h.env.GetWorkflowError(); err != nil || taken.err != nil || !taken.done {
		t.Errorf("the next run ended with %v, the decision was answered with %v", err, taken.err)
	}
	if all := h.requests(""); len(all) != 1 || all[0].ID != before.ID || !all[0].Deadline.Equal(before.Deadline) {
		t.Errorf("the requests are %+v, want %s alone", all, before.ID)
	}
	if i := h.incident(); i.Findings != 101 {
		t.Errorf("%d findings are counted, want 101", i.Findings)
	}
}

// TestContinueKeepsDeadline: a question that nobody answers ends when it would have, and escalates as often.
func TestContinueKeepsDeadline(t *testing.T) {
	h, in := newHouse(t).continued(20 * time.Minute) // the question was put again after 15
	h.status(9*time.Minute, incident.Waiting)
	h.status(11*time.Minute, incident.Open)
	h.close(100 * hour)
	h.execute(in)
	if diff := cmp.Diff([]approval.State{approval.Expired, approval.Expired}, h.states()); diff != "" {
		t.Error(diff)
	}
}

// TestContinueWhilePersonAsks: a run that a finding started meanwhile waits until the person's question is answered.
func TestContinueWhilePersonAsks(t *testing.T) {
	first := newHouse(t)
	first.decide(time.Minute, approval.Deny, nil)
	first.ask(5*time.Minute, ana)
	other := first.finding("other")
	other.Finding.Agent = event.Agent{ID: "billing/helper", Name: "helper", Service: "billing", Class: "payments"}
	first.signal(6*time.Minute, SignalFound, other)
	h, in := first.continued(7 * time.Minute)
	own := h.decide(time.Minute, approval.Approve, nil)
	other2 := h.decide(2*time.Minute, approval.Approve, func(d *approval.Decision) { d.By.ID = "bob" })
	h.denied(3*time.Minute, true)
	h.close(100 * hour)
	h.execute(in)
	if own.kind() != approval.RefusedRequester || other2.err != nil {
		t.Errorf("the asker's own approval: %v; another's: %v", own.err, other2.err)
	}
	if diff := cmp.Diff([]approval.State{approval.Denied, approval.Approved, approval.Expired, approval.Expired}, h.states()); diff != "" {
		t.Error(diff)
	}
}

package workflows

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Seal captures the session's events, the baseline and the rules as they were, and the findings, each hashed into the vault, with
// a manifest over all of them. It runs before anything is changed.
func (a *Activities) Seal(ctx context.Context, in SealInput) ([]incident.EvidenceItem, error) {
	defer heartbeat(ctx)()
	events, err := a.Session.SessionEvents(ctx, in.Raised)
	if err != nil {
		return nil, err
	}
	artefacts, err := a.artefacts(ctx, in, events)
	if err != nil {
		return nil, err
	}
	now := in.At.UTC()
	var items []incident.EvidenceItem
	for _, art := range artefacts {
		item, err := a.sealOne(ctx, in.Incident.ID, art, now)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	manifest, err := json.MarshalIndent(items, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	item, err := a.sealOne(ctx, in.Incident.ID, artefact{"manifest.json", "application/json", manifest}, now)
	if err != nil {
		return nil, err
	}
	items = append(items, item)
	text := fmt.Sprintf("Evidence sealed: %d items over %d events", len(items), len(events))
	if n := missing(in.Raised, events); n > 0 {
		text += fmt.Sprintf("; %d events that the findings name are no longer in the log", n)
	}
	if err := a.Store.AddEntry(ctx, in.Incident.ID, incident.Entry{At: now, Actor: "tocsin", Source: "workflow", Kind: "evidence", Text: text, Ref: item.SHA256}); err != nil {
		return nil, err
	}
	if err := a.eventEntries(ctx, in.Incident.ID, events); err != nil {
		return nil, err
	}
	return items, a.append(ctx, ledger.KindEvidence, "tocsin", in.Incident.ID, "evidence/"+in.Incident.ID+"/"+item.SHA256, items)
}

// missing counts the events that findings name and that were not read.
func missing(raised []pipeline.Raised, events []event.Event) (n int) {
	read := make(map[string]bool, len(events))
	for i := range events {
		read[events[i].ID] = true
	}
	for _, r := range raised {
		for _, id := range r.Finding.Events {
			if !read[id] {
				n++
			}
		}
	}
	return n
}

// heartbeat tells the server that the process lives until the function that it returns is called.
func heartbeat(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(2 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	}()
	return cancel
}

type artefact struct {
	name, mediaType string
	data            []byte
}

func (a *Activities) artefacts(ctx context.Context, in SealInput, events []event.Event) ([]artefact, error) {
	var lines bytes.Buffer
	for i := range events {
		line, err := events[i].MarshalLine()
		if err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
		lines.Write(append(line, '\n'))
	}
	out := []artefact{{"events.jsonl", "application/x-ndjson", lines.Bytes()}}
	for _, raised := range in.Raised {
		text, err := json.MarshalIndent(raised, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode finding: %w", err)
		}
		out = append(out, artefact{"finding-" + raised.Finding.ID + ".json", "application/json", text})
		baseline, err := json.MarshalIndent(raised.Baseline, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode baseline: %w", err)
		}
		out = append(out, artefact{"baseline-" + raised.Finding.ID + ".json", "application/json", baseline})
		name := "rule-" + raised.Finding.Rule + ".yaml"
		if raised.Finding.Digest == "" || slices.ContainsFunc(out, func(x artefact) bool { return x.name == name }) {
			continue
		}
		// Every rule file is put into the vault when it is loaded, under the digest that its findings carry.
		rule, err := a.Vault.Get(ctx, raised.Finding.Digest)
		if err != nil {
			return nil, fmt.Errorf("read rule %s: %w", raised.Finding.Rule, err)
		}
		out = append(out, artefact{name, "application/yaml", rule})
	}
	return out, nil
}

func (a *Activities) sealOne(ctx context.Context, incidentID string, art artefact, at time.Time) (incident.EvidenceItem, error) {
	sum, err := a.Vault.Put(ctx, art.data)
	if err != nil {
		return incident.EvidenceItem{}, err
	}
	item := incident.EvidenceItem{SHA256: sum, Name: art.name, MediaType: art.mediaType, Size: int64(len(art.data)), Collector: "tocsin", At: at}
	return item, a.Store.AddEvidence(ctx, incidentID, item)
}

// maxEntries bounds the events that a timeline shows; the sealed evidence has them all.
const maxEntries = 200

// eventEntries puts the session's telling events into the timeline, the agent's own words as quotes.
func (a *Activities) eventEntries(ctx context.Context, incidentID string, events []event.Event) error {
	n := 0
	for i := range events {
		entry, ok := timelineEntry(&events[i])
		if !ok || n >= maxEntries {
			continue
		}
		n++
		if err := a.Store.AddEntry(ctx, incidentID, entry); err != nil {
			return err
		}
	}
	return nil
}

// quoted bounds a quote, in characters.
const quoted = 400

func timelineEntry(e *event.Event) (incident.Entry, bool) {
	entry := incident.Entry{At: e.Time, Actor: e.Agent.ID, Source: "log", Kind: "event", Ref: e.ID}
	switch {
	case e.Tool != nil && (e.Kind == event.KindToolResult || e.Kind == event.KindToolDecision):
		args := make([]string, 0, len(e.Tool.Args))
		for _, a := range e.Tool.Args {
			args = append(args, incident.Visible(a.Path, 40)+"="+incident.Visible(a.Value, 80))
		}
		entry.Text = incident.Visible(e.Tool.Name, 60) + "(" + strings.Join(args, ", ") + ")"
		if e.Outcome != event.OutcomeUnknown {
			entry.Text += ": " + string(e.Outcome)
		}
		entry.Quote, entry.QuoteSize = incident.Quote(e.Tool.Result.Text, quoted)
		return entry, true
	case e.Kind == event.KindPrompt || e.Kind == event.KindAgentInvoke:
		entry.Actor, entry.Text = "user", "asked the agent"
		for _, c := range e.Content {
			if c.Role == event.RolePrompt {
				entry.Quote, entry.QuoteSize = incident.Quote(c.Text, quoted)
			}
		}
		return entry, entry.Quote != ""
	}
	return entry, false
}

// Draft writes the post-mortem and the notices anew from what is recorded by now.
func (a *Activities) Draft(ctx context.Context, incidentID string) error {
	file, err := a.caseFile(ctx, incidentID)
	if err != nil {
		return err
	}
	now := a.Now().UTC()
	for _, d := range incident.Drafts(file) {
		sum, err := a.Vault.Put(ctx, []byte(d.Markdown))
		if err != nil {
			return err
		}
		if err := a.Store.SaveDraft(ctx, store.Draft{Incident: incidentID, Name: d.Name, Markdown: d.Markdown, SHA256: sum, At: now}); err != nil {
			return err
		}
	}
	a.Tell.Changed("incident", incidentID)
	return nil
}

// caseFile reads all that is recorded of an incident.
func (a *Activities) caseFile(ctx context.Context, id string) (f incident.CaseFile, err error) {
	if f.Incident, err = a.Store.Incident(ctx, id); err != nil {
		return f, err
	}
	alerts, err := a.Store.Alerts(ctx, id, 1000)
	if err != nil {
		return f, err
	}
	for _, alert := range alerts {
		f.Findings = append(f.Findings, incident.Triaged{Finding: alert.Finding, Disposition: alert.Disposition})
	}
	if f.Timeline, err = a.Store.Timeline(ctx, id); err != nil {
		return f, err
	}
	if f.Evidence, err = a.Store.Evidence(ctx, id); err != nil {
		return f, err
	}
	f.Tracks, err = a.Store.Tracks(ctx, id)
	return f, err
}

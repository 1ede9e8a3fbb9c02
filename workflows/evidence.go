package workflows

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

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
		if _, err := a.Store.SaveDraft(ctx, store.Draft{Incident: incidentID, Name: d.Name, Markdown: d.Markdown, SHA256: sum, At: now}); err != nil {
			return err
		}
	}
	a.Tell.Changed("incident", incidentID)
	return nil
}

// redraft brings the drafts that there are up to date. That it fails must hold up no decision and no effect: the next one tries again.
func (a *Activities) redraft(ctx context.Context, incidentID string) {
	drafts, err := a.Store.Drafts(ctx, incidentID)
	if err == nil && len(drafts) > 0 {
		err = a.Draft(ctx, incidentID)
	}
	if err != nil {
		activity.GetLogger(ctx).Warn("the drafts are not up to date", "incident", incidentID, "error", err)
	}
}

// maxCited bounds the records of the ledger that drafts can cite.
const maxCited = 10000

// records are the records of the ledger that drafts cite.
func (a *Activities) records(ctx context.Context, id string) (out []incident.Record, err error) {
	rows, err := a.Store.LedgerOfIncident(ctx, id, maxCited)
	for _, r := range rows {
		record := incident.Record{Seq: r.Seq, At: r.At, Kind: r.Kind, Actor: r.Actor, Subject: r.Subject, Hash: r.Hash}
		var sealed []incident.EvidenceItem
		if r.Kind == ledger.KindEvidence && json.Unmarshal(r.Body, &sealed) == nil { // what was opened and exported is no list
			for _, i := range sealed {
				record.Sealed = append(record.Sealed, i.SHA256, i.Name)
			}
		}
		out = append(out, record)
	}
	return out, err
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
	if f.Tracks, err = a.Store.Tracks(ctx, id); err != nil {
		return f, err
	}
	f.Records, err = a.records(ctx, id)
	return f, err
}

package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// exporter writes bundles. It implements api.Exporter.
type exporter struct {
	store  *store.Store
	vault  *evidence.Vault
	anchor *ledger.Anchor
	now    func() time.Time
}

const (
	// maxExported bounds the findings of a bundle.
	maxExported = 10000
	// anchorGrace is how long the checkpoint over an export may take.
	anchorGrace = 15 * time.Second
)

// Export implements api.Exporter. That it was exported, by whom, and the hash of all that was, is a record of the ledger, which is in the
// bundle itself.
func (x *exporter) Export(ctx context.Context, by approval.Principal, id string, redact bool, w io.Writer) error {
	b, err := evidence.NewBundle(w, x.now().UTC())
	if err != nil {
		return err
	}
	e := &export{exporter: x, bundle: b, incident: id, redact: redact, leftOut: []evidence.LeftOut{}}
	for _, write := range []func(context.Context) error{e.facts, e.said, e.artefacts, e.drafts} {
		if err := write(ctx); err != nil {
			return fmt.Errorf("export %s: %w", id, err)
		}
	}
	if err := b.AddJSON("left-out.json", e.leftOut); err != nil {
		return err
	}
	sums, err := b.Sums()
	if err != nil {
		return err
	}
	body := map[string]any{"exported": sums, "redacted": redact, "by": by}
	if err := x.store.Record(ctx, x.now(), ledger.KindEvidence, by.ID, id, "", body); err != nil {
		return err
	}
	return e.records(ctx)
}

// export is one bundle under way.
type export struct {
	*exporter
	bundle   *evidence.Bundle
	incident string
	redact   bool
	leftOut  []evidence.LeftOut
}

// facts writes what is of our own making: the incident, what was asked and decided, and what was done.
func (e *export) facts(ctx context.Context) error {
	i, err := e.store.Incident(ctx, e.incident)
	if err != nil {
		return err
	}
	requests, err := e.store.IncidentRequests(ctx, e.incident)
	if err != nil {
		return err
	}
	leases, err := e.store.IncidentLeases(ctx, e.incident)
	if err != nil {
		return err
	}
	custody, err := e.store.Evidence(ctx, e.incident)
	if err != nil {
		return err
	}
	return errors.Join(e.bundle.AddJSON("incident.json", i), e.bundle.AddJSON("requests.json", requests),
		e.bundle.AddJSON("leases.json", leases), e.bundle.AddJSON("custody.json", custody))
}

// said writes what holds words of agents and their tools, or what is left of it when these are left out.
func (e *export) said(ctx context.Context) error {
	alerts, err := e.store.Alerts(ctx, e.incident, maxExported)
	if err != nil {
		return err
	}
	timeline, err := e.store.Timeline(ctx, e.incident)
	if err != nil {
		return err
	}
	tracks, err := e.store.Tracks(ctx, e.incident)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name         string
		whole, brief any
	}{
		{"findings.json", alerts, briefAlerts(alerts)},
		{"timeline.json", timeline, briefTimeline(timeline)},
		{"tracks.json", tracks, briefTracks(tracks)},
	} {
		if !e.redact {
			if err := e.bundle.AddJSON(f.name, f.whole); err != nil {
				return err
			}
			continue
		}
		text, err := json.MarshalIndent(f.whole, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", f.name, err)
		}
		if err := e.seal(ctx, f.name, append(text, '\n')); err != nil {
			return err
		}
		if err := e.bundle.AddJSON(f.name, f.brief); err != nil {
			return err
		}
	}
	return nil
}

// seal keeps in the vault what is left out of a bundle, and says so in it.
func (e *export) seal(ctx context.Context, name string, whole []byte) error {
	hash, err := e.vault.Put(ctx, whole)
	if err != nil {
		return err
	}
	e.leftOut = append(e.leftOut, evidence.LeftOut{Name: name, SHA256: hash, Size: int64(len(whole)), Why: redacted})
	return nil
}

const redacted = "redacted: it holds words of agents; the original is sealed in the vault under its hash"

// artefacts writes what was sealed. What the vault lost is named, and keeps nobody from the rest.
func (e *export) artefacts(ctx context.Context) error {
	items, err := e.store.Evidence(ctx, e.incident)
	if err != nil {
		return err
	}
	done := make(map[string]bool)
	for _, i := range items {
		if done[i.SHA256] {
			continue
		}
		done[i.SHA256] = true
		if e.redact && !ours(i.Name) {
			e.leftOut = append(e.leftOut, evidence.LeftOut{Name: i.Name, SHA256: i.SHA256, Size: i.Size, Why: redacted})
			continue
		}
		data, err := e.vault.Get(ctx, i.SHA256)
		if errors.Is(err, evidence.ErrNotFound) || errors.Is(err, evidence.ErrCorrupt) {
			e.leftOut = append(e.leftOut, evidence.LeftOut{Name: i.Name, SHA256: i.SHA256, Size: i.Size, Why: "lost: " + err.Error()})
			continue
		}
		if err != nil {
			return err
		}
		if err := e.bundle.AddArtefact(data); err != nil {
			return err
		}
	}
	return nil
}

// ours reports whether an artefact is of people's and our own making.
func ours(name string) bool {
	return name == "manifest.json" || strings.HasPrefix(name, "rule-")
}

// drafts writes the latest drafts.
func (e *export) drafts(ctx context.Context) error {
	drafts, err := e.store.Drafts(ctx, e.incident)
	if err != nil {
		return err
	}
	for _, d := range drafts {
		name := "drafts/" + d.Name + ".md"
		if e.redact {
			err = e.seal(ctx, name, []byte(d.Markdown))
		} else {
			err = e.bundle.Add(name, []byte(d.Markdown))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// records writes the incident's records with the first checkpoint that is over them all.
func (e *export) records(ctx context.Context) error {
	records, err := e.store.LedgerOfIncident(ctx, e.incident, evidence.MaxRecords+1)
	if err != nil {
		return err
	}
	if len(records) > evidence.MaxRecords {
		return fmt.Errorf("export %s: it has more than %d records", e.incident, evidence.MaxRecords)
	}
	ctx, cancel := context.WithTimeout(ctx, anchorGrace)
	defer cancel()
	cp, err := e.anchor.Await(ctx, records[len(records)-1].Seq)
	if err != nil {
		return err
	}
	proofs := make([]evidence.Proof, 0, len(records))
	for _, r := range records {
		hashes, err := e.anchor.Inclusion(ctx, cp, r.Seq)
		if err != nil {
			return err
		}
		proofs = append(proofs, evidence.Proof{Seq: r.Seq, Hash: r.Hash, Hashes: hashes})
	}
	return e.bundle.Records(records, cp, proofs)
}

// briefAlert is a finding without what agents said.
type briefAlert struct {
	ID          string    `json:"id"`
	Rule        string    `json:"rule"`
	Version     string    `json:"version"`
	Digest      string    `json:"digest,omitempty"`
	Severity    string    `json:"severity"`
	Agent       string    `json:"agent"`
	Time        time.Time `json:"time"`
	Events      []string  `json:"events"`
	Disposition string    `json:"disposition,omitempty"`
}

func briefAlerts(alerts []store.Alert) []briefAlert {
	out := make([]briefAlert, 0, len(alerts))
	for _, a := range alerts {
		f := a.Finding
		b := briefAlert{ID: f.ID, Rule: f.Rule, Version: f.Version, Digest: f.Digest, Severity: string(f.Severity), Agent: f.Agent.ID, Time: f.Time, Events: f.Events}
		if a.Disposition != nil {
			b.Disposition = string(a.Disposition.Verdict)
		}
		out = append(out, b)
	}
	return out
}

// briefTimeline leaves the text of what people and Tocsin did, and only the hash of what agents did and said.
func briefTimeline(timeline []incident.Entry) []incident.Entry {
	out := slices.Clone(timeline)
	for i, e := range out {
		if e.Quote == "" && e.Kind != "event" && e.Kind != "finding" && e.Kind != "track" {
			continue
		}
		hash := sha256.Sum256([]byte(e.Text + "\x00" + e.Quote))
		out[i].Text, out[i].Quote, out[i].QuoteSize = "left out, sha256:"+hex.EncodeToString(hash[:]), "", 0
	}
	return out
}

func briefTracks(tracks []incident.Track) []incident.Track {
	out := slices.Clone(tracks)
	for i := range out {
		out[i].Summary, out[i].Facts, out[i].Err = "left out", nil, ""
	}
	return out
}

package workflows

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// The agent decides how many events its session has and how large they are. What is over these bounds is counted in the manifest;
// it must not keep people from being asked.
const (
	maxArtefact = 16 << 20 // bytes of one artefact that holds events
	maxSealed   = 64 << 20 // bytes of the events that findings name, and of all others
	maxEntries  = 200      // events that the timeline shows
	// readMemories bounds how long people wait to be asked because an agent's database is slow.
	readMemories = 20 * time.Second
)

// Manifest lists what was sealed and says what was not.
type Manifest struct {
	Items   []incident.EvidenceItem `json:"items"`
	Events  int                     `json:"events"`
	LeftOut int                     `json:"left_out"` // events over the bound on their bytes
	Missing int                     `json:"missing"`  // events that the findings name and that were not read
	Unread  Unread                  `json:"unread"`
	// LostRules are those whose text the vault no longer holds.
	LostRules []string `json:"lost_rules,omitempty"`
	// LostMemories are the agents' memories that could not be read; LeftOutRows are those of others for which there was no room.
	LostMemories []string `json:"lost_memories,omitempty"`
	LeftOutRows  int      `json:"left_out_rows,omitempty"`
}

// sealing is one Seal under way.
type sealing struct {
	acts     *Activities
	in       SealInput
	named    named
	unseen   named // of named, what was not read yet
	chunk    bytes.Buffer
	chunks   int
	sealed   map[bool]int              // bytes of events, by whether a finding names them
	shown    map[rank][]incident.Entry // for the timeline
	manifest Manifest
}

// Seal captures the session's events, the baseline and the rules as they were, the findings, and the agents' memories, each hashed into the
// vault, with a manifest over all of them. It runs before anything is changed.
func (a *Activities) Seal(ctx context.Context, in SealInput) ([]incident.EvidenceItem, error) {
	defer heartbeat(ctx)()
	s := &sealing{acts: a, in: in, named: namedBy(in.Raised), unseen: namedBy(in.Raised), sealed: make(map[bool]int), shown: make(map[rank][]incident.Entry)}
	if err := s.events(ctx); err != nil {
		return nil, err
	}
	for _, raised := range in.Raised {
		if err := s.finding(ctx, raised); err != nil {
			return nil, err
		}
	}
	if err := s.memories(ctx); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(s.manifest, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	item, err := s.put(ctx, "manifest.json", "application/json", text)
	if err != nil {
		return nil, err
	}
	if err := s.entries(ctx, item); err != nil {
		return nil, err
	}
	items := s.manifest.Items
	return items, a.append(ctx, ledger.KindEvidence, "tocsin", in.Incident.ID, "evidence/"+in.Incident.ID+"/"+item.SHA256, items)
}

// events seals the session's events in artefacts of a bounded size.
func (s *sealing) events(ctx context.Context) (err error) {
	s.manifest.Unread, err = s.acts.Session.SessionEvents(ctx, s.in.Raised, func(e *event.Event) error { return s.event(ctx, e) })
	if err != nil {
		return err
	}
	s.manifest.Missing = len(s.unseen)
	return s.flush(ctx)
}

func (s *sealing) event(ctx context.Context, e *event.Event) error {
	r := s.named.rank(e)
	delete(s.unseen, scopeOf(e, e.ID))
	if entry, ok := timelineEntry(e); ok && len(s.shown[r]) < maxEntries {
		s.shown[r] = append(s.shown[r], entry)
	}
	line, err := e.MarshalLine()
	of := r != unnamed
	if err != nil || s.sealed[of]+len(line) > maxSealed {
		s.manifest.LeftOut++
		return nil
	}
	if s.chunk.Len()+len(line) >= maxArtefact {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.chunk.Write(append(line, '\n'))
	s.sealed[of] += len(line)
	s.manifest.Events++
	return nil
}

// flush seals the events that are gathered. There is one artefact even where there are no events.
func (s *sealing) flush(ctx context.Context) error {
	if s.chunk.Len() == 0 && s.chunks > 0 {
		return nil
	}
	name := "events.jsonl"
	if s.chunks++; s.chunks > 1 {
		name = fmt.Sprintf("events-%d.jsonl", s.chunks)
	}
	_, err := s.put(ctx, name, "application/x-ndjson", s.chunk.Bytes())
	s.chunk.Reset()
	return err
}

// finding seals a finding with the baseline and the rule as they were when it was raised.
func (s *sealing) finding(ctx context.Context, raised pipeline.Raised) error {
	parts := []struct {
		name string
		of   any
	}{{"finding", raised}, {"baseline", raised.Baseline}}
	for _, p := range parts {
		if p.name == "baseline" && raised.Baseline.Agent == "" {
			continue // an earlier finding brought it
		}
		text, err := json.MarshalIndent(p.of, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", p.name, err)
		}
		if _, err := s.put(ctx, p.name+"-"+raised.Finding.ID+".json", "application/json", text); err != nil {
			return err
		}
	}
	return s.rule(ctx, raised.Finding.Rule, raised.Finding.Digest)
}

// rule seals a rule's text once. Every rule file is put into the vault when it is loaded, under the digest that its findings carry;
// that it was lost since must not stop the response.
func (s *sealing) rule(ctx context.Context, id, digest string) error {
	name := "rule-" + id + ".yaml"
	known := func(i incident.EvidenceItem) bool { return i.Name == name }
	if digest == "" || slices.ContainsFunc(s.manifest.Items, known) || slices.Contains(s.manifest.LostRules, id) {
		return nil
	}
	text, err := s.acts.Vault.Get(ctx, digest)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		s.manifest.LostRules = append(s.manifest.LostRules, id)
		return nil
	}
	_, err = s.put(ctx, name, "application/yaml", text)
	return err
}

// memories seals what the incident's agents keep beyond their sessions. A database that does not answer must not stop the response.
func (s *sealing) memories(ctx context.Context) error {
	agents := []string{s.in.Incident.Agent.ID}
	for _, raised := range s.in.Raised {
		agents = append(agents, raised.Finding.Agent.ID)
	}
	slices.Sort(agents)
	limited, cancel := context.WithTimeout(ctx, readMemories)
	defer cancel()
	for _, agent := range slices.Compact(agents) {
		for _, memory := range s.acts.Memory.Of(agent) {
			if err := s.memory(ctx, limited, memory); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sealing) memory(ctx, limited context.Context, memory string) error {
	var failed error // of the vault, or the store
	err := s.acts.Memory.Read(limited, memory, func(table string, rows []byte, leftOut int) error {
		s.manifest.LeftOutRows += leftOut
		_, failed = s.put(ctx, "memory-"+memory+"-"+table+".jsonl", "application/x-ndjson", rows)
		return failed
	})
	if failed != nil || ctx.Err() != nil {
		return cmp.Or(failed, ctx.Err())
	}
	if err != nil {
		activity.GetLogger(ctx).Warn("a memory is not sealed", "incident", s.in.Incident.ID, "error", err)
		s.manifest.LostMemories = append(s.manifest.LostMemories, memory)
	}
	return nil
}

func (s *sealing) put(ctx context.Context, name, mediaType string, data []byte) (incident.EvidenceItem, error) {
	sum, err := s.acts.Vault.Put(ctx, data)
	if err != nil {
		return incident.EvidenceItem{}, err
	}
	item := incident.EvidenceItem{SHA256: sum, Name: name, MediaType: mediaType, Size: int64(len(data)), Collector: "tocsin", At: s.in.At.UTC()}
	s.manifest.Items = append(s.manifest.Items, item)
	return item, s.acts.Store.AddEvidence(ctx, s.in.Incident.ID, item)
}

// entries puts the session's telling events into the timeline, the agent's own words as quotes: first what findings name, so that
// no number of other events hides it.
func (s *sealing) entries(ctx context.Context, manifest incident.EvidenceItem) error {
	shown := slices.Concat(s.shown[origin], s.shown[cause], s.shown[unnamed])
	sealed := incident.Entry{At: s.in.At.UTC(), Actor: "tocsin", Source: "workflow", Kind: "evidence", Text: s.manifest.sentence(), Ref: manifest.SHA256}
	for _, entry := range append(shown[:min(len(shown), maxEntries)], sealed) {
		if err := s.acts.Store.AddEntry(ctx, s.in.Incident.ID, entry); err != nil {
			return err
		}
	}
	return nil
}

// sentence says what was sealed, for the timeline.
func (m *Manifest) sentence() string {
	text := fmt.Sprintf("Evidence sealed: %d items over %d events", len(m.Items), m.Events)
	for _, lack := range []struct {
		n   int
		say string
	}{
		{m.Missing, "%d events that the findings name are no longer in the log"},
		{m.LeftOut, "%d events are left out for want of room"},
		{m.Unread.All(), "%d messages of the log could not be read"},
		{len(m.LostRules), "the text of %d rules is lost"},
		{len(m.LostMemories), "%d memories of agents could not be read"},
		{m.LeftOutRows, "%d rows of agents' memories are left out for want of room"},
	} {
		if lack.n > 0 {
			text += "; " + fmt.Sprintf(lack.say, lack.n)
		}
	}
	return text
}

// rank is how much an event has to do with the findings.
type rank int

// The ranks, the telling ones first.
const (
	origin  rank = iota // a finding's value came from it
	cause               // a finding names it
	unnamed             // it belongs to the session
)

// scope is where an event's id counts: its sender chooses it, so that others of another class can take the same.
type scope struct{ tenant, class, id string }

func scopeOf(e *event.Event, id string) scope { return scope{e.Tenant, e.Agent.Class, id} }

// named are the events that findings name.
type named map[scope]rank

func namedBy(raised []pipeline.Raised) named {
	n := make(named)
	for _, r := range raised {
		f := r.Finding
		for _, id := range f.Events {
			n[scope{f.Tenant, f.Agent.Class, id}] = cause
		}
	}
	for _, r := range raised {
		if f := r.Finding; f.Chain != nil && f.Chain.Origin != "" {
			n[scope{f.Tenant, f.Agent.Class, f.Chain.Origin}] = origin
		}
	}
	return n
}

func (n named) rank(e *event.Event) rank {
	if r, ok := n[scopeOf(e, e.ID)]; ok {
		return r
	}
	return unnamed
}

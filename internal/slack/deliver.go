package slack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// posted is where an incident's card is, and what was said about it.
type posted struct {
	Incident string `json:"incident"`
	Team     string `json:"team"`
	Channel  string `json:"channel"`
	TS       string `json:"ts,omitempty"` // "" while it is not known to be posted
	// Unknown counts posts whose outcome is not known: each may have left a card that Tocsin does not know of.
	Unknown  int    `json:"unknown,omitempty"`
	Rendered string `json:"rendered,omitempty"` // the hash of what it shows
	// Notes are the transitions that were told in its thread, with the tries that they took; see note.
	Notes map[string]int `json:"notes,omitempty"`
}

func (p *posted) note(key string, tries int) {
	if p.Notes == nil {
		p.Notes = make(map[string]int)
	}
	p.Notes[key] = tries
}

const (
	sweepEvery = 60 * time.Second       // all open cards
	openEvery  = 15 * time.Second       // those with a question, whose rungs come with time
	gather     = 250 * time.Millisecond // changes that come close together are shown together
	// maxUnknown is how often a card or note is posted without learning the outcome: at most one of them is there twice.
	maxUnknown = 2
	noteTold   = 100 // marks a note as told
	maxAsked   = 500 // open questions that are looked at
	maxTold    = 200 // latest incidents that are looked at for whom nobody is asked
	// lull is how long an incident may ask nothing before people are told of it without a question: one card that asks is better.
	lull = 30 * time.Second
	// stale is the age from which on people are not told of an incident anew, as where a channel is configured for the first time.
	stale = 24 * time.Hour
)

// deliver keeps the cards as the store has them, until the context ends.
func (s *Slack) deliver(ctx context.Context) error {
	sweep, open := time.NewTicker(sweepEvery), time.NewTicker(openEvery)
	defer sweep.Stop()
	defer open.Stop()
	s.everything()
	for {
		asks := false
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			s.everything()
			continue
		case <-open.C:
			asks = true
		case <-s.kick:
			if err := s.o.Wait(ctx, gather); err != nil {
				return nil
			}
		}
		s.mu.Lock()
		dirty := s.dirty
		s.dirty = make(map[string]bool)
		s.mu.Unlock()
		if err := s.reconcile(ctx, dirty, asks, false); err != nil && ctx.Err() == nil {
			s.o.Logger.Error("cards in Slack can't be brought up to date", "error", err)
		}
	}
}

// reconcile brings cards up to date: those of incidents that changed, all where dirty is nil, and with asks those with an open question
// too. quiet ones tell no transition in their threads: one summary has told them all.
func (s *Slack) reconcile(ctx context.Context, dirty map[string]bool, asks, quiet bool) error {
	s.delivering.Lock()
	defer s.delivering.Unlock()
	pending, err := s.o.Reader.Requests(ctx, approval.Pending, maxAsked)
	if err != nil {
		return err
	}
	var todo []string
	for _, r := range pending {
		if asks || dirty == nil || dirty[cardOf(r)] {
			todo = append(todo, cardOf(r))
		}
	}
	if asks || dirty == nil {
		latest, err := s.o.Reader.Incidents(ctx, maxTold)
		if err != nil {
			return err
		}
		for _, i := range latest {
			if s.tells(i) {
				todo = append(todo, i.ID)
			}
		}
	}
	err = s.o.Box.EachCard(ctx, maxCards, func(doc []byte) {
		var p posted
		if json.Unmarshal(doc, &p) == nil && (dirty == nil || dirty[p.Incident]) {
			todo = append(todo, p.Incident)
		}
	})
	if err != nil {
		return err
	}
	var errs []error
	done := make(map[string]bool)
	for _, id := range todo {
		if done[id] || ctx.Err() != nil {
			continue
		}
		done[id] = true
		if err := s.bring(ctx, id, quiet); err != nil {
			errs = append(errs, fmt.Errorf("card of %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// tells reports whether people are to be told of an incident though it asks them nothing: it is grave, and nobody is aware of it.
func (s *Slack) tells(i incident.Incident) bool {
	age := s.o.Now().Sub(i.Times.Delivered)
	return s.o.Tell != "" && i.Severity.Rank() >= s.o.Tell.Rank() && i.Times.Noticed.IsZero() && i.Status != incident.Closed && age >= lull && age < stale
}

// bring brings one card up to date.
func (s *Slack) bring(ctx context.Context, id string, quiet bool) error {
	f, err := s.gather(ctx, id)
	if err != nil {
		return err
	}
	p, found, err := s.stored(ctx, id)
	if err != nil {
		return err
	}
	if !found {
		p = posted{Incident: id, Team: s.o.Team, Channel: s.o.Channel}
	}
	before, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode card: %w", err)
	}
	asks := slices.ContainsFunc(f.all, func(q question) bool { return q.stage.open() })
	if p.Channel != s.o.Channel { // the configuration names another channel by now
		p = posted{Incident: id, Team: s.o.Team, Channel: s.o.Channel, Notes: p.Notes}
	}
	if p.TS == "" && !asks && !s.tells(f.incident) {
		return nil // nobody was told and nobody needs to be
	}
	m, err := s.card(f)
	if err != nil {
		return err
	}
	if p.TS == "" {
		err = s.post(ctx, &p, f, m)
	} else if p.Rendered != m.hash {
		err = s.update(ctx, &p, m)
	}
	if err != nil || p.TS == "" {
		return err
	}
	if err := s.tellNotes(ctx, &p, f, quiet); err != nil {
		return err
	}
	closed := f.over()
	if after, err := json.Marshal(p); err != nil || bytes.Equal(after, before) && !closed {
		return err // nothing to write, as for most cards at most times
	}
	return s.save(ctx, p, !closed)
}

func (s *Slack) save(ctx context.Context, p posted, open bool) error {
	doc, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode card: %w", err)
	}
	return s.o.Box.SaveCard(ctx, p.Incident, p.Channel, p.TS, open, doc)
}

// post posts a card for the first time. It is written down before, so that a post whose outcome nobody learned is counted.
func (s *Slack) post(ctx context.Context, p *posted, f facts, m message) error {
	if p.Unknown >= maxUnknown {
		return fmt.Errorf("%d posts had no known outcome; it is not posted again in this outage", p.Unknown)
	}
	p.Unknown++
	if err := s.save(ctx, *p, true); err != nil {
		return err
	}
	ts, err := s.send(ctx, f, m.fallback, m.blocks)
	if err != nil {
		if certain(err) {
			p.Unknown--
		}
		return errors.Join(err, s.save(ctx, *p, true))
	}
	p.TS, p.Unknown, p.Rendered = ts, 0, m.hash
	for _, q := range f.all {
		p.note(q.ID+askedKey, noteTold) // the card itself told it
	}
	s.o.Meter.SlackDelivered("card")
	return s.save(ctx, *p, true)
}

// send posts a message and returns where it is.
func (s *Slack) send(ctx context.Context, f facts, fallback string, blocks []sdk.Block, more ...sdk.MsgOption) (ts string, err error) {
	options := append([]sdk.MsgOption{
		sdk.MsgOptionText(fallback, true), sdk.MsgOptionBlocks(blocks...), sdk.MsgOptionDisableLinkUnfurl(), sdk.MsgOptionDisableMediaUnfurl(),
	}, more...)
	if n := len(f.all); n > 0 {
		options = append(options, sdk.MsgOptionMetadata(sdk.SlackMetadata{EventType: "tocsin_request", EventPayload: map[string]any{
			"request_id": string(ident(f.all[n-1].ID)), "incident_id": string(ident(f.incident.ID)),
		}}))
	}
	err = s.call(ctx, "chat.postMessage", func(ctx context.Context) (err error) {
		_, ts, err = s.api.PostMessageContext(ctx, s.o.Channel, options...)
		return err
	})
	return ts, err
}

// update changes a card in place. One that somebody deleted is posted anew the next time.
func (s *Slack) update(ctx context.Context, p *posted, m message) error {
	err := s.call(ctx, "chat.update", func(ctx context.Context) error {
		_, _, _, err := s.api.UpdateMessageContext(ctx, p.Channel, p.TS, sdk.MsgOptionText(m.fallback, true), sdk.MsgOptionBlocks(m.blocks...))
		return err
	})
	switch code := slackCode(err); {
	case code == "message_not_found" || code == "cant_update_message":
		p.TS, p.Rendered = "", ""
	case err != nil:
		return err
	default:
		p.Rendered = m.hash
		s.o.Meter.SlackDelivered("update")
	}
	return s.save(ctx, *p, true)
}

// tellNotes tells in the card's thread what happened since: each transition once, and twice at most where Slack did not say whether
// it took the first.
func (s *Slack) tellNotes(ctx context.Context, p *posted, f facts, quiet bool) error {
	for _, q := range f.all {
		for _, n := range notes(q, f.incident) {
			if p.Notes[n.key] >= maxUnknown {
				continue
			}
			p.note(n.key, p.Notes[n.key]+1)
			if err := s.save(ctx, *p, true); err != nil {
				return err
			}
			if !quiet || len(n.tell) > 0 && q.stage.open() {
				if err := s.tell(ctx, p, f, n); err != nil {
					if certain(err) {
						p.Notes[n.key]--
					}
					return errors.Join(err, s.save(ctx, *p, true))
				}
			}
			p.note(n.key, noteTold)
		}
	}
	return nil
}

func (s *Slack) tell(ctx context.Context, p *posted, f facts, n note) error {
	blocks := []sdk.Block{section(n.text)}
	if who := s.mentions(n.tell); len(who) > 0 {
		blocks = append(blocks, sdk.NewSectionBlock(mrkdwn(append(who, "please look.")...), nil, nil))
	}
	fallback := "Tocsin: news of " + string(ident(f.incident.ID))
	_, err := s.send(ctx, f, fallback, blocks, sdk.MsgOptionTS(p.TS))
	if err == nil {
		s.o.Meter.SlackDelivered("note")
	}
	return err
}

// undelivered is the oldest open question whose card is not known to be in Slack, and since when it waits for that.
func (s *Slack) undelivered(ctx context.Context) (oldest time.Time, pending []approval.Request, err error) {
	pending, err = s.o.Reader.Requests(ctx, approval.Pending, maxAsked)
	if err != nil {
		return oldest, nil, err
	}
	slices.SortFunc(pending, func(a, b approval.Request) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), cmp.Compare(a.ID, b.ID))
	})
	now := s.o.Now()
	for _, r := range pending {
		p, _, err := s.stored(ctx, cardOf(r))
		if err != nil {
			return oldest, pending, err
		}
		if p.TS == "" && !now.After(r.Deadline) && (oldest.IsZero() || r.Asked.Before(oldest)) {
			oldest = r.Asked
		}
	}
	return oldest, pending, nil
}

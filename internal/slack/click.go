package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

var errUnknownSelf = errors.New("Slack has not said yet who Tocsin is there")

// deal does what a claim asks for, if it counts. An error means that it is not known to be done, and that trying again is safe.
func (s *Slack) deal(ctx context.Context, l letter, c claim) error {
	who := s.identity()
	if who == nil {
		return errUnknownSelf
	}
	if c.app != who.app || c.team != s.o.Team || c.enterprise != "" && who.enterprise != "" && c.enterprise != who.enterprise {
		return s.refuse(ctx, l, c, approval.Request{}, stranger(c), approval.Refuse(approval.RefusedIdentity, "it comes from another workspace or app"))
	}
	switch c.kind {
	case sdk.InteractionTypeBlockActions:
		return s.clicked(ctx, l, c)
	case sdk.InteractionTypeViewSubmission:
		return s.submitted(ctx, l, c)
	case sdk.InteractionTypeViewClosed:
		return s.closed(ctx, c)
	}
	return nil
}

func (s *Slack) identity() *identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.who
}

// refuse records a claim that never came to be judged, and tells its sender.
func (s *Slack) refuse(ctx context.Context, l letter, c claim, r approval.Request, by string, why error) error {
	var refusal *approval.Refusal
	if !errors.As(why, &refusal) {
		return why
	}
	verb := c.verb
	if verb != approval.Approve && verb != approval.Deny {
		verb = "click"
	}
	d := approval.Decision{Request: r.ID, Verb: verb, By: approval.Principal{ID: by, Via: "slack"}, Reason: string(quote(c.reason, maxReason)), At: s.o.Now().UTC()}
	if err := s.o.Control.Refuse(ctx, d, refusal); err != nil && approval.Kind(err) == "" {
		return err
	}
	s.reply(ctx, l, c, say("Refused, and recorded: %s.", quote(refusal.Text, 600)))
	return nil
}

// pressed finds the request of a button, and refuses one that is not on the card that Tocsin keeps.
func (s *Slack) pressed(ctx context.Context, c claim) (approval.Request, error) {
	id, revision, err := s.seal.openButton(c.value)
	if err != nil {
		return approval.Request{}, approval.Refuse(approval.RefusedForged, "the button was not made by Tocsin")
	}
	if revision == 0 { // of an incident that asks nothing
		return approval.Request{Incident: id}, s.kept(ctx, id, c.channel, c.ts)
	}
	r, err := s.asked(ctx, id, c.channel, c.ts)
	if err == nil && r.Revision != revision {
		err = approval.Refuse(approval.RefusedDigest, "the button is of another revision of the question")
	}
	return r, err
}

// asked returns a request whose card is where the claim says.
func (s *Slack) asked(ctx context.Context, id, channel, ts string) (approval.Request, error) {
	r, found, err := s.o.Reader.Request(ctx, id)
	if err != nil {
		return r, err
	}
	if !found {
		return approval.Request{}, approval.Refuse(approval.RefusedUnknown, "there is no such question")
	}
	return r, s.kept(ctx, cardOf(r), channel, ts)
}

// kept refuses a message that is not an incident's card.
func (s *Slack) kept(ctx context.Context, incidentID, channel, ts string) error {
	card, found, err := s.stored(ctx, incidentID)
	if err == nil && (!found || card.TS == "" || card.Channel != channel || card.TS != ts) {
		err = approval.Refuse(approval.RefusedForged, "this is not the card that Tocsin keeps for the incident: use the newest one in the channel")
	}
	return err
}

func (s *Slack) clicked(ctx context.Context, l letter, c claim) error {
	r, err := s.pressed(ctx, c)
	if err != nil {
		return s.refuse(ctx, l, c, r, stranger(c), err)
	}
	switch c.action {
	case actLooking:
		if cardOf(r) != r.Incident {
			return s.refuse(ctx, l, c, r, stranger(c), approval.Refuse(approval.RefusedForged, "there is no such button on this card"))
		}
		by, err := s.person(ctx, c, r)
		if err != nil {
			return s.refuse(ctx, l, c, r, by.ID, err)
		}
		return s.looking(ctx, l, c, r, by)
	case actReview, actDeny:
		if r.ID == "" {
			return s.refuse(ctx, l, c, r, stranger(c), approval.Refuse(approval.RefusedForged, "nothing is asked here"))
		}
		return s.open(ctx, l, c, r)
	}
	return nil
}

// looking is a person's word that they look into it: a notice, never a decision.
func (s *Slack) looking(ctx context.Context, l letter, c claim, r approval.Request, by approval.Principal) error {
	err := s.o.Control.Notice(ctx, by, r.Incident)
	if approval.Kind(err) != "" {
		return s.refuse(ctx, l, c, r, by.ID, err)
	}
	if err != nil {
		return err
	}
	noted := quoted("Noted: you are looking.")
	if r.ID != "" {
		noted += " The question still waits for an answer."
	}
	s.reply(ctx, l, c, noted)
	s.Changed(r.Incident)
	return nil
}

// open opens a window at once, because the click's ticket lasts three seconds, and fills it with the facts as they are now. A window
// that did not open is not tried again: the ticket is gone.
func (s *Slack) open(ctx context.Context, l letter, c claim, r approval.Request) error {
	var v *sdk.ViewResponse
	err := s.call(ctx, "views.open", func(ctx context.Context) (err error) {
		v, err = s.api.OpenViewContext(ctx, c.trigger, loading())
		return err
	})
	if err != nil {
		s.reply(ctx, l, c, "The window could not be opened in time. Press the button again, or decide in the console.")
		return nil
	}
	s.o.Meter.SlackDelivered("window")
	c.view = v.ID
	by, err := s.person(ctx, c, r)
	if approval.Kind(err) != "" {
		return s.refuse(ctx, l, c, r, by.ID, err)
	}
	var full sdk.ModalViewRequest
	if err == nil {
		full, err = s.review(ctx, c, r, by)
	}
	if err != nil {
		s.o.Logger.Error("a window of Slack can't be filled", "error", err)
		full = s.outcome("The facts can't be read now. Press the button again, or decide in the console.", r.ID)
	}
	if err := s.show(ctx, c.view, v.Hash, full); err != nil {
		s.o.Logger.Warn("a window of Slack was not filled", "error", err)
		return nil
	}
	if by.Role.AtLeast(approval.Responder) && cardOf(r) == r.Incident {
		if err := s.o.Control.Notice(ctx, by, r.Incident); err != nil && approval.Kind(err) == "" {
			s.o.Logger.Error("a notice can't be recorded", "error", err)
		}
	}
	return nil
}

func (s *Slack) show(ctx context.Context, view, hash string, v sdk.ModalViewRequest) error {
	err := s.call(ctx, "views.update", func(ctx context.Context) error {
		_, err := s.api.UpdateViewContext(ctx, v, "", hash, view)
		return err
	})
	if err == nil {
		s.o.Meter.SlackDelivered("window")
	}
	return err
}

// submitted is an answer from a window that was opened for one person.
func (s *Slack) submitted(ctx context.Context, l letter, c claim) error {
	w, err := s.seal.openPrivate(c.private)
	if err != nil {
		return s.refuse(ctx, l, c, approval.Request{}, stranger(c), approval.Refuse(approval.RefusedForged, "the window was not made by Tocsin"))
	}
	c.channel, c.ts = w.Channel, w.TS
	r, err := s.asked(ctx, w.Request, w.Channel, w.TS)
	if err == nil && w.User != c.user {
		err = approval.Refuse(approval.RefusedForged, "the window was opened for somebody else")
	}
	if err != nil {
		return s.refuse(ctx, l, c, r, stranger(c), err)
	}
	by, err := s.person(ctx, c, r)
	if err != nil {
		return s.refuse(ctx, l, c, r, by.ID, err)
	}
	if c.verb == verbNote && cardOf(r) == r.Incident {
		return s.noted(ctx, l, c, r, by)
	}
	if l.redo && counted(r, c.verb, by.ID) {
		s.reply(ctx, l, c, said(r, r, c.verb))
		return nil
	}
	d := approval.Decision{Request: r.ID, Verb: c.verb, Digest: w.Digest, By: by, Reason: c.reason, At: s.o.Now().UTC(), Looked: max(0, s.o.Now().Sub(w.Opened))}
	err = s.o.Control.Answer(ctx, d)
	var refusal *approval.Refusal
	if errors.As(err, &refusal) {
		s.reply(ctx, l, c, say("Your answer does not count: %s.", quote(refusal.Text, 600)))
		return nil
	}
	if err != nil {
		s.fulfil(l.id, recording())
		return fmt.Errorf("send the decision on %s: %w", r.ID, err)
	}
	after, found, err := s.o.Reader.Request(ctx, r.ID)
	if err != nil || !found {
		after = r
	}
	s.reply(ctx, l, c, said(r, after, c.verb))
	s.Changed(cardOf(r))
	return nil
}

// counted reports whether a person's answer is part of a request already.
func counted(r approval.Request, verb approval.Verb, person string) bool {
	if r.Decision != nil && r.Decision.By.ID == person && r.Decision.Verb == verb {
		return true
	}
	for _, v := range r.Votes {
		if v.By.ID == person && v.Verb == verb {
			return true
		}
	}
	return false
}

// said tells a person that their answer counts, and how many are still missing.
func said(before, after approval.Request, verb approval.Verb) quoted {
	if verb == approval.Deny {
		return "Recorded: denied."
	}
	n := min(needs(before), max(len(after.Votes), len(before.Votes)+1))
	return say("Recorded: approved. %d of %d approvals.", n, needs(before))
}

// noted leaves a note and no decision.
func (s *Slack) noted(ctx context.Context, l letter, c claim, r approval.Request, by approval.Principal) error {
	err := s.o.Control.Note(ctx, by, r.Incident, c.reason)
	if approval.Kind(err) != "" {
		return s.refuse(ctx, l, c, r, by.ID, err)
	}
	if err != nil {
		return err
	}
	s.reply(ctx, l, c, "Noted. The question still waits for an answer.")
	return nil
}

// closed is a window closed without an answer: its person noticed and did not decide.
func (s *Slack) closed(ctx context.Context, c claim) error {
	w, err := s.seal.openPrivate(c.private)
	if err != nil || w.User != c.user {
		return nil // it claims nothing
	}
	r, err := s.asked(ctx, w.Request, w.Channel, w.TS)
	if err != nil {
		return unlessRefused(err)
	}
	by, err := s.person(ctx, c, r)
	if err != nil || cardOf(r) != r.Incident {
		return unlessRefused(err)
	}
	return unlessRefused(s.o.Control.Notice(ctx, by, r.Incident))
}

func unlessRefused(err error) error {
	if approval.Kind(err) != "" {
		return nil
	}
	return err
}

// lateBy is how long to wait before a window is changed after Slack was answered: the change must not overtake the answer.
const lateBy = time.Second

// reply tells a person what became of what they did: in the answer that Slack waits for, in their window, or else where only they see
// it. It is told once; a person who missed it has the card.
func (s *Slack) reply(ctx context.Context, l letter, c claim, text quoted) {
	view := s.outcome(text, "")
	if c.kind == sdk.InteractionTypeViewSubmission {
		if s.fulfil(l.id, view) {
			return
		}
		if err := s.o.Wait(ctx, lateBy); err != nil {
			return
		}
	}
	if c.view != "" && s.show(ctx, c.view, "", view) == nil {
		return
	}
	if c.channel != s.o.Channel || !slackID.MatchString(c.user) {
		return
	}
	err := s.call(ctx, "chat.postEphemeral", func(ctx context.Context) error {
		_, err := s.api.PostEphemeralContext(ctx, c.channel, c.user, sdk.MsgOptionText("Tocsin: about your click.", true),
			sdk.MsgOptionBlocks(section(text)))
		return err
	})
	if err != nil {
		s.o.Logger.Warn("a person in Slack was not answered", "error", err)
		return
	}
	s.o.Meter.SlackDelivered("answer")
}

// stored returns an incident's card as it was last written.
func (s *Slack) stored(ctx context.Context, incidentID string) (p posted, found bool, err error) {
	doc, found, err := s.o.Box.Card(ctx, incidentID)
	if err != nil || !found {
		return p, false, err
	}
	if err := json.Unmarshal(doc, &p); err != nil {
		return p, false, fmt.Errorf("read card of %s: %w", incidentID, err)
	}
	return p, true, nil
}

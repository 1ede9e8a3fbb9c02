package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/slack-go/slack"
	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// claim is what somebody did in Slack, as Slack tells it. Nothing in it is believed before it was checked.
type claim struct {
	kind                         sdk.InteractionType
	user, team, enterprise, app  string
	channel, ts, trigger, action string
	value                        string // of the button
	view, callback, private      string
	verb                         approval.Verb
	reason                       string
}

// read decodes an interaction.
func read(body []byte) (c claim, err error) {
	var in sdk.InteractionCallback
	if err := json.Unmarshal(body, &in); err != nil {
		return c, fmt.Errorf("read interaction: %w", err)
	}
	c = claim{
		kind: in.Type, user: in.User.ID, team: in.Team.ID, enterprise: in.Enterprise.ID, app: in.APIAppID, trigger: in.TriggerID,
		channel: in.Container.ChannelID, ts: in.Container.MessageTs, view: in.View.ID, callback: in.View.CallbackID, private: in.View.PrivateMetadata,
	}
	if len(in.ActionCallback.BlockActions) > 0 && in.ActionCallback.BlockActions[0] != nil {
		c.action, c.value = in.ActionCallback.BlockActions[0].ActionID, in.ActionCallback.BlockActions[0].Value
	}
	if in.View.State != nil {
		c.verb = approval.Verb(in.View.State.Values[inDecision][inDecision].SelectedOption.Value)
		c.reason = in.View.State.Values[inReason][inReason].Value
	}
	if c.callback == callDeny {
		c.verb = approval.Deny
	}
	return c, nil
}

// answerWithin is how long Slack waits for the outcome of an answer; it allows three seconds.
const answerWithin = 2 * time.Second

// hope is a sender who waits to learn what became of an answer.
type hope struct {
	told chan sdk.ModalViewRequest // holds one
}

var errFull = errors.New("the inbox is full")

// accept stores a message before Slack is answered and returns the answer's body, nil for none. An error means that the message was not
// stored: Slack must not be told that it was.
func (s *Slack) accept(ctx context.Context, body []byte) (reply any, err error) {
	if len(body) > maxBody {
		s.o.Meter.SlackFailed("malformed")
		return nil, nil
	}
	c, err := read(body)
	if err != nil {
		s.o.Meter.SlackFailed("malformed")
		return nil, nil
	}
	submission := c.kind == sdk.InteractionTypeViewSubmission
	switch {
	case c.kind == sdk.InteractionTypeBlockActions && c.action != actOpen, c.kind == sdk.InteractionTypeViewClosed:
	case submission:
		if _, err := s.seal.openPrivate(c.private); err == nil && len(missing(c)) > 0 {
			return sdk.NewErrorsViewSubmissionResponse(missing(c)), nil
		}
	default:
		return nil, nil
	}
	if n, err := s.o.Box.CountInbox(ctx); err != nil {
		return nil, err
	} else if n >= maxWaiting {
		return nil, errFull
	}
	sum := sha256.Sum256(body)
	id := hex.EncodeToString(sum[:])
	fresh, err := s.o.Box.PutInbox(ctx, id, s.o.Now().UTC(), body)
	if err != nil || !fresh {
		return nil, err
	}
	if !submission {
		nudge(s.mail)
		return nil, nil
	}
	h := s.hopeFor(id)
	nudge(s.mail)
	select {
	case view := <-h.told:
		return sdk.NewUpdateViewSubmissionResponse(&view), nil
	case <-time.After(answerWithin):
	case <-ctx.Done():
	}
	if view, late := s.settle(id, h); late {
		return sdk.NewUpdateViewSubmissionResponse(&view), nil
	}
	view := recording()
	return sdk.NewUpdateViewSubmissionResponse(&view), nil
}

func (s *Slack) hopeFor(id string) *hope {
	h := &hope{make(chan sdk.ModalViewRequest, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hopes[id] = h
	return h
}

// settle ends a hope and returns what it was told in the last moment.
func (s *Slack) settle(id string, h *hope) (view sdk.ModalViewRequest, told bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hopes, id)
	select {
	case view = <-h.told:
		return view, true
	default:
		return view, false
	}
}

// fulfil tells a sender who still waits; it reports whether one did.
func (s *Slack) fulfil(id string, view sdk.ModalViewRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hopes[id]
	delete(s.hopes, id)
	if h == nil {
		return false
	}
	h.told <- view
	return true
}

// letter is a message in the inbox.
type letter struct {
	id   string
	at   time.Time
	body []byte
	redo bool // an earlier try may have gone some way
}

// How long, and how often, an answer is tried again while the workflows can't be reached.
const (
	retryFor   = 2 * time.Minute
	retryEvery = 5 * time.Second
)

// work deals with the messages until the context ends.
func (s *Slack) work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			for ctx.Err() == nil {
				l, ok, err := s.next(ctx)
				if err != nil && ctx.Err() == nil {
					s.o.Logger.Error("the inbox of Slack can't be read", "error", err)
				}
				if !ok {
					s.idle(ctx)
					continue
				}
				nudge(s.mail) // there may be more, for another worker
				s.handle(ctx, l)
			}
			return nil
		})
	}
	return group.Wait()
}

func (s *Slack) idle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.mail:
	case <-time.After(retryEvery):
	}
}

// next takes the oldest message that nobody deals with and that is not put off.
func (s *Slack) next(ctx context.Context) (l letter, ok bool, err error) {
	s.taking.Lock()
	defer s.taking.Unlock()
	now := s.o.Now()
	err = s.o.Box.EachInbox(ctx, 2*workers+len(s.busy), func(id string, at time.Time, body []byte) {
		again, known := s.busy[id]
		if ok || known && (again.IsZero() || now.Before(again)) {
			return
		}
		l, ok = letter{id, at, body, known || at.Before(s.began)}, true
	})
	if ok {
		s.busy[l.id] = time.Time{}
	}
	return l, ok, err
}

// handle deals with a message and drops it, or puts it off.
func (s *Slack) handle(ctx context.Context, l letter) {
	c, err := read(l.body)
	if err == nil {
		err = s.deal(ctx, l, c)
	}
	now := s.o.Now()
	if err != nil && ctx.Err() != nil {
		s.release(l.id, now)
		return
	}
	if err != nil && now.Sub(l.at) < retryFor {
		s.o.Logger.Warn("a message from Slack waits", "error", err)
		s.release(l.id, now.Add(retryEvery))
		return
	}
	if err != nil {
		s.o.Logger.Error("a message from Slack is given up", "error", err)
		s.o.Meter.SlackFailed("given_up")
		s.reply(ctx, l, c, "Not recorded. Nothing has changed. If the question is still open, answer again.")
	}
	if err := s.o.Box.DropInbox(ctx, l.id, now); err != nil {
		s.o.Logger.Error("a message from Slack can't be dropped", "error", err)
		s.release(l.id, now.Add(retryEvery))
		return
	}
	s.taking.Lock()
	delete(s.busy, l.id)
	s.taking.Unlock()
}

// release puts a message off. What is put off until now is free at once.
func (s *Slack) release(id string, until time.Time) {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.busy[id] = until
}

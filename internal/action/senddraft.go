package action

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameSendDraft is the name in playbooks and plans.
const NameSendDraft = "send-draft"

// Drafts are the texts that Tocsin begins and people finish.
type Drafts interface {
	// DraftText returns an incident's draft as people last left it.
	DraftText(ctx context.Context, incident, name string) (string, error)
}

// maxSent bounds a draft that is sent, in bytes.
const maxSent = 64 << 10

// blank is what drafts leave for people to fill.
const blank = "____"

// SendDraft sends a draft that people finished to a receiver of notify-webhook. What is approved is bound to the text's hash: another
// word, and it needs another approval.
type SendDraft struct {
	*NotifyWebhook
	drafts Drafts
}

// NewSendDraft returns the action.
func NewSendDraft(w *NotifyWebhook, d Drafts) *SendDraft { return &SendDraft{w, d} }

// Describe implements Action.
func (s *SendDraft) Describe() Description {
	return Description{
		Name: NameSendDraft, Class: approval.Speak, Targets: []string{"agent", "session"}, Irreversible: true, Unverified: true,
		Effect:      "A draft of the incident is sent to a receiver outside, word for word.",
		Undo:        "It can't be undone: what was said stays said.",
		DoesNotStop: "Anything: it tells and contains nothing.",
		Params:      map[string]string{"receiver": "a name of actions.notify_webhook.receivers", "draft": "the draft's name, as tocsin drafts show lists it"},
		Required:    []string{"receiver", "draft"},
	}
}

// Plan implements Action.
func (s *SendDraft) Plan(ctx context.Context, in Input) (Change, error) {
	lines, _, err := s.read(ctx, in.Incident, in.Plan)
	return Change{Lines: lines, Blast: 1}, err
}

// read returns what people approve of a draft, and its text.
func (s *SendDraft) read(ctx context.Context, incident string, p approval.Plan) (lines []string, text string, err error) {
	r, ok := s.options.Receivers[p.Params["receiver"]]
	if !ok {
		return nil, "", fmt.Errorf("receiver: actions.notify_webhook.receivers has no %q", p.Params["receiver"])
	}
	if text, err = s.drafts.DraftText(ctx, incident, p.Params["draft"]); err != nil {
		return nil, "", err
	}
	switch {
	case len(text) > maxSent:
		return nil, "", fmt.Errorf("draft %s has %d bytes, at most %d are sent", p.Params["draft"], len(text), maxSent)
	case strings.Contains(text, blank):
		return nil, "", fmt.Errorf("draft %s has blanks that people must fill first", p.Params["draft"])
	}
	sum := sha256.Sum256([]byte(text))
	return []string{
		fmt.Sprintf("POST to %s (receiver %q), about %s:", r.URL, p.Params["receiver"], p.Target),
		fmt.Sprintf("draft %s, %d bytes, sha256 %s", p.Params["draft"], len(text), hex.EncodeToString(sum[:])),
	}, text, nil
}

// Apply implements Action. A text that was edited since it was approved is not sent.
func (s *SendDraft) Apply(ctx context.Context, l Lease) error {
	lines, text, err := s.read(ctx, l.Incident, l.Plan)
	if err != nil {
		return err
	}
	if !slices.Equal(lines, l.Plan.Change) {
		return errors.Join(ErrChanged, errors.New("the draft was edited"))
	}
	return s.send(ctx, l, text)
}

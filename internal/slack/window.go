package slack

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// The windows' callback and input ids.
const (
	callDecide = "decide"
	callDeny   = "deny"
	inDecision = "decision"
	inReason   = "reason"
	verbNote   = approval.Verb("note") // no decision: a note alone
)

const maxTitle = 24

func modal(title quoted, blocks ...sdk.Block) sdk.ModalViewRequest {
	return sdk.ModalViewRequest{Type: sdk.VTModal, Title: plain(title, maxTitle), Close: plain("Close", maxTitle), Blocks: sdk.Blocks{BlockSet: blocks}}
}

// loading stands in a window until the facts are read: a click's ticket lasts three seconds.
func loading() sdk.ModalViewRequest {
	return modal("Review", section("Reading the facts as they are now…"))
}

// recording stands in a window until it is known whether an answer counted.
func recording() sdk.ModalViewRequest {
	return modal("Review", section("Not recorded yet. Tocsin is still asking. You may close this window; the card shows what counts."))
}

// outcome is a window that tells what became of an answer.
func (s *Slack) outcome(text quoted, request string) sdk.ModalViewRequest {
	blocks := []sdk.Block{section(text)}
	if request != "" {
		blocks = append(blocks, sdk.NewActionBlock("console", s.link("Open in the console", "", request)))
	}
	return modal("Review", blocks...)
}

// review is the window of a question for one person: everything fresh, the exact plan, and inputs for the answers that would count.
func (s *Slack) review(ctx context.Context, c claim, r approval.Request, by approval.Principal) (sdk.ModalViewRequest, error) {
	f, err := s.gather(ctx, cardOf(r))
	if err != nil {
		return sdk.ModalViewRequest{}, err
	}
	at := slices.IndexFunc(f.all, func(q question) bool { return q.ID == r.ID })
	if at < 0 {
		return s.outcome("There is no such question any more.", ""), nil
	}
	q := f.all[at]
	verbs, closed := s.answers(q.Request, by)
	if c.action == actDeny {
		verbs = slices.DeleteFunc(verbs, func(v approval.Verb) bool { return v != approval.Deny })
	}
	if !q.stage.open() || len(verbs) == 0 {
		reason := "it is closed"
		if closed != nil {
			reason = closed.Error()
		}
		return s.outcome(say("You can't answer this: %s. %s", reason, status(q, f.incident.NoticedBy)), r.ID), nil
	}
	private, err := s.seal.private(window{Request: r.ID, Revision: q.Revision, Digest: q.Digest, Channel: c.channel, TS: c.ts, User: c.user, Opened: s.o.Now().UTC()})
	if err != nil {
		return sdk.ModalViewRequest{}, err
	}
	v := modal("Review")
	v.Submit, v.PrivateMetadata, v.NotifyOnClose, v.CallbackID = plain("Send", maxTitle), private, true, callDecide
	if c.action == actDeny {
		v.Title, v.CallbackID = plain("Deny", maxTitle), callDeny
		v.Blocks.BlockSet = []sdk.Block{section(quote(q.Question, 300)), s.under(q), reasonInput()}
		return v, nil
	}
	if alone(f.incident.ID) {
		v.Blocks.BlockSet = slices.Concat(s.aboutAlone(q), []sdk.Block{decisionInput(verbs), reasonInput()})
		return v, nil
	}
	tracks, err := s.o.Reader.Tracks(ctx, r.Incident)
	if err != nil {
		return sdk.ModalViewRequest{}, err
	}
	evidence, err := s.o.Reader.Evidence(ctx, r.Incident)
	if err != nil {
		return sdk.ModalViewRequest{}, err
	}
	v.Blocks.BlockSet = slices.Concat(s.about(f, q, tracks, evidence), []sdk.Block{decisionInput(verbs), reasonInput()})
	return v, nil
}

// answers are those that would count if the person gave them now, by the very check that judges them; closed is why approving would not.
func (s *Slack) answers(r approval.Request, by approval.Principal) (verbs []approval.Verb, closed error) {
	for _, verb := range []approval.Verb{approval.Approve, approval.Deny} {
		try := approval.Decision{Request: r.ID, Verb: verb, Digest: r.Digest, By: by, Reason: strings.Repeat("x", approval.MinReason)}
		err := approval.Check(&r, try, s.o.Now())
		if r.Terms.StepUp && err == nil {
			err = approval.Refuse(approval.RefusedStepUp, "it needs a second factor: decide in the console")
		}
		if err != nil && closed == nil {
			closed = err
		}
		if err == nil {
			verbs = append(verbs, verb)
		}
	}
	if len(verbs) > 0 && cardOf(r) == r.Incident {
		verbs = append(verbs, verbNote)
	}
	return verbs, closed
}

// What a window shows of lists.
const (
	maxListed = 5
	maxPlan   = 2000
)

// about is everything that a person should know before they answer.
func (s *Slack) about(f facts, q question, tracks []incident.Track, evidence []incident.EvidenceItem) []sdk.Block {
	blocks := []sdk.Block{
		section(quote(q.Question, 300)),
		section(say("If you approve: %s", quote(cmp.Or(q.Effect, "the action below is carried out"), 600))),
		section(say("How it ends: %s", quote(cmp.Or(q.Undo, string(ends(q.Plan))), 600))),
		section(say("What this does not stop: %s", quote(cmp.Or(q.DoesNotStop, "nothing is known"), 600))),
		section(why(f.findings)),
		section(investigation(tracks)),
		section(sealed(evidence)),
		aside(plain("The plan, exactly as it would be carried out:", maxContext)),
		rich("plan", exact(q.Plan)),
	}
	if len(f.quotes) > 0 {
		blocks = append(blocks, quotation(f.quotes)...)
	}
	return append(blocks, aside(plain(status(q, f.incident.NoticedBy), maxContext)), s.under(q))
}

// aboutAlone is what a person should know before they sign the change of a baseline.
func (s *Slack) aboutAlone(q question) []sdk.Block {
	return []sdk.Block{
		section(quote(q.Question, 300)),
		section(say("If you approve and are the last who is needed: %s", quote(cmp.Or(q.Effect, "the change below is made"), 600))),
		section(say("How it ends: %s", quote(cmp.Or(q.Undo, "nothing is known"), 600))),
		section(say("What this does not stop: %s", quote(cmp.Or(q.DoesNotStop, "nothing is known"), 600))),
		section(signatures(q.Request)),
		aside(plain("The plan, exactly as it would be carried out:", maxContext)),
		rich("plan", exact(q.Plan)),
		aside(plain(status(q, ""), maxContext)),
		s.under(q),
	}
}

// under is the line that ties a window to its card and to the console.
func (s *Slack) under(q question) sdk.Block {
	return aside(mrkdwn(ident(cardOf(q.Request)), " · revision ", number(q.Revision), " · code ", code(q.Digest), " · expires ", dated(q.Deadline)))
}

// exact is the plan that a decision is bound to, as it is hashed but with line breaks, and what it would change.
func exact(p approval.Plan) quoted {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil { // a plan with a digest can be encoded
		return quote(err.Error(), 200)
	}
	return quoted(incident.VisibleBlock(string(text), maxPlan))
}

func investigation(tracks []incident.Track) quoted {
	lines := []string{"Investigation:"}
	for _, t := range tracks[:min(len(tracks), maxListed)] {
		if t.Err != "" {
			lines = append(lines, string(say("• %s failed and says nothing", t.Name)))
			continue
		}
		lines = append(lines, string(say("• %s: %s", t.Name, quote(t.Summary, 300))))
	}
	if len(tracks) == 0 {
		lines = append(lines, "none yet")
	}
	return quoted(strings.Join(lines, "\n"))
}

func sealed(evidence []incident.EvidenceItem) quoted {
	lines := []string{fmt.Sprintf("Evidence sealed: %d", len(evidence))}
	for _, e := range evidence[:min(len(evidence), maxListed)] {
		lines = append(lines, string(say("• %s, SHA-256 %s…", quote(e.Name, 100), code(e.SHA256))))
	}
	return quoted(strings.Join(lines, "\n"))
}

// decisionInput has no answer chosen: whoever sends it chose one.
func decisionInput(verbs []approval.Verb) sdk.Block {
	labels := map[approval.Verb]quoted{approval.Approve: "Approve", approval.Deny: "Deny", verbNote: "Neither yet: only leave the reason as a note"}
	options := make([]*sdk.OptionBlockObject, 0, len(verbs))
	for _, v := range verbs {
		options = append(options, sdk.NewOptionBlockObject(string(v), plain(labels[v], 75), nil))
	}
	return sdk.NewInputBlock(inDecision, plain("Decision", maxContext), nil, sdk.NewRadioButtonsBlockElement(inDecision, options...))
}

func reasonInput() sdk.Block {
	in := sdk.NewPlainTextInputBlockElement(plain("What speaks for it", maxHeader), inReason)
	in.Multiline, in.MinLength, in.MaxLength = true, approval.MinReason, maxReason
	return sdk.NewInputBlock(inReason, plain("Reason", maxContext), nil, in)
}

// missing are the inputs that an answer lacks, by the block in which Slack shows it.
func missing(c claim) map[string]string {
	out := make(map[string]string)
	if c.callback == callDecide && c.verb == "" {
		out[inDecision] = "Choose one."
	}
	if n := utf8.RuneCountInString(strings.TrimSpace(c.reason)); n < approval.MinReason || n > maxReason {
		out[inReason] = fmt.Sprintf("A reason of %d to %d characters is needed.", approval.MinReason, maxReason)
	}
	return out
}

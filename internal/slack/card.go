package slack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// facts are everything that a card or a window shows, as the store holds it.
type facts struct {
	incident  incident.Incident
	all       []question // every question, the newest last
	questions []question // those that a card shows
	findings  []detect.Finding
	quotes    []quoted
	at        time.Time
}

// How much a card shows.
const (
	maxQuestions = 4
	maxFindings  = 100
	maxWhy       = 3
	maxQuotes    = 2
)

// cardOf names the card of a request: its incident, or itself where no workflow asks it, as for the change of a baseline.
func cardOf(r approval.Request) string {
	if r.Plan.Class == approval.Record {
		return r.ID
	}
	return r.Incident
}

// alone reports whether a card is about a request that no workflow asks.
func alone(id string) bool { return strings.HasPrefix(id, "REQ-") }

// gatherAlone reads what the card of a request shows that no workflow asks. The card is kept under the request's id.
func (s *Slack) gatherAlone(ctx context.Context, id string) (f facts, err error) {
	r, found, err := s.o.Reader.Request(ctx, id)
	if err == nil && (!found || r.Plan.Class != approval.Record) {
		err = fmt.Errorf("there is no request %s that is asked alone", id)
	}
	if err != nil {
		return f, err
	}
	f.at, f.incident.ID = s.o.Now(), id
	q := question{Request: r}
	judge(&q, f.incident, f.at)
	f.all, f.questions = []question{q}, []question{q}
	return f, nil
}

// over reports whether nothing of a card changes any more.
func (f facts) over() bool {
	if alone(f.incident.ID) {
		q := f.all[0]
		return !q.stage.open() && q.stage != approved
	}
	return f.incident.Status == incident.Closed
}

// gather reads what a card shows.
func (s *Slack) gather(ctx context.Context, id string) (f facts, err error) {
	if alone(id) {
		return s.gatherAlone(ctx, id)
	}
	f.at = s.o.Now()
	if f.incident, err = s.o.Reader.Incident(ctx, id); err != nil {
		return f, err
	}
	all, err := s.o.Reader.IncidentRequests(ctx, id)
	if err != nil {
		return f, err
	}
	leases, err := s.o.Reader.IncidentLeases(ctx, id)
	if err != nil {
		return f, err
	}
	entries, err := s.o.Reader.Timeline(ctx, id)
	if err != nil {
		return f, err
	}
	if f.findings, err = s.o.Reader.Findings(ctx, id, maxFindings); err != nil {
		return f, err
	}
	for _, r := range all {
		q := question{Request: r}
		for i := range leases {
			if leases[i].ID == r.ID {
				q.lease = &leases[i]
			}
		}
		done := false
		for _, e := range entries {
			if e.Ref == r.ID && e.Kind == "note" && e.Actor == "tocsin" {
				q.failed = e.Text
			}
			done = done || e.Ref == r.ID && e.Kind == "containment"
		}
		if done { // it waited for a worker, and one came
			q.failed = ""
		}
		judge(&q, f.incident, f.at)
		f.all = append(f.all, q)
	}
	f.choose()
	f.quotes = quotes(f.findings, entries)
	return f, nil
}

// choose keeps the questions that people can answer and those whose effect matters, or else the last.
func (f *facts) choose() {
	if len(f.all) == 0 {
		return
	}
	slices.SortFunc(f.all, func(a, b question) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), strings.Compare(a.ID, b.ID))
	})
	last := f.all[len(f.all)-1]
	f.questions = slices.DeleteFunc(slices.Clone(f.all), func(q question) bool {
		return q.ID != last.ID && !q.stage.open() && !slices.Contains([]stage{approved, applied, contained, failed, overdue}, q.stage)
	})
	f.questions = f.questions[max(0, len(f.questions)-maxQuestions):]
}

// quotes are the agent's words that gave the gravest findings away, each with the text around it where the timeline has it.
func quotes(findings []detect.Finding, entries []incident.Entry) []quoted {
	var out []quoted
	for _, f := range gravest(findings) {
		if f.Chain == nil || len(out) == maxQuotes {
			continue
		}
		text := quote(f.Chain.Value, maxQuote)
		for _, e := range entries {
			if f.Chain.Origin != "" && e.Ref == f.Chain.Origin && e.Kind == "event" && e.Quote != "" {
				text = quoted(e.QuoteLine(maxQuote))
				break
			}
		}
		if text != "" && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

func gravest(findings []detect.Finding) []detect.Finding {
	out := slices.Clone(findings)
	slices.SortStableFunc(out, func(a, b detect.Finding) int { return cmp.Compare(b.Severity.Rank(), a.Severity.Rank()) })
	return out
}

// message is what is posted.
type message struct {
	blocks   []sdk.Block
	fallback string // for notifications and screen readers; Slack interprets it, so that no name with a syntax stands in it
	hash     string
}

// hashed sets the hash by which an unchanged card is told from a changed one.
func (m message) hashed() (message, error) {
	text, err := json.Marshal(m.blocks)
	if err != nil {
		return m, fmt.Errorf("encode card: %w", err)
	}
	sum := sha256.Sum256(append(text, m.fallback...))
	m.hash = hex.EncodeToString(sum[:])
	return m, nil
}

// card draws an incident's card: our facts first, the agent's words last and quoted, the buttons at the end.
func (s *Slack) card(f facts) (message, error) {
	if len(f.questions) == 0 {
		return s.bulletin(f).hashed()
	}
	if alone(f.incident.ID) {
		return s.loosening(f).hashed()
	}
	lead := f.questions[len(f.questions)-1]
	for _, q := range f.questions {
		if q.stage.open() {
			lead = q
			break
		}
	}
	blocks := []sdk.Block{
		sdk.NewHeaderBlock(plain(say("%s · %s", heading(lead), string(f.incident.Severity)), maxHeader)),
		section(say("%s", quote(f.incident.Title, 200))),
	}
	for _, q := range f.questions {
		blocks = append(blocks, sdk.NewDividerBlock(), sdk.NewSectionBlock(plain(say("%s", quote(q.Question, 300)), maxSection), fields(f, q), nil))
	}
	blocks = append(blocks, section(why(f.findings)))
	if len(f.quotes) > 0 {
		blocks = append(blocks, quotation(f.quotes)...)
	}
	for _, q := range f.questions {
		blocks = append(blocks, s.foot(f, q)...)
	}
	return message{blocks: blocks, fallback: fallback(f, lead)}.hashed()
}

// loosening is the card of a change that loosens the baseline of a privileged agent. All of it is ours but the agent's name and the
// reasons of those who signed.
func (s *Slack) loosening(f facts) message {
	q := f.questions[0]
	p := q.Plan
	about := []*sdk.TextBlockObject{
		field("Agent", quote(p.Target.Agent, 120)), field("Change", quote(p.Action, 120)), field("If it is made", quote(cmp.Or(q.Effect, "nothing is known"), 300)),
		field("How it ends", quote(cmp.Or(q.Undo, "nothing is known"), 300)),
	}
	if q.Incident != "" {
		about = append(about, field("Incident", quote(q.Incident, 120)))
	}
	if q.stage.open() {
		about = append(about, field("Needs", quote(q.Terms.Says(), 200)), field("Decide by", quoted(q.Deadline.UTC().Format("15:04 UTC"))))
	}
	blocks := []sdk.Block{
		sdk.NewHeaderBlock(plain(quoted(heading(q)), maxHeader)),
		sdk.NewSectionBlock(plain(say("%s", quote(q.Question, 300)), maxSection), about, nil),
		section(signatures(q.Request)),
	}
	return message{blocks: append(blocks, s.foot(f, q)...), fallback: announceAlone(q)}
}

// signatures are who signed so far, and why.
func signatures(r approval.Request) quoted {
	lines := []string{"Signed by:"}
	for _, v := range r.Votes[:min(len(r.Votes), maxListed)] {
		lines = append(lines, string(say("• %s at %s: “%s”", v.By.ID, clock(v.At), quote(v.Reason, 300))))
	}
	if len(r.Votes) == 0 {
		lines = append(lines, "nobody")
	}
	return quoted(strings.Join(lines, "\n"))
}

// announceAlone says in a line without syntax what is asked.
func announceAlone(q question) string {
	return withID(fmt.Sprintf("%s %s.", heading(q), agentName(q.Plan.Target.Agent)), q.ID)
}

// bulletin is the card of an incident that asks nothing: somebody should know of it all the same.
func (s *Slack) bulletin(f facts) message {
	i, title := f.incident, "Look at an incident"
	if i.Status == incident.Closed {
		title = "Incident closed"
	}
	about := []*sdk.TextBlockObject{field("Agent", quote(i.Agent.ID, 120)), field("Confidence", confidence(f.findings))}
	if i.Session != "" {
		about = append(about, field("Session", quote(i.Session, 120)))
	}
	blocks := []sdk.Block{
		sdk.NewHeaderBlock(plain(say("%s · %s", title, string(i.Severity)), maxHeader)),
		sdk.NewSectionBlock(plain(say("%s", quote(i.Title, 200)), maxSection), about, nil),
		section(why(f.findings)),
	}
	if len(f.quotes) > 0 {
		blocks = append(blocks, quotation(f.quotes)...)
	}
	buttons := []sdk.BlockElement{s.link("Open in the console", i.ID, "")}
	if known(i) == "" && ident(i.ID) != "?" {
		buttons = slices.Insert(buttons, 0, sdk.BlockElement(button(actLooking, s.seal.button(i.ID, 0), "I'm looking", "")))
	}
	blocks = append(blocks,
		aside(plain(cmp.Or(known(i), "Nobody has noticed it yet. Nothing is asked: no rule proposes an effect here."), maxContext)),
		aside(mrkdwn(ident(i.ID), " · first bad event ", dated(i.Times.FirstBad))),
		sdk.NewActionBlock("in:"+string(ident(i.ID)), buttons...))
	return message{blocks: blocks, fallback: announce(f, title)}
}

// known says who is aware of an incident, or how it was closed; empty while nobody is.
func known(i incident.Incident) quoted {
	switch {
	case i.Disposition != nil:
		return say("Closed by %s as %s: “%s”.", i.Disposition.By, string(i.Disposition.Verdict), quote(i.Disposition.Reasoning, 200))
	case i.NoticedBy != "":
		return say("%s is looking.", i.NoticedBy)
	}
	return ""
}

// quotation shows the agent's words, and says whose they are.
func quotation(quotes []quoted) []sdk.Block {
	text := quoted("Quoted from the agent or its inputs. Do not follow instructions in it.")
	if slices.ContainsFunc(quotes, func(q quoted) bool { return strings.Contains(string(q), `\u{`) }) {
		text += ` Hidden characters in it are shown as \u{…}.`
	}
	return []sdk.Block{aside(plain(text, maxContext)), rich("quote", quotes...)}
}

func aside(elements ...sdk.MixedElement) sdk.Block { return sdk.NewContextBlock("", elements...) }

// fields are what people decide about, in words of ours.
func fields(f facts, q question) []*sdk.TextBlockObject {
	p := q.Plan
	out := []*sdk.TextBlockObject{
		field("Agent", quote(p.Target.Agent, 120)),
		field("Action", say("%s, class %s", p.Action, string(p.Class))),
		field("How it ends", ends(p)),
		field("Touches", say("%d: %s", max(1, p.Blast), touches(p))),
		field("Confidence", confidence(f.findings)),
		field("Asked by", quote(q.Requester, 120)),
	}
	if p.Target.Session != "" {
		out = append(out, field("Session", quote(p.Target.Session, 120)))
	}
	if p.Target.Tool != "" {
		out = append(out, field("Tool", quote(p.Target.Tool, 120)))
	}
	if q.stage.open() {
		out = append(out, field("Needs", quote(q.Terms.Says(), 200)), field("Decide by", quoted(q.Deadline.UTC().Format("15:04 UTC"))))
	}
	return out
}

func field(name string, value quoted) *sdk.TextBlockObject {
	return plain(say("%s\n%s", name, value), maxField)
}

func ends(p approval.Plan) quoted {
	if p.Lease == 0 {
		return "it can't be undone"
	}
	return say("by itself after %s", span(p.Lease))
}

// touches says what the action would change, as it was computed without doing it.
func touches(p approval.Plan) quoted {
	if len(p.Change) == 0 {
		return quote(p.Target.String(), 160)
	}
	text := quote(p.Change[0], 160)
	if more := len(p.Change) - 1; more > 0 {
		text += say(" and %d more changes", more)
	}
	return text
}

func confidence(findings []detect.Finding) quoted {
	if len(findings) == 0 {
		return "no finding"
	}
	top := gravest(findings)[0]
	return say("%s, %d findings", string(top.Confidence), len(findings))
}

// why is what was detected, the gravest first: the rules' own titles and sentences, with names made visible.
func why(findings []detect.Finding) quoted {
	if len(findings) == 0 {
		return "Why: a person asked."
	}
	var b strings.Builder
	b.WriteString("Why:")
	seen := make(map[string]bool)
	for _, f := range gravest(findings) {
		if len(seen) == maxWhy {
			break
		}
		if seen[f.Rule] {
			continue
		}
		seen[f.Rule] = true
		b.WriteString(string(say("\n• %s (%s, %s): %s", quote(f.Title, 120), quote(f.Rule, 60), string(f.Severity), quote(f.Reason, 240))))
	}
	if more := len(findings) - len(seen); more > 0 {
		b.WriteString(string(say("\n+%d related", more)))
	}
	return quoted(b.String())
}

// The actions of a card.
const (
	actReview  = "review"
	actLooking = "looking"
	actDeny    = "deny"
	actOpen    = "open" // a link; Slack tells of the click all the same
)

// foot is the state of a question and, while it is open, its buttons.
func (s *Slack) foot(f facts, q question) []sdk.Block {
	noticed := f.incident.NoticedBy
	line := []ours{ident(f.incident.ID), " · revision ", number(q.Revision), " · code ", code(q.Digest)}
	if q.stage.open() {
		line = append(line, " · expires ", dated(q.Deadline))
		if q.level > 0 {
			line = append(line, " · escalated, level ", number(q.level))
		}
	}
	text := status(q, noticed)
	if len(f.questions) > 1 {
		text = say("%s %s", quote(q.Question, 300), text)
	}
	out := []sdk.Block{aside(plain(text, maxContext)), aside(mrkdwn(line...))}
	block := fmt.Sprintf("ar:%d:%s", q.Revision, ident(q.ID))
	page := s.link("Open in the console", f.incident.ID, "")
	if alone(f.incident.ID) {
		page = s.link("Open in the console", "", q.ID)
	}
	if !q.stage.open() || ident(q.ID) == "?" {
		return append(out, sdk.NewActionBlock(block, page))
	}
	out = append(out, aside(plain(silence(q.Request), maxContext)))
	if who := s.mentions(first(q.Terms)); len(who) > 0 { // only the first post notifies; an edit does not
		out = append(out, aside(mrkdwn(append([]ours{"Asked: "}, who...)...)))
	}
	value := s.seal.button(q.ID, q.Revision)
	buttons := []sdk.BlockElement{button(actReview, value, "Review…", sdk.StylePrimary), button(actLooking, value, "I'm looking", ""), button(actDeny, value, "Deny…", sdk.StyleDanger), page}
	if q.Terms.StepUp {
		out = append(out, aside(plain("This one needs a second factor, which only the console can ask for.", maxContext)))
		buttons = []sdk.BlockElement{s.link("Decide in the console", "", q.ID), buttons[1]}
	}
	if alone(f.incident.ID) { // whoever looks into a baseline notices no incident
		buttons = slices.Delete(buttons, 1, 2)
	}
	return append(out, sdk.NewActionBlock(block, buttons...))
}

// silence says what happens if nobody answers.
func silence(r approval.Request) quoted {
	if r.OnExpiry == "escalate" {
		return "If nobody answers, it is asked once more. Silence never approves."
	}
	return "If nobody answers, nothing is done. Silence never approves."
}

func button(action, value string, label quoted, style sdk.Style) *sdk.ButtonBlockElement {
	b := sdk.NewButtonBlockElement(action, value, plain(label, 75))
	b.Style = style
	return b
}

// link is a button to a page of the console, made of its base and an id of ours and nothing else.
func (s *Slack) link(label quoted, incidentID, request string) *sdk.ButtonBlockElement {
	b := button(actOpen, "", label, "")
	b.URL = s.page(incidentID, request)
	return b
}

func (s *Slack) page(incidentID, request string) string {
	switch {
	case ident(request) != "?":
		return s.o.Console + "/approvals/" + request
	case ident(incidentID) != "?":
		return s.o.Console + "/incidents/" + incidentID
	}
	return s.o.Console + "/approvals"
}

// simpleName is a name in which Slack finds no syntax.
var simpleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 /-]{0,60}$`)

func fallback(f facts, q question) string {
	f.incident.Agent.ID = q.Plan.Target.Agent
	if q.stage.open() {
		return announce(f, "approval needed by "+q.Deadline.UTC().Format("15:04 UTC"))
	}
	return announce(f, heading(q))
}

// announce says in a line without syntax what an incident is about.
func announce(f facts, what string) string {
	severity := f.incident.Severity
	if !slices.Contains([]detect.Severity{detect.Low, detect.Medium, detect.High, detect.Critical}, severity) {
		severity = "unknown severity"
	}
	return withID(fmt.Sprintf("%s: %s: %s.", severity, what, agentName(f.incident.Agent.ID)), f.incident.ID)
}

// agentName is an agent's name where Slack finds no syntax in it.
func agentName(name string) string {
	if simpleName.MatchString(name) {
		return name
	}
	return "an agent"
}

// withID adds the id that a line is about, if it is one of ours.
func withID(line, id string) string {
	if known := ident(id); known != "?" {
		line += " " + string(known)
	}
	return line
}

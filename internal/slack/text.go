package slack

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/incident"
)

// quoted is text that may hold what others wrote: agents, their inputs, people. Hidden characters in it are visible. It can only be
// shown in elements that interpret nothing: plain text without emoji, and the text elements of rich text. No function takes one to
// mrkdwn, where Slack has no escape for emphasis, code or links.
type quoted string

// ours is text of our own making, which may stand where Slack interprets it. It is made of constants and of the functions below, which
// let nothing through but digits, ids and times.
type ours string

// Slack's limits, in characters. Those of blocks are documented; those of rich text are not, and ours are well below what it takes.
const (
	maxHeader  = 150
	maxField   = 2000
	maxSection = 3000
	maxContext = 2000
	maxQuote   = 300
	maxRich    = 2500
	maxReason  = 1000
)

// quote neutralises a text and shortens it to its head and tail.
func quote(text string, limit int) quoted { return quoted(incident.Visible(text, limit)) }

// say puts what is already neutralised into a sentence. Anything else among the values is neutralised here.
func say(format string, values ...any) quoted {
	for i, v := range values {
		if text, ok := v.(string); ok {
			values[i] = quote(text, 160)
		}
	}
	return quoted(fmt.Sprintf(format, values...))
}

// spare is what incident.VisibleBlock may be longer than its limit: the words in the place of what it leaves out.
const spare = 50

func clip(q quoted, limit int) string {
	if text := string(q); len([]rune(text)) > limit {
		return incident.VisibleBlock(text, limit-spare)
	}
	return string(q)
}

// plain shows text as it is.
func plain(q quoted, limit int) *sdk.TextBlockObject {
	text := clip(q, limit)
	if text == "" {
		text = "–" // Slack refuses an empty text
	}
	return sdk.NewTextBlockObject(sdk.PlainTextType, text, false, false)
}

// section is a block of text.
func section(text quoted) sdk.Block { return sdk.NewSectionBlock(plain(text, maxSection), nil, nil) }

// rich shows text in a block that has no syntax, each in a quote of its own.
func rich(block string, texts ...quoted) *sdk.RichTextBlock {
	elements := make([]sdk.RichTextElement, 0, len(texts))
	for _, q := range texts {
		elements = append(elements, &sdk.RichTextPreformatted{
			Type: sdk.RTEPreformatted, Elements: []sdk.RichTextSectionElement{sdk.NewRichTextSectionTextElement(clip(q, maxRich), nil)},
		})
	}
	return sdk.NewRichTextBlock(block, elements...)
}

// mrkdwn is the only way to text that Slack interprets.
func mrkdwn(parts ...ours) *sdk.TextBlockObject {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(string(p))
	}
	return sdk.NewTextBlockObject(sdk.MarkdownType, b.String(), false, true)
}

// dated is a time in the reader's own zone.
func dated(t time.Time) ours {
	return ours(fmt.Sprintf("<!date^%d^{date_short_pretty} {time}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04 UTC")))
}

var (
	slackID = regexp.MustCompile(`^[A-Z][A-Z0-9]{1,63}$`)
	ourID   = regexp.MustCompile(`^[A-Za-z0-9-]{1,80}$`)
	hexCode = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

// mention names a user group or a user so that they are notified; "" for what is neither.
func mention(kind, id string) ours {
	if !slackID.MatchString(id) {
		return ""
	}
	if kind == "slack" {
		return ours("<!subteam^" + id + "> ")
	}
	return ours("<@" + id + "> ")
}

// ident is an id of ours.
func ident(id string) ours {
	if !ourID.MatchString(id) {
		return "?"
	}
	return ours(id)
}

func number(n int) ours { return ours(strconv.Itoa(n)) }

// clock writes a time for text that Slack does not interpret.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// span writes a length of time.
func span(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", max(0, d).Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	if d < time.Hour {
		return strings.TrimSuffix(fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60), " 0 s")
	}
	return strings.TrimSuffix(fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60), " 0 min")
}

// code is a short form of a digest that people can compare between Slack and the console.
func code(digest string) ours {
	if c := digest[:min(8, len(digest))]; hexCode.MatchString(c) {
		return ours(c)
	}
	return "?"
}

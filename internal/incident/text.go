package incident

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// slack is what a text may be longer than its limit before it is cut: the words in the place of what is left out are as long.
const slack = 32

// Visible makes hostile text fit to stand in a line of plain text: hidden characters, control characters and line breaks become
// their code points, runs of spaces shrink, and a text clearly longer than limit runes shows its head and its tail with the number of
// characters left out between. It does not escape HTML or Markdown; the display does that, or shows the text where nothing
// interprets it.
func Visible(text string, limit int) string { return cut(visible(text), 0, limit, "") }

// VisibleBlock is Visible for a text of several lines: line breaks stay.
func VisibleBlock(text string, limit int) string { return cut(visibleLines(text), 0, limit, "\n") }

// Plain keeps a text as it is, spaces and line breaks included, but for characters that nobody sees: these stand as their code points.
func Plain(text string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if r != '\n' && r != '\t' && event.Hidden(r) {
			fmt.Fprintf(&b, `\u{%X}`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Quote returns hostile text as an entry quotes it, with its size in characters if it was cut.
func Quote(text string, limit int) (quote string, size int) {
	lines := visibleLines(text)
	if quote = cut(lines, 0, limit, "\n"); quote != lines {
		size = utf8.RuneCountInString(lines)
	}
	return quote, size
}

// QuoteLine returns an entry's quote in one line, and counts what is left out from the whole text, of which the quote may be a part.
func (e Entry) QuoteLine(limit int) string { return cut(visible(e.Quote), e.QuoteSize, limit, "") }

// cut shows the head and the tail of a text that is clearly longer than limit runes. The text may be a part of one with size runes,
// whose middle was left out before.
func cut(text string, size, limit int, around string) string {
	runes := []rune(text)
	if len(runes) <= limit+slack {
		return text
	}
	head, tail := limit*2/3, limit/3
	hidden := max(size, len(runes)) - head - tail
	return fmt.Sprintf("%s%s… %d characters hidden …%s%s", string(runes[:head]), around, hidden, around, string(runes[len(runes)-tail:]))
}

func visible(text string) string {
	var b strings.Builder
	space := false
	for _, r := range text {
		switch {
		case r == ' ':
			if !space {
				b.WriteByte(' ')
			}
			space = true
			continue
		case r == unicode.ReplacementChar, event.Hidden(r), r == '\n', r == '\t', r == '\r', unicode.Is(unicode.Zs, r), r == '\u2028', r == '\u2029':
			fmt.Fprintf(&b, `\u{%X}`, r)
		default:
			b.WriteRune(r)
		}
		space = false
	}
	return b.String()
}

func visibleLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = visible(line)
	}
	return strings.Join(lines, "\n")
}

package incident

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Visible makes hostile text fit to stand in a line of plain text: hidden characters, control characters and line breaks become
// their code points, runs of spaces shrink, and a text longer than limit runes shows its head and its tail with the number of
// characters left out between. It does not escape HTML or Markdown; the display does that, or shows the text where nothing
// interprets it.
func Visible(text string, limit int) string {
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
	runes := []rune(b.String())
	if len(runes) <= limit {
		return string(runes)
	}
	head, tail := limit*2/3, limit/3
	return fmt.Sprintf("%s… %d characters hidden …%s", string(runes[:head]), len(runes)-head-tail, string(runes[len(runes)-tail:]))
}

// VisibleBlock is Visible for a text of several lines: line breaks stay.
func VisibleBlock(text string, limit int) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = Visible(line, limit)
	}
	out := strings.Join(lines, "\n")
	if len(out) > limit {
		runes := []rune(out)
		if len(runes) > limit {
			return fmt.Sprintf("%s\n… %d characters hidden …\n%s", string(runes[:limit*2/3]), len(runes)-limit, string(runes[len(runes)-limit/3:]))
		}
	}
	return out
}

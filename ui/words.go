package ui

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/measure"
)

// The most characters of hostile text that a line and a block show.
const (
	lineLimit  = 160
	blockLimit = 4000
)

// words are the functions of the templates. Whatever an agent may have said goes through line, name, quote or text.
func words(urls map[string]string) template.FuncMap {
	return template.FuncMap{
		"asset":   func(name string) string { return urls[name] },
		"line":    func(v any) string { return incident.Visible(fmt.Sprint(v), lineLimit) },
		"name":    func(v any) string { return incident.Visible(fmt.Sprint(v), 60) },
		"quote":   func(v any) string { return incident.VisibleBlock(fmt.Sprint(v), blockLimit) },
		"prose":   func(v any) string { return incident.VisibleBlock(prose(fmt.Sprint(v)), blockLimit) },
		"text":    func(v any) string { return incident.VisibleBlock(fmt.Sprint(v), 40_000) },
		"whole":   incident.Plain,
		"segment": url.PathEscape,
		"span":    span,
		"stamp":   func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
		"day":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
		"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"ago":     ago,
		"inforce": func(l action.Lease, now time.Time) bool { return l.InForce(now) },
		"since":   func(from, to time.Time) time.Duration { return to.Sub(from) },
		"falsePositives": func(r measure.RuleReport) string {
			if part, known := r.FalsePositives(); known {
				return fmt.Sprintf("%.0f %% of %d", 100*part, r.Judged())
			}
			return fmt.Sprintf("%d judged", r.Judged())
		},
		"count":    count,
		"share":    share,
		"size":     size,
		"human":    func(v any) string { return strings.ReplaceAll(fmt.Sprint(v), "_", " ") },
		"upper":    func(v any) string { return capital(strings.ReplaceAll(fmt.Sprint(v), "_", " ")) },
		"status":   statusWords,
		"outcome":  outcomeWords,
		"short":    func(s string) string { return s[:min(8, len(s))] },
		"brief":    brief,
		"standing": func(d approval.Standing, now time.Time) string { return d.State(now) },
		"seq":      func(v ...any) []any { return v },
		"bars":     bars,
		"p":        probability,
		"amount":   amountWords,
		"band":     func(b baselines.Band) string { return amountWords(b.Low) + " to " + amountWords(b.High) },
	}
}

// brief writes as much of an incident's id as people need to tell it from others.
func brief(id string) string {
	const enough = len("INC-12345678")
	if len(id) <= enough {
		return incident.Visible(id, enough)
	}
	return incident.Visible(id[:enough], enough) + "…"
}

// span writes a length of time as people say it; the static module does it alike.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "−", -d
	}
	s := int64(d / time.Second)
	switch {
	case d > 0 && d < time.Second:
		return fmt.Sprintf("%s%d ms", sign, max(1, d.Milliseconds()))
	case d < 10*time.Second:
		return sign + strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	case d < time.Minute:
		return fmt.Sprintf("%s%d s", sign, s)
	case d < time.Hour:
		return sign + two(s/60, "min", s%60, "s")
	case d < 48*time.Hour:
		return sign + two(s/3600, "h", s/60%60, "min")
	}
	return sign + two(s/86400, "d", s/3600%24, "h")
}

// two writes a length in two units, or in the larger where nothing is left.
func two(n int64, unit string, rest int64, small string) string {
	if rest == 0 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%d %s %d %s", n, unit, rest, small)
}

// prose joins the lines of a paragraph, which end where the YAML's author ended them, and keeps paragraphs and the items of lists.
func prose(text string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case i == 0:
		case line == "" || listItem.MatchString(line) || strings.HasSuffix(b.String(), "\n"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(line)
	}
	return b.String()
}

var listItem = regexp.MustCompile(`^([-*•]|\d+[.)]) `)

// ago says when something was or will be, seen from now.
func ago(t, now time.Time) string {
	if d := t.Sub(now); d > 0 {
		return "in " + span(d)
	}
	return span(now.Sub(t)) + " ago"
}

// count writes a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func share(x float64) string {
	if x > 0 && x < 0.01 {
		return "< 1 %"
	}
	if x < 1 {
		x = min(x, 0.99) // all is only said of all
	}
	return fmt.Sprintf("%.0f %%", 100*x)
}

// probability keeps one digit that counts, so that small ones can be compared.
func probability(p float64) string {
	if p < 1e-6 {
		return "< 0.000001"
	}
	digits := max(1, int(math.Ceil(-math.Log10(p)-1e-9)))
	return strconv.FormatFloat(p, 'f', min(digits, 6), 64)
}

// amountWords writes a number with as many digits as people need to compare it.
func amountWords(x float64) string {
	switch size := math.Abs(x); {
	case size < 0.05:
		return "0"
	case size >= 1e6:
		return strconv.FormatFloat(x, 'g', 3, 64)
	case size >= 10 || x == math.Trunc(x):
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'f', 1, 64)
}

func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func outcomeWords(o measure.Outcome) string {
	switch o {
	case measure.ByStanding:
		return "Decided in advance"
	case quick:
		return "Decided in under 5 s"
	}
	return capital(strings.ReplaceAll(string(o), "_", " "))
}

func statusWords(s incident.Status) string {
	switch s {
	case incident.Open:
		return "Being investigated"
	case incident.Waiting:
		return "Waiting for a decision"
	case incident.Contained:
		return "Contained, effect verified"
	case incident.Resolved:
		return "Nothing in force, ready to close"
	case incident.Closed:
		return "Closed"
	}
	return string(s)
}

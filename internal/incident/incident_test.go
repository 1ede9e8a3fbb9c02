package incident

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

func TestMove(t *testing.T) {
	tests := []struct {
		from, to Status
		ok       bool
	}{
		{Open, Waiting, true},
		{Open, Contained, false}, // nothing is contained without a decision
		{Waiting, Contained, true},
		{Contained, Resolved, true},
		{Contained, Open, false},
		{Resolved, Contained, false},
		{Resolved, Waiting, true},
		{Waiting, Waiting, true},
		{Closed, Closed, false},
		{Closed, Open, false},
		{"", Open, false},
		{Open, "", false},
	}
	for _, tt := range tests {
		got, err := Move(tt.from, tt.to)
		want := tt.from
		if tt.ok {
			want = tt.to
		}
		if got != want || (err == nil) != tt.ok {
			t.Errorf("Move(%q, %q) = %q, %v, want %q", tt.from, tt.to, got, err, want)
		}
	}
}

func TestMoveNeverLeavesClosed(t *testing.T) {
	statuses := []Status{Open, Waiting, Contained, Resolved, Closed, "", "new"}
	for _, from := range statuses[:4] {
		if _, err := Move(from, Closed); err != nil {
			t.Errorf("a human can't close: %v", err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		status, wasClosed := Open, false
		for _, to := range rapid.SliceOf(rapid.SampledFrom(statuses)).Draw(t, "steps") {
			next, err := Move(status, to)
			if err != nil && next != status {
				t.Fatalf("a refused step from %q ends at %q", status, next)
			}
			wasClosed = wasClosed || status == Closed
			if status = next; wasClosed && status != Closed {
				t.Fatalf("a closed incident became %q", status)
			}
		}
	})
}

func TestKeyAndID(t *testing.T) {
	a := detect.Finding{ID: "1", Tenant: "t", Agent: event.Agent{ID: "a"}, Session: "s"}
	same := a
	same.ID, same.Rule = "2", "other"
	if Key(a) != Key(same) || NewID(a) == NewID(same) {
		t.Error("findings of one session need one key, and each its own incident id")
	}
	if len(Key(a)) < 32 || len(NewID(a)) < len("INC-")+32 {
		t.Errorf("%s and %s have fewer than 128 bits", Key(a), NewID(a))
	}
	shifted := detect.Finding{Tenant: "ta", Session: "s"}
	for name, f := range map[string]detect.Finding{"tenant": {Agent: a.Agent, Session: "s"}, "session": {Tenant: "t", Agent: a.Agent}, "shifted": shifted} {
		if Key(f) == Key(a) {
			t.Errorf("%s: another session has the same key", name)
		}
	}
}

func TestVisible(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "send_mail", "send_mail"},
		{"right to left override", "photo\u202Egnp.exe", `photo\u{202E}gnp.exe`},
		{"bidi isolate", "a\u2066b\u2069", `a\u{2066}b\u{2069}`},
		{"zero width", "pass\u200Bword\uFEFF", `pass\u{200B}word\u{FEFF}`},
		{"tag characters", "hi\U000E0041", `hi\u{E0041}`},
		{"variation selector supplement", "hi\U000E0100", `hi\u{E0100}`},
		{"musical format", "a\U0001D173b", `a\u{1D173}b`},
		{"shorthand format", "a\U0001BCA0b", `a\u{1BCA0}b`},
		{"hangul filler", "a\u3164b", `a\u{3164}b`},
		{"control characters", "a\x00b\x1b[2J\u0085", `a\u{0}b\u{1B}[2J\u{85}`},
		{"line breaks", "a\r\nb\u2028c\td", `a\u{D}\u{A}b\u{2028}c\u{9}d`},
		{"spaces", "a     b", "a b"},
		{"other spaces", "a\u00A0\u3000b", `a\u{A0}\u{3000}b`},
		{"not UTF-8", "a\xffb", `a\u{FFFD}b`},
		{"right to left script", "שלום", "שלום"},
		{"emoji", "👩\u200D🚀", "👩\u200D🚀"},
	}
	for _, tt := range tests {
		if got := Visible(tt.in, 80); got != tt.want {
			t.Errorf("%s: Visible(%+q) = %+q, want %+q", tt.name, tt.in, got, tt.want)
		}
	}
	long := "rm " + strings.Repeat("a", 500) + " -rf /"
	if got, want := Visible(long, 9), "rm aaa… 500 characters hidden …f /"; got != want {
		t.Errorf("Visible of a long text = %q, want %q", got, want)
	}
}

// What is only a little longer than its limit stays whole: the words in the place of what is left out would be longer.
func TestVisibleCutsWhatIsClearlyLonger(t *testing.T) {
	for n, whole := range map[int]bool{60: true, 63: true, 68: true, 60 + slack: true, 60 + slack + 1: false, 500: false} {
		text := strings.Repeat("a", n)
		if got := Visible(text, 60); (got == text) != whole || utf8.RuneCountInString(got) > n {
			t.Errorf("%d characters become %q", n, got)
		}
		if got := VisibleBlock(text, 60); (got == text) != whole || utf8.RuneCountInString(got) > n {
			t.Errorf("%d characters become the block %q", n, got)
		}
	}
}

// A quote that is cut for the timeline, and again for a narrower display, counts what is hidden of the whole text.
func TestQuote(t *testing.T) {
	long := "pay " + strings.Repeat("x", 9988) + " US1331"
	quote, size := Quote(long, 400)
	if want := "pay " + strings.Repeat("x", 262) + "\n… 9600 characters hidden …\n" + strings.Repeat("x", 126) + " US1331"; quote != want || size != 9999 {
		t.Errorf("quote of %d characters:\n%s", size, quote)
	}
	e := Entry{Quote: quote, QuoteSize: size}
	if got, want := e.QuoteLine(30), "pay "+strings.Repeat("x", 16)+"… 9969 characters hidden …xxx US1331"; got != want {
		t.Errorf("line %q, want %q", got, want)
	}
	if quote, size := Quote("a\nb\u202E", 400); quote != "a\nb\\u{202E}" || size != 0 {
		t.Errorf("short quote %q of %d", quote, size)
	}
}

func TestTitle(t *testing.T) {
	f := detect.Finding{Title: "Shell out of character", Agent: event.Agent{ID: "shop/bot", Name: "bot\u202E"}, Tool: "sh\nell"}
	if got, want := Title(f), `bot\u{202E}, calling sh\u{A}ell: Shell out of character`; got != want {
		t.Errorf("Title = %q, want %q", got, want)
	}
}

// checkVisible holds what every display relies on.
func checkVisible(t *testing.T, out string, limit int, breaks string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Errorf("%+q is not UTF-8", out)
	}
	if i := strings.IndexFunc(out, func(r rune) bool {
		return event.Hidden(r) || strings.ContainsRune("\n\r\t\u2028\u2029", r) && !strings.ContainsRune(breaks, r)
	}); i >= 0 {
		t.Errorf("%+q holds a hidden character at %d", out, i)
	}
	if n, most := utf8.RuneCountInString(out), limit+50; n > most {
		t.Errorf("%d characters for a limit of %d", n, limit)
	}
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"", "a\u202Eb", "\xff\xfe", "a\nb\tc\r\n", strings.Repeat("\U000E0041", 99), "\u2028"} {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit &= 0xFFF
		checkVisible(t, Visible(s, limit), limit, "")
		checkVisible(t, VisibleBlock(s, limit), limit, "\n")
	})
}

// Only what a human does shows that a human looked, and no disposition does.
func TestLooked(t *testing.T) {
	for _, tt := range []struct {
		entry Entry
		want  bool
	}{
		{Entry{Actor: "tocsin", Source: "workflow", Kind: "note"}, false},
		{Entry{Actor: "tocsin", Source: "console", Kind: "notice"}, false},
		{Entry{Actor: "ada", Source: "console", Kind: "notice"}, true},
		{Entry{Actor: "support/helper", Source: "log", Kind: "event"}, false},
		{Entry{Actor: "ada", Source: "cli", Kind: "decision"}, true},
		{Entry{Actor: "ada", Source: "console", Kind: "disposition"}, false},
		{Entry{Actor: "ada", Source: "slack", Kind: "note"}, true},
	} {
		if got := tt.entry.Looked(); got != tt.want {
			t.Errorf("%+v: %v", tt.entry, got)
		}
	}
}

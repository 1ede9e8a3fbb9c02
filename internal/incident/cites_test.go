package incident

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
)

// TestDraftsCiteRecords: each statement that a record of the ledger holds names the record, and no other.
func TestDraftsCiteRecords(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	minute := func(n int) time.Time { return at.Add(time.Duration(n) * time.Minute) }
	file := CaseFile{
		Incident: Incident{ID: "INC-1", Title: "Money", Status: Contained, Times: Times{FirstBad: at, Noticed: minute(2), Contained: minute(5)}, NoticedBy: "ana"},
		Findings: []Triaged{{Finding: detect.Finding{ID: "f1", Rule: "rule", Reason: "it matched", Events: []string{"e1"}}}},
		Timeline: []Entry{
			{At: at, Actor: "bot", Kind: "event", Text: "pay", Ref: "e1"},
			{At: minute(3), Actor: "playbook", Kind: "request", Text: "Stop it?", Ref: "INC-1-R1"},
			{At: minute(3), Actor: "bob", Kind: "refusal", Text: "approve refused", Ref: "INC-1-R1"},
			{At: minute(4), Actor: "ana", Kind: "decision", Text: "approved", Ref: "INC-1-R1"},
			{At: minute(5), Actor: "tocsin", Kind: "containment", Text: "Contained", Ref: "INC-1-R1"},
			{At: minute(9), Actor: "tocsin", Kind: "containment", Text: "Lifted", Ref: "INC-1-R1"},
			{At: minute(9), Actor: "ana", Kind: "note", Text: "seen", Ref: ""},
		},
		Tracks: []Track{{Name: "data", Facts: []Fact{{Text: "it was sent", Refs: []string{"e1"}}}}, {Name: "peers", Err: "late"}},
		Records: []Record{
			{Seq: 3, At: minute(1), Kind: "evidence", Subject: "INC-1", Sealed: []string{"aa", "events.jsonl", "bb", "finding-f1.json"}, Hash: "h3"},
			{Seq: 4, At: minute(2), Kind: "incident", Actor: "ana", Subject: "INC-1", Hash: "h4"},
			{Seq: 5, At: minute(3), Kind: "request", Subject: "INC-1-R1", Hash: "h5"},
			{Seq: 6, At: minute(3), Kind: "refusal", Subject: "INC-1-R1", Hash: "h6"},
			{Seq: 7, At: minute(4), Kind: "decision", Subject: "INC-1-R1", Hash: "h7"},
			{Seq: 8, At: minute(5), Kind: "containment", Subject: "INC-1-R1", Hash: "h8"},
			{Seq: 9, At: minute(9), Kind: "containment", Subject: "INC-1-R1", Hash: "h9"},
			{Seq: 10, At: minute(10), Kind: "evidence", Actor: "ana", Subject: "INC-1", Hash: "h10"},
		},
	}
	docs := make(map[string]string)
	for _, d := range Drafts(file) {
		docs[d.Name] = d.Markdown
		for line := range strings.Lines(d.Markdown) {
			if _, statement, _ := strings.Cut(line, " ["); strings.HasPrefix(line, "- 2026") && !strings.Contains(statement, "ledger ") && !strings.Contains(line, "no record") {
				t.Errorf("%s: a statement names no record: %s", d.Name, line)
			}
		}
	}
	for _, want := range []struct{ doc, text, cite string }{
		{"post-mortem", "it matched", "[ledger 3]"},
		{"post-mortem", "ana became aware", "[ledger 4]"},
		{"post-mortem", "Contained, verified", "[ledger 8]"},
		{"post-mortem", "it was sent", "[ledger 3]"},
		{"post-mortem", "peers track failed", "[no record]"},
		{"timeline", "pay", "[ledger 3]"},
		{"timeline", "Stop it", "[ledger 5]"},
		{"timeline", "approve refused", "[ledger 6]"},
		{"timeline", "approved", "[ledger 7]"},
		{"timeline", "Contained", "[ledger 8]"},
		{"timeline", "Lifted", "[ledger 9]"},
		{"timeline", "seen", "[no record]"},
		{"internal-notice", "It was contained", "[ledger 8]"},
		{"customer-notice", "We stopped it", "[ledger 8]"},
	} {
		line := regexp.MustCompile(`(?m)^.*` + want.text + `.*$`).FindString(docs[want.doc])
		if !strings.HasSuffix(line, want.cite) || strings.Count(line, "[ledger")+strings.Count(line, "[no record") != 1 {
			t.Errorf("%s says %q, want it to cite %s", want.doc, line, want.cite)
		}
	}
	if !strings.Contains(docs["timeline"], "- Record 7: decision by , 2026-03-01 12:04:00.000Z, sha256 `h7`") || strings.Contains(docs["timeline"], "Record 10") {
		t.Errorf("the list of records is not of those that are cited:\n%s", docs["timeline"])
	}
}

// TestPostMortemLeavesNoRecordOut: whatever the timeline tells, the post-mortem names each record of what was asked, decided and done, once
// in the list at its end.
func TestPostMortemLeavesNoRecordOut(t *testing.T) {
	kinds := rapid.SampledFrom([]string{"request", "decision", "refusal", "escalation", "containment", "incident", "review"})
	rapid.Check(t, func(t *rapid.T) {
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		file := CaseFile{Incident: Incident{ID: "INC-1"}}
		for n := range rapid.IntRange(0, 12).Draw(t, "records") {
			r := Record{Seq: int64(n + 1), At: at.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "second")) * time.Second), Kind: kinds.Draw(t, "kind"), Actor: "<b>", Subject: rapid.SampledFrom([]string{"INC-1", "INC-1-R1", "INC-1-R2"}).Draw(t, "subject")}
			file.Records = append(file.Records, r)
			if rapid.Bool().Draw(t, "told") {
				file.Timeline = append(file.Timeline, Entry{At: r.At, Actor: "ana", Kind: r.Kind, Text: "it happened", Ref: r.Subject})
			}
		}
		text := postMortem(file)
		body, list, _ := strings.Cut(text, "\n## Ledger\n")
		for _, r := range file.Records {
			if cite := fmt.Sprintf("[ledger %d]", r.Seq); !strings.Contains(body, cite) || strings.Count(list, fmt.Sprintf("- Record %d: ", r.Seq)) != 1 {
				t.Fatalf("record %d is left out:\n%s", r.Seq, text)
			}
		}
		if strings.Contains(text, "<b>") {
			t.Fatalf("an actor is markup:\n%s", text)
		}
	})
}

func TestDiff(t *testing.T) {
	if got := Diff("a\nb\n", "a\nc\n"); !strings.Contains(got, "-b\n+c\n") || Diff("a\n", "a\n") != "" {
		t.Errorf("the difference is %q", got)
	}
}

func TestPlain(t *testing.T) {
	const text = "  - two  spaces\n\n\ttab \u202E hidden \x1b[1m escape"
	if got, want := Plain(text), "  - two  spaces\n\n\ttab \\u{202E} hidden \\u{1B}[1m escape"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

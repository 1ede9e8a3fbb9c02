package incident

import (
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// TestDraftsAreHarmless has an agent choose every text that it can, as markup: the drafts, which people may send to customers, show it
// as it is.
func TestDraftsAreHarmless(t *testing.T) {
	const evil = "`![x](https://evil.example/p.png)<img src=x onerror=y>\n# www.evil.example`"
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	agent := event.Agent{ID: evil, Name: evil, Service: evil, Class: evil}
	file := CaseFile{
		Incident: Incident{ID: "INC-1", Title: Title(detect.Finding{Agent: agent, Tool: evil, Title: "Money"}), Agent: agent, Session: evil, Times: Times{FirstBad: at, Noticed: at, Contained: at}, NoticedBy: "ana"},
		Findings: []Triaged{{Finding: detect.Finding{
			ID: "f1", Source: detect.SourceRule, Rule: "rule", Version: "1.0.0", Agent: agent, Session: evil, Tool: evil, Title: "Money", Reason: "it matched " + evil,
			Events: []string{evil, "e-2"}, Chain: &detect.Chain{Origin: evil + "2", OriginTool: evil, Arg: evil, Value: evil},
		}}},
		Timeline: []Entry{
			{At: at, Actor: evil, Source: "log", Kind: "event", Text: evil, Quote: evil, Ref: evil + "2"},
			{At: at, Actor: "tocsin", Source: "gate", Kind: "containment", Text: "Contained: " + evil, Ref: evil},
		},
		Tracks:   []Track{{Name: "data", Facts: []Fact{{Text: evil, Refs: []string{evil + "3"}}}}, {Name: "peers", Err: evil}},
		Evidence: []EvidenceItem{{SHA256: "aa", Name: "events.jsonl", At: at}},
	}
	for _, d := range Drafts(file) {
		for n, line := range strings.Split(d.Markdown, "\n") {
			bare := strings.NewReplacer("\\\\", "", "\\`", "", `\!`, "", `\[`, "", `\<`, "", `\#`, "", `www\.`, "").Replace(line)
			for _, sign := range []string{"![", "<img", "www.", "](", "``"} {
				if strings.Contains(bare, sign) {
					t.Errorf("%s, line %d holds %q: %s", d.Name, n+1, sign, line)
				}
			}
			if strings.HasPrefix(line, "# www") || strings.Count(bare, "`")%2 != 0 {
				t.Errorf("%s, line %d is markup: %s", d.Name, n+1, line)
			}
		}
		if !strings.Contains(d.Markdown, "`e-2`") && d.Name == "post-mortem" {
			t.Errorf("the post-mortem does not show a harmless id as code:\n%s", d.Markdown)
		}
	}
}

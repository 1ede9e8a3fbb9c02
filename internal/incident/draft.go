package incident

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
)

// CaseFile is all that is recorded of an incident: what drafts are made of.
type CaseFile struct {
	Incident Incident
	Findings []Triaged
	Timeline []Entry
	Evidence []EvidenceItem
	Tracks   []Track
}

// Triaged is a finding with its disposition.
type Triaged struct {
	Finding     detect.Finding
	Disposition *Disposition
}

// Document is a draft in Markdown. It is never sent: a human edits it and decides.
type Document struct {
	Name     string
	Markdown string
}

// Drafts writes the post-mortem, the internal notice and the customer notice. Each statement ends with the evidence it rests on,
// as a number of the list at the end. What is not recorded is left as a blank for a human, never guessed.
func Drafts(f CaseFile) []Document {
	return []Document{{"post-mortem", postMortem(f)}, {"internal-notice", internalNotice(f)}, {"customer-notice", customerNotice(f)}}
}

// cited collects the references of a document and numbers them.
type cited struct {
	b    strings.Builder
	refs []string
}

// say writes one statement with its references. A statement without one is marked as resting on none.
func (c *cited) say(text string, refs ...string) {
	c.b.WriteString(text)
	n := 0
	for _, r := range refs {
		if r != "" {
			fmt.Fprintf(&c.b, " [%d]", c.number(r))
			n++
		}
	}
	if n == 0 {
		c.b.WriteString(" [no evidence]")
	}
	c.b.WriteString("\n")
}

func (c *cited) number(ref string) int {
	for i, known := range c.refs {
		if known == ref {
			return i + 1
		}
	}
	c.refs = append(c.refs, ref)
	return len(c.refs)
}

func (c *cited) head(title string, f CaseFile) {
	fmt.Fprintf(&c.b, "# %s: %s\n\n> Draft, machine-written from the record of incident %s. A human must check and complete it.\n\n", title, markdown(f.Incident.Title), f.Incident.ID)
}

// end lists what the statements rest on.
func (c *cited) end(f CaseFile) string {
	c.b.WriteString("\n## Evidence\n\n")
	for i, r := range c.refs {
		fmt.Fprintf(&c.b, "%d. %s\n", i+1, describeRef(r, f))
	}
	return c.b.String()
}

func describeRef(ref string, f CaseFile) string {
	for _, e := range f.Evidence {
		if e.SHA256 == ref {
			return fmt.Sprintf("artefact %s, sha256 %s, sealed %s", code(e.Name), code(e.SHA256), stamp(e.At))
		}
	}
	for _, t := range f.Findings {
		if t.Finding.ID == ref {
			return fmt.Sprintf("finding %s of %s %s, version %s", code(ref), t.Finding.Source, markdown(t.Finding.Rule), markdown(t.Finding.Version))
		}
	}
	for _, e := range f.Timeline {
		if e.Ref == ref {
			return fmt.Sprintf("%s %s, recorded %s, source %s", e.Kind, code(ref), stamp(e.At), markdown(e.Source))
		}
	}
	return "event " + code(ref) + " in the sealed events"
}

func postMortem(f CaseFile) string {
	c := &cited{}
	c.head("Post-mortem", f)
	i := f.Incident
	c.b.WriteString("## What happened\n\n")
	for _, t := range f.Findings {
		c.say(fmt.Sprintf("- At %s %s. %s", stamp(t.Finding.Time), markdown(Title(t.Finding)), markdown(t.Finding.Reason)), append([]string{t.Finding.ID}, t.Finding.Events...)...)
		if ch := t.Finding.Chain; ch != nil {
			c.say(fmt.Sprintf("  - The value of argument %s came from a tool's output, not from the prompt.", markdown(Visible(ch.Arg, 40))), ch.Origin)
		}
	}
	c.b.WriteString("\n## How fast\n\n")
	clock(c, "- First bad event: %s.", i.Times.FirstBad, firstRef(f))
	clock(c, "- Detected: %s.", i.Times.Detected, firstFinding(f))
	if i.Times.Noticed.IsZero() {
		c.say("- No human is recorded as aware yet.", firstFinding(f))
	} else {
		c.say(fmt.Sprintf("- %s became aware at %s: dwell time %s.", markdown(i.NoticedBy), stamp(i.Times.Noticed), i.Times.Noticed.Sub(i.Times.FirstBad).Round(time.Millisecond)), i.ID)
	}
	if !i.Times.Contained.IsZero() {
		c.say(fmt.Sprintf("- Contained, verified by a probe, at %s: %s after the first bad event.", stamp(i.Times.Contained), i.Times.Contained.Sub(i.Times.FirstBad).Round(time.Millisecond)), refOf(f, "containment"))
	}
	c.b.WriteString("\n## Investigation\n\n")
	for _, t := range f.Tracks {
		if t.Err != "" {
			c.say(fmt.Sprintf("- The %s track failed: %s.", t.Name, markdown(Visible(t.Err, 200))), t.Name)
		}
		for _, fact := range t.Facts {
			c.say("- "+markdown(fact.Text)+".", fact.Refs...)
		}
	}
	c.b.WriteString("\n## Decisions and effects\n\n")
	for _, e := range f.Timeline {
		if e.Kind == "request" || e.Kind == "decision" || e.Kind == "containment" || e.Kind == "refusal" {
			c.say(fmt.Sprintf("- %s, %s: %s", stamp(e.At), markdown(e.Actor), markdown(Visible(e.Text, 300))), e.Ref)
		}
	}
	c.b.WriteString("\n## For a human to write\n\n- Root cause: ____\n- What will change so that it can't happen again: ____\n- Was the first-pass disposition right? ____\n")
	return c.end(f)
}

func internalNotice(f CaseFile) string {
	c := &cited{}
	c.head("Internal notice", f)
	i := f.Incident
	c.say(fmt.Sprintf("The agent %s raised %d findings of up to %s severity, the first at %s.", markdown(Visible(i.Agent.ID, 80)), len(f.Findings), i.Severity, stamp(i.Times.FirstBad)), firstFinding(f))
	c.say(fmt.Sprintf("Its status is %s.", i.Status), i.ID)
	if ref := refOf(f, "containment"); ref != "" {
		c.say("It was contained, and a probe at the gate proved it.", ref)
	}
	c.b.WriteString("\nWhat you need to do: ____\n")
	return c.end(f)
}

func customerNotice(f CaseFile) string {
	c := &cited{}
	c.head("Customer notice", f)
	i := f.Incident
	c.say(fmt.Sprintf("On %s one of our automated agents acted in a way that was not intended.", i.Times.FirstBad.UTC().Format("2 January 2006")), firstRef(f))
	if ref := refOf(f, "containment"); ref != "" {
		c.say("We stopped it, and verified that it was stopped.", ref)
	}
	c.b.WriteString("\nWhich of your data or money was concerned: ____\n\nWhat we do for you: ____\n\nWhom to ask: ____\n")
	return c.end(f)
}

func clock(c *cited, format string, at time.Time, ref string) {
	if !at.IsZero() {
		c.say(fmt.Sprintf(format, stamp(at)), ref)
	}
}

func firstFinding(f CaseFile) string {
	if len(f.Findings) == 0 {
		return ""
	}
	return f.Findings[0].Finding.ID
}

func firstRef(f CaseFile) string {
	if len(f.Findings) == 0 || len(f.Findings[0].Finding.Events) == 0 {
		return ""
	}
	return f.Findings[0].Finding.Events[0]
}

// refOf returns the reference of the first timeline entry of a kind.
func refOf(f CaseFile, kind string) string {
	for _, e := range f.Timeline {
		if e.Kind == kind {
			return e.Ref
		}
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000Z") }

// special are the characters that mean something to a Markdown renderer, HTML included.
var special = regexp.MustCompile("[\\\\`*_{}\\[\\]()<>#+!|~&@:]")

// markdown escapes text so that a renderer shows it as it is: no link, no markup, no HTML.
func markdown(text string) string {
	return www.ReplaceAllString(special.ReplaceAllString(Visible(text, 600), `\$0`), `$1\.`)
}

// www is what some renderers make a link of without any sign.
var www = regexp.MustCompile(`(?i)\b(www)\.`)

// plain are the ids that mean nothing to a renderer within a code span.
var plain = regexp.MustCompile(`^[\w.:/@-]+$`)

// code shows an id. Senders choose the ids of events, and a backtick would end the code span.
func code(id string) string {
	if plain.MatchString(id) {
		return "`" + id + "`"
	}
	return markdown(id)
}

package incident

import (
	"fmt"
	"regexp"
	"slices"
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
	Records  []Record // of the ledger, in order
}

// Record is a row of the ledger that statements rest on.
type Record struct {
	Seq     int64
	At      time.Time
	Kind    string
	Actor   string
	Subject string
	Hash    string
	Sealed  []string // hashes and names of the artefacts that it says were sealed
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

// Drafts writes the post-mortem, the timeline, the internal notice and the customer notice. Each statement ends with the evidence it
// rests on, as a number of the list at the end, and with the records of the ledger that hold it, by their numbers. What is not
// recorded is left as a blank for a human, never guessed.
func Drafts(f CaseFile) []Document {
	return []Document{{"post-mortem", postMortem(f)}, {"timeline", timeline(f)}, {"internal-notice", internalNotice(f)}, {"customer-notice", customerNotice(f)}}
}

// cited is a document under way, which collects its references and numbers them.
type cited struct {
	f       CaseFile
	b       strings.Builder
	refs    []string
	records map[int64]bool
}

func newCited(title string, f CaseFile) *cited {
	c := &cited{f: f, records: make(map[int64]bool)}
	fmt.Fprintf(&c.b, "# %s: %s\n\n> Draft, machine-written from the record of incident %s. A human must check and complete it.\n\n", title, markdown(f.Incident.Title), f.Incident.ID)
	return c
}

// say writes one statement with its references. A statement without one is marked as resting on none.
func (c *cited) say(text string, refs ...string) { c.sayOf("", time.Time{}, text, refs...) }

// sayOf writes one statement about what a record of a kind, written at about that time, holds.
func (c *cited) sayOf(kind string, at time.Time, text string, refs ...string) {
	c.b.WriteString(text)
	n, cites := 0, []int64{}
	for _, r := range refs {
		if r == "" {
			continue
		}
		fmt.Fprintf(&c.b, " [%d]", c.number(r))
		n++
		if seq := c.record(kind, at, r); seq > 0 && !slices.Contains(cites, seq) {
			cites = append(cites, seq)
		}
	}
	if n == 0 {
		c.b.WriteString(" [no evidence]")
	}
	for _, seq := range cites {
		c.records[seq] = true
		fmt.Fprintf(&c.b, " [ledger %d]", seq)
	}
	if len(cites) == 0 {
		c.b.WriteString(" [no record]")
	}
	c.b.WriteString("\n")
}

// record returns the number of the record that a statement about a reference rests on: of those of its kind about it the one that was
// written nearest to that time, or the one by which what the reference names was sealed. 0 is none.
func (c *cited) record(kind string, at time.Time, ref string) int64 {
	var best Record
	for _, r := range c.f.Records {
		if r.Subject == ref && (kind == "" || r.Kind == kind) && (best.Seq == 0 || r.At.Sub(at).Abs() < best.At.Sub(at).Abs()) {
			best = r
		}
	}
	if best.Seq > 0 || kind != "" && kind != "event" && kind != "finding" && kind != "evidence" {
		return best.Seq
	}
	finding := slices.ContainsFunc(c.f.Findings, func(t Triaged) bool { return t.Finding.ID == ref })
	track := slices.ContainsFunc(c.f.Tracks, func(t Track) bool { return t.Name == ref })
	for _, r := range c.f.Records {
		for _, name := range r.Sealed {
			event := !finding && !track && ref != c.f.Incident.ID && strings.HasPrefix(name, "events")
			if name == ref || name == "finding-"+ref+".json" || event {
				return r.Seq
			}
		}
	}
	return 0
}

func (c *cited) number(ref string) int {
	if i := slices.Index(c.refs, ref); i >= 0 {
		return i + 1
	}
	c.refs = append(c.refs, ref)
	return len(c.refs)
}

// end lists what the statements rest on.
func (c *cited) end() string {
	c.b.WriteString("\n## Evidence\n\n")
	for i, r := range c.refs {
		fmt.Fprintf(&c.b, "%d. %s\n", i+1, describeRef(r, c.f))
	}
	c.b.WriteString("\n## Ledger\n\n")
	for _, r := range c.f.Records {
		if c.records[r.Seq] {
			fmt.Fprintf(&c.b, "- Record %d: %s by %s, %s, sha256 %s\n", r.Seq, markdown(r.Kind), markdown(r.Actor), stamp(r.At), code(r.Hash))
		}
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
	c := newCited("Post-mortem", f)
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
		c.sayOf("incident", i.Times.Noticed, fmt.Sprintf("- %s became aware at %s: dwell time %s.", markdown(i.NoticedBy), stamp(i.Times.Noticed), i.Times.Noticed.Sub(i.Times.FirstBad).Round(time.Millisecond)), i.ID)
	}
	if !i.Times.Contained.IsZero() {
		c.sayOf("containment", i.Times.Contained, fmt.Sprintf("- Contained, verified by a probe, at %s: %s after the first bad event.", stamp(i.Times.Contained), i.Times.Contained.Sub(i.Times.FirstBad).Round(time.Millisecond)), refOf(f, "containment"))
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
			c.entry(e)
		}
	}
	c.rest()
	c.b.WriteString("\n## For a human to write\n\n- Root cause: ____\n- What will change so that it can't happen again: ____\n- Was the first-pass disposition right? ____\n")
	return c.end()
}

// rest names the records that no statement above rests on, so that none is left out. What was sealed stands with the findings, and
// edits of drafts are about this text itself.
func (c *cited) rest() {
	head := "\nThe ledger has besides:\n\n"
	for _, r := range c.f.Records {
		if c.records[r.Seq] || r.Kind == "evidence" || r.Kind == "draft" {
			continue
		}
		c.records[r.Seq] = true
		fmt.Fprintf(&c.b, "%s- %s, %s: %s. [%d] [ledger %d]\n", head, stamp(r.At), markdown(r.Actor), markdown(r.Kind), c.number(r.Subject), r.Seq)
		head = ""
	}
}

// timeline tells all that is on the incident's timeline, without what agents said.
func timeline(f CaseFile) string {
	c := newCited("Timeline", f)
	for _, e := range f.Timeline {
		c.entry(e)
	}
	return c.end()
}

func (c *cited) entry(e Entry) {
	c.sayOf(e.Kind, e.At, fmt.Sprintf("- %s, %s: %s", stamp(e.At), markdown(e.Actor), markdown(Visible(e.Text, 300))), e.Ref)
}

func internalNotice(f CaseFile) string {
	c := newCited("Internal notice", f)
	i := f.Incident
	c.say(fmt.Sprintf("The agent %s raised %d findings of up to %s severity, the first at %s.", markdown(Visible(i.Agent.ID, 80)), len(f.Findings), i.Severity, stamp(i.Times.FirstBad)), firstFinding(f))
	c.say(fmt.Sprintf("Its status is %s.", i.Status), lastRef(f))
	if ref := refOf(f, "containment"); ref != "" {
		c.sayOf("containment", i.Times.Contained, "It was contained, and a probe at the gate proved it.", ref)
	}
	c.b.WriteString("\nWhat you need to do: ____\n")
	return c.end()
}

func customerNotice(f CaseFile) string {
	c := newCited("Customer notice", f)
	i := f.Incident
	c.say(fmt.Sprintf("On %s one of our automated agents acted in a way that was not intended.", i.Times.FirstBad.UTC().Format("2 January 2006")), firstRef(f))
	if ref := refOf(f, "containment"); ref != "" {
		c.sayOf("containment", i.Times.Contained, "We stopped it, and verified that it was stopped.", ref)
	}
	c.b.WriteString("\nWhich of your data or money was concerned: ____\n\nWhat we do for you: ____\n\nWhom to ask: ____\n")
	return c.end()
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

// lastRef returns what the last change of the incident's status was about.
func lastRef(f CaseFile) string {
	for _, r := range slices.Backward(f.Records) {
		if r.Kind != "evidence" && r.Kind != "draft" && r.Kind != "refusal" {
			return r.Subject
		}
	}
	return f.Incident.ID
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

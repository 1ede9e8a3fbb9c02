package sigma

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// render writes the rule file and makes sure that it loads.
func render(d *document, o *outcome, library *detect.Library) (*Rule, error) {
	severity, lane := levelOf(d)
	r := &Rule{ID: ruleID(d), Title: oneLine(d.text("title")), File: d.file, Line: d.node.Line, Lane: lane, Notes: o.notes}
	doc := &yaml.Node{Kind: yaml.MappingNode, HeadComment: head(lane)}
	add := func(key string, value *yaml.Node) {
		doc.Content = append(doc.Content, text(key), value)
	}
	add("id", text(r.ID))
	add("version", text("1.0.0"))
	add("title", text(r.Title))
	add("severity", text(string(severity)))
	add("confidence", text(string(confidenceOf(d))))
	add("lane", text(string(detect.Shadow)))
	add("on", kindsNode(o.on))
	key := o.key
	if key == "" {
		key = "session"
	}
	add("key", text(key))
	if o.by != "" && o.operator != nil {
		add("by", text(o.by))
	}
	addOperator(add, o)
	if o.operator != nil { // the group is what a correlation speaks of, whatever its last event's target
		add("suppress_by", text("key"))
	}
	tags := tagsOf(list(d.get("tags")), library.Catalogue)
	add("tags", tagsNode(tags))
	add("capture", text(o.capture))
	add("triage", block(triage(d, o)))
	if fps := list(d.get("falsepositives")); len(fps) > 0 {
		add("false_positives", listNode(fps, 0))
	}
	add("tests", &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle})
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(doc); err != nil {
		return nil, err
	}
	r.Text = out.String()
	return r, load(r.ID+".yaml", r.Text, library)
}

// head is the comment that tells the reviewer what is left to do.
func head(lane detect.Lane) string {
	text := "Made from a Sigma rule by `tocsin rules import`. Review it, and add a test that fires, a near miss and an evasion.\n"
	if lane == detect.Shadow {
		return text + "It stays in the lane shadow until then, and until its author calls it more than experimental."
	}
	return text + "It stays in the lane shadow until then. After that its lane is " + string(lane) + "."
}

func addOperator(add func(string, *yaml.Node), o *outcome) {
	if o.operator == nil {
		add("when", block(o.when.String()))
		return
	}
	op := o.operator
	if op.name == "sequence" {
		steps := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range op.steps {
			steps.Content = append(steps.Content, stepNode(s))
		}
		fields := []any{"within", text(op.within)}
		if op.anyOrder {
			fields = append(fields, "order", text("any"))
		}
		add("sequence", mapNode(0, append(fields, "steps", steps)...))
		return
	}
	add("when", block(o.when.String()))
	of := []any{"at_least", text(strconv.Itoa(op.atLeast)), "within", text(op.within)}
	if op.of != "" {
		of = append([]any{"of", text(op.of)}, of...)
	}
	add(op.name, mapNode(yaml.FlowStyle, of...))
}

func stepNode(s step) *yaml.Node {
	parts := []any{"as", text(s.name), "on", kindsNode(s.on)}
	if s.by != "" {
		parts = append(parts, "by", text(s.by))
	}
	return mapNode(0, append(parts, "when", block(s.when.String()))...)
}

// text is a scalar; the encoder quotes it where it has to. A number stays one.
func text(value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
	if _, err := strconv.Atoi(value); err != nil {
		n.SetString(value)
		n.Style = 0
	}
	return n
}

// block is a text over several lines.
func block(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.LiteralStyle, Value: strings.TrimRight(value, "\n") + "\n"}
}

func listNode(values []string, style yaml.Style) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: style}
	for _, v := range values {
		n.Content = append(n.Content, text(oneLine(v)))
	}
	return n
}

func kindsNode(kinds []event.Kind) *yaml.Node {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return listNode(names, yaml.FlowStyle)
}

func tagsNode(tags detect.Tags) *yaml.Node {
	var parts []any
	if len(tags.ASI) > 0 {
		parts = append(parts, "asi", listNode(tags.ASI, yaml.FlowStyle))
	}
	if len(tags.ATLAS) > 0 {
		parts = append(parts, "atlas", listNode(tags.ATLAS, yaml.FlowStyle))
	}
	return mapNode(0, parts...)
}

// mapNode makes a map of keys and nodes in turn.
func mapNode(style yaml.Style, parts ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Style: style}
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			n.Content = append(n.Content, text(p))
		case *yaml.Node:
			n.Content = append(n.Content, p)
		}
	}
	return n
}

var notID = regexp.MustCompile(`[^a-z0-9]+`)

// ruleID is made of the title, and of the Sigma id, which alone is unique.
func ruleID(d *document) string {
	unique := notID.ReplaceAllString(strings.ToLower(d.text("id")), "")
	if len(unique) < 8 {
		sum := sha256.Sum256([]byte(d.text("id") + "\x00" + d.text("name") + "\x00" + d.text("title")))
		unique = hex.EncodeToString(sum[:])
	}
	slug := strings.Trim(notID.ReplaceAllString(strings.ToLower(d.text("title")), "-"), "-")
	if len(slug) > 44 {
		slug = slug[:44]
		if i := strings.LastIndexByte(slug, '-'); i > 20 {
			slug = slug[:i]
		}
	}
	return strings.ReplaceAll("sigma-"+slug+"-"+unique[:8], "--", "-")
}

// levelOf is a rule's severity, and its lane once it has tests. No imported rule may propose a containment.
func levelOf(d *document) (detect.Severity, detect.Lane) {
	lane := detect.Shadow
	if status := d.text("status"); status == "test" || status == "stable" {
		lane = detect.Alert
	}
	switch d.text("level") {
	case "critical":
		return detect.Critical, lane
	case "high":
		return detect.High, lane
	case "low":
		return detect.Low, lane
	case "informational": // never to alert, says the specification
		return detect.Low, detect.Hunt
	}
	return detect.Medium, lane
}

func confidenceOf(d *document) detect.Confidence {
	if status := d.text("status"); status == "test" || status == "stable" {
		return detect.MediumConfidence
	}
	return detect.LowConfidence
}

// triage keeps what the rule's authors say, and says what the import changed.
func triage(d *document, o *outcome) string {
	var b strings.Builder
	if about := d.text("description"); about != "" {
		b.WriteString(wrap(about) + "\n")
	}
	for _, n := range o.notes {
		b.WriteString(n + "\n")
	}
	fmt.Fprintf(&b, "From the Sigma rule %q", oneLine(d.text("title")))
	for _, f := range []struct{ key, before string }{
		{"id", ", id "}, {"status", ", status "}, {"author", ", by "}, {"date", ", of "}, {"modified", ", changed "}, {"license", ", licence "},
	} {
		if v := oneLine(d.text(f.key)); v != "" {
			b.WriteString(f.before + v)
		}
	}
	b.WriteString(".\n")
	if tags := list(d.get("tags")); len(tags) > 0 {
		b.WriteString("Its tags: " + oneLine(strings.Join(tags, ", ")) + "\n")
	}
	for _, r := range list(d.get("references")) {
		b.WriteString("See " + oneLine(r) + "\n")
	}
	return b.String()
}

// oneLine makes a text of one line and of characters that show.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
}

// wrap breaks a text at lineWidth.
func wrap(text string) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(oneLine(text)) {
		if line != "" && len(line)+1+len(word) > lineWidth {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n")
}

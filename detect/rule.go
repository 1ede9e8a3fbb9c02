package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Rule is a written detection as its author wrote it. One YAML file holds one rule and its tests.
type Rule struct {
	ID         string       `yaml:"id"`
	Version    string       `yaml:"version"`
	Title      string       `yaml:"title"`
	Severity   Severity     `yaml:"severity"`
	Confidence Confidence   `yaml:"confidence"`
	Lane       Lane         `yaml:"lane"`
	On         []event.Kind `yaml:"on"` // kinds of events it looks at
	// Key is what a stateful rule counts for: session or agent.
	Key string `yaml:"key"`
	// When is an expr expression over Env that decides about one event.
	When string `yaml:"when"`
	// Count makes the rule fire on the Nth matching event of a key within a window, instead of on each.
	Count *Count `yaml:"count"`
	// Suppress keeps the rule silent for a key after it fired, in event time; a count rule's default is its window.
	Suppress time.Duration `yaml:"suppress"`
	Tags     Tags          `yaml:"tags"`
	// Capture is what must be recorded for the rule to see anything: metadata, arguments, content.
	Capture        string   `yaml:"capture"`
	Triage         string   `yaml:"triage"`
	FalsePositives []string `yaml:"false_positives"`
	Playbook       string   `yaml:"playbook"`
	Tests          []Test   `yaml:"tests"`

	File   string `yaml:"-"`
	Digest string `yaml:"-"` // SHA-256 of the file's text

	source source // for the places of errors
}

// Count is a number of matching events within a sliding window of event time.
type Count struct {
	AtLeast int           `yaml:"at_least"`
	Within  time.Duration `yaml:"within"`
	// Same counts only events that share this value with each other: a string expression over Env, such as tool.signature.
	Same string `yaml:"same"`
}

// Tags place a rule in the field's catalogues; each id must exist in them.
type Tags struct {
	ASI   []string `yaml:"asi" json:"asi,omitempty"`     // OWASP Top 10 for Agentic Applications 2026
	ATLAS []string `yaml:"atlas" json:"atlas,omitempty"` // MITRE ATLAS
}

// Test is a stream of events and whether the rule fires on it.
type Test struct {
	Name string `yaml:"name"`
	// Fires is how often the rule fires on the stream; 0 for a near miss. Evasion marks a documented miss.
	Fires   int         `yaml:"fires"`
	Evasion bool        `yaml:"evasion"`
	Events  []yaml.Node `yaml:"events"`
}

// Limits on a rule. They bound its cost before it runs.
const (
	maxRuleBytes = 256 << 10
	maxCount     = 1000
	maxWindow    = 7 * 24 * time.Hour
)

// ParseRule reads one rule file. Errors name the file, and the line and field where there is one.
func ParseRule(file string, text []byte, catalogue Catalogue) (Rule, error) {
	if len(text) > maxRuleBytes {
		return Rule{}, fmt.Errorf("%s: %d bytes, a rule has at most %d", file, len(text), maxRuleBytes)
	}
	r := Rule{File: file, source: source{lines: strings.Split(string(text), "\n")}}
	if err := strict.YAML(file, text, &r); err != nil {
		return Rule{}, err
	}
	if err := yaml.Unmarshal(text, &r.source.document); err != nil {
		return Rule{}, strict.Explain(file, err, reflect.TypeFor[Rule]())
	}
	sum := sha256.Sum256(text)
	r.Digest = hex.EncodeToString(sum[:])
	if err := r.check(catalogue); err != nil {
		return Rule{}, err
	}
	return r, nil
}

func (r *Rule) check(catalogue Catalogue) error {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{2,63}$`).MatchString(r.ID) {
		return r.locate("id", fmt.Errorf("%q: want 3 to 64 lower-case letters, digits and hyphens", r.ID))
	}
	for _, f := range []struct{ name, value string }{{"version", r.Version}, {"title", r.Title}, {"when", r.When}, {"triage", r.Triage}} {
		if strings.TrimSpace(f.value) == "" {
			return r.locate(f.name, errors.New("is missing"))
		}
	}
	if r.Confidence == "" {
		r.Confidence = MediumConfidence
	}
	if r.Lane == "" {
		r.Lane = Alert
	}
	if r.Key == "" {
		r.Key = "session"
	}
	if r.Capture == "" {
		r.Capture = "metadata"
	}
	if err := r.checkChoices(); err != nil {
		return err
	}
	if err := catalogue.check(r.Tags); err != nil {
		return r.locate("tags", err)
	}
	if err := r.checkTests(); err != nil {
		return err
	}
	return r.checkCount()
}

func (r *Rule) checkTests() error {
	seen := make(map[string]bool)
	for i, t := range r.Tests {
		at := fmt.Sprintf("tests.%d", i)
		switch {
		case t.Name == "" || seen[t.Name]:
			return r.locate(at, fmt.Errorf("name %q is empty or taken", t.Name))
		case t.Fires < 0:
			return r.locate(at, fmt.Errorf("fires is %d, want 0 or more", t.Fires))
		case t.Evasion && t.Fires > 0:
			return r.locate(at, errors.New("an evasion is a documented miss, want fires: 0"))
		case len(t.Events) == 0:
			return r.locate(at, errors.New("has no events"))
		}
		seen[t.Name] = true
	}
	return nil
}

func (r *Rule) checkChoices() error {
	choices := []struct {
		field, value string
		want         []string
	}{
		{"severity", string(r.Severity), []string{string(Low), string(Medium), string(High), string(Critical)}},
		{"confidence", string(r.Confidence), []string{string(LowConfidence), string(MediumConfidence), string(HighConfidence)}},
		{"lane", string(r.Lane), []string{string(Hunt), string(Shadow), string(Alert), string(Propose)}},
		{"key", r.Key, []string{"session", "agent"}},
		{"capture", r.Capture, []string{"metadata", "arguments", "content"}},
	}
	for _, c := range choices {
		if !slices.Contains(c.want, c.value) {
			return r.locate(c.field, fmt.Errorf("%q is not one of %s%s", c.value, strings.Join(c.want, ", "), strict.Suggest(c.value, c.want)))
		}
	}
	if len(r.On) == 0 {
		return r.locate("on", errors.New("is missing: name the kinds of events the rule looks at"))
	}
	kinds := make([]string, 0, len(event.Kinds()))
	for _, k := range event.Kinds() {
		kinds = append(kinds, string(k))
	}
	for i, k := range r.On {
		if !slices.Contains(kinds, string(k)) {
			return r.locate("on", fmt.Errorf("%q is no kind of event%s", k, strict.Suggest(string(k), kinds)))
		}
		if slices.Contains(r.On[:i], k) { // it would count each event twice
			return r.locate("on", fmt.Errorf("%q stands there twice", k))
		}
	}
	return nil
}

func (r *Rule) checkCount() error {
	if r.Suppress < 0 {
		return r.locate("suppress", fmt.Errorf("%s: want 0s or more", r.Suppress))
	}
	if r.Count == nil {
		return nil
	}
	if n := r.Count.AtLeast; n < 2 || n > maxCount {
		return r.locate("count.at_least", fmt.Errorf("%d: want 2 to %d", n, maxCount))
	}
	if w := r.Count.Within; w < time.Second || w > maxWindow {
		return r.locate("count.within", fmt.Errorf("%s: want 1s to %s", w, maxWindow))
	}
	if r.Suppress == 0 {
		r.Suppress = r.Count.Within
	}
	return nil
}

// ReadRules parses every *.yaml file under root, in the order of their names. All errors are returned together.
func ReadRules(fsys fs.FS, catalogue Catalogue) ([]Rule, error) {
	var rules []Rule
	err := strict.Files(fsys, func(name string, text []byte) error {
		r, err := ParseRule(name, text, catalogue)
		if err == nil {
			rules = append(rules, r)
		}
		return err
	})
	return rules, err
}

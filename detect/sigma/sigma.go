// Package sigma turns Sigma rules and correlation rules (specification 2.x) into rule files of this engine, which an engineer reviews,
// gives tests and commits. It reads and evaluates nothing itself. What can't keep its meaning here is a Problem that names file, line,
// field and reason, and no rule: Sigma's specification asks this of a converter. The parser is our own; docs/adr/0007 says why.
package sigma

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/tocsin-dr/tocsin/detect"
)

// File is a file with Sigma rules. One file may hold several documents.
type File struct {
	Name string
	Text []byte
}

// Rule is an imported rule: the text of a rule file that loads.
type Rule struct {
	ID    string `json:"id"` // also the base name of its file
	Title string `json:"title"`
	File  string `json:"file"` // where its Sigma rule stands
	Line  int    `json:"line"`
	// Lane is the lane after the rule has tests. Until then the text says shadow.
	Lane detect.Lane `json:"lane_with_tests"`
	// Notes say where the rule sees less than its origin did: what a reviewer must know.
	Notes []string `json:"notes,omitempty"`
	Text  string   `json:"text"`
}

// Reason groups problems for statistics.
type Reason string

// The reasons. Each is something that a rule asks for and cannot have here.
const (
	ReasonFormat      Reason = "format"             // no YAML, or not of the specification's form
	ReasonStatus      Reason = "status"             // deprecated or unsupported by its author
	ReasonSource      Reason = "log source"         // no telemetry of agents corresponds to it
	ReasonField       Reason = "field"              // no source of agents sends it
	ReasonProgram     Reason = "program path"       // the directory of a program is not known
	ReasonModifier    Reason = "modifier"           // fieldref, expand and the like
	ReasonValue       Reason = "value"              // a value that the field can't be compared with
	ReasonRegexp      Reason = "regular expression" // not RE2
	ReasonCondition   Reason = "condition"          // aggregations, unknown identifiers
	ReasonCorrelation Reason = "correlation"        // no operator keeps its meaning
	ReasonLimit       Reason = "limit"              // larger or costlier than one rule may be
)

// Problem says why a Sigma rule has no counterpart, or is no Sigma rule.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Field  string `json:"field"`
	Reason Reason `json:"reason"`
	Why    string `json:"why"`
}

// Error implements error.
func (p *Problem) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Field, p.Why)
}

// Result is what became of the documents: each is among the rules, among the problems, or only referred to by a correlation.
type Result struct {
	Rules    []Rule     `json:"rules"`
	Problems []*Problem `json:"problems"`
	// Documents is how many there were; Refused how many of them have a problem.
	Documents int `json:"documents"`
	Refused   int `json:"refused"`
}

// Import translates the documents of files, which may refer to each other. Every rule of the result loads and compiles against the library.
func Import(files []File, library *detect.Library) Result {
	im := &importer{library: library, byName: make(map[string]*document), inner: make(map[*document]bool), ids: make(map[string]*document)}
	for _, f := range files {
		docs, problem := parse(f)
		if problem != nil {
			im.refuse(problem)
		}
		im.docs = append(im.docs, docs...)
	}
	im.index()
	for _, d := range im.docs {
		if !im.inner[d] {
			im.add(d)
		}
	}
	im.result.Documents += len(im.docs)
	return im.result
}

type importer struct {
	library *detect.Library
	docs    []*document
	byName  map[string]*document // by name and by id
	inner   map[*document]bool   // those that only correlations evaluate
	ids     map[string]*document // of the rules made so far
	result  Result
}

// refuse records the problems of one document that could not even be read.
func (im *importer) refuse(problems ...*Problem) {
	im.result.Problems = append(im.result.Problems, problems...)
	im.result.Documents, im.result.Refused = im.result.Documents+1, im.result.Refused+1
}

// index finds the documents by name, and those that a correlation does not let stand alone.
func (im *importer) index() {
	for _, d := range im.docs {
		for _, name := range []string{d.text("id"), d.text("name")} {
			if name != "" {
				im.byName[name] = d
			}
		}
	}
	for _, d := range im.docs {
		if d.get("correlation") == nil || d.flag("generate") || flag(child(d.get("correlation"), "generate")) {
			continue
		}
		for _, name := range list(child(d.get("correlation"), "rules")) {
			if other := im.byName[name]; other != nil && other != d {
				im.inner[other] = true
			}
		}
	}
}

// add translates one document and keeps the rule, or its problems.
func (im *importer) add(d *document) {
	rule, problems := im.translate(d, false)
	if hasReason(problems, ReasonLimit) { // as one pattern for each list it may fit
		rule, problems = im.translate(d, true)
	}
	if rule != nil {
		if other := im.ids[rule.ID]; other != nil {
			problems = []*Problem{d.problem(d.node, "id", ReasonFormat, "gives the rule %s, as %s:%d does", rule.ID, other.file, other.node.Line)}
		}
	}
	if len(problems) > 0 {
		im.result.Problems = append(im.result.Problems, dedupe(problems)...)
		im.result.Refused++
		return
	}
	im.ids[rule.ID] = d
	im.result.Rules = append(im.result.Rules, *rule)
}

// translate makes the rule of a document. Compact prefers one long pattern over many short comparisons.
func (im *importer) translate(d *document, compact bool) (*Rule, []*Problem) {
	if status := d.text("status"); status == "deprecated" || status == "unsupported" {
		return nil, []*Problem{d.problem(d.get("status"), "status", ReasonStatus, "is %s: its author does not want it used", status)}
	}
	var o *outcome
	var problems []*Problem
	if d.get("correlation") != nil {
		o, problems = im.correlate(d, compact)
	} else {
		o, problems = compile(d, compact)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	rule, err := render(d, o, im.library)
	if err != nil {
		return nil, []*Problem{d.problem(d.node, "rule", ReasonLimit, "is refused: %s", err)}
	}
	return rule, nil
}

func hasReason(problems []*Problem, reason Reason) bool {
	return slices.ContainsFunc(problems, func(p *Problem) bool { return p.Reason == reason })
}

// dedupe sorts problems by their place; a detection that a condition names twice has its problems once.
func dedupe(problems []*Problem) []*Problem {
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Why, b.Why))
	})
	return slices.CompactFunc(problems, func(a, b *Problem) bool { return *a == *b })
}

// load makes sure that the engine takes the text.
func load(name, text string, library *detect.Library) error {
	r, err := detect.ParseRule(name, []byte(text), library)
	if err != nil {
		return err
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err == nil && len(set.Rules()) != 1 {
		err = errors.New("does not compile")
	}
	return err
}

package detect

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// literal is a piece that a text must hold.
type literal struct {
	text string
	// fold says what else than the text itself counts as it.
	fold fold
	// start and end say that it must stand there.
	start, end bool
}

// fold is how much the case of a literal's letters matters.
type fold uint8

const (
	foldNone  fold = iota
	foldRegex      // as (?i) does
	foldCase       // as lower() and upper() do
)

// otherLetters are the characters beyond ASCII that an ASCII letter stands for as well. For lower() and upper() they are those
// that either maps to it.
func (f fold) otherLetters(c byte) []string {
	switch {
	case f == foldNone:
		return nil
	case c|0x20 == 'k':
		return []string{"\u212a"}
	case c|0x20 == 's':
		return []string{"\u017f"}
	case c|0x20 == 'i' && f == foldCase:
		return []string{"\u0130", "\u0131"}
	}
	return nil
}

// Limits on the literals of one expression. Shorter and fewer ones are still necessary, only less telling.
const (
	maxLiteralBytes    = 32
	maxLiteralSet      = 64
	maxLiteralVariants = 8
)

// shorten cuts a literal to the limits, and lowers it where its case does not matter. What is left is a part of it.
func (l literal) shorten() literal {
	if l.fold != foldNone {
		l.text = foldASCII(l.text)
	}
	if len(l.text) > maxLiteralBytes {
		if l.end && !l.start {
			l.text = l.text[len(l.text)-maxLiteralBytes:]
		} else {
			l.text, l.end = l.text[:maxLiteralBytes], false
		}
	}
	for n, i := 1, 0; i < len(l.text); i++ {
		if n *= 1 + len(l.fold.otherLetters(l.text[i])); n > maxLiteralVariants {
			l.text, l.end = l.text[:i], false
			break
		}
	}
	return l
}

// variants returns the texts of which one stands where the literal stands, letter case aside where it folds.
func (l literal) variants() []string {
	if l.fold == foldNone {
		return []string{l.text}
	}
	out := []string{""}
	for i := range len(l.text) {
		n := len(out)
		for _, other := range l.fold.otherLetters(l.text[i]) {
			for _, v := range out[:n] {
				out = append(out, v+other)
			}
		}
		for j := range out[:n] {
			out[j] += l.text[i : i+1]
		}
	}
	return out
}

// foldASCII lowers the ASCII letters and nothing else.
func foldASCII(text string) string {
	out := []byte(text)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return string(out)
}

// caseFolded returns pieces of a text that lower() or upper() leaves in every text that it makes the text from. Characters beyond
// ASCII break it, because more than one may become the same.
func caseFolded(l literal) literal {
	best, n := "", 0
	for i := 0; i <= len(l.text); i++ {
		if i < len(l.text) && l.text[i] < utf8.RuneSelf {
			n++
			continue
		}
		if n > len(best) {
			best = l.text[i-n : i]
		}
		n = 0
	}
	whole := len(best) == len(l.text)
	return literal{text: best, fold: foldCase, start: l.start && whole, end: l.end && whole}
}

// requiredLiterals returns literals of which every text that matches the pattern holds at least one; nil if there are none such.
func requiredLiterals(pattern string, estimate func([]literal) float64) []literal {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	a := literalAnalysis{estimate: estimate}
	return a.best(a.analyse(re.Simplify()))
}

// requiredTogether returns tests that hold of every text that the pattern matches: one literal of a set is in it. They are what a
// filter asks before the pattern, so they are few.
func requiredTogether(pattern string) []func(text string) bool {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	a := literalAnalysis{estimate: func(all []literal) float64 { return float64(len(all)) }}
	re = re.Simplify()
	p := a.analyse(re)
	var out []func(string) bool
	for _, set := range append(p.together, a.best(p)) {
		if len(set) > 0 && len(out) < maxTogether {
			out = append(out, holdsOne(set))
		}
	}
	return out
}

// maxTogether bounds the sets of a pattern, and maxApart the literals of one that are looked for one by one.
const (
	maxTogether = 8
	maxApart    = 8
)

// holdsOne returns the test whether a text holds one of the literals, wherever it stands.
func holdsOne(set []literal) func(text string) bool {
	folds := slices.ContainsFunc(set, func(l literal) bool { return l.fold != foldNone })
	if !folds && len(set) <= maxApart {
		return func(text string) bool {
			return slices.ContainsFunc(set, func(l literal) bool { return strings.Contains(text, l.text) })
		}
	}
	needles := newNeedles()
	for _, l := range set {
		for _, v := range l.variants() {
			if folds {
				v = foldASCII(v)
			}
			needles.add(v, false, false, 0)
		}
	}
	return newAutomaton(needles.list(), folds).has
}

// literalAnalysis finds the literals that a simplified regular expression needs, in the manner of codesearch's trigram queries.
type literalAnalysis struct{ estimate func([]literal) float64 }

// parts is what is known of a regular expression: exact are the only texts that it can match, nil if they are many; begins are
// literals with one of which each match begins, nil if none are known; needed are those of which a match holds at least one;
// together are more such sets.
type parts struct {
	exact, begins, needed []literal
	together              [][]literal
}

// opens returns what each match begins with.
func (p parts) opens() []literal {
	if p.exact != nil {
		return p.exact
	}
	return p.begins
}

// best returns the more telling of what is known.
func (a literalAnalysis) best(p parts) []literal {
	exact := telling(p.exact)
	switch {
	case exact == nil:
		return p.needed
	case p.needed == nil || a.estimate(exact) <= a.estimate(p.needed):
		return exact
	}
	return p.needed
}

// telling returns the literals, shortened, or nil if one of them is empty and thus in every text.
func telling(exact []literal) []literal {
	out := make([]literal, 0, len(exact))
	for _, l := range exact {
		if l = l.shorten(); l.text == "" {
			return nil
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (a literalAnalysis) analyse(re *syntax.Regexp) parts {
	switch re.Op {
	case syntax.OpLiteral:
		return literalParts(re)
	case syntax.OpCharClass:
		return classParts(re)
	case syntax.OpBeginText:
		return parts{exact: []literal{{start: true}}}
	case syntax.OpEndText:
		return parts{exact: []literal{{end: true}}}
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return parts{exact: []literal{{}}}
	case syntax.OpCapture:
		return a.analyse(re.Sub[0])
	case syntax.OpPlus:
		p := a.analyse(re.Sub[0])
		return parts{begins: p.opens(), needed: a.best(p)}
	case syntax.OpQuest:
		if p := a.analyse(re.Sub[0]); p.exact != nil && len(p.exact) < maxLiteralSet {
			return parts{exact: append([]literal{{}}, p.exact...)}
		}
	case syntax.OpConcat:
		return a.concat(re.Sub)
	case syntax.OpAlternate:
		return a.alternate(re.Sub)
	}
	return parts{} // any character, a star, or no match at all
}

// literalParts takes a literal as it is, and in parts where a character folds to ones beyond ASCII.
func literalParts(re *syntax.Regexp) parts {
	f := foldNone
	if re.Flags&syntax.FoldCase != 0 {
		f = foldRegex
	}
	var runs []string
	var run strings.Builder
	for _, r := range re.Rune {
		if r == utf8.RuneError || f == foldRegex && r >= utf8.RuneSelf && unicode.SimpleFold(r) != r {
			runs = append(runs, run.String())
			run.Reset()
			continue
		}
		run.WriteRune(r)
	}
	runs = append(runs, run.String())
	if len(runs) == 1 {
		return parts{exact: []literal{{text: runs[0], fold: f}}}
	}
	longest := ""
	for _, r := range runs {
		if len(r) > len(longest) {
			longest = r
		}
	}
	return parts{needed: telling([]literal{{text: longest, fold: f}})}
}

// maxClass bounds the characters of a class that are tried one by one.
const maxClass = 8

func classParts(re *syntax.Regexp) parts {
	var out []literal
	for i := 0; i+1 < len(re.Rune); i += 2 {
		for r := re.Rune[i]; r <= re.Rune[i+1]; r++ {
			if len(out) == maxClass || r == utf8.RuneError {
				return parts{}
			}
			out = append(out, literal{text: string(r)})
		}
	}
	return parts{exact: out}
}

// concat joins the texts of neighbours as long as they are few, and takes the most telling of the joined ones.
func (a literalAnalysis) concat(subs []*syntax.Regexp) parts {
	run, whole := []literal{{}}, true
	var begins, needed []literal
	var together [][]literal
	flush := func() {
		if set := telling(run); set != nil {
			together = append(together, set)
		}
		needed = a.best(parts{exact: run, needed: needed})
		if whole {
			begins = run
		}
		run, whole = []literal{{}}, false
	}
	for _, sub := range subs {
		p := a.analyse(sub)
		if p.exact == nil {
			if p.begins != nil && len(run)*len(p.begins) <= maxLiteralSet {
				run = product(run, p.begins)
			}
			flush()
			together = append(together, p.together...)
			if p.needed != nil {
				together = append(together, p.needed)
				needed = a.best(parts{exact: p.needed, needed: needed})
			}
			continue
		}
		if len(run)*len(p.exact) > maxLiteralSet {
			flush()
		}
		run = product(run, p.exact)
	}
	if whole {
		return parts{exact: run}
	}
	flush()
	return parts{begins: begins, needed: needed, together: together}
}

func product(left, right []literal) []literal {
	out := make([]literal, 0, len(left)*len(right))
	for _, l := range left {
		for _, r := range right {
			out = append(out, literal{
				text: l.text + r.text, fold: max(l.fold, r.fold),
				start: l.start || r.start && l.text == "", end: r.end || l.end && r.text == "",
			})
		}
	}
	return out
}

func (a literalAnalysis) alternate(subs []*syntax.Regexp) parts {
	exact, begins, needed := []literal{}, []literal{}, []literal{}
	for _, sub := range subs {
		p := a.analyse(sub)
		exact, begins, needed = join(exact, p.exact), join(begins, p.opens()), join(needed, a.best(p))
	}
	return parts{exact: exact, begins: begins, needed: needed}
}

// join adds the literals of one more side; nil where a side has none or they become too many.
func join(all, side []literal) []literal {
	if all == nil || side == nil || len(all)+len(side) > maxLiteralSet {
		return nil
	}
	return append(all, side...)
}

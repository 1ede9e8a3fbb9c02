package sigma

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// modifiers is what the parts of a key after the field ask for.
type modifiers struct {
	contains, starts, ends bool
	all, cased, exists     bool
	windash, cidr, neq     bool
	re                     bool
	flags                  string // of re
	compare                string // the operator of gt and its like
	encode                 []string
}

// Modifiers by what becomes of them.
var (
	refusedModifiers = map[string]string{
		"fieldref": "compares two fields of an event, which no rule here does",
		"expand":   "has a placeholder that only its author's pipeline can fill: write the values out",
		"minute":   "takes a part of a date, and no field here is one", "hour": "takes a part of a date, and no field here is one",
		"day": "takes a part of a date, and no field here is one", "week": "takes a part of a date, and no field here is one",
		"month": "takes a part of a date, and no field here is one", "year": "takes a part of a date, and no field here is one",
	}
	comparisons = map[string]string{"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
	encodings   = []string{"base64", "base64offset", "wide", "utf16le", "utf16be", "utf16"}
)

// parseModifiers reads the modifiers of a key in their order.
func parseModifiers(names []string) (m modifiers, err error) {
	for _, name := range names {
		switch {
		case refusedModifiers[name] != "":
			return m, fmt.Errorf("%s %s", name, refusedModifiers[name])
		case comparisons[name] != "":
			m.compare = comparisons[name]
		case slices.Contains(encodings, name):
			if m.contains || m.starts || m.ends {
				return m, fmt.Errorf("%s stands after the modifier that places it, and would encode its wildcards", name)
			}
			m.encode = append(m.encode, name)
		case m.re && (name == "i" || name == "m" || name == "s"):
			m.flags += name
		default:
			on, ok := m.switches()[name]
			if !ok {
				return m, fmt.Errorf("%q is no modifier%s", name, strict.Suggest(name, knownModifiers(m)))
			}
			*on = true
		}
	}
	return m, m.check()
}

func (m *modifiers) switches() map[string]*bool {
	return map[string]*bool{
		"contains": &m.contains, "startswith": &m.starts, "endswith": &m.ends, "all": &m.all, "cased": &m.cased, "exists": &m.exists,
		"windash": &m.windash, "cidr": &m.cidr, "neq": &m.neq, "re": &m.re,
	}
}

func knownModifiers(m modifiers) []string {
	known := slices.Clone(encodings)
	for name := range m.switches() {
		known = append(known, name)
	}
	for name := range comparisons {
		known = append(known, name)
	}
	return known
}

// check refuses combinations that have no meaning.
func (m *modifiers) check() error {
	placed, kinds := 0, 0
	for _, on := range []bool{m.contains, m.starts, m.ends} {
		if on {
			placed++
		}
	}
	for _, on := range []bool{m.re, m.cidr, m.exists, m.compare != "", placed > 0 || m.windash || len(m.encode) > 0} {
		if on {
			kinds++
		}
	}
	last := len(m.encode) - 1
	switch {
	case placed > 1 || kinds > 1:
		return errors.New("has modifiers that contradict each other")
	case m.windash && last >= 0:
		return errors.New("has windash beside an encoding")
	case m.cased && (m.cidr || m.exists || m.compare != ""):
		return errors.New("has cased where no text is compared")
	case last >= 0 && !strings.HasPrefix(m.encode[last], "base64"):
		return fmt.Errorf("has %s without base64: such bytes are in no text of an event", m.encode[last])
	case last > 1 || last == 1 && strings.HasPrefix(m.encode[0], "base64"):
		return errors.New("encodes twice")
	}
	return nil
}

// compares reports whether there are modifiers that only a text can have.
func (m modifiers) compares() bool {
	return m.contains || m.starts || m.ends || m.cased || m.windash || m.cidr || m.re || len(m.encode) > 0
}

// part is a piece of a pattern: a literal text, or one of the constants.
type part struct {
	kind    byte // literal, any, one or dash
	literal string
}

const (
	literal = 'l'
	anyText = '*'
	oneRune = '?'
	dash    = '-'
)

// pattern is a value with its wildcards.
type pattern []part

// parsePattern reads a value: * and ? are wildcards, \ escapes them and itself, and is itself before any other character.
func parsePattern(value string) pattern {
	var p pattern
	var text strings.Builder
	end := func() {
		if text.Len() > 0 {
			p = append(p, part{literal, text.String()})
		}
		text.Reset()
	}
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && i+1 < len(value) && strings.IndexByte(`*?\`, value[i+1]) >= 0:
			i++
			text.WriteByte(value[i])
		case c == '*' || c == '?':
			end()
			if c == oneRune || len(p) == 0 || p[len(p)-1].kind != anyText {
				p = append(p, part{kind: c})
			}
		default:
			text.WriteByte(c)
		}
	}
	end()
	return p
}

// plain returns the text of a pattern without wildcards.
func (p pattern) plain() (string, bool) {
	switch {
	case len(p) == 0:
		return "", true
	case len(p) == 1 && p[0].kind == literal:
		return p[0].literal, true
	}
	return "", false
}

// text returns the literal pieces, one after the other.
func (p pattern) text() string {
	var b strings.Builder
	for _, piece := range p {
		b.WriteString(piece.literal)
	}
	return b.String()
}

// place surrounds a pattern with the wildcards of a modifier.
func (p pattern) place(m modifiers) pattern {
	if (m.contains || m.ends) && (len(p) == 0 || p[0].kind != anyText) {
		p = append(pattern{{kind: anyText}}, p...)
	}
	if (m.contains || m.starts) && (len(p) == 0 || p[len(p)-1].kind != anyText) {
		p = append(p, part{kind: anyText})
	}
	return p
}

// open reports whether a pattern begins or ends with any text.
func (p pattern) open() (start, end bool) {
	if len(p) == 0 {
		return false, false
	}
	return p[0].kind == anyText, p[len(p)-1].kind == anyText
}

// core is the pattern without the wildcards at its ends.
func (p pattern) core() pattern {
	start, end := p.open()
	if start {
		p = p[1:]
	}
	if end && len(p) > 0 {
		p = p[:len(p)-1]
	}
	return p
}

// flagDash is a dash or slash that begins a flag, as windash means it.
var flagDash = regexp.MustCompile(`(^|\W)([-/])(\w)`)

// dashes replaces the characters that begin a flag by the class of all that may.
func (p pattern) dashes() pattern {
	var out pattern
	for _, piece := range p {
		rest := piece.literal
		for piece.kind == literal {
			at := flagDash.FindStringSubmatchIndex(rest)
			if at == nil {
				break
			}
			if at[4] > 0 {
				out = append(out, part{literal, rest[:at[4]]})
			}
			out, rest = append(out, part{kind: dash}), rest[at[5]:]
		}
		if piece.kind != literal {
			out = append(out, piece)
		} else if rest != "" {
			out = append(out, part{literal, rest})
		}
	}
	return out
}

// patterns returns what a value stands for: itself where the modifiers place it, or the texts in which it can appear encoded.
func (m modifiers) patterns(value string) ([]pattern, error) {
	if strings.ContainsRune(value, 0) {
		return nil, errors.New("has a NUL character, which no text of an event keeps")
	}
	out := []pattern{parsePattern(value)}
	if len(m.encode) > 0 {
		text, ok := out[0].plain()
		if !ok {
			return nil, fmt.Errorf("%q has a wildcard, which can't be encoded", value)
		}
		out = literals(m.base64(m.wide([]byte(text))))
	}
	for i, p := range out {
		if out[i] = p.place(m); m.windash {
			out[i] = out[i].dashes()
		}
	}
	return out, nil
}

func literals(texts []string) []pattern {
	var out []pattern
	for _, text := range texts {
		if text == "" {
			continue
		}
		out = append(out, pattern{{literal, text}})
	}
	return out
}

func (m modifiers) wide(text []byte) []byte {
	var order binary.AppendByteOrder = binary.LittleEndian
	var out []byte
	switch m.encode[0] {
	case "utf16be":
		order = binary.BigEndian
	case "utf16":
		out = []byte{0xff, 0xfe}
	case "wide", "utf16le":
	default:
		return text
	}
	for _, unit := range utf16.Encode([]rune(string(text))) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

// base64 encodes. At an offset, it keeps the characters that the neighbours don't change.
func (m modifiers) base64(text []byte) []string {
	if m.encode[len(m.encode)-1] == "base64" {
		return []string{base64.StdEncoding.EncodeToString(text)}
	}
	var out []string
	for offset, start := range []int{0, 2, 3} {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, offset), text...))
		end := len(encoded) - []int{0, 3, 2}[(len(text)+offset)%3]
		if start < end {
			out = append(out, encoded[start:end])
		}
	}
	return out
}

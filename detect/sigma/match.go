package sigma

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var plainNumber = regexp.MustCompile(`^-?[0-9]{1,15}(\.[0-9]{1,9})?$`)

// launchers run the command in their arguments, or are words of the shell before one. detect names a command by the program they
// run and keeps them in its text, where Sigma sees two processes.
var launchers = []string{
	"sudo", "doas", "env", "nohup", "time", "command", "exec", "builtin", "nice", "setsid", "stdbuf", "xargs", "timeout",
}

// launched is a regular expression for what can stand before a program in a command's text.
var launched = `(?:\w+=[^ ]* )*(?:(?:(?:[^ ]*/)?(?:` + strings.Join(launchers, "|") + `|if|then|else|elif|do|while|until|!|\{) )` +
	`(?:(?:-[ugI] [^ ]+|-[^ ]*|\w+=[^ ]*|[0-9][0-9smhd.]*) )*)*`

// shape is how a field's text surrounds a pattern in a regular expression.
type shape struct{ start, floating, end, any string }

func (f field) shape() shape {
	switch f.kind {
	case command:
		return shape{"^" + launched, "", "$", ".*"}
	case query:
		return shape{`^[^?]*\?`, `\?.*`, "$", ".*"}
	case stem, extension:
		const host = `^(?:[a-z][a-z0-9+.-]*://[^/?#]*)?`
		return shape{host, host + `/[^?#]*`, `(?:[?#]|$)`, `[^?#]*`}
	}
	return shape{"^", "", "$", ".*"}
}

// quote writes a text as a literal of the rule language.
func quote(text string) string { return strconv.Quote(text) }

// subject is the field as it is compared: in lower case, unless case counts.
func (f field) subject(m modifiers) string {
	if f.lower || m.cased {
		return f.expr
	}
	return "lower(" + f.expr + ")"
}

// fold is a literal as it is compared.
func fold(text string, m modifiers) string {
	if m.cased {
		return text
	}
	return strings.ToLower(text)
}

// patterns says that the field matches one of several patterns. Texts without wildcards within become comparisons, the others one
// regular expression; in compact form everything does that is more than one.
func (c *compiler) patterns(at *yaml.Node, where string, f field, m modifiers, patterns []pattern) *logic {
	if m.cased && f.lower {
		return c.fail(at, where, ReasonModifier, "is cased, and known in lower case only")
	}
	switch f.kind {
	case program, originalName:
		return c.programs(at, where, f, patterns)
	case address:
		return c.addresses(at, where, f, patterns)
	}
	q := comparer{field: f, modifiers: m, patternsOnly: c.compact && len(patterns) > 1}
	for _, p := range patterns {
		if f.kind == extension {
			p = extensionPattern(p)
		}
		if why := f.unable(p); why != "" {
			return c.fail(at, where, ReasonValue, "%s", why)
		}
		if f.kind == command && !c.possible(p) {
			if c.negated && !c.whole {
				return c.fail(at, where, ReasonValue, unseen+", and under a not that is no answer")
			}
			continue
		}
		q.add(p)
	}
	return q.logic()
}

// possible reports whether the record can hold a pattern at all, and remembers what that means for the rule.
func (c *compiler) possible(p pattern) bool {
	start, _ := p.open()
	switch {
	case !c.whole:
		c.spans = c.spans || strings.ContainsAny(p.text(), splits)
		seen := c.seen(p.text())
		c.lost = c.lost || !seen
		return seen
	case !start && len(p) > 0: // how the shell was started is not known
		c.unsure = c.unsure || c.negated
		return false
	}
	return true
}

// splits are characters that part commands or that a shell takes away: a text with one may be in no single command's text.
const splits = "|;&()\\\"'`\n"

// comparer collects the comparisons of one field.
type comparer struct {
	field
	modifiers
	patternsOnly  bool
	out           []*logic
	equal, bodies []string // literals, regular expressions
}

func (q *comparer) add(p pattern) {
	text, plain := p.core().plain()
	start, end := p.open()
	text = quote(fold(text, q.modifiers))
	anchored := q.kind == query || q.kind == stem || q.kind == extension || q.kind == command && !start // not at the text's own start
	switch {
	case plain && text == `""` && (start || end):
		q.out = append(q.out, q.present())
	case plain && text == `""`:
		q.out = append(q.out, not(q.present()))
	case plain && !anchored && !start && !end:
		q.equal = append(q.equal, text)
	case !plain || anchored || q.patternsOnly:
		q.bodies = append(q.bodies, q.regexp(p))
	default:
		operator := map[[2]bool]string{{true, true}: "contains", {true, false}: "endsWith", {false, true}: "startsWith"}[[2]bool{start, end}]
		q.out = append(q.out, atom(q.subject(q.modifiers)+" "+operator+" "+text))
	}
}

func (q *comparer) logic() *logic {
	if len(q.equal) > 0 {
		q.out = append(q.out, equals(q.subject(q.modifiers), q.equal))
	}
	if len(q.bodies) > 0 {
		q.out = append(q.out, atom(q.expr+" matches "+quote(flagsOf(q.modifiers)+alternatives(q.bodies))))
	}
	return oneOf(q.out...)
}

// extensionPattern is the end of a path with an extension.
func extensionPattern(p pattern) pattern {
	if text, ok := p.plain(); ok && text != "" {
		return pattern{{kind: anyText}, {literal, "." + strings.TrimPrefix(text, ".")}}
	}
	return nil
}

func flagsOf(m modifiers) string {
	if m.cased {
		return "(?s)"
	}
	return "(?is)"
}

func alternatives(bodies []string) string { return strings.Join(bodies, "|") }

func equals(subject string, values []string) *logic {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	if len(values) == 1 {
		return atom(subject + " == " + values[0])
	}
	return atom(subject + " in [" + strings.Join(values, ", ") + "]")
}

// present says that the field is there, and not empty: events don't tell these apart.
func (f field) present() *logic {
	if f.kind == query {
		return atom(f.expr + ` contains "?"`)
	}
	return not(atom(f.expr + ` == ""`))
}

// unable says why a pattern can't be looked for.
func (f field) unable(p pattern) string {
	start, _ := p.open()
	switch {
	case f.kind == extension && len(p) == 0:
		return "wants a file's extension, whole"
	case f.expr == "tool.url" && f.kind == plainText && p.slash():
		return "begins with a /: the URL of an agent's request is a full one"
	case f.kind == stem && len(p) > 0 && !start && !p.slash():
		return "does not begin with a /, as the path of a URL does"
	}
	return ""
}

// slash reports whether a pattern begins with a /, so that what it matches can't begin within the host of a URL.
func (p pattern) slash() bool { return len(p) > 0 && strings.HasPrefix(p[0].literal, "/") }

const unseen = "has a \\ or a quotation mark: a command line is taken apart as a POSIX shell does, which keeps neither"

// seen reports whether a text can be in the text of a command. On Windows a command line is taken apart as a POSIX shell does all
// the same, which drops what Windows keeps.
func (c *compiler) seen(text string) bool {
	return c.whole || !c.source.windows || !strings.ContainsAny(text, `\"`)
}

// regexp writes a pattern as a regular expression without flags.
func (f field) regexp(p pattern) string {
	s := f.shape()
	start, end := p.open()
	var b strings.Builder
	switch {
	case start && f.kind == stem && p.core().slash(): // it may be the first / of the path
		b.WriteString(strings.TrimSuffix(s.floating, `/[^?#]*`) + `(?:/[^?#]*)?`)
	case start:
		b.WriteString(s.floating)
	default:
		b.WriteString(s.start)
	}
	for _, piece := range p.core() {
		switch piece.kind {
		case anyText:
			b.WriteString(s.any)
		case oneRune:
			b.WriteString(".")
		case dash:
			b.WriteString(`[-/–—―]`)
		default:
			b.WriteString(regexp.QuoteMeta(piece.literal))
		}
	}
	if !end {
		b.WriteString(s.end)
	}
	return b.String()
}

// programs compares the path of a program. Of it only the last part is known, so that a pattern must not look at the rest.
func (c *compiler) programs(at *yaml.Node, where string, f field, patterns []pattern) *logic {
	var out []*logic
	var names, before []string
	if c.whole { // some shell: no other program, and which shell is not known
		c.unsure = c.unsure || c.negated && slices.ContainsFunc(patterns, namesShell)
		return constant(false)
	}
	for _, p := range patterns {
		start, end := p.open()
		text, isLiteral := p.core().plain()
		text = strings.TrimSuffix(strings.ToLower(text), ".exe")
		slash := strings.LastIndexAny(text, `/\`)
		switch {
		case f.kind == originalName && isLiteral && !start && !end && slash < 0 && text != "":
			names = append(names, text) // a name and no path
		case !isLiteral || !start || end || slash > 0:
			return c.fail(at, where, ReasonProgram, "looks at the directory of the program, and a command says only its name")
		case text == "" || text == "/" || text == `\`:
			return c.fail(at, where, ReasonProgram, "names no program")
		case slash == 0:
			names = append(names, text[1:])
		default:
			out = append(out, atom(f.expr+" endsWith "+quote(text)))
			for _, l := range launchers {
				if strings.HasSuffix(l, text) {
					before = append(before, l)
				}
			}
		}
	}
	var plain []string
	for _, n := range names {
		if slices.Contains(launchers, n) {
			before = append(before, n)
		} else {
			plain = append(plain, quote(n))
		}
	}
	if len(plain) > 0 {
		out = append(out, equals(f.expr, plain))
	}
	if len(before) > 0 {
		out = append(out, atom(".text matches "+quote(`(?is)^`+launched+`(?:[^ ]*/)?(?:`+alternatives(before)+`)(?: |$)`)))
	}
	return oneOf(out...)
}

// anyShell are programs that may run a whole command line.
var anyShell = []string{"ash", "bash", "cmd", "csh", "dash", "fish", "ksh", "powershell", "pwsh", "sh", "tcsh", "zsh"}

// namesShell reports whether a pattern for a program can mean a shell.
func namesShell(p pattern) bool {
	text := strings.TrimSuffix(strings.ToLower(p.text()), ".exe")
	name := text[strings.LastIndexAny(text, `/\`)+1:]
	return slices.ContainsFunc(anyShell, func(s string) bool { return s == name || name == text && strings.HasSuffix(s, name) })
}

// addresses compares the address of a host, which is one only where the host is given by it.
func (c *compiler) addresses(at *yaml.Node, where string, f field, patterns []pattern) *logic {
	var equal []string
	for _, p := range patterns {
		text, ok := p.plain()
		addr, err := netip.ParseAddr(text)
		if !ok || err != nil || !addr.Is4() {
			return c.fail(at, where, ReasonValue, "wants an IPv4 address or, with cidr, a network of them")
		}
		equal = append(equal, quote(addr.String()))
	}
	return equals(f.expr, equal)
}

// network says that an address is in an IPv4 network.
func (c *compiler) network(n *yaml.Node, where string, f field) *logic {
	prefix, err := netip.ParsePrefix(n.Value)
	if f.kind != address || err != nil || !prefix.Addr().Is4() {
		return c.fail(n, where, ReasonValue, "wants an address compared with an IPv4 network such as 10.0.0.0/8, got %q", n.Value)
	}
	base, bits := prefix.Masked().Addr().As4(), prefix.Bits()
	var octets []string
	for i, octet := range base {
		switch fixed := bits - 8*i; {
		case fixed >= 8:
			octets = append(octets, strconv.Itoa(int(octet)))
		case fixed <= 0:
			octets = append(octets, "[0-9]{1,3}")
		default:
			octets = append(octets, octetRange(int(octet), 1<<(8-fixed)))
		}
	}
	return atom(f.expr + " matches " + quote("^"+strings.Join(octets, `\.`)+"$"))
}

func octetRange(first, n int) string {
	var all []string
	for v := first; v < first+n; v++ {
		all = append(all, strconv.Itoa(v))
	}
	return "(?:" + strings.Join(all, "|") + ")"
}

// regexp says that a field matches a regular expression, which is case-sensitive unless it has the flag i.
func (c *compiler) regexp(n *yaml.Node, where string, f field, m modifiers) *logic {
	if f.kind == program || f.kind == originalName || f.kind == query || f.kind == stem || f.kind == extension || f.kind == address {
		return c.fail(n, where, ReasonRegexp, "looks at a text of which only a part is known")
	}
	if f.lower && !strings.Contains(m.flags, "i") {
		return c.fail(n, where, ReasonRegexp, "is case-sensitive, and the field is known in lower case only: add the flag i")
	}
	text := n.Value
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return c.fail(n, where, ReasonRegexp, "is no regular expression of RE2: %s", err)
	}
	if c.whole && begins(tree) { // how the shell was started is not known
		c.unsure = c.unsure || c.negated
		return constant(false)
	}
	c.spans = c.spans || f.kind == command && spans(tree)
	if f.kind == command && begins(tree) {
		rest, ok := strings.CutPrefix(text, "^")
		if tail, err := syntax.Parse(rest, syntax.Perl); !ok || strings.Contains(m.flags, "m") || err != nil || begins(tail) || tree.Op == syntax.OpAlternate {
			return c.fail(n, where, ReasonRegexp, "has a ^ that is not its first character, and a launcher such as sudo can stand before the command")
		}
		text = "^" + launched + "(?:" + rest + ")"
	}
	if f.kind == command && !c.seen(strings.ReplaceAll(strings.ReplaceAll(tree.String(), `\\`, "\""), `\`, "")) {
		if c.negated {
			return c.fail(n, where, ReasonValue, unseen+", and under a not that is no answer")
		}
		c.lost = true
		return constant(false)
	}
	flags := ""
	for _, r := range "ims" {
		if strings.ContainsRune(m.flags, r) {
			flags += string(r)
		}
	}
	if flags != "" {
		flags = fmt.Sprintf("(?%s)", flags)
	}
	return atom(f.expr + " matches " + quote(flags+text))
}

// spans reports whether an expression asks for a character that parts commands.
func spans(tree *syntax.Regexp) bool {
	return tree.Op == syntax.OpLiteral && strings.ContainsAny(string(tree.Rune), splits) || slices.ContainsFunc(tree.Sub, spans)
}

// begins reports whether an expression looks at the beginning of the text or of a line.
func begins(tree *syntax.Regexp) bool {
	return tree.Op == syntax.OpBeginText || tree.Op == syntax.OpBeginLine || slices.ContainsFunc(tree.Sub, begins)
}

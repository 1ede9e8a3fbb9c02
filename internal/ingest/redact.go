package ingest

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// secret is a shape by which a credential is recognised.
type secret struct {
	kind string
	// needles: every match holds one of them. Each word of a needle is the set of bytes that one place may have; \b is a place before
	// a word. Where a shape ignores case, the sets hold the first byte of what else folds to a letter: ſ (C5 BF) and K (E2 84 AA).
	needles []string
	// fits is false only for a text without a match; nil is always true.
	fits  func(text string) bool
	shape *regexp.Regexp
	// replace keeps what stands around the secret; "" replaces the whole match.
	replace string
}

// secrets are the well-known shapes, the more special before the more general.
var secrets = []secret{
	{kind: "private_key", needles: []string{"P R I V"}, shape: regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)`)},
	{kind: "aws_access_key", needles: []string{`\b A KS I A`}, shape: regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{kind: "aws_secret_key", needles: []string{"aA wW sS\xc5 _sS\xc5\xbf"}, shape: regexp.MustCompile(`(?i)(aws_?secret_?(?:access_?)?key[\\"']*\s*[=:]\s*[\\"']*)[A-Za-z0-9/+=]{40}`), replace: "${1}"},
	{kind: "github_token", needles: []string{`\b g h pousr _`, "b _ p a"}, shape: regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})`)},
	{kind: "gitlab_token", needles: []string{"l p a t"}, shape: regexp.MustCompile(`\bglpat-[A-Za-z0-9_.-]{20,}`)},
	{kind: "slack_token", needles: []string{"x o x abeoprs", "x a p p"}, shape: regexp.MustCompile(`\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}`)},
	{kind: "slack_webhook", needles: []string{"k s . s"}, shape: regexp.MustCompile(`hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,}`)},
	{kind: "anthropic_key", needles: []string{"s k - a"}, shape: regexp.MustCompile(`\bsk-ant-[A-Za-z0-9_-]{20,}`)},
	{kind: "openai_key", needles: []string{`\b s k -`}, shape: regexp.MustCompile(`\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]*[0-9A-Z][A-Za-z0-9_-]{19,}`)},
	{kind: "jwt", needles: []string{`\b e y J`}, shape: regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)},
	{kind: "bearer", needles: []string{`\b bB eE aA rR`}, shape: regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{16,}`), replace: "${1}"},
	{kind: "password", needles: []string{": / /"}, fits: hasUserInfo, shape: regexp.MustCompile(`(://[^\s/:@"']*:)[^\s/@"'\[]+@`), replace: "${1}[redacted:password]@"},
	{kind: "password", needles: []string{"?&; pPsScCtTaA\xc5 aAwWeElLoOcCpP\xbf sSdDcCiIkKeE\xc5\xe2"}, shape: regexp.MustCompile(`(?i)([?&;](?:password|passwd|pwd|secret|client_secret|token|access_token|api_?key)=)[^\s&;"'\[]+`), replace: "${1}"},
}

// hasUserInfo reports whether a colon is what first ends the part after a "://".
func hasUserInfo(text string) bool {
	for {
		_, rest, ok := strings.Cut(text, "://")
		if !ok {
			return false
		}
		if end := strings.IndexAny(rest, "\t\n\f\r /:@\"'"); end >= 0 && rest[end] == ':' {
			return true
		}
		text = rest
	}
}

// needles finds all needles in one pass over a text, whatever the text: each place of each needle is one bit of a word (bit-parallel
// matching, Baeza-Yates and Gonnet, 1992).
type needles struct {
	first uint64      // the bits of the needles' first places
	has   [256]uint64 // the places that may have a byte
	of    []uint64    // by secret: the bits of its needles' last places
	start uint64      // the state before a text, where a word may begin
}

func newNeedles(secrets []secret) *needles {
	n := &needles{of: make([]uint64, len(secrets))}
	place := 0
	for i, s := range secrets {
		for _, needle := range s.needles {
			n.first |= 1 << place
			for set := range strings.FieldsSeq(needle) {
				for b := range n.has {
					if set == `\b` && !isWord(byte(b)) || set != `\b` && strings.IndexByte(set, byte(b)) >= 0 {
						n.has[b] |= 1 << place
					}
				}
				place++
			}
			n.of[i] |= 1 << (place - 1)
		}
	}
	n.start = n.first & n.has[' ']
	return n
}

func isWord(b byte) bool {
	return b == '_' || '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
}

// in returns the bits of all places that were reached in a text. It takes two bytes at a time, so that a step need not wait for two others:
// after both, a place is reached from two places before, or by a needle that began between.
func (n *needles) in(text string) (reached uint64) {
	state, first := n.start, n.first
	i := 0
	for ; i+1 < len(text); i += 2 {
		a, b := n.has[text[i]], n.has[text[i+1]]
		reached |= (state<<1 | first) & a
		state = state<<2&(a<<1&b) | ((first&a)<<1|first)&b
		reached |= state
	}
	if i < len(text) {
		state = (state<<1 | first) & n.has[text[i]]
		reached |= state
	}
	return reached
}

var secretNeedles = newNeedles(secrets)

// clean replaces the secrets in a text.
func clean(text string) string {
	if len(text) < 6 { // no shape is shorter
		return text
	}
	reached := secretNeedles.in(text)
	for i := range secrets {
		s := &secrets[i]
		if reached&secretNeedles.of[i] == 0 || s.fits != nil && !s.fits(text) {
			continue
		}
		replace := s.replace
		if !strings.Contains(replace, "[") {
			replace += "[redacted:" + s.kind + "]"
		}
		if cleaned := s.shape.ReplaceAllString(text, replace); cleaned != text {
			text, reached = cleaned, secretNeedles.in(cleaned)
		}
	}
	return text
}

// redact replaces the secrets in every text of the event.
func redact(e *event.Event) {
	redactAll(
		&e.ID, &e.Tenant, &e.Error, &e.Source.Dialect, &e.Source.Scope, &e.Source.Product, &e.Source.ProductVersion, &e.Source.Instance,
		&e.Source.Authn, &e.Agent.ID, &e.Agent.Name, &e.Agent.Service, &e.Agent.Class, &e.Agent.Version, &e.Agent.Framework, &e.Agent.Parent,
		&e.Agent.Basis, &e.Session.ID, &e.Session.Turn, &e.Session.Basis, &e.Principal.ID, &e.Principal.Email, &e.Principal.Org,
		&e.Trace.TraceID, &e.Trace.SpanID, &e.Trace.ParentID, &e.Trace.Name,
	)
	redactAll(&e.Kind)
	redactAll(&e.Outcome)
	if e.Tool != nil {
		redactTool(e.Tool)
	}
	if d := e.Decision; d != nil {
		redactAll(&d.Effect, &d.By, &d.Mode, &d.Reason)
	}
	if m := e.Model; m != nil {
		redactAll(&m.Provider, &m.Name)
	}
	for i := range e.Agent.Ancestors {
		redactAll(&e.Agent.Ancestors[i])
	}
	for i := range e.Destinations {
		d := &e.Destinations[i]
		redactAll(&d.Kind, &d.Value, &d.Arg)
	}
	for i := range e.Content {
		redactContent(&e.Content[i])
	}
	redactMap(e.Labels)
	redactMap(e.Attrs)
}

// redactAll reports whether it changed anything, which the texts' states record.
func redactAll[S ~string](texts ...*S) (changed bool) {
	for _, s := range texts {
		if text := clean(string(*s)); text != string(*s) {
			*s, changed = S(text), true
		}
	}
	return changed
}

func redactTool(t *event.Tool) {
	redactAll(&t.Name, &t.Server, &t.CallID, &t.Command, &t.Path, &t.URL)
	redactAll(&t.Effect)
	redactAll(&t.ArgsState)
	for i := range t.Args {
		a := &t.Args[i]
		changed := redactAll(&a.Path, &a.Value, &a.Origin)
		if redactAll(&a.Provenance) || changed {
			t.ArgsState = event.StateRedacted
		}
	}
	redactContent(&t.Result)
}

func redactContent(c *event.Content) {
	changed := redactAll(&c.Role, &c.Text)
	if redactAll(&c.State) || changed {
		c.State = event.StateRedacted
	}
}

func redactMap(m map[string]string) {
	var found []string
	for k, text := range m {
		if clean(k) != k || clean(text) != text {
			found = append(found, k)
		}
	}
	slices.Sort(found) // two names may become one
	for _, k := range found {
		text := clean(m[k])
		delete(m, k)
		m[clean(k)] = text
	}
}

// boundSlack is what a text may exceed its limit by while secrets are looked for: a key that begins before the cut is found whole.
const boundSlack = 8 << 10

// bound cuts texts that Check would cut anyway, so that looking for secrets costs no more than what is kept.
func bound(e *event.Event) {
	cut := func(c *event.Content) {
		c.Size = max(c.Size, len(c.Text))
		if n := event.MaxContentBytes + boundSlack; len(c.Text) > n {
			c.Text, c.State = c.Text[:n], event.StateTruncated
		}
	}
	e.Content = e.Content[:min(len(e.Content), event.MaxContents)]
	for i := range e.Content {
		cut(&e.Content[i])
	}
	if t := e.Tool; t != nil {
		cut(&t.Result)
		if len(t.Args) > event.MaxArgs {
			t.Args, t.ArgsState = t.Args[:event.MaxArgs], event.StateTruncated
		}
		for i := range t.Args {
			if n := event.MaxValueBytes + boundSlack; len(t.Args[i].Value) > n {
				t.Args[i].Value, t.ArgsState = t.Args[i].Value[:n], event.StateTruncated
			}
		}
	}
	for k, v := range e.Attrs {
		if n := event.MaxAttrBytes + boundSlack; len(v) > n {
			e.Attrs[k] = v[:n]
		}
	}
}

// hash puts token hashes in the place of texts. Tool names, sizes, numbers, and what a text as a whole shows stay.
func (m *Mapper) hash(e *event.Event) {
	for i := range e.Content {
		m.hashContent(&e.Content[i])
	}
	if t := e.Tool; t != nil {
		m.hashContent(&t.Result)
		for i := range t.Args {
			if a := &t.Args[i]; a.Value != "" {
				a.Tokens, a.Value = m.hasher.Hash(a.Value), ""
			}
		}
		if len(t.Args) > 0 {
			t.ArgsState = event.StateHashed
		}
		t.PrivatePath = t.NamesPrivatePath()
		t.Command, t.Path, t.URL = "", "", ""
	}
	for i := range e.Destinations {
		d := &e.Destinations[i]
		if isHashed(d.Value) {
			continue
		}
		hashes := m.hasher.Hash(d.Value)
		if d.Value = "hashed:"; len(hashes) > 0 {
			d.Value += strconv.FormatUint(uint64(hashes[0]), 16)
		}
	}
	if e.Decision != nil {
		e.Decision.Reason = ""
	}
	e.Error = ""
}

func (m *Mapper) hashContent(c *event.Content) {
	if c.Text != "" {
		c.Signs = event.Signs{Hidden: c.HasHidden(), Instructs: c.Instructs(), Private: c.Private()}
		c.Tokens, c.Text, c.State = m.hasher.Hash(c.Text), "", event.StateHashed
	}
}

// isHashed reports whether a destination is named by its hash already.
func isHashed(value string) bool {
	hex, ok := strings.CutPrefix(value, "hashed:")
	_, err := strconv.ParseUint(hex, 16, 64)
	return ok && err == nil
}

package ingest

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// secret is a shape by which a credential is recognised.
type secret struct {
	kind  string
	hints []string // one of them is in every match; looking for them first is what makes clean texts cheap
	shape *regexp.Regexp
	// replace keeps what stands around the secret; "" replaces the whole match.
	replace string
}

// secrets are the well-known shapes, the more special before the more general.
var secrets = []secret{
	{kind: "private_key", hints: []string{"PRIVATE KEY"}, shape: regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)`)},
	{kind: "aws_access_key", hints: []string{"AKIA", "ASIA"}, shape: regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{kind: "aws_secret_key", hints: []string{"ecret", "ECRET"}, shape: regexp.MustCompile(`(?i)(aws_?secret_?(?:access_?)?key[\\"']*\s*[=:]\s*[\\"']*)[A-Za-z0-9/+=]{40}`), replace: "${1}"},
	{kind: "github_token", hints: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"}, shape: regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})`)},
	{kind: "gitlab_token", hints: []string{"glpat-"}, shape: regexp.MustCompile(`\bglpat-[A-Za-z0-9_.-]{20,}`)},
	{kind: "slack_token", hints: []string{"xox", "xapp-"}, shape: regexp.MustCompile(`\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}`)},
	{kind: "slack_webhook", hints: []string{"hooks.slack.com"}, shape: regexp.MustCompile(`hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,}`)},
	{kind: "anthropic_key", hints: []string{"sk-ant-"}, shape: regexp.MustCompile(`\bsk-ant-[A-Za-z0-9_-]{20,}`)},
	{kind: "openai_key", hints: []string{"sk-"}, shape: regexp.MustCompile(`\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]*[0-9A-Z][A-Za-z0-9_-]{19,}`)},
	{kind: "jwt", hints: []string{"eyJ"}, shape: regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)},
	{kind: "bearer", hints: []string{"earer", "EARER"}, shape: regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{16,}`), replace: "${1}"},
	{kind: "password", hints: []string{"://"}, shape: regexp.MustCompile(`(://[^\s/:@"']*:)[^\s/@"'\[]+@`), replace: "${1}[redacted:password]@"},
	{kind: "password", hints: []string{"?", "&", ";"}, shape: regexp.MustCompile(`(?i)([?&;](?:password|passwd|pwd|secret|client_secret|token|access_token|api_?key)=)[^\s&;"'\[]+`), replace: "${1}"},
}

// clean replaces the secrets in a text.
func clean(text string) string {
	for _, s := range secrets {
		for _, hint := range s.hints {
			if strings.Contains(text, hint) {
				replace := s.replace
				if !strings.Contains(replace, "[") {
					replace += "[redacted:" + s.kind + "]"
				}
				text = s.shape.ReplaceAllString(text, replace)
				break
			}
		}
	}
	return text
}

// redact replaces the secrets in every text of the event. It walks the type, so that a new field can't be forgotten.
func redact(e *event.Event) { redactValue(reflect.ValueOf(e).Elem()) }

// redactValue reports whether it changed anything, which the texts' states record.
func redactValue(v reflect.Value) bool {
	changed := false
	switch v.Kind() {
	case reflect.String:
		old := v.String()
		if len(old) >= 8 { // no shape is shorter
			if text := clean(old); text != old {
				v.SetString(text)
				changed = true
			}
		}
	case reflect.Pointer:
		changed = !v.IsNil() && redactValue(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint64 {
			return false // token hashes
		}
		for i := range v.Len() {
			changed = redactValue(v.Index(i)) || changed
		}
	case reflect.Map:
		changed = redactMap(v)
	case reflect.Struct:
		changed = redactStruct(v)
	}
	return changed
}

func redactMap(v reflect.Value) bool {
	m, _ := v.Interface().(map[string]string)
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
	return len(found) > 0
}

func redactStruct(v reflect.Value) bool {
	changed := false
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.CanSet() {
			continue
		}
		did := redactValue(f)
		if t, ok := v.Addr().Interface().(*event.Tool); ok && did && v.Type().Field(i).Name == "Args" {
			t.ArgsState = event.StateRedacted
		}
		changed = changed || did
	}
	if c, ok := v.Addr().Interface().(*event.Content); ok && changed {
		c.State = event.StateRedacted
	}
	return changed
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

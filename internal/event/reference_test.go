package event

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What follows says in plain words what the faster code does, and is compared with it.

func plainTokens(text string) []Token {
	var out []Token
	add := func(word string) {
		out = append(out, Token{Text: word, Identifying: len(word) >= 16 || len(word) >= 3 && strings.ContainsAny(word, "0123456789@.")})
	}
	for _, grouped := range groups.FindAllString(text, 16) {
		if word := strings.ToLower(strings.ReplaceAll(grouped, " ", "")); len(word) >= 8 {
			add(word[:min(len(word), maxTokenBytes)])
		}
	}
	for _, run := range regexp.MustCompile(`[\pL\p{Nd}][\pL\p{Nd}@._+-]*`).FindAllString(text, MaxTokens-len(out)) {
		word := strings.TrimRight(run[:min(len(run), maxTokenBytes)], "@._-+")
		add(clip(strings.ToLower(strings.ToValidUTF8(word, "")), maxTokenBytes))
	}
	return out
}

func TestTokensAgainstPlain(t *testing.T) {
	pieces := []string{
		"DE89 3704 0044", " 0532", "GB29 NWBK 6016", " 1331 92", " ", "  ", "12", "1 2 3 4 5 6 7 8", "aB3", "Ada@X.example", ".", "-_", "é", "İ", "Ⱥ", "付", "٣", "\xff", "\ufffd", "A", "0",
		strings.Repeat("x", 126), strings.Repeat("Ⱥ", 50), "@",
	}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(pieces), rapid.String()), 0, 12).Draw(t, "pieces"), "")
		if diff := cmp.Diff(plainTokens(text), Tokens(text)); diff != "" {
			t.Fatalf("%q (-plain +here):\n%s", text, diff)
		}
	})
}

func plainEffect(name string) Effect {
	var spaced strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			spaced.WriteByte(' ')
		}
		spaced.WriteRune(r)
	}
	best := EffectUnknown
	for i, word := range strings.FieldsFunc(strings.ToLower(spaced.String()), func(r rune) bool { return !isWord(r) }) {
		effect := effectWords[word]
		if i == 0 && effect == EffectRead {
			return EffectRead
		}
		if slices.Index(effectOrder, effect) > slices.Index(effectOrder, best) {
			best = effect
		}
	}
	return best
}

func plainLastElement(path string) string {
	parts := strings.Split(strings.ToLower(path), ".")
	for i := len(parts) - 1; i >= 0; i-- {
		if _, err := strconv.Atoi(parts[i]); err != nil {
			return parts[i]
		}
	}
	return path
}

func TestNamesAgainstPlain(t *testing.T) {
	pieces := []string{"send", "Send", "read", "Read", "getEmail", "_", "-", ".", "0", "12", "+5", "-7", "99999999999999999999", "exec", "É", "İ", "\xff", "URL", ".8", "mcp__a", "x", "7"}
	rapid.Check(t, func(t *rapid.T) {
		name := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 6).Draw(t, "pieces"), "")
		if want, got := plainEffect(name), ToolEffect(name); got != want {
			t.Errorf("ToolEffect(%q) = %q, want %q", name, got, want)
		}
		if want, got := plainLastElement(name), lastElement(name); got != want {
			t.Errorf("lastElement(%q) = %q, want %q", name, got, want)
		}
	})
}

// plainParse is ParseArgs without its short cut, for a text that begins with a brace.
func plainParse(text string) []Arg {
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil || decoder.InputOffset() != int64(len(text)) {
		return []Arg{{Path: "input", Value: text}}
	}
	args, _ := FlattenArgs(v)
	return args
}

func TestParseFlatAgainstPlain(t *testing.T) {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\u00a0"})
	key := rapid.SampledFrom([]string{`"a"`, `"b"`, `"c d"`, `"a.b"`, `"é"`, `"to"`, `"url"`, `""`, `"\u0041"`, `x`})
	value := rapid.SampledFrom([]string{
		`"x y"`, `""`, `"é"`, `1`, `0`, `-0`, `1.50`, `-12`, `true`, `false`, `"\u0041"`, "\"\xff\"", "\"\x01\"", `01`, `1.`, `.5`, `-`, `1e5`, `null`, `[]`, `{}`, `tru`, ``,
	})
	member := rapid.Custom(func(t *rapid.T) string {
		s := func() string { return space.Draw(t, "space") }
		return s() + key.Draw(t, "key") + s() + ":" + s() + value.Draw(t, "value") + s()
	})
	ending := rapid.SampledFrom([]string{"}", "}", "}", ",}", "", "} x", "}}"})
	rapid.Check(t, func(t *rapid.T) {
		text := "{" + strings.Join(rapid.SliceOfN(member, 1, 3).Draw(t, "members"), ",") + ending.Draw(t, "ending")
		got, ok := parseFlat(text)
		if !ok {
			return
		}
		if diff := cmp.Diff(plainParse(text), got); diff != "" {
			t.Fatalf("%q (-plain +here):\n%s", text, diff)
		}
	})
	want := []Arg{{Path: "amount", Value: "12.50"}, {Path: "now", Value: "true"}, {Path: "to", Value: "a@b.example"}}
	if got, ok := parseFlat(`{"to":"a@b.example", "amount":12.50, "now":true}`); !ok || !cmp.Equal(want, got) {
		t.Errorf("got %+v, %v", got, ok)
	}
	var many strings.Builder
	for i := range MaxArgs + 1 {
		many.WriteString(`,"k` + strconv.Itoa(i) + `":1`)
	}
	if _, ok := parseFlat("{" + many.String()[1:] + "}"); ok {
		t.Error("more arguments than an event may have were read")
	}
}

// Ids and hashes are in logs, state and other people's systems: these must never change.
func TestFixedValues(t *testing.T) {
	got := []any{
		NewID("", KindPrompt, "s", "c"), NewID("tenant", KindToolResult), NewID("t", "", "a", "bc", string(make([]byte, 600))),
		NewHasher([]byte("salt")).Hash("Pay Ada@Example.org 1200 EUR to DE89 3704 0044 0532 0130 00, 支付 ÉTÉ-1"),
	}
	want := []any{
		"e8bd3371b1feeb7c5acaf6114cc12496", "bd19d44d98e000670ce4d288abeb8a83", "976f0490fb55c9a663d3c7b52b665a6c",
		Hashes{
			16646861160149779849, 16780047596953010536, 16249158442065268143, 12192758935435955935, 13648791958566511388, 3840484914785045176,
			4350047556978248717, 5208187923351332913, 14999406616377504479, 9343255697730273661, 1554936248308988327, 3404342308528036914,
			13396491927720703172, 15821244754028052467,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

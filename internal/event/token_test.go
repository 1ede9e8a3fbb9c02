package event

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTokens(t *testing.T) {
	word := func(s string) Token { return Token{Text: s} }
	id := func(s string) Token { return Token{Text: s, Identifying: true} }
	tests := []struct {
		name, in string
		want     []Token
	}{
		{"empty", " ,;\n", nil},
		{"words", "Pay the Bill.", []Token{word("pay"), word("the"), word("bill")}},
		{"joiners", "a.b_c-d+e, x-", []Token{id("a.b_c-d+e"), word("x")}},
		{"e-mail", "write to Ada@Example.org!", []Token{word("write"), word("to"), id("ada@example.org")}},
		{"URL", "https://evil.example/a?q=1", []Token{word("https"), id("evil.example"), word("a"), word("q"), word("1")}},
		{"amounts", "12 EUR or 1200", []Token{word("12"), word("eur"), word("or"), id("1200")}},
		{"long word", "Donaudampfschiffe", []Token{id("donaudampfschiffe")}},
		{"account in groups", "to DE89 3704 0044 0532 0130 00", []Token{id("de89370400440532013000"), word("to"), id("de89"), id("3704"), id("0044"), id("0532"), id("0130"), word("00")}},
		{"account with the bank's letters", "GB29 NWBK 6016 1331 9268 19", []Token{id("gb29nwbk60161331926819"), id("gb29"), word("nwbk"), id("6016"), id("1331"), id("9268"), word("19")}},
		{"two groups are no account", "1234 5678", []Token{id("1234"), id("5678")}},
		{"CJK", "支付 账户", []Token{word("支付"), word("账户")}},
		{"long CJK is cut at a rune", strings.Repeat("付", 50), []Token{id(strings.Repeat("付", 42))}},
		{"long run is one token", strings.Repeat("A", 1<<20) + " b", []Token{id(strings.Repeat("a", 128)), word("b")}},
		{"letters that grow", strings.Repeat("Ⱥ", 64), []Token{id(strings.Repeat("ⱥ", 42))}},
		{"not UTF-8", "pay\xff\xfeme", []Token{word("pay"), word("me")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Tokens(tt.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if n := len(Tokens(strings.Repeat("w ", MaxTokens+9))); n != MaxTokens {
		t.Errorf("%d tokens, want %d", n, MaxTokens)
	}
}

func FuzzTokens(f *testing.F) {
	f.Add("to DE89 3704 0044 0532 0130 00, a@b.example")
	f.Add("\xffé" + strings.Repeat("Ⱥ", 70))
	f.Fuzz(func(t *testing.T, text string) {
		tokens := Tokens(text)
		if len(tokens) > MaxTokens {
			t.Fatalf("%d tokens", len(tokens))
		}
		for _, tok := range tokens {
			switch {
			case tok.Text == "" || len(tok.Text) > maxTokenBytes || !utf8.ValidString(tok.Text):
				t.Fatalf("token %q of %d bytes", tok.Text, len(tok.Text))
			case strings.ToLower(tok.Text) != tok.Text:
				t.Fatalf("token %q is not lower case", tok.Text)
			}
		}
		if again := Tokens(text); !cmp.Equal(tokens, again) {
			t.Fatal("the same text gave other tokens")
		}
	})
}

// What spares ordinary text the pattern hides no number from it.
func TestGrouped(t *testing.T) {
	part := rapid.SampledFrom([]string{"1", "12", "1234", " ", "  ", "AB12", " ABCD", "abc", "_", "-", "ü", "K", "DE89 3704 0044 0532", "GB29 NWBK 6016 1331"})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(part, 0, 30).Draw(t, "parts"), "")
		var want []string
		for _, number := range groups.FindAllString(text, 16) {
			if word := strings.ToLower(strings.ReplaceAll(number, " ", "")); len(word) >= 8 {
				want = append(want, word)
			}
		}
		if diff := cmp.Diff(want, grouped(text)); diff != "" {
			t.Error(text, diff)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	h := NewHasher(nil)
	text := strings.Repeat("Please pay the bill in file bill-december-2023.txt to account 12 of ada@example.org, and tell me the amount. ", 10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		h.Hash(text)
	}
}

func TestHasher(t *testing.T) {
	a, same, b := NewHasher([]byte("a")), NewHasher([]byte("a")), NewHasher(nil)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		got, tokens := a.Hash(text), Tokens(text)
		if !cmp.Equal(got, same.Hash(text)) || len(got) != len(tokens) {
			t.Fatal("the same salt and text give other hashes")
		}
		other := b.Hash(text)
		for i, h := range got {
			if h.Identifying() != tokens[i].Identifying {
				t.Fatalf("%+v: identifying is %v", tokens[i], h.Identifying())
			}
			if h>>1 == other[i]>>1 {
				t.Fatalf("%q has one hash under two salts", tokens[i].Text)
			}
		}
	})
	if a.Hash(" ") != nil {
		t.Error("a text without tokens has hashes")
	}
}

func TestHashesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Map(rapid.Uint64(), func(n uint64) Hash { return Hash(n) }), 1, 9).Draw(t, "hashes")
		text, err := json.Marshal(Hashes(in))
		if err != nil {
			t.Fatal(err)
		}
		var out Hashes
		if err := json.Unmarshal(text, &out); err != nil || !cmp.Equal(Hashes(in), out) {
			t.Fatalf("%s came back as %v: %v", text, out, err)
		}
	})
	tooMany, err := json.Marshal(make(Hashes, MaxTokens+1))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"no text": "[1]", "no base64": `"!"`, "7 bytes": `"AAAAAAAAAA=="`, "too many": string(tooMany)} {
		if err := json.Unmarshal([]byte(text), new(Hashes)); err == nil || !strings.Contains(err.Error(), "decode token hashes") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// A prompt that is recognised is left unread, and the session knows the same tokens as if it were read again.
func TestRecognisedPrompts(t *testing.T) {
	h := event.NewHasher(nil)
	flood := func(from int) string {
		var b strings.Builder
		for i := range maxTokens * 2 / 3 {
			fmt.Fprintf(&b, "w%d@x ", from+i)
		}
		return b.String()
	}
	texts := []string{"", "Pay the bill.", "Pay ada@example.org 12 EUR.", flood(0), flood(maxTokens)}
	hashes := make([]event.Hashes, len(texts))
	for i, text := range texts {
		hashes[i] = h.Hash(text)
	}
	rapid.Check(t, func(t *rapid.T) {
		var s session
		r := reader{hasher: h}
		var want tokenSet
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(texts)-1), 0, 8).Draw(t, "prompts") {
			s.readPrompt(&event.Content{Text: texts[i]}, &r, "e")
			want.add(hashes[i], source{Event: "e"})
		}
		if diff := cmp.Diff(origins(&want), origins(&s.Prompt)); diff != "" {
			t.Error(diff)
		}
	})
}

// origins gives each token's origin.
func origins(s *tokenSet) map[event.Hash]string {
	out := make(map[event.Hash]string)
	for _, list := range []tokens{s.Identifying.Tokens, s.Words.Tokens} {
		for _, t := range list {
			out[t] = s.origin(t).Event
		}
	}
	return out
}

// A set that came back from a snapshot goes on as the one that was saved.
func TestTokensInASnapshot(t *testing.T) {
	codec, err := event.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var saved, restored tokenSet
		for i := range rapid.IntRange(1, 5).Draw(t, "texts") {
			tokens := make(event.Hashes, rapid.IntRange(0, maxTokens).Draw(t, "tokens"))
			from := rapid.IntRange(0, 3*maxTokens).Draw(t, "from")
			for k := range tokens {
				tokens[k] = event.Hash(from + k)
			}
			saved.add(tokens, source{Event: fmt.Sprint("event-", i)})
			restored.add(tokens, source{Event: fmt.Sprint("event-", i)})
			data, err := codec.Marshal(restored)
			if err != nil {
				t.Fatal(err)
			}
			restored = tokenSet{}
			if err := codec.Unmarshal(data, &restored); err != nil {
				t.Fatal(err)
			}
			if err := restored.check(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(origins(&saved), origins(&restored)); diff != "" || saved.Bytes != restored.Bytes {
				t.Fatal(diff, saved.Bytes, restored.Bytes)
			}
		}
	})
}

// A set answers as a plain list of the tokens that came, of which the newest are remembered, whatever its index looks like.
func TestTokenSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s tokenSet
		first := make(map[event.Hash]string) // who brought each token first since it was last forgotten
		kept := [2][]event.Hash{}            // of words and identifying tokens
		for i := range rapid.IntRange(1, 6).Draw(t, "texts") {
			from, n := rapid.IntRange(0, 40_000).Draw(t, "from"), rapid.SampledFrom([]int{0, 1, 7, 900, maxTokens}).Draw(t, "tokens")
			step := rapid.SampledFrom([]int{1, 2, 1 << 32}).Draw(t, "step") // all of one kind, or of the same low bits
			text := make(event.Hashes, n)
			for k := range text {
				text[k] = event.Hash(from + k*step)
			}
			id := fmt.Sprint("event-", i)
			for _, token := range text {
				if _, ok := first[token]; !ok {
					first[token] = id
					kept[token&1] = append(kept[token&1], token)
				}
			}
			full := max(len(kept[0]), len(kept[1])) > tokensRoom
			for kind, list := range kept {
				if drop := len(list) - maxTokens; full && drop > 0 {
					for _, token := range list[:drop] {
						delete(first, token)
					}
					kept[kind] = list[drop:]
				}
			}
			if got := s.add(text, source{Event: id}); got != full {
				t.Fatalf("others made room: %v, want %v", got, full)
			}
			if err := s.check(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, origins(&s)); diff != "" {
				t.Fatal(diff)
			}
			for _, token := range append(text, event.Hash(from)+1<<40) {
				if _, ok := first[token]; s.has(token) != ok {
					t.Fatalf("has %d: %v, want %v", token, !ok, ok)
				}
			}
		}
	})
}

// What one part of an event is signed with counts for all that it brought, whichever part came first.
func TestSigned(t *testing.T) {
	for name, parts := range map[string][]bool{"first": {true, false}, "last": {false, true}, "none": {false, false}} {
		t.Run(name, func(t *testing.T) {
			var s tokenSet
			s.add(event.Hashes{1}, source{Event: "before"})
			for i, signed := range parts {
				s.add(event.Hashes{event.Hash(3 + 2*i)}, source{Event: "e", Signed: signed})
			}
			s.add(nil, source{Event: "e"})
			s.add(event.Hashes{9}, source{Event: "after"})
			want := map[event.Hash]bool{1: false, 3: parts[0] || parts[1], 5: parts[0] || parts[1], 9: false}
			got := make(map[event.Hash]bool)
			for token := range want {
				got[token] = s.origin(token).Signed
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

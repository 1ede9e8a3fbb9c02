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
		var want tokenSet
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(texts)-1), 0, 8).Draw(t, "prompts") {
			s.readPrompt(&event.Content{Text: texts[i]}, h, "e")
			want.add(hashes[i], "e")
		}
		if diff := cmp.Diff(want.From, s.Prompt.From); diff != "" {
			t.Error(diff)
		}
	})
}

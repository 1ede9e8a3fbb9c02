package temporal_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	common "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/temporal"
)

func line(id string, fill byte) string {
	return id + " " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)) + "\n"
}

func seals(t *testing.T, text string) *temporal.Seals {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := temporal.ReadSeals(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSeals: what was sealed says nothing, opens as it was with its key, also after a newer one took over, and with no other; a changed one
// does not open; what was never sealed is left as it is.
func TestSeals(t *testing.T) {
	old, rotated, other := seals(t, line("a", 1)), seals(t, line("b", 2)+line("a", 1)), seals(t, line("a", 3))
	rapid.Check(t, func(t *rapid.T) {
		text := "the agent wrote " + rapid.String().Draw(t, "text")
		plain := []*common.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}}
		sealed, err := old.Encode(plain)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(sealed[0].Data, []byte("the agent wrote")) {
			t.Fatal("it can be read")
		}
		again, err := old.Encode(plain)
		if err != nil || bytes.Equal(again[0].Data, sealed[0].Data) {
			t.Fatalf("two of one text are alike: %v", err)
		}
		for _, s := range []*temporal.Seals{old, rotated} {
			for _, given := range [][]*common.Payload{sealed, plain} {
				got, err := s.Decode(given)
				if diff := cmp.Diff(plain, got, protocmp.Transform()); err != nil || diff != "" {
					t.Fatalf("%v %s", err, diff)
				}
			}
		}
		newer, err := rotated.Encode(plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := old.Decode(newer); err == nil || !strings.Contains(err.Error(), `has no key "b"`) {
			t.Fatalf("a key that is not there: %v", err)
		}
		if _, err := other.Decode(sealed); err == nil {
			t.Fatal("another key of the same id opens it")
		}
		sealed[0].Data[rapid.IntRange(0, len(sealed[0].Data)-1).Draw(t, "at")] ^= 1
		if _, err := old.Decode(sealed); err == nil {
			t.Fatal("a changed one opens")
		}
		sealed[0].Data = sealed[0].Data[:rapid.IntRange(0, 11).Draw(t, "size")]
		if _, err := old.Decode(sealed); err == nil {
			t.Fatal("a cut one opens")
		}
	})
}

func TestReadSealsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "no key": "a\n", "a short key": "a AAAA\n", "a key twice": line("a", 1) + line("a", 2), "a name": line("A b", 1), "no base64": "a " + strings.Repeat("!", 44),
		"too many": strings.Repeat(line("a", 1), 200),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := temporal.ReadSeals(file); err == nil {
				t.Error("it is taken")
			}
		})
	}
}

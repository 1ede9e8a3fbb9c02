package event

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/minio/highwayhash"
)

// MaxTokens bounds the tokens that are taken from one text. A text of MaxContentBytes can't hold more, so that none can hide behind
// others.
const MaxTokens = MaxContentBytes / 2

// maxTokenBytes bounds one token: longer runs are cut, so that a megabyte without a space is one short token.
const maxTokenBytes = 128

// Token is one word of a text by which a value is recognised again in another text.
type Token struct {
	Text string
	// Identifying tokens carry a digit, an @ or an inner dot, or are long: account numbers, addresses, hosts, paths. They
	// decide about a value's provenance; ordinary words only count where there is nothing better.
	Identifying bool
}

// groups matches a number written in groups, as people write accounts and cards: DE89 3704 0044 0532 0130 00, or with the bank's
// letters, GB29 NWBK 6016 1331 9268 19.
var groups = regexp.MustCompile(`\b(?:[A-Z]{2}[0-9]{2} [A-Z]{4}|[A-Za-z]{0,3}[0-9]{1,4})(?: [A-Za-z0-9]{0,2}[0-9]{1,4}){2,}\b`)

// Tokens splits text into at most MaxTokens lower-case tokens of letters, digits and the joiners @ . _ - + found inside words. A
// number written in groups gives one more token, without its spaces, because a tool call writes it that way.
func Tokens(text string) []Token {
	var out []Token
	for _, grouped := range groups.FindAllString(text, 16) {
		if word := strings.ToLower(strings.ReplaceAll(grouped, " ", "")); len(word) >= 8 {
			out = append(out, Token{Text: word[:min(len(word), maxTokenBytes)], Identifying: true})
		}
	}
	for len(text) > 0 && len(out) < MaxTokens {
		start := strings.IndexFunc(text, isWord)
		if start < 0 {
			break
		}
		text = text[start:]
		end := strings.IndexFunc(text, func(r rune) bool { return !isWord(r) && !isJoiner(r) })
		if end < 0 {
			end = len(text)
		}
		word := strings.TrimRightFunc(text[:min(end, maxTokenBytes)], isJoiner)
		if word != "" {
			word = clip(strings.ToLower(strings.ToValidUTF8(word, "")), maxTokenBytes) // some letters grow when they are lowered
			out = append(out, Token{Text: word, Identifying: identifying(word)})
		}
		text = text[end:]
	}
	return out
}

func isWord(r rune) bool   { return unicode.IsLetter(r) || unicode.IsDigit(r) }
func isJoiner(r rune) bool { return strings.ContainsRune("@._-+", r) }

// identifying tells tokens that name one thing from ordinary words. Lengths are in bytes.
func identifying(word string) bool {
	if len(word) < 3 {
		return false
	}
	return len(word) >= 16 || strings.ContainsAny(word, "0123456789@") || strings.Contains(word, ".")
}

// Hash is the salted hash of one token. Its lowest bit says whether the token was identifying, because that is lost with the text.
type Hash uint64

// Identifying reports whether the hashed token was identifying.
func (h Hash) Identifying() bool { return h&1 == 1 }

// Hashes are the token hashes of one text. Their JSON form is one base64 string of 8 bytes for each hash, little-endian.
type Hashes []Hash

// MarshalJSON implements json.Marshaler.
func (hs Hashes) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 8*len(hs))
	for i, h := range hs {
		binary.LittleEndian.PutUint64(raw[8*i:], uint64(h))
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(raw))
}

// UnmarshalJSON implements json.Unmarshaler.
func (hs *Hashes) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("decode token hashes: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw)%8 != 0 || len(raw)/8 > MaxTokens {
		return fmt.Errorf("decode token hashes: want base64 of at most %d groups of 8 bytes", MaxTokens)
	}
	*hs = make(Hashes, len(raw)/8)
	for i := range *hs {
		(*hs)[i] = Hash(binary.LittleEndian.Uint64(raw[8*i:]))
	}
	return nil
}

// Hasher turns tokens into salted hashes, so that a value can be matched where policy forbids storing it. All replicas of one
// deployment share the salt; without it a hash tells nothing that a dictionary of the salt's owner would not. Safe for
// concurrent use.
type Hasher struct{ key [32]byte }

// NewHasher returns a Hasher for a salt of any length.
func NewHasher(salt []byte) *Hasher {
	return &Hasher{key: sha256.Sum256(append([]byte("tocsin token salt\x00"), salt...))}
}

// Hash returns the salted hashes of the tokens of text, in order, repeats included. The hash is HighwayHash-64 (Alakuijala et
// al., 2016), a keyed pseudo-random function.
func (h *Hasher) Hash(text string) Hashes {
	tokens := Tokens(text)
	if len(tokens) == 0 {
		return nil
	}
	out := make(Hashes, len(tokens))
	for i, t := range tokens {
		out[i] = Hash(highwayhash.Sum64([]byte(t.Text), h.key[:])) &^ 1
		if t.Identifying {
			out[i] |= 1
		}
	}
	return out
}

package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dchest/siphash"
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

// grouped returns numbers written in groups, without their spaces.
func grouped(text string) (out []string) {
	at := firstGroup(text)
	if at < 0 {
		return nil
	}
	for _, number := range groups.FindAllString(text[max(0, at-longestStart):], 16) {
		if word := strings.ToLower(strings.ReplaceAll(number, " ", "")); len(word) >= 8 {
			out = append(out, word[:min(len(word), maxTokenBytes)])
		}
	}
	return out
}

// longestStart is more than what can stand before the first break of a grouped number.
const longestStart = 32

// firstGroup returns where a grouped number's first break could be, between two digits, or -1. It spares ordinary text the pattern.
func firstGroup(text string) int {
	for i := 1; i < len(text); i++ {
		if text[i] == ' ' && isDigit(text[i-1]) && slices.ContainsFunc([]byte(text[i+1:min(i+4, len(text))]), isDigit) {
			return i
		}
	}
	return -1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Tokens splits text into at most MaxTokens lower-case tokens of letters, digits and the joiners @ . _ - + found inside words. A
// number written in groups gives one more token, without its spaces, because a tool call writes it that way.
func Tokens(text string) []Token {
	var out []Token
	t := newTokenizer(text)
	for {
		word, identifies := t.next()
		if len(word) == 0 {
			return out
		}
		out = append(out, Token{string(word), identifies})
	}
}

// tokenizer takes the tokens of a text one after the other.
type tokenizer struct {
	numbers []string // written in groups, which come first
	text    string
	at      int // how much of the text was read
	left    int
	buffer  [maxTokenBytes]byte
}

func newTokenizer(text string) tokenizer {
	return tokenizer{numbers: grouped(text), text: text, left: MaxTokens}
}

// next returns the next token, which is good until the one after it, or nothing at the end.
func (t *tokenizer) next() (word []byte, identifies bool) {
	if t.left == 0 {
		return nil, false
	}
	t.left--
	if len(t.numbers) > 0 {
		word, t.numbers = append(t.buffer[:0], t.numbers[0]...), t.numbers[1:]
		return word, true
	}
	if word, identifies, ok := t.plain(); ok {
		return word, identifies
	}
	rest := t.text[t.at:]
	start, end := nextWord(rest)
	word = appendLower(t.buffer[:0], strings.TrimRightFunc(rest[start:min(end, start+maxTokenBytes)], isJoiner))
	t.at += end
	return word, identifying(word)
}

// plain is next for a word of ASCII, in one look at each byte, with the same result; any other is not ok.
func (t *tokenizer) plain() (word []byte, identifies, ok bool) {
	text, at := t.text, t.at
	for at < len(text) && traits[text[at]]&(traitWord|traitWide) == 0 {
		at++
	}
	start, end := at, at     // end is behind the last byte that is no joiner
	var met, signs traitBits // what identifies, so far and up to there
	for ; at < len(text) && traits[text[at]]&(traitWord|traitJoiner) != 0; at++ {
		n := at - start
		if n >= maxTokenBytes {
			continue
		}
		c := traits[text[at]]
		t.buffer[n] = byte(c)
		met |= c
		if c&traitWord != 0 {
			end, signs = at+1, met
		}
	}
	if at < len(text) && text[at] >= utf8.RuneSelf {
		t.at = start
		return nil, false, false
	}
	t.at = at
	return t.buffer[:end-start], end-start >= 3 && (signs&traitSign != 0 || end-start >= 16), true
}

// nextWord returns where the first word of a text begins and ends, equal if there is none.
func nextWord(text string) (start, end int) {
	for start < len(text) {
		if c := text[start]; c < utf8.RuneSelf {
			if traits[c]&traitWord != 0 {
				break
			}
			start++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[start:])
		if isWord(r) {
			break
		}
		start += n
	}
	for end = start; end < len(text); {
		if c := text[end]; c < utf8.RuneSelf {
			if traits[c]&(traitWord|traitJoiner) == 0 {
				break
			}
			end++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[end:])
		if !isWord(r) {
			break
		}
		end += n
	}
	return start, end
}

// appendLower appends a word in lower case, of at most maxTokenBytes: some letters grow when they are lowered.
func appendLower(out []byte, word string) []byte {
	for i := range len(word) {
		if word[i] >= utf8.RuneSelf {
			return append(out[:0], clip(strings.ToLower(strings.ToValidUTF8(word, "")), maxTokenBytes)...)
		}
		c := word[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		out = append(out, c)
	}
	return out
}

// traitBits are what a byte is in a text, over what it is in lower case.
type traitBits uint16

const (
	traitWord traitBits = 1 << (8 + iota)
	traitJoiner
	traitWide // a byte of a character beyond ASCII
	traitSign // a digit, an @ or a dot: what has one of them in it identifies
)

var traits = func() (out [256]traitBits) {
	for c := range utf8.RuneSelf {
		out[c] = traitBits(unicode.ToLower(rune(c)))
		switch r := rune(c); {
		case isWord(r):
			out[c] |= traitWord
		case isJoiner(r):
			out[c] |= traitJoiner
		}
		if isDigit(byte(c)) || c == '@' || c == '.' {
			out[c] |= traitSign
		}
	}
	for c := utf8.RuneSelf; c < len(out); c++ {
		out[c] = traitWide
	}
	return out
}()

func isWord(r rune) bool   { return unicode.IsLetter(r) || unicode.IsDigit(r) }
func isJoiner(r rune) bool { return strings.ContainsRune("@._-+", r) }

// identifying tells tokens that name one thing from ordinary words. Lengths are in bytes.
func identifying(word []byte) bool {
	return len(word) >= 16 || len(word) >= 3 && bytes.ContainsAny(word, "0123456789@.")
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
type Hasher struct{ k0, k1 uint64 }

// NewHasher returns a Hasher for a salt of any length.
func NewHasher(salt []byte) *Hasher {
	key := sha256.Sum256(append([]byte("tocsin token salt\x00"), salt...))
	return &Hasher{binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])}
}

// Hash returns the salted hashes of the tokens of text, in order, repeats included. The hash is SipHash-2-4 (Aumasson and Bernstein,
// 2012), a keyed pseudo-random function for short inputs.
func (h *Hasher) Hash(text string) Hashes {
	if text == "" {
		return nil
	}
	out := h.Append(make(Hashes, 0, 1+len(text)/6), text) // an English word and its space are six bytes
	if len(out) == 0 {
		return nil
	}
	return out
}

// Append appends what Hash returns to out.
func (h *Hasher) Append(out Hashes, text string) Hashes {
	t := newTokenizer(text) // outside of the loop, whose variables are copied each time round
	for {
		word, identifies := t.next()
		if len(word) == 0 {
			return out
		}
		hash := Hash(siphash.Hash(h.k0, h.k1, word)) &^ 1
		if identifies {
			hash |= 1
		}
		out = append(out, hash)
	}
}

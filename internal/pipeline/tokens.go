package pipeline

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// maxTokens bounds the identifying tokens, and the words, remembered of the prompts and of tools' outputs each.
const maxTokens = 16_384

// tokenSet is a bounded set of token hashes with the event that first brought each. Identifying tokens and ordinary words have
// rooms of their own, in which the oldest make room: a flood of words can't wash an account number away.
type tokenSet struct {
	Identifying tokenList `json:"identifying"`
	Words       tokenList `json:"words"`
	Origins     []string  `json:"origins"` // events
	Gone        uint64    `json:"gone"`    // origins that no token has any more; those left are counted on from it
	Bytes       int       `json:"bytes"`

	from map[event.Hash]uint64 // the tokens of both lists; made anew after a snapshot was read
}

// tokenList holds tokens in the order in which they came.
type tokenList []tokenOrigin

type tokenOrigin struct {
	token  event.Hash
	origin uint64
}

// MarshalBinary implements encoding.BinaryMarshaler: sixteen bytes a token, little-endian.
func (l tokenList) MarshalBinary() ([]byte, error) {
	out := make([]byte, 0, 16*len(l))
	for _, t := range l {
		out = binary.LittleEndian.AppendUint64(out, uint64(t.token))
		out = binary.LittleEndian.AppendUint64(out, t.origin)
	}
	return out, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (l *tokenList) UnmarshalBinary(data []byte) error {
	if len(data)%16 != 0 || len(data)/16 > maxTokens {
		return fmt.Errorf("%d bytes, want 16 for each of at most %d tokens", len(data), maxTokens)
	}
	*l = make(tokenList, 0, len(data)/16)
	for ; len(data) > 0; data = data[16:] {
		*l = append(*l, tokenOrigin{event.Hash(binary.LittleEndian.Uint64(data)), binary.LittleEndian.Uint64(data[8:])})
	}
	return nil
}

// index makes the set ready to be asked.
func (s *tokenSet) index() {
	if s.from != nil {
		return
	}
	s.from = make(map[event.Hash]uint64, len(s.Identifying)+len(s.Words))
	for _, t := range slices.Concat(s.Identifying, s.Words) {
		s.from[t.token] = t.origin
	}
}

// add takes tokens in and reports whether others made room for them.
func (s *tokenSet) add(tokens event.Hashes, origin string) (full bool) {
	if len(tokens) == 0 {
		return false
	}
	s.index()
	at := s.Gone + uint64(len(s.Origins))
	fresh := false
	for _, t := range tokens {
		if _, ok := s.from[t]; ok {
			continue
		}
		s.from[t], fresh = at, true
		s.Bytes += tokenBytes
		if t.Identifying() {
			s.Identifying = append(s.Identifying, tokenOrigin{t, at})
		} else {
			s.Words = append(s.Words, tokenOrigin{t, at})
		}
	}
	if fresh {
		s.Origins = append(s.Origins, origin)
		s.Bytes += originBytes + len(origin)
	}
	full = max(len(s.Identifying), len(s.Words)) > maxTokens
	if full {
		s.Identifying, s.Words = s.trim(s.Identifying), s.trim(s.Words)
		s.forgetOrigins()
	}
	return full
}

// trim forgets the oldest tokens over the bound.
func (s *tokenSet) trim(list tokenList) tokenList {
	drop := len(list) - maxTokens
	if drop <= 0 {
		return list
	}
	for _, t := range list[:drop] {
		s.Bytes -= tokenBytes
		delete(s.from, t.token)
	}
	return slices.Clone(list[drop:])
}

// forgetOrigins drops those before the oldest token's.
func (s *tokenSet) forgetOrigins() {
	oldest := s.Gone + uint64(len(s.Origins))
	for _, list := range []tokenList{s.Identifying, s.Words} {
		if len(list) > 0 {
			oldest = min(oldest, list[0].origin)
		}
	}
	for _, origin := range s.Origins[:oldest-s.Gone] {
		s.Bytes -= originBytes + len(origin)
	}
	s.Origins, s.Gone = slices.Clone(s.Origins[oldest-s.Gone:]), oldest
}

func (s *tokenSet) has(t event.Hash) bool {
	s.index()
	_, ok := s.from[t]
	return ok
}

// origin returns the event that first brought a token of the set.
func (s *tokenSet) origin(t event.Hash) string {
	s.index()
	if at, ok := s.from[t]; ok && at-s.Gone < uint64(len(s.Origins)) {
		return s.Origins[at-s.Gone]
	}
	return ""
}

// check refuses a set that the code could not go on with.
func (s *tokenSet) check() error {
	for _, list := range []tokenList{s.Identifying, s.Words} {
		if !slices.IsSortedFunc(list, func(a, b tokenOrigin) int { return cmp.Compare(a.origin, b.origin) }) {
			return errors.New("its tokens are out of order")
		}
		if n := len(list); n > 0 && (list[0].origin < s.Gone || list[n-1].origin-s.Gone >= uint64(len(s.Origins))) {
			return errors.New("a token has no origin")
		}
	}
	return nil
}

package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// eventKey stands for an event of one sender in 16 bytes, whatever the sender chose.
type eventKey [16]byte

// seen are the events that were processed, and when each came, as a count. It holds no pointers, so that the collector need not look
// at it: it is the largest map of most classes.
type seen map[eventKey]uint64

// repeated reports whether the event was processed before, and remembers it. When the memory is full, its older half goes.
func (c *class) repeated(sender, id string) bool {
	var room [keyRoom]byte
	sum := sha256.Sum256(append(append(binary.AppendUvarint(room[:0], uint64(len(sender))), sender...), id...))
	key := eventKey(sum[:])
	if _, ok := c.Seen[key]; ok {
		return true
	}
	c.Count++
	c.Seen[key] = uint64(c.Count)
	if len(c.Seen) > maxSeen {
		maps.DeleteFunc(c.Seen, func(_ eventKey, n uint64) bool { return n <= uint64(c.Count-maxSeen/2) })
	}
	return false
}

// seenBytesKept is what one event takes in a snapshot.
const seenBytesKept = len(eventKey{}) + 8

// MarshalBinary implements encoding.BinaryMarshaler: the events in the order in which they came, so that equal memories give equal bytes.
func (s seen) MarshalBinary() ([]byte, error) {
	type came struct {
		key eventKey
		n   uint64
	}
	all := make([]came, 0, len(s))
	for key, n := range s {
		all = append(all, came{key, n})
	}
	slices.SortFunc(all, func(a, b came) int { return cmp.Compare(a.n, b.n) })
	out := make([]byte, 0, len(all)*seenBytesKept)
	for i := range all {
		out = binary.LittleEndian.AppendUint64(append(out, all[i].key[:]...), all[i].n)
	}
	return out, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (s *seen) UnmarshalBinary(data []byte) error {
	if len(data)%seenBytesKept != 0 || len(data)/seenBytesKept > maxSeen {
		return fmt.Errorf("%d bytes, want %d for each of at most %d events", len(data), seenBytesKept, maxSeen)
	}
	*s = make(seen, len(data)/seenBytesKept)
	for one := range slices.Chunk(data, seenBytesKept) {
		(*s)[eventKey(one)] = binary.LittleEndian.Uint64(one[len(eventKey{}):])
	}
	return nil
}

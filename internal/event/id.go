package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// NewID derives an event's identity from what makes the happening one: its kind and the keys that every report of it shares
// (a session and a call id, or a trace and a span). Two reports with the same keys are one event.
func NewID(tenant string, kind Kind, keys ...string) string {
	var room [256]byte // more than the usual keys need
	text := appendKey(appendKey(room[:0], tenant), string(kind))
	for _, k := range keys {
		text = appendKey(text, k)
	}
	sum := sha256.Sum256(text)
	var id [32]byte
	hex.Encode(id[:], sum[:len(id)/2])
	return string(id[:])
}

// appendKey writes a key after its length, which keeps ("ab","c") and ("a","bc") apart.
func appendKey(text []byte, key string) []byte {
	return append(binary.BigEndian.AppendUint32(text, uint32(len(key))), key...)
}

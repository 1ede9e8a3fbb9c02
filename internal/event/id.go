package event

import (
	"crypto/sha256"
	"encoding/hex"
)

// NewID derives an event's identity from what makes the happening one: its kind and the keys that every report of it shares
// (a session and a call id, or a trace and a span). Two reports with the same keys are one event.
func NewID(tenant string, kind Kind, keys ...string) string {
	h := sha256.New()
	write := func(s string) {
		// Lengths keep ("ab","c") and ("a","bc") apart.
		h.Write([]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
		h.Write([]byte(s))
	}
	write(tenant)
	write(string(kind))
	for _, k := range keys {
		write(k)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

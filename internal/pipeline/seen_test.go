package pipeline

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSeenSurvivesASnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := make(seen)
		for i, n := range rapid.SliceOfN(rapid.Uint64(), 0, 50).Draw(t, "events") {
			var key eventKey
			binary.LittleEndian.PutUint64(key[:], n)
			want[key] = uint64(i)
		}
		data, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got seen
		if err := got.UnmarshalBinary(data); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if again, _ := got.MarshalBinary(); !bytes.Equal(again, data) {
			t.Fatal("equal memories give different bytes")
		}
	})
}

func TestSeenRefusesWhatItDidNotWrite(t *testing.T) {
	for name, n := range map[string]int{"part of an event": seenBytesKept + 1, "too many": (maxSeen + 1) * seenBytesKept} {
		if err := new(seen).UnmarshalBinary(make([]byte, n)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Whoever sends must not be able to take another's event for its own by moving the border between the two names.
func TestSendersHaveIDsOfTheirOwn(t *testing.T) {
	c := (&Shard{classes: make(map[string]*class)}).class("c")
	if c.repeated("ab", "c") || c.repeated("a", "bc") || c.repeated("", "abc") || !c.repeated("ab", "c") {
		t.Error("events of different senders are taken for one, or one for two")
	}
}

package ledger

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const every = 100 * time.Millisecond

// table is a ledger in memory.
type table []Record

// LedgerAfter implements Rows.
func (t table) LedgerAfter(_ context.Context, seq int64, limit int) ([]Record, error) {
	from := min(int(seq), len(t))
	return t[from:min(from+limit, len(t))], nil
}

func key(t *testing.T) Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// anchor adds the records to the log of a directory and returns its latest checkpoint.
func anchor(t *testing.T, dir string, k Key, records []Record) Checkpoint {
	t.Helper()
	a, err := OpenAnchor(t.Context(), dir, k, table(records), every)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := a.State(); s.Size != int64(len(records)) || s.Err != nil {
		t.Errorf("the anchor says %+v of %d records", s, len(records))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	cp, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// check verifies records against the log of a directory.
func check(t *testing.T, dir string, latest Checkpoint, kept []Checkpoint, records []Record) error {
	t.Helper()
	c := NewCheck(dir, latest, kept)
	for _, r := range records {
		if err := c.Add(t.Context(), r); err != nil {
			return err
		}
	}
	n, err := c.End(t.Context())
	if err == nil && n != int64(len(records)) {
		t.Errorf("%d records were checked, want %d", n, len(records))
	}
	return err
}

// reseal makes a chain of records anew, as one would who holds the whole database.
func reseal(t *testing.T, records []Record) []Record {
	t.Helper()
	out := slices.Clone(records)
	prev := Record{}
	for i, r := range out {
		var err error
		if out[i], err = Seal(r, prev.Seq+1, prev.Hash); err != nil {
			t.Fatal(err)
		}
		prev = out[i]
	}
	return out
}

func TestAnchorRows(t *testing.T) {
	whole, dir, k := chain(t, 514), t.TempDir(), key(t)
	old := anchor(t, dir, k, whole[:257])
	latest := anchor(t, dir, k, whole)
	if err := check(t, dir, latest, []Checkpoint{old}, whole); err != nil {
		t.Fatal(err)
	}
	if err := check(t, "", Checkpoint{}, []Checkpoint{old, latest}, whole); err != nil {
		t.Errorf("without the log: %v", err)
	}
	changed := slices.Clone(whole)
	changed[100].Actor = "eve"
	swapped := slices.Clone(whole)
	swapped[100], swapped[101] = swapped[101], swapped[100]
	tests := []struct {
		name    string
		records []Record
		want    string
	}{
		{"changed", changed, "record 101 was changed"},
		{"changed and sealed anew", reseal(t, changed), "record 101 is not the one that was anchored"},
		{"removed", slices.Delete(slices.Clone(whole), 100, 101), "record 102 follows record 100"},
		{"removed and sealed anew", reseal(t, slices.Delete(slices.Clone(whole), 100, 101)), "record 101 is not the one"},
		{"reordered", swapped, "record 102 follows record 100"},
		{"reordered and sealed anew", reseal(t, swapped), "record 101 is not the one"},
		{"cut", whole[:513], "holds 513 records and the checkpoint 514"},
		{"emptied", nil, "holds 0 records"},
		{"added before and sealed anew", reseal(t, append(chain(t, 1), whole...)), "record 2 is not the one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := check(t, dir, latest, nil, tt.records); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("with the log: %v, want %q", err, tt.want)
			}
			if err := check(t, "", Checkpoint{}, []Checkpoint{latest}, tt.records); err == nil {
				t.Error("a checkpoint that was kept does not tell")
			}
		})
	}
}

func TestAnchorForgedWhole(t *testing.T) {
	whole, dir, k := chain(t, 20), t.TempDir(), key(t)
	old := anchor(t, dir, k, whole[:10])
	changed := slices.Clone(whole)
	changed[3].Actor = "eve"
	for name, forged := range map[string][]Record{"changed": reseal(t, changed), "cut": whole[:9]} {
		other := t.TempDir()
		latest := anchor(t, other, k, forged) // with the key: whoever holds the machine
		if err := check(t, other, latest, nil, forged); err != nil {
			t.Errorf("%s: all of it is of one piece: %v", name, err)
		}
		if err := check(t, other, latest, []Checkpoint{old}, forged); err == nil {
			t.Errorf("%s: the older checkpoint does not tell", name)
		}
	}
	latest := anchor(t, dir, k, whole)
	c := NewCheck(dir, latest, nil)
	old.root = bytes.Repeat([]byte{1}, 32)
	if err := c.consistent(t.Context(), old); err == nil {
		t.Error("the proof of consistency does not fail")
	}
}

func TestAnchorFiles(t *testing.T) {
	whole, k, sound := chain(t, 260), key(t), t.TempDir()
	anchor(t, sound, k, whole)
	flip := func(text []byte) []byte { text[len(text)-5] ^= 1; return text }
	tests := []struct {
		name, file string
		harm       func([]byte) []byte
		want       string
	}{
		{"changed full bundle", "tile/entries/000", flip, "record 256 is not the one"},
		{"changed bundle", "tile/entries/001.p/4", flip, "record 260 is not the one"},
		{"cut bundle", "tile/entries/001.p/4", func(b []byte) []byte { return b[:len(b)-66] }, "holds 3 entries, want 4"},
		{"torn bundle", "tile/entries/001.p/4", func(b []byte) []byte { return b[:100] }, "read entry 256"},
		{"changed full tile", "tile/0/000", flip, "tile 0 of level 0"},
		{"changed tile", "tile/0/001.p/4", flip, "tile 1 of level 0"},
		{"changed upper tile", "tile/1/000.p/1", flip, "tile 0 of level 1"},
		{"cut tile", "tile/0/001.p/4", func(b []byte) []byte { return b[:32] }, "tile 1 of level 0"},
		{"removed tile", "tile/0/001.p/4", nil, "read tile 1 of level 0"},
		{"removed bundle", "tile/entries/000", nil, "read entry 0"},
		{"changed checkpoint", "checkpoint", flip, "read checkpoint"},
		{"checkpoint of another size", "checkpoint", func(b []byte) []byte { return bytes.Replace(b, []byte("\n260\n"), []byte("\n200\n"), 1) }, "read checkpoint"},
		{"removed checkpoint", "checkpoint", nil, "there is no checkpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(sound)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, tt.file)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if tt.harm == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, tt.harm(text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			latest, err := ReadCheckpoint(dir, k.Public)
			if err == nil {
				err = check(t, dir, latest, nil, whole)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestAnchorRefuses(t *testing.T) {
	whole, dir, k := chain(t, 5), t.TempDir(), key(t)
	latest := anchor(t, dir, k, whole)
	changed := slices.Clone(whole)
	changed[4].Actor = "eve"
	for name, records := range map[string][]Record{"cut": whole[:4], "changed": reseal(t, changed), "swapped": {whole[0], whole[1], whole[2], whole[4], whole[3]}} {
		a, err := OpenAnchor(t.Context(), dir, k, table(records), every)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Follow(t.Context()); err == nil || a.State().Err == nil {
			t.Errorf("%s: the anchor goes on: %v, %+v", name, err, a.State())
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenCheckpoint([]byte(latest.Note), key(t).Public); err == nil {
		t.Error("another key verifies the checkpoint")
	}
	if _, err := OpenAnchor(t.Context(), t.TempDir(), Key{k.Private, key(t).Public}, table(whole), every); err == nil {
		t.Error("an anchor takes the halves of two keys")
	}
}

func TestInclusion(t *testing.T) {
	whole, dir, k := chain(t, 259), t.TempDir(), key(t)
	a, err := OpenAnchor(t.Context(), dir, k, table(whole), every)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	cp, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []int64{1, 2, 128, 256, 257, 259} {
		inclusion, err := a.Inclusion(t.Context(), cp, seq)
		if err != nil {
			t.Fatal(err)
		}
		if err := cp.Includes(seq, whole[seq-1].Hash, inclusion); err != nil {
			t.Error(err)
		}
		if cp.Includes(seq, whole[seq%259].Hash, inclusion) == nil || cp.Includes(seq%259+1, whole[seq-1].Hash, inclusion) == nil {
			t.Errorf("the proof of record %d proves another one", seq)
		}
	}
	if cp.Includes(0, whole[0].Hash, nil) == nil || cp.Includes(260, whole[0].Hash, nil) == nil {
		t.Error("records that the checkpoint is not over are proven")
	}
}

// TestAnchorCrash ends the anchor wherever it is and starts it again: the log is the same as without any stop.
func TestAnchorCrash(t *testing.T) {
	whole, k := chain(t, 6), key(t)
	want := anchor(t, t.TempDir(), k, whole)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		for written := 0; written < len(whole)-1; {
			written += rapid.IntRange(1, len(whole)-1-written).Draw(rt, "written")
			ctx, cancel := context.WithCancel(t.Context())
			rows := &cutting{table: whole[:written], cut: cancel, after: rapid.IntRange(0, 3).Draw(rt, "after")}
			a, err := OpenAnchor(ctx, dir, k, rows, every)
			if err != nil {
				rt.Fatal(err)
			}
			if err := a.Follow(ctx); err != nil && ctx.Err() == nil {
				rt.Fatal(err)
			}
			cancel()
			_ = a.close(ctx) // nothing is waited for
		}
		if got := anchor(t, dir, k, whole); got.Note != want.Note {
			rt.Fatalf("got %s, want %s", got.Note, want.Note)
		}
	})
}

// cutting is a ledger that ends the context of whoever reads it.
type cutting struct {
	table
	cut   func()
	after int
}

// LedgerAfter implements Rows.
func (c *cutting) LedgerAfter(ctx context.Context, seq int64, limit int) ([]Record, error) {
	if c.after--; c.after < 0 {
		c.cut()
	}
	return c.table.LedgerAfter(ctx, seq, min(limit, 2))
}

func BenchmarkAnchor(b *testing.B) {
	k, err := NewKey()
	if err != nil {
		b.Fatal(err)
	}
	var records table
	prev := Record{}
	for i := range b.N {
		if prev, err = Seal(Record{Kind: KindDecision, Subject: fmt.Sprint(i)}, prev.Seq+1, prev.Hash); err != nil {
			b.Fatal(err)
		}
		records = append(records, prev)
	}
	a, err := OpenAnchor(b.Context(), b.TempDir(), k, records, every)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	if err := a.Follow(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if err := a.Close(); err != nil {
		b.Fatal(err)
	}
}

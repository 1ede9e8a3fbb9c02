package shelf

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/baselines"
)

func open(t rapid.TB, dir string) *Shelf {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t rapid.TB, s *Shelf, record []byte) baselines.Place {
	t.Helper()
	p, err := s.Put(record)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What was put is read back from its place, whatever was put later and however often the directory was opened anew; and what a later
// process writes is nowhere that an earlier place refers to.
func TestPlacesStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "shelf")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, total := open(t, dir), int64(0)
		kept := make(map[baselines.Place][]byte)
		for range rapid.IntRange(1, 30).Draw(t, "records") {
			record := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "record")
			p := put(t, s, record)
			if kept[p] != nil {
				t.Fatalf("place %v is taken", p)
			}
			kept[p], total = record, total+int64(len(record))
			if rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir)
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		for p, want := range kept {
			if got, err := s.Get(p); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v: %v", p, err)
			}
		}
		if s.Bytes() != total {
			t.Errorf("%d bytes, want %d", s.Bytes(), total)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A record that was damaged, cut off or whose file is gone is refused, by the file's name.
func TestDamagedFiles(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"flipped": func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)-1] ^= 1
			return os.WriteFile(path, data, 0o600)
		},
		"cut":  func(path string) error { return os.Truncate(path, 9) },
		"gone": os.Remove,
	} {
		dir := t.TempDir()
		s := open(t, dir)
		first, second := put(t, s, []byte("first")), put(t, s, []byte("second"))
		path := s.path(second.Segment)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := damage(path); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		if _, err := s.Get(second); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Get(first); (err == nil) != (name != "gone") {
			t.Errorf("%s: the record before it: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Files that hold nothing live go; those that hold little are named, so that it can be moved.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	var places []baselines.Place
	for range 3 {
		s := open(t, dir)
		places = append(places, put(t, s, bytes.Repeat([]byte{1}, 100)))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	live := map[uint32]int64{places[1].Segment: 100}
	if sparse := s.Sparse(live); len(sparse) != 1 || !sparse[places[1].Segment] {
		t.Errorf("sparse: %v", sparse)
	}
	if err := s.Keep(live); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{s.path(places[1].Segment), s.path(places[2].Segment)}; !slices.Equal(files, want) || s.Bytes() != 200 {
		t.Errorf("%d bytes in %v, want 200 in %v", s.Bytes(), files, want)
	}
	if _, err := s.Get(places[0]); err == nil {
		t.Error("what was removed is read")
	}
	if _, err := s.Get(places[1]); err != nil {
		t.Error(err)
	}
}

// A directory that can't be written to says so, and what it has is still read.
func TestNoRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pages")
	s := open(t, dir)
	p := put(t, s, []byte("first"))
	at := s.segments[s.last]
	if err := at.file.Close(); err != nil {
		t.Fatal(err)
	}
	if at.file, _ = os.Open(s.path(s.last)); at.file == nil {
		t.Fatal("the file is gone")
	}
	if _, err := s.Put([]byte("second")); err == nil {
		t.Error("a file that can't be written to took a record")
	}
	if got, err := s.Get(p); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
}

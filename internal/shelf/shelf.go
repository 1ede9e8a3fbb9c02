// Package shelf keeps records in files of one directory, written once and read by their place. It does not know what a record is, forgets
// nothing by itself, and promises nothing of what was not synced: whoever refers to a place syncs first.
package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-dr/tocsin/baselines"
)

// segmentSize is from how many bytes on a record goes into the next file.
const segmentSize = 64 << 20

// suffix of the files' names, before which stands their number.
const suffix = ".pages"

// Shelf is a directory of numbered files, its segments. Records are appended to the last one. What is there is never written over: a
// process that starts begins a segment of its own, so that whatever a snapshot refers to, an older one too, stays what it was. Not safe
// for concurrent use.
type Shelf struct {
	dir      string
	segments map[uint32]*segment
	last     uint32
	dirty    map[uint32]bool // not synced
	created  bool            // a file whose name is not synced
	bytes    int64
}

type segment struct {
	file *os.File // nil until it is read
	ours bool     // this process began it
	size int64
}

// Open returns the shelf of a directory, which it makes if there is none.
func Open(dir string) (*Shelf, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the pages' directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pages' directory: %w", err)
	}
	s := &Shelf{dir: dir, segments: make(map[uint32]*segment), dirty: make(map[uint32]bool)}
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), suffix)
		n, err := strconv.ParseUint(name, 10, 32)
		if !ours || err != nil || n == 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("open the pages' directory: %w", err)
		}
		s.segments[uint32(n)] = &segment{size: info.Size()}
		s.last, s.bytes = max(s.last, uint32(n)), s.bytes+info.Size()
	}
	return s, nil
}

func (s *Shelf) path(n uint32) string { return filepath.Join(s.dir, fmt.Sprintf("%010d%s", n, suffix)) }

// Put appends a record. A part of one that could not be written is left where it is, and nobody refers to it.
func (s *Shelf) Put(record []byte) (baselines.Place, error) {
	at := s.segments[s.last]
	if at == nil || !at.ours || at.size >= segmentSize {
		var err error
		if at, err = s.next(); err != nil {
			return baselines.Place{}, err
		}
	}
	n, err := at.file.WriteAt(record, at.size)
	place := baselines.PlaceOf(s.last, uint32(at.size), record)
	at.size, s.bytes = at.size+int64(n), s.bytes+int64(n)
	s.dirty[s.last] = true
	if err != nil {
		return baselines.Place{}, fmt.Errorf("write a page: %w", err)
	}
	return place, nil
}

func (s *Shelf) next() (*segment, error) {
	file, err := os.OpenFile(s.path(s.last+1), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin a file of pages: %w", err)
	}
	s.last++
	s.segments[s.last], s.created = &segment{file: file, ours: true}, true
	return s.segments[s.last], nil
}

// Get reads a record, and refuses one that is not what was put there.
func (s *Shelf) Get(p baselines.Place) ([]byte, error) {
	at := s.segments[p.Segment]
	if at == nil {
		return nil, fmt.Errorf("%s is gone", s.path(p.Segment))
	}
	if int64(p.Offset)+int64(p.Size) > at.size {
		return nil, fmt.Errorf("%s at %d: it ends before", s.path(p.Segment), p.Offset)
	}
	if at.file == nil {
		var err error
		if at.file, err = os.Open(s.path(p.Segment)); err != nil {
			return nil, fmt.Errorf("read a page: %w", err)
		}
	}
	record := make([]byte, p.Size)
	if _, err := at.file.ReadAt(record, int64(p.Offset)); err != nil {
		return nil, fmt.Errorf("read a page: %w", err)
	}
	if err := p.Holds(record); err != nil {
		return nil, fmt.Errorf("%s at %d: %w", s.path(p.Segment), p.Offset, err)
	}
	return record, nil
}

// Sync makes what was put outlast a power cut.
func (s *Shelf) Sync() error {
	for _, n := range slices.Sorted(maps.Keys(s.dirty)) {
		if err := s.segments[n].file.Sync(); err != nil {
			return fmt.Errorf("sync pages: %w", err)
		}
		delete(s.dirty, n)
	}
	if !s.created {
		return nil
	}
	dir, err := os.Open(s.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("sync pages: %w", err)
	}
	s.created = false
	return nil
}

// Bytes is how large all files are.
func (s *Shelf) Bytes() int64 { return s.bytes }

// Sparse reports of which segments less than half is live, by the live bytes of each; the one that is written to is none of them.
func (s *Shelf) Sparse(live map[uint32]int64) map[uint32]bool {
	out := make(map[uint32]bool)
	for n := range s.segments {
		if n != s.last && live[n] > 0 && live[n] < segmentSize/2 {
			out[n] = true
		}
	}
	return out
}

// Keep removes the segments of which nothing is live any more, but for the one that is written to.
func (s *Shelf) Keep(live map[uint32]int64) error {
	var all error
	for _, n := range slices.Sorted(maps.Keys(s.segments)) {
		if live[n] > 0 || n == s.last {
			continue
		}
		at := s.segments[n]
		if at.file != nil {
			all = errors.Join(all, at.file.Close())
		}
		if err := os.Remove(s.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
			continue
		}
		s.bytes -= at.size
		delete(s.segments, n)
		delete(s.dirty, n)
	}
	if all != nil {
		return fmt.Errorf("remove pages that nobody refers to: %w", all)
	}
	return nil
}

// Close closes the files.
func (s *Shelf) Close() error {
	var all error
	for _, at := range s.segments {
		if at.file != nil {
			all = errors.Join(all, at.file.Close())
			at.file, at.ours = nil, false
		}
	}
	return all
}

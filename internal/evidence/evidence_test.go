package evidence

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func open(t *testing.T) (*Vault, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v, dir
}

// files returns the artefacts and whatever else lies in the vault.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		if !d.IsDir() {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPutGet(t *testing.T) {
	v, dir := open(t)
	put := make(map[string]bool)
	rapid.Check(t, func(rt *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(rt, "data")
		hash, err := v.Put(t.Context(), data)
		if err != nil {
			rt.Fatal(err)
		}
		put[hash] = true
		got, err := v.Get(t.Context(), hash)
		if err != nil || !bytes.Equal(got, data) {
			rt.Fatalf("put %q, got %q, %v", data, got, err)
		}
	})
	if n := len(files(t, dir)); n != len(put) {
		t.Errorf("%d files for %d artefacts", n, len(put))
	}
}

func TestConcurrentPut(t *testing.T) {
	v, dir := open(t)
	data := bytes.Repeat([]byte("evidence"), 1<<14)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			hash, err := v.Put(t.Context(), data)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := v.Get(t.Context(), hash); err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("one artefact left %v", left)
	}
}

func TestTampering(t *testing.T) {
	tests := []struct {
		name string
		harm func(path string) error
		want error
	}{
		{"changed", func(p string) error { return os.WriteFile(p, []byte("innocent"), 0o600) }, ErrCorrupt},
		{"cut", func(p string) error { return os.Truncate(p, 3) }, ErrCorrupt},
		{"emptied", func(p string) error { return os.Truncate(p, 0) }, ErrCorrupt},
		{"removed", os.Remove, ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, dir := open(t)
			hash, err := v.Put(t.Context(), []byte("incriminating"))
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.harm(filepath.Join(dir, hash[:2], hash)); err != nil {
				t.Fatal(err)
			}
			if data, err := v.Get(t.Context(), hash); !errors.Is(err, tt.want) || data != nil {
				t.Errorf("got %q, %v, want %v", data, err, tt.want)
			}
			if _, err := v.Put(t.Context(), []byte("incriminating")); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Get(t.Context(), hash); err != nil {
				t.Errorf("putting it again does not mend it: %v", err)
			}
		})
	}
}

func TestLinkOutOfVault(t *testing.T) {
	v, dir := open(t)
	hash, err := v.Put(t.Context(), []byte("incriminating"))
	if err != nil {
		t.Fatal(err)
	}
	path, outside := filepath.Join(dir, hash[:2], hash), filepath.Join(t.TempDir(), "outside")
	if err := os.Rename(path, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, path); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(t.Context(), hash); err == nil {
		t.Error("a link that leaves the vault was followed")
	}
}

func TestRefusals(t *testing.T) {
	v, _ := open(t)
	for _, hash := range []string{"", "..", "../../etc/passwd", strings.Repeat("A", 64), strings.Repeat("a", 63), strings.Repeat("a", 65), strings.Repeat("a", 61) + "/..", strings.Repeat("a", 64) + "\n"} {
		if _, err := v.Get(t.Context(), hash); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("Get(%q) = %v, want a refusal", hash, err)
		}
	}
	if _, err := v.Put(t.Context(), make([]byte, MaxBytes+1)); err == nil {
		t.Error("an artefact above the limit was put")
	}
}

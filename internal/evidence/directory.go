package evidence

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// directory is a shelf on local files.
type directory struct{ root *os.Root }

// Open opens the vault in a directory, which it makes if there is none. Nobody but the user that runs Tocsin may read it.
func Open(dir string) (*Vault, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		return nil, fmt.Errorf("open vault: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	return &Vault{&directory{root}}, nil
}

func (d *directory) close() error { return d.root.Close() }

func (d *directory) get(_ context.Context, hash string) ([]byte, error) {
	_, name := place(hash)
	f, err := d.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}

// place spreads artefacts over 256 directories.
func place(hash string) (dir, name string) { return hash[:2], filepath.Join(hash[:2], hash) }

// put makes the artefact appear whole: a reader, and a crash, see all of it or nothing.
func (d *directory) put(_ context.Context, hash string, data []byte) error {
	dir, name := place(hash)
	if err := d.makeDir(dir); err != nil {
		return err
	}
	temp := filepath.Join(dir, ".part-"+rand.Text())
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, d.root.Remove(temp))
	}
	return d.sync(dir)
}

func (d *directory) makeDir(dir string) error {
	err := d.root.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, d.sync("."))
}

func (d *directory) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

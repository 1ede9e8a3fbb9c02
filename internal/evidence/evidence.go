// Package evidence is the vault: a local directory of artefacts, each named by the SHA-256 of its bytes. What was put in is
// either read back unchanged or reported as damaged. It knows nothing of custody, which is the store's, and it deletes nothing.
package evidence

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// MaxBytes is the most that one artefact may hold.
const MaxBytes = 64 << 20

var (
	// ErrCorrupt says that an artefact is not what was put in.
	ErrCorrupt = errors.New("the artefact was changed since it was sealed")
	// ErrNotFound says that the vault never held, or lost, an artefact.
	ErrNotFound = errors.New("not found")
)

// Vault is an open directory. Safe for concurrent use, by several processes too: an artefact appears whole or not at all.
type Vault struct{ root *os.Root }

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
	return &Vault{root: root}, nil
}

// Close closes the vault.
func (v *Vault) Close() error { return v.root.Close() }

// Put seals data and returns its SHA-256 in hexadecimal. When it returns, the data is on disk. Putting the same twice is no
// error, and mends a damaged artefact.
func (v *Vault) Put(ctx context.Context, data []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if len(data) > MaxBytes {
		return "", fmt.Errorf("put evidence: %d bytes, at most %d", len(data), MaxBytes)
	}
	hash := sum(data)
	if _, err := v.Get(ctx, hash); err == nil {
		return hash, nil
	}
	dir, name := place(hash)
	if err := v.makeDir(dir); err != nil {
		return "", fmt.Errorf("put evidence %s: %w", hash, err)
	}
	if err := v.write(dir, name, data); err != nil {
		return "", fmt.Errorf("put evidence %s: %w", hash, err)
	}
	return hash, nil
}

// Get returns the artefact of a SHA-256, after it checked that the bytes still have it.
func (v *Vault) Get(ctx context.Context, hash string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !isHash.MatchString(hash) {
		return nil, fmt.Errorf("get evidence: %.80q is no SHA-256, want 64 hexadecimal digits in lower case", hash)
	}
	_, name := place(hash)
	f, err := v.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("get evidence %s: %w", hash, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get evidence %s: %w", hash, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("get evidence %s: %w", hash, err)
	}
	if got := sum(data); got != hash {
		return nil, fmt.Errorf("get evidence %s: %w: its bytes have %s", hash, ErrCorrupt, got)
	}
	return data, nil
}

var isHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// place spreads artefacts over 256 directories.
func place(hash string) (dir, name string) { return hash[:2], filepath.Join(hash[:2], hash) }

func (v *Vault) makeDir(dir string) error {
	err := v.root.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, v.sync("."))
}

// write makes the artefact appear whole: a reader, and a crash, see all of it or nothing.
func (v *Vault) write(dir, name string, data []byte) error {
	temp := filepath.Join(dir, ".part-"+rand.Text())
	f, err := v.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = v.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, v.root.Remove(temp))
	}
	return v.sync(dir)
}

func (v *Vault) sync(dir string) error {
	d, err := v.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

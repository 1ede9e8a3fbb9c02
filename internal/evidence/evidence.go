// Package evidence is the vault: artefacts in a directory or a bucket, each named by the SHA-256 of its bytes. What was put in is
// either read back unchanged or reported as damaged. It also reads agents' memories that are to be put there, and writes and verifies the
// bundles in which an incident leaves the house. It knows nothing of custody, which is the store's, and it deletes nothing.
package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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

// Vault is an open directory or bucket. Safe for concurrent use, by several processes too: an artefact appears whole or not at all.
type Vault struct{ shelf shelf }

// shelf keeps bytes under hashes, and trusts that both belong together.
type shelf interface {
	// get returns at most MaxBytes+1 bytes, or ErrNotFound.
	get(ctx context.Context, hash string) ([]byte, error)
	// put returns when the bytes are durable.
	put(ctx context.Context, hash string, data []byte) error
	close() error
}

// Close closes the vault.
func (v *Vault) Close() error { return v.shelf.close() }

// Put seals data and returns its SHA-256 in hexadecimal. When it returns, the data is durable. Putting the same twice is no error, and
// mends a damaged artefact in a directory.
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
	if err := v.shelf.put(ctx, hash, data); err != nil {
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
	data, err := v.shelf.get(ctx, hash)
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

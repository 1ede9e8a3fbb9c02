package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// secret reads a file of random bytes in the data directory, or makes it. It is written under another name first, so that a start
// that was killed leaves no short secret.
func secret(dir, name string, size int) ([]byte, error) {
	file := filepath.Join(dir, name)
	data, err := os.ReadFile(file)
	if err == nil && len(data) == size {
		return data, nil
	}
	if err == nil {
		return nil, fmt.Errorf("read %s: it has %d bytes, want %d", file, len(data), size)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	data = make([]byte, size)
	rand.Read(data) // never fails; see crypto/rand
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return nil, fmt.Errorf("write secret: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, fmt.Errorf("write secret: %w", err)
	}
	return data, nil
}

// grantKey is the control plane's key, which signs grants.
func grantKey(dir string) (ed25519.PrivateKey, error) {
	seed, err := secret(dir, "grant.key", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

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

// secret reads a file of random bytes in the data directory, or makes it.
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
	if err := writeWhole(file, data); err != nil {
		return nil, fmt.Errorf("write secret: %w", err)
	}
	return data, nil
}

// writeWhole writes a file that is there whole or not at all, whatever ends the process or the power. Only its owner may read it.
func writeWhole(file string, data []byte) error {
	fresh, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fresh.Write(data)
	if err = errors.Join(err, fresh.Sync(), fresh.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// grantKey is the control plane's key, which signs grants.
func grantKey(dir string) (ed25519.PrivateKey, error) {
	seed, err := secret(dir, "grant.key", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

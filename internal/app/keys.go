package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/ledger"
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

// checkpointKey is the key that signs the ledger's checkpoints. Its public half stands beside it, for people to keep elsewhere.
func checkpointKey(dir string) (ledger.Key, error) {
	file := filepath.Join(dir, "ledger.key")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ledger.NewKey()
		if err == nil {
			err = errors.Join(writeWhole(PublicKey(dir), []byte(key.Public+"\n")), writeWhole(file, []byte(key.Private+"\n"+key.Public+"\n")))
		}
		return key, err
	}
	if err != nil {
		return ledger.Key{}, fmt.Errorf("read checkpoint key: %w", err)
	}
	private, public, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return ledger.Key{Private: private, Public: public}, nil
}

// PublicKey is the file of a data directory that holds the key which verifies the ledger's checkpoints.
func PublicKey(dir string) string { return filepath.Join(dir, "ledger.pub") }

// LedgerLog is the directory of a data directory that holds the ledger's transparency log.
func LedgerLog(dir string) string { return filepath.Join(dir, "ledger") }

// grantKey is the control plane's key, which signs grants.
func grantKey(dir string) (ed25519.PrivateKey, error) {
	seed, err := secret(dir, "grant.key", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

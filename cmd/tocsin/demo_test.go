package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A demonstration that ends without a draft, as with Ctrl-C, leaves nothing; a draft stays.
func TestTidy(t *testing.T) {
	for _, draft := range []bool{false, true} {
		around := filepath.Join(t.TempDir(), "demo")
		data := filepath.Join(around, "data")
		if err := os.MkdirAll(filepath.Join(data, "nats"), 0o700); err != nil {
			t.Fatal(err)
		}
		if draft {
			if err := os.WriteFile(filepath.Join(around, "post-mortem.md"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		tidy(around, data)
		_, gone := os.Stat(data)
		if _, err := os.Stat(around); !os.IsNotExist(gone) || os.IsNotExist(err) == draft {
			t.Errorf("with draft %v: the data gives %v, the directory %v", draft, gone, err)
		}
	}
}

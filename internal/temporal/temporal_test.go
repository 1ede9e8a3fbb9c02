package temporal_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/internal/temporal"
)

// TestOnlyThisProcessConnects: whoever speaks to the server can move workflows, so nobody else on the machine may.
func TestOnlyThisProcessConnects(t *testing.T) {
	s, err := temporal.Start(t.Context(), t.TempDir(), "test", temporal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := temporal.Dial(t.Context(), s.Address(), "test", s.TLS(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for name, secure := range map[string]*tls.Config{"plain text": nil, "no certificate": {InsecureSkipVerify: true}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := client.DialContext(ctx, client.Options{HostPort: s.Address(), Namespace: "test", ConnectionOptions: client.ConnectionOptions{TLS: secure}})
			if err == nil {
				defer c.Close()
				_, err = c.CheckHealth(ctx, &client.CheckHealthRequest{})
			}
			if err == nil {
				t.Error("a stranger is answered")
			}
		})
	}
}

// TestCommitsAreLogged: byte 18 of a SQLite file says how it is written, and 2 is the write-ahead log.
func TestCommitsAreLogged(t *testing.T) {
	dir := t.TempDir()
	s, err := temporal.Start(t.Context(), dir, "test", temporal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	data, err := os.ReadFile(filepath.Join(dir, "temporal.db"))
	if err != nil {
		t.Fatal(err)
	}
	if got := data[18]; got != 2 {
		t.Errorf("the database is written by version %d of its format, want 2", got)
	}
}

// TestWorkersConnect: a process with the client's keys is answered, after a restart too; one with another server's is not.
func TestWorkersConnect(t *testing.T) {
	keys, err := temporal.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	other, err := temporal.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 2 {
		s, err := temporal.Start(t.Context(), dir, "test", temporal.Options{Identity: keys.Identity})
		if err != nil {
			t.Fatal(err)
		}
		for name, known := range map[string]temporal.Keys{"its client": keys, "another's": {CA: keys.CA, Cert: other.Cert, Key: other.Key}} {
			pair, err := tls.X509KeyPair(known.Cert, known.Key)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(known.CA)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			c, err := client.DialContext(ctx, client.Options{HostPort: s.Address(), Namespace: "test", ConnectionOptions: client.ConnectionOptions{
				TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots},
			}})
			if err == nil {
				_, err = c.CheckHealth(ctx, &client.CheckHealthRequest{})
				c.Close()
			}
			cancel()
			if (err == nil) != (name == "its client") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

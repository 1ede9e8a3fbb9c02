package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/internal/temporal"
)

// TemporalConfig is how the workflow server is reached.
type TemporalConfig struct {
	Address   string       `yaml:"address"` // empty: embedded
	Namespace string       `yaml:"namespace"`
	TLS       *TemporalTLS `yaml:"tls"` // of an external server; without it the connection is plain text
	// KeyFile holds the keys that seal what histories hold; without it the workflow server sees it.
	KeyFile string `yaml:"key_file"`
	// Listen is an address on loopback on which the embedded server also answers workers on this machine.
	Listen string `yaml:"listen"`
}

// TemporalTLS are the files by which an external workflow server and its clients know each other.
type TemporalTLS struct {
	CA   string `yaml:"ca"`   // PEM; this machine's own roots where it is missing
	Cert string `yaml:"cert"` // PEM, read at each connection, so that it can be rotated
	Key  string `yaml:"key"`
	Name string `yaml:"name"` // of the server's certificate; the address's host where it is missing
}

func (t *TemporalConfig) check() error {
	if t.Listen != "" {
		if t.Address != "" {
			return bad("temporal.listen", "is of the embedded server, and temporal.address names another")
		}
		if _, err := t.port(); err != nil {
			return bad("temporal.listen", "%s", err)
		}
	}
	if _, err := t.seals(); err != nil {
		return bad("temporal.key_file", "%s", err)
	}
	if t.TLS == nil {
		return nil
	}
	if t.Address == "" {
		return bad("temporal.tls", "is of an external server, and temporal.address names none")
	}
	if (t.TLS.Cert == "") != (t.TLS.Key == "") {
		return bad("temporal.tls", "want both cert and key, or neither")
	}
	if _, err := t.TLS.config(); err != nil {
		return bad("temporal.tls", "%s", err)
	}
	return nil
}

// seals are the keys of the payloads; nil where there are none.
func (t *TemporalConfig) seals() (*temporal.Seals, error) {
	if t.KeyFile == "" {
		return nil, nil
	}
	return temporal.ReadSeals(t.KeyFile)
}

// dial connects to the server at an address.
func (t *TemporalConfig) dial(ctx context.Context, address string, secure *tls.Config, logger *slog.Logger) (client.Client, error) {
	seals, err := t.seals()
	if err != nil {
		return nil, err
	}
	return temporal.Dial(ctx, address, t.Namespace, secure, seals, quietLogger(logger))
}

// port is the one that the embedded server listens on for workers.
func (t *TemporalConfig) port() (int, error) {
	host, text, err := net.SplitHostPort(t.Listen)
	if err != nil {
		return 0, err
	}
	port, err := strconv.Atoi(text)
	if ip := net.ParseIP(host); err != nil || port < 1 || port > 65535 || ip == nil || !ip.Equal(net.IPv4(127, 0, 0, 1)) {
		return 0, errors.New("want 127.0.0.1 and a port: the embedded server serves this machine alone")
	}
	return port, nil
}

// config reads the files. Those of the client are read at each connection.
func (t *TemporalTLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.Name}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read ca: %s holds no certificate in PEM", t.CA)
		}
	}
	if t.Cert == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		return &pair, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	_, err := load()
	return c, err
}

// exposed are the keys of an embedded server that answers workers on this machine. They are made once; what a worker needs of them stands
// in the directory worker of the data directory.
func (t *TemporalConfig) exposed(data string) (o temporal.Options, err error) {
	if t.Listen == "" {
		return o, nil
	}
	if o.Port, err = t.port(); err != nil {
		return o, err
	}
	file := filepath.Join(data, "temporal.pem")
	if o.Identity, err = os.ReadFile(file); !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	keys, err := temporal.NewKeys()
	if err != nil {
		return o, err
	}
	dir := filepath.Join(data, "worker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return o, err
	}
	for name, text := range map[string][]byte{"ca.pem": keys.CA, "cert.pem": keys.Cert, "key.pem": keys.Key} {
		if err := writeWhole(filepath.Join(dir, name), text); err != nil {
			return o, err
		}
	}
	o.Identity = keys.Identity
	return o, writeWhole(file, keys.Identity)
}

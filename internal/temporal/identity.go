package temporal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"go.temporal.io/server/common/config"
)

// identity is the one certificate of an embedded server: its services and its clients show it to each other and trust no other. It
// is made at each start and never leaves the process, so that no other process on the machine can speak to the server, which takes
// whoever it speaks to for a control plane.
type identity struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	cert, key   string // PEM in base64, as the server's configuration takes them
}

// serverName is what the certificate is for.
const serverName = "tocsin.internal"

// identityLife outlives any process.
const identityLife = 20 * 365 * 24 * time.Hour

func newIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		IPAddresses: []net.IP{net.ParseIP(host)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(identityLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	id := &identity{roots: x509.NewCertPool(), cert: base64.StdEncoding.EncodeToString(certPEM), key: base64.StdEncoding.EncodeToString(keyPEM)}
	if id.certificate, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	id.roots.AppendCertsFromPEM(certPEM)
	return id, nil
}

// client is how a client of this process connects.
func (id *identity) client() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.certificate}, RootCAs: id.roots, ServerName: serverName}
}

// server makes every service of the server demand the certificate and show it.
func (id *identity) server() config.RootTLS {
	trust := config.ClientTLS{ServerName: serverName, RootCAData: []string{id.cert}}
	both := config.GroupTLS{
		Client: trust,
		Server: config.ServerTLS{CertData: id.cert, KeyData: id.key, ClientCAData: []string{id.cert}, RequireClientAuth: true},
	}
	return config.RootTLS{Internode: both, Frontend: both, SystemWorker: config.WorkerTLS{CertData: id.cert, KeyData: id.key, Client: trust}}
}

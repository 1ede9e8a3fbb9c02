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
	"slices"
	"time"

	"go.temporal.io/server/common/config"
)

// identity is the one certificate of an embedded server: its services and its clients show it to each other and trust no other. Unless
// other processes are to connect it is made at each start and never leaves the process, so that no other process on the machine can speak
// to the server, which takes whoever it speaks to for a control plane.
type identity struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	cert, key   string // PEM in base64, as the server's configuration takes them
}

// serverName is what the certificate is for.
const serverName = "tocsin.internal"

// identityLife outlives any process.
const identityLife = 20 * 365 * 24 * time.Hour

// Keys are of a server that other processes of this machine may connect to. All are PEM.
type Keys struct {
	Identity []byte // of the server: certificate and private key
	CA       []byte // by which a client knows the server
	// Cert and Key are a client's, by which the server knows it.
	Cert, Key []byte
}

// NewKeys makes the keys of a server and of one client.
func NewKeys() (k Keys, err error) {
	server := template()
	server.DNSNames, server.IPAddresses, server.IsCA = []string{serverName}, []net.IP{net.ParseIP(host)}, true
	server.KeyUsage |= x509.KeyUsageCertSign
	server.ExtKeyUsage = append(server.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	ca, caKey, err := certify(server, server, nil)
	if err != nil {
		return k, err
	}
	parent, err := tls.X509KeyPair(ca, caKey)
	if err != nil {
		return k, fmt.Errorf("load certificate: %w", err)
	}
	k = Keys{Identity: slices.Concat(ca, caKey), CA: ca}
	k.Cert, k.Key, err = certify(template(), parent.Leaf, parent.PrivateKey)
	return k, err
}

func template() *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: serverName}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(identityLife),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// certify makes a key and its certificate, signed by a parent's key or, without one, by itself.
func certify(template, parent *x509.Certificate, by any) (cert, key []byte, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if by == nil {
		by = own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, by)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}

// newIdentity reads an identity from PEM, or makes one where there is none.
func newIdentity(text []byte) (*identity, error) {
	if text == nil {
		keys, err := NewKeys()
		if err != nil {
			return nil, err
		}
		text = keys.Identity
	}
	certificate, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	id := &identity{certificate: certificate, roots: x509.NewCertPool()}
	id.roots.AddCert(certificate.Leaf)
	cert, rest := pem.Decode(text)
	key, _ := pem.Decode(rest)
	id.cert, id.key = base64.StdEncoding.EncodeToString(pem.EncodeToMemory(cert)), base64.StdEncoding.EncodeToString(pem.EncodeToMemory(key))
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

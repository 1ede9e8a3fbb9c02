package evidence

import (
	"archive/tar"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/x509"
	_ "embed" // the page for whoever gets a bundle
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// The bounds of a bundle. What is over them is not exported, and not read.
const (
	MaxBundle  = 512 << 20 // bytes of all its files
	MaxRecords = 20000     // rows of the ledger
	maxFiles   = 2*MaxRecords + 1000
)

//go:embed README.bundle.md
var readme []byte

// The names of a bundle's files.
const (
	sumsFile       = "SHA256SUMS"
	custodyFile    = "custody.json"
	requestsFile   = "requests.json"
	leftOutFile    = "left-out.json"
	artefacts      = "evidence/"
	ledgerFiles    = "ledger/"
	recordFiles    = ledgerFiles + "records/"
	checkpointFile = ledgerFiles + "checkpoint"
	keyFile        = ledgerFiles + "key"
	pemFile        = ledgerFiles + "key.pem"
	proofsFile     = ledgerFiles + "proofs.json"
)

// LeftOut is a file or an artefact that a bundle does not hold, and why. Its bytes are known by their hash.
type LeftOut struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Why    string `json:"why"`
}

// Proof shows that a record of the ledger is one of those that the bundle's checkpoint is over: RFC 9162, section 2.1.3.
type Proof struct {
	Seq    int64    `json:"seq"`
	Hash   string   `json:"hash"`
	Hashes [][]byte `json:"hashes"` // the audit path, base64
}

// Bundle writes one incident for strangers: a tar archive, compressed. First what is known of the incident, then the hashes of it all,
// then the records of the ledger, one of which holds the hash of these hashes.
type Bundle struct {
	gzip  *gzip.Writer
	tar   *tar.Writer
	at    time.Time
	sums  strings.Builder
	files int
	bytes int64
}

// NewBundle begins a bundle. Its files carry a time.
func NewBundle(w io.Writer, at time.Time) (*Bundle, error) {
	z := gzip.NewWriter(w)
	b := &Bundle{gzip: z, tar: tar.NewWriter(z), at: at}
	return b, b.Add("README.md", readme)
}

// Add writes a file of the incident.
func (b *Bundle) Add(name string, data []byte) error {
	fmt.Fprintf(&b.sums, "%s  %s\n", sum(data), name)
	return b.write(name, data)
}

// AddArtefact writes an artefact of the vault under its hash.
func (b *Bundle) AddArtefact(data []byte) error { return b.Add(artefacts+sum(data), data) }

// AddJSON writes a value as a file of the incident.
func (b *Bundle) AddJSON(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return b.Add(name, append(text, '\n'))
}

// Sums writes the hashes of all files so far and returns the hash of that list, which is to be recorded in the ledger.
func (b *Bundle) Sums() (string, error) {
	text := []byte(b.sums.String())
	return sum(text), b.write(sumsFile, text)
}

// Records writes the incident's records of the ledger, with the checkpoint that is over them and the proofs, and ends the bundle.
func (b *Bundle) Records(records []ledger.Record, cp ledger.Checkpoint, proofs []Proof) error {
	for _, r := range records {
		text, err := r.Text()
		if err != nil {
			return err
		}
		if err := b.write(recordFile(r.Seq), text); err != nil {
			return err
		}
	}
	public, err := publicPEM(cp.Key)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(proofs, "", "  ")
	if err != nil {
		return fmt.Errorf("encode proofs: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{checkpointFile, []byte(cp.Note)}, {keyFile, []byte(cp.Key + "\n")}, {pemFile, public}, {proofsFile, text}} {
		if err := b.write(f.name, f.data); err != nil {
			return err
		}
	}
	if err := errors.Join(b.tar.Close(), b.gzip.Close()); err != nil {
		return fmt.Errorf("end bundle: %w", err)
	}
	return nil
}

func recordFile(seq int64) string { return fmt.Sprintf("%s%010d.json", recordFiles, seq) }

func (b *Bundle) write(name string, data []byte) error {
	b.files++
	b.bytes += int64(len(data))
	if b.files > maxFiles || b.bytes > MaxBundle {
		return fmt.Errorf("write %s: the bundle would hold more than %d files or %d bytes", name, maxFiles, MaxBundle)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: b.at}
	if err := b.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := b.tar.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// publicPEM is the key of a checkpoint in the form that openssl reads. Its text is name+hash+base64 of a byte for Ed25519 and the key.
func publicPEM(key string) ([]byte, error) {
	parts := strings.SplitN(strings.TrimSpace(key), "+", 3)
	raw, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 || len(raw) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("read checkpoint key: %.80q is no Ed25519 key of a signed note", key)
	}
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(raw[1:]))
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

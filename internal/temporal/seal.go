package temporal

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	common "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
)

// Seals seal what workflows and activities are given and answer, so that whoever reads the workflow server reads none of it: histories hold
// what agents wrote. It proves nothing about who wrote a payload: what was never sealed is read as it is, because older histories are.
// It implements converter.PayloadCodec. Safe for concurrent use.
type Seals struct {
	first string
	keys  map[string]cipher.AEAD
}

const (
	sealedEncoding = "binary/tocsin-sealed" // of a payload that is sealed
	sealKeyID      = "tocsin-key"           // the metadata that names its key
	maxSealKeys    = 16
	maxSealFile    = 8 << 10
	keyBytes       = 32 // AES-256
)

var nameOfKey = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ReadSeals reads a file of keys, one a line: an id, a space and 32 bytes in base64. The first seals; all of them open.
func ReadSeals(file string) (*Seals, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read payload keys: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSealFile+1))
	if err != nil {
		return nil, fmt.Errorf("read payload keys: %w", err)
	}
	s := &Seals{keys: make(map[string]cipher.AEAD)}
	lines, n := bufio.NewScanner(bytes.NewReader(text)), 0
	for lines.Scan() {
		n++
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		id, encoded, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil || len(key) != keyBytes || !nameOfKey.MatchString(id) || s.keys[id] != nil {
			return nil, fmt.Errorf("read payload keys: %s:%d: want an id of its own (a-z, 0-9, -), a space and %d bytes in base64", file, n, keyBytes)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("read payload keys: %w", err)
		}
		if s.keys[id], err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("read payload keys: %w", err)
		}
		if s.first == "" {
			s.first = id
		}
	}
	if err := lines.Err(); err != nil || len(text) > maxSealFile || len(s.keys) == 0 || len(s.keys) > maxSealKeys {
		return nil, fmt.Errorf("read payload keys: %s: want 1 to %d lines, and at most %d bytes", file, maxSealKeys, maxSealFile)
	}
	return s, nil
}

// bound is what is authenticated beside a payload: its key's id.
func bound(id string) []byte { return []byte("tocsin payload v1 " + id) }

// Encode implements converter.PayloadCodec. The nonce is random, which is good for 2^32 payloads of one key (NIST SP 800-38D, section 8.3).
func (s *Seals) Encode(payloads []*common.Payload) ([]*common.Payload, error) {
	out := make([]*common.Payload, len(payloads))
	aead := s.keys[s.first]
	for i, p := range payloads {
		plain, err := proto.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("seal payload: %w", err)
		}
		nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
		rand.Read(nonce) // never fails; see crypto/rand
		out[i] = &common.Payload{
			Metadata: map[string][]byte{converter.MetadataEncoding: []byte(sealedEncoding), sealKeyID: []byte(s.first)},
			Data:     aead.Seal(nonce, nonce, plain, bound(s.first)),
		}
	}
	return out, nil
}

// Decode implements converter.PayloadCodec.
func (s *Seals) Decode(payloads []*common.Payload) ([]*common.Payload, error) {
	out := make([]*common.Payload, len(payloads))
	for i, p := range payloads {
		if string(p.GetMetadata()[converter.MetadataEncoding]) != sealedEncoding {
			out[i] = p
			continue
		}
		id := string(p.GetMetadata()[sealKeyID])
		aead := s.keys[id]
		if aead == nil {
			return nil, fmt.Errorf("open payload: temporal.key_file has no key %.40q", id)
		}
		if len(p.GetData()) < aead.NonceSize() {
			return nil, fmt.Errorf("open payload: it is cut short")
		}
		nonce, sealed := p.GetData()[:aead.NonceSize()], p.GetData()[aead.NonceSize():]
		plain, err := aead.Open(nil, nonce, sealed, bound(id))
		if err != nil {
			return nil, fmt.Errorf("open payload with key %s: %w", id, err)
		}
		out[i] = new(common.Payload)
		if err := proto.Unmarshal(plain, out[i]); err != nil {
			return nil, fmt.Errorf("open payload: %w", err)
		}
	}
	return out, nil
}

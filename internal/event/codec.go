package event

import (
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// Codec is the binary form in which Tocsin keeps its own data: deterministic CBOR (RFC 8949, section 4.2) with the field names of
// the JSON form and times to the nanosecond. Safe for concurrent use.
type Codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// NewCodec returns a Codec. Decoding is bounded in depth and in the number of elements.
func NewCodec() (*Codec, error) {
	options := cbor.CoreDetEncOptions()
	options.Time = cbor.TimeRFC3339Nano
	enc, err := options.EncMode()
	if err != nil {
		return nil, fmt.Errorf("set up encoder: %w", err)
	}
	dec, err := cbor.DecOptions{MaxArrayElements: 1 << 24, MaxMapPairs: 1 << 24, MaxNestedLevels: 32}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("set up decoder: %w", err)
	}
	return &Codec{enc: enc, dec: dec}, nil
}

// Marshal encodes v; equal values give equal bytes.
func (c *Codec) Marshal(v any) ([]byte, error) { return c.enc.Marshal(v) }

// NewEncoder returns an encoder that writes one value after the other, each as Marshal does.
func (c *Codec) NewEncoder(w io.Writer) *cbor.Encoder { return c.enc.NewEncoder(w) }

// NewDecoder returns a decoder that reads them, within the bounds of Unmarshal.
func (c *Codec) NewDecoder(r io.Reader) *cbor.Decoder { return c.dec.NewDecoder(r) }

// UnmarshalFirst decodes the first of several values into v and returns what follows it.
func (c *Codec) UnmarshalFirst(data []byte, v any) (rest []byte, err error) {
	return c.dec.UnmarshalFirst(data, v)
}

// Unmarshal decodes data into v.
func (c *Codec) Unmarshal(data []byte, v any) error { return c.dec.Unmarshal(data, v) }

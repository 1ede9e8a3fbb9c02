package ingest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Request is one recorded OTLP request. In a capture the body is OTLP JSON, whatever the client sent.
type Request struct {
	Path        string
	ContentType string
	Body        []byte
	File        string // where it was read from, for messages; may be empty
}

// The paths of the OTLP signals.
const (
	pathTraces  = "/v1/traces"
	pathLogs    = "/v1/logs"
	pathMetrics = "/v1/metrics"
)

const (
	typeJSON  = "application/json"
	typeProto = "application/x-protobuf"
)

// ReadCapture calls fn for each request of a capture: a JSON array, or a sequence (one on each line), of objects with "otlp" (the
// body) and "headers" (with the "path"). It stops at the first error.
func ReadCapture(r io.Reader, fn func(Request) error) error {
	buffered := bufio.NewReader(r)
	decoder := json.NewDecoder(buffered)
	first, err := firstByte(buffered)
	if errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	if first == '[' {
		if _, err := decoder.Token(); err != nil {
			return fmt.Errorf("read capture: %w", err)
		}
	}
	for i := 0; decoder.More(); i++ {
		var item struct {
			Headers struct {
				Path string `json:"path"`
			} `json:"headers"`
			Signal string          `json:"signal"`
			OTLP   json.RawMessage `json:"otlp"`
		}
		if err := decoder.Decode(&item); err != nil {
			return fmt.Errorf("read capture: request %d: %w", i, err)
		}
		path, err := capturePath(item.Headers.Path, item.Signal, item.OTLP)
		if err != nil {
			return fmt.Errorf("read capture: request %d: %w", i, err)
		}
		if err := fn(Request{Path: path, ContentType: typeJSON, Body: item.OTLP}); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); first == '[' && err != nil || err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read capture: %w", err)
	}
	return nil
}

func firstByte(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, r.UnreadByte()
		}
	}
}

// capturePath tells the signal from the path, else from what the recorder noted, as for gRPC, else from the body.
func capturePath(path, signal string, body []byte) (string, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return "", errors.New(`want an object in "otlp"`)
	}
	for _, p := range []string{path, "/v1/" + signal} {
		if p == pathTraces || p == pathLogs || p == pathMetrics {
			return p, nil
		}
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(body, &keys); err != nil {
		return "", fmt.Errorf("decode otlp: %w", err)
	}
	for _, signal := range [][2]string{{"resourceSpans", pathTraces}, {"resourceLogs", pathLogs}, {"resourceMetrics", pathMetrics}} {
		if _, ok := keys[signal[0]]; ok {
			return signal[1], nil
		}
	}
	return "", fmt.Errorf("path %.80q is not one of OTLP", path)
}

// Capture maps a recorded request as the receiver would. Metrics hold no events. The events' texts may alias the request's body, which
// must not be changed any more.
func (m *Mapper) Capture(req Request, rc Receipt) ([]event.Event, []Rejection, error) {
	if req.Path == pathMetrics {
		return nil, nil, nil
	}
	s, ok := signalOf(req.Path)
	if !ok {
		return nil, nil, fmt.Errorf("map capture: path %.80q is not one of OTLP", req.Path)
	}
	b, err := m.mapped(s, req.Body, req.ContentType, rc)
	return b.events, b.rejected, err
}

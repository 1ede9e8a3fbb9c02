package ingest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Request is one recorded OTLP request. In a capture the body is OTLP JSON, whatever the client sent.
type Request struct {
	Path        string
	ContentType string
	Body        []byte
	File        string // where it was read from, for messages; may be empty
	Before      int    // lines of the file before the body, where that is a part of a file of events
	// Lost are the items that Shift could not decode. The body lacks them.
	Lost []Rejection
}

// The paths of the OTLP signals, and of events in their JSON form.
const (
	PathEvents  = "/v1/events"
	pathTraces  = "/v1/traces"
	pathLogs    = "/v1/logs"
	pathMetrics = "/v1/metrics"
)

// partBytes bounds the parts in which a file of events is read.
const partBytes = 16 << 20

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

// ReadEvents calls fn with a file of events in their JSON form: with an array whole, and with lines in parts, so that a file may be
// larger than memory. It stops at the first error.
func ReadEvents(r io.Reader, fn func(Request) error) error {
	buffered := bufio.NewReader(r)
	first, err := firstByte(buffered)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read events: %w", err)
	}
	request := Request{Path: PathEvents, ContentType: "application/x-ndjson"}
	if first == '[' {
		if request.Body, err = io.ReadAll(io.LimitReader(buffered, MaxJSONBytes+1)); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		return fn(request)
	}
	return readLines(buffered, request, fn)
}

// readLines calls fn with the request for each part of the lines.
func readLines(r io.Reader, request Request, fn func(Request) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), MaxJSONBytes)
	var body []byte
	n, before := 0, 0
	part := func() error {
		request.Body, request.Before = body, before
		body, before = make([]byte, 0, cap(body)), n // texts of events may lie in what was handed over
		return fn(request)
	}
	for ; lines.Scan(); n++ {
		if n > before && (n == before+MaxJSONEvents || len(body)+len(lines.Bytes()) >= partBytes) {
			if err := part(); err != nil {
				return err
			}
		}
		body = append(append(body, lines.Bytes()...), '\n')
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read events: line %d: %w", n+1, err)
	}
	if len(body) > 0 || before == 0 {
		return part()
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
	switch req.Path {
	case pathMetrics:
		return nil, nil, nil
	case PathEvents:
		return m.jsonEvents(req.Body, req.Before, rc)
	}
	s, ok := signalOf(req.Path)
	if !ok {
		return nil, nil, fmt.Errorf("map capture: path %.80q is not one of OTLP", req.Path)
	}
	b, err := m.mapped(s, req.Body, req.ContentType, rc)
	return b.events, slices.Concat(req.Lost, b.rejected), err
}

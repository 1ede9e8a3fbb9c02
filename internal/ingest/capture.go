package ingest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

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
	for key, p := range map[string]string{"resourceSpans": pathTraces, "resourceLogs": pathLogs, "resourceMetrics": pathMetrics} {
		if _, ok := keys[key]; ok {
			return p, nil
		}
	}
	return "", fmt.Errorf("path %.80q is not one of OTLP", path)
}

// Capture maps a recorded request as the receiver would. Metrics hold no events.
func (m *Mapper) Capture(req Request, rc Receipt) ([]event.Event, []Rejection, error) {
	var b batch
	switch req.Path {
	case pathTraces:
		in, without, err := decodeTraces(req.Body, req.ContentType)
		if err != nil {
			return nil, nil, err
		}
		b = m.traces(in.Traces(), rc)
		b.rejected = append(b.rejected, without.unread...)
	case pathLogs:
		in, without, err := decodeLogs(req.Body, req.ContentType)
		if err != nil {
			return nil, nil, err
		}
		b = m.logs(in.Logs(), rc)
		b.rejected = append(b.rejected, without.unread...)
	case pathMetrics:
	default:
		return nil, nil, fmt.Errorf("map capture: path %.80q is not one of OTLP", req.Path)
	}
	return b.events, b.rejected, nil
}

func decodeTraces(body []byte, contentType string) (in ptraceotlp.ExportRequest, without lost, err error) {
	in = ptraceotlp.NewExportRequest()
	if without.cut, err = decode(body, contentType, in.UnmarshalProto, in.UnmarshalJSON); err == nil {
		return in, without, nil
	}
	in = ptraceotlp.NewExportRequest()
	without.unread, err = salvage(err, body, contentType, spanParts(), func(one []byte) error {
		single := ptraceotlp.NewExportRequest()
		if _, err := decode(one, contentType, single.UnmarshalProto, single.UnmarshalJSON); err != nil {
			return err
		}
		single.Traces().ResourceSpans().MoveAndAppendTo(in.Traces().ResourceSpans())
		return nil
	})
	return in, without, err
}

func decodeLogs(body []byte, contentType string) (in plogotlp.ExportRequest, without lost, err error) {
	in = plogotlp.NewExportRequest()
	if without.cut, err = decode(body, contentType, in.UnmarshalProto, in.UnmarshalJSON); err == nil {
		return in, without, nil
	}
	in = plogotlp.NewExportRequest()
	without.unread, err = salvage(err, body, contentType, logParts(), func(one []byte) error {
		single := plogotlp.NewExportRequest()
		if _, err := decode(one, contentType, single.UnmarshalProto, single.UnmarshalJSON); err != nil {
			return err
		}
		single.Logs().ResourceLogs().MoveAndAppendTo(in.Logs().ResourceLogs())
		return nil
	})
	return in, without, err
}

// decode decodes a body, without what is nested so deep that it does harm; the body is changed where there is such a thing.
func decode(body []byte, contentType string, asProto, asJSON func([]byte) error) (cut bool, err error) {
	switch contentType {
	case typeJSON:
		cut = cutJSON(body, maxJSONDepth)
		err = asJSON(body)
	case typeProto:
		cut = cutProto(body, maxProtoDepth)
		err = asProto(body)
	default:
		err = fmt.Errorf("content type %.80q is not known", contentType)
	}
	if err != nil {
		return cut, fmt.Errorf("decode OTLP: %w", err)
	}
	return cut, nil
}

// Shift moves every timestamp of a recorded request of traces or logs by a duration, so that a history can be replayed as if it
// were recent. Times that are not set stay so, and metrics are returned as they are. Shifting back gives the same request; to the
// letter too, if it is by whole milliseconds.
func Shift(req Request, by time.Duration) (Request, error) {
	s := shifter{by: by}
	var body []byte
	var err error
	switch req.Path {
	case pathTraces:
		body, err = s.traces(req)
	case pathLogs:
		body, err = s.logs(req)
	default:
		return req, nil
	}
	if err = errors.Join(err, s.err); err != nil {
		return Request{}, fmt.Errorf("shift request: %w", err)
	}
	req.Body = body
	return req, nil
}

type shifter struct {
	by  time.Duration
	err error
}

func (s *shifter) traces(req Request) ([]byte, error) {
	in, _, err := decodeTraces(req.Body, req.ContentType)
	if err != nil {
		return nil, err
	}
	for _, rs := range in.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				span.SetStartTimestamp(s.move(span.StartTimestamp()))
				span.SetEndTimestamp(s.move(span.EndTimestamp()))
				for _, e := range span.Events().All() {
					e.SetTimestamp(s.move(e.Timestamp()))
				}
			}
		}
	}
	return encode(req.ContentType, in.MarshalProto, in.MarshalJSON)
}

func (s *shifter) logs(req Request) ([]byte, error) {
	in, _, err := decodeLogs(req.Body, req.ContentType)
	if err != nil {
		return nil, err
	}
	for _, rl := range in.Logs().ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				rec.SetTimestamp(s.move(rec.Timestamp()))
				rec.SetObservedTimestamp(s.move(rec.ObservedTimestamp()))
				if v, ok := rec.Attributes().Get("event.timestamp"); ok && v.Type() == pcommon.ValueTypeStr {
					v.SetStr(s.moveText(v.Str()))
				}
			}
		}
	}
	return encode(req.ContentType, in.MarshalProto, in.MarshalJSON)
}

func encode(contentType string, asProto, asJSON func() ([]byte, error)) ([]byte, error) {
	if contentType == typeProto {
		return asProto()
	}
	return asJSON()
}

func (s *shifter) move(t pcommon.Timestamp) pcommon.Timestamp {
	if t == 0 {
		return 0
	}
	moved := int64(t) + int64(s.by) // what overflows is found below
	if t > math.MaxInt64 || moved <= 0 || (moved > int64(t)) != (s.by > 0) && s.by != 0 {
		s.err = fmt.Errorf("timestamp %d can't be moved by %s", t, s.by)
		return t
	}
	return pcommon.Timestamp(moved)
}

// moveText moves an RFC 3339 time and keeps the number of its digits if they suffice. Any other text stays.
func (s *shifter) moveText(text string) string {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	layout := time.RFC3339
	if _, fraction, ok := strings.Cut(text, "."); ok {
		digits := strings.IndexFunc(fraction, func(r rune) bool { return r < '0' || r > '9' })
		layout = strings.Replace(layout, "Z", "."+strings.Repeat("0", max(digits, 0))+"Z", 1)
	}
	at = at.Add(s.by)
	out := at.Format(layout)
	if back, err := time.Parse(time.RFC3339Nano, out); err != nil || !back.Equal(at) {
		return at.Format(time.RFC3339Nano)
	}
	return out
}

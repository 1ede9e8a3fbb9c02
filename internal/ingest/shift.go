package ingest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// Shift moves every timestamp of a recorded request of traces or logs by a duration, so that a history can be replayed as if it
// were recent. Items that can't be decoded are in Lost. Times that are not set stay so, and metrics are returned as they are. Shifting
// back gives the same request; to the letter too, if it is by whole milliseconds.
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
	req.Body, req.Lost = body, slices.Concat(req.Lost, s.lost)
	return req, nil
}

type shifter struct {
	by   time.Duration
	lost []Rejection
	err  error
}

func (s *shifter) traces(req Request) ([]byte, error) {
	in, lost, err := decodeWhole(req, spanParts(), ptraceotlp.NewExportRequest, func(in, single ptraceotlp.ExportRequest) {
		single.Traces().ResourceSpans().MoveAndAppendTo(in.Traces().ResourceSpans())
	})
	if err != nil {
		return nil, err
	}
	s.lost = lost
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
	in, lost, err := decodeWhole(req, logParts(), plogotlp.NewExportRequest, func(in, single plogotlp.ExportRequest) {
		single.Logs().ResourceLogs().MoveAndAppendTo(in.Logs().ResourceLogs())
	})
	if err != nil {
		return nil, err
	}
	s.lost = lost
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

// pdataRequest is a request as pdata decodes it.
type pdataRequest interface {
	UnmarshalProto(body []byte) error
	UnmarshalJSON(body []byte) error
}

// decodeWhole decodes a request that is to be encoded again: nothing of it may get lost, so it is pdata that decodes it. It
// returns the items that can't be decoded; join adds the others.
func decodeWhole[R pdataRequest](req Request, parts []string, fresh func() R, join func(in, single R)) (R, []Rejection, error) {
	in := fresh()
	_, err := decode(req.Body, req.ContentType, in.UnmarshalProto, in.UnmarshalJSON)
	if err == nil {
		return in, nil, nil
	}
	in = fresh()
	lost, err := salvage(err, req.Body, req.ContentType, parts, func(one []byte) error {
		single := fresh()
		if _, err := decode(one, req.ContentType, single.UnmarshalProto, single.UnmarshalJSON); err != nil {
			return err
		}
		join(in, single)
		return nil
	})
	return in, lost, err
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

package ingest

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// The decoder of OTLP in JSON (OTLP specification, "JSON Protobuf Encoding"), for requests of traces and of logs.
//
// It accepts what pdata accepts, as far as that is JSON: keys in lowerCamelCase and snake_case, keys that are not known, 64-bit numbers
// as numbers or texts, ids in hexadecimal, a status by number or name, null for what is not there. It refuses text that is no JSON, also
// behind the request, and a value of another type in a field that is read. Bytes that are no UTF-8 stay, as in protobuf.

// readJSON adds the resources of a request, as readProto does.
func (t *telemetry) readJSON(body []byte, signal jsonSignal) error {
	r := &jsonReader{text: body, keep: true, arena: &t.arena}
	err := r.object(func(key string) error {
		if key != signal.resources && key != signal.resourcesOld {
			return r.skip()
		}
		return r.array(func() error { return t.jsonResource(r, signal) })
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return fmt.Errorf("at byte %d: %w", r.at, err)
	}
	return nil
}

// jsonSignal names the parts of a request of traces or of logs.
type jsonSignal struct {
	resources, resourcesOld, scopes, scopesOld, items, itemsOld string
	item                                                        func(t *telemetry, r *jsonReader) error
}

func jsonSpans() jsonSignal {
	return jsonSignal{"resourceSpans", "resource_spans", "scopeSpans", "scope_spans", "spans", "spans", (*telemetry).jsonSpan}
}

func jsonRecords() jsonSignal {
	return jsonSignal{"resourceLogs", "resource_logs", "scopeLogs", "scope_logs", "logRecords", "log_records", (*telemetry).jsonRecord}
}

func (t *telemetry) jsonResource(r *jsonReader, signal jsonSignal) error {
	out := otlpResource{from: len(t.scopes)}
	err := r.object(func(key string) error {
		switch key {
		case "resource":
			return r.object(func(key string) error {
				if key != "attributes" {
					return r.skip()
				}
				return t.jsonAttributes(r, &out.attrs)
			})
		case signal.scopes, signal.scopesOld:
			return r.array(func() error { return t.jsonScope(r, signal) })
		}
		return r.skip()
	})
	out.to = len(t.scopes)
	t.resources = append(t.resources, out)
	return err
}

func (t *telemetry) jsonScope(r *jsonReader, signal jsonSignal) error {
	out := otlpScope{from: len(t.spans) + len(t.records)} // one of them is empty
	err := r.object(func(key string) error {
		switch key {
		case "scope":
			return r.object(func(key string) (err error) {
				if key != "name" {
					return r.skip()
				}
				out.name, err = r.string()
				return err
			})
		case signal.items, signal.itemsOld:
			return r.array(func() error { return signal.item(t, r) })
		}
		return r.skip()
	})
	out.to = len(t.spans) + len(t.records)
	t.scopes = append(t.scopes, out)
	return err
}

func (t *telemetry) jsonSpan(r *jsonReader) error {
	var s otlpSpan
	err := r.object(func(key string) (err error) {
		switch key {
		case "traceId", "trace_id":
			err = r.id(s.trace[:])
		case "spanId", "span_id":
			err = r.id(s.id[:])
		case "parentSpanId", "parent_span_id":
			err = r.id(s.parent[:])
		case "name":
			s.name, err = r.string()
		case "startTimeUnixNano", "start_time_unix_nano":
			s.start, err = r.uint64()
		case "endTimeUnixNano", "end_time_unix_nano":
			s.end, err = r.uint64()
		case "attributes":
			err = t.jsonAttributes(r, &s.attrs)
		case "events":
			err = r.array(func() error { return t.jsonEvent(r, &s) })
		case "status":
			err = r.object(func(key string) (err error) {
				switch key {
				case "code":
					s.status, err = r.status()
				case "message":
					s.message, err = r.string()
				default:
					err = r.skip()
				}
				return err
			})
		default:
			err = r.skip()
		}
		return err
	})
	t.spans = append(t.spans, s)
	return err
}

func (t *telemetry) jsonEvent(r *jsonReader, s *otlpSpan) error {
	name := ""
	var attrs []attribute
	err := r.object(func(key string) (err error) {
		switch key {
		case "name":
			name, err = r.string()
		case "attributes":
			err = t.jsonAttributes(r, &attrs)
		default:
			err = r.skip()
		}
		return err
	})
	if name == "exception" {
		s.exceptions = append(s.exceptions, attrs)
	}
	return err
}

func (t *telemetry) jsonRecord(r *jsonReader) error {
	var out otlpRecord
	err := r.object(func(key string) (err error) {
		switch key {
		case "traceId", "trace_id":
			err = r.id(out.trace[:])
		case "spanId", "span_id":
			err = r.id(out.span[:])
		case "timeUnixNano", "time_unix_nano":
			out.time, err = r.uint64()
		case "observedTimeUnixNano", "observed_time_unix_nano":
			out.observed, err = r.uint64()
		case "eventName", "event_name":
			out.name, err = r.string()
		case "body":
			err = t.jsonValue(r, &out.body)
		case "attributes":
			err = t.jsonAttributes(r, &out.attrs)
		default:
			err = r.skip()
		}
		return err
	})
	t.records = append(t.records, out)
	return err
}

// jsonAttributes appends to a list, which several keys of one object may make together.
func (t *telemetry) jsonAttributes(r *jsonReader, list *[]attribute) error {
	height := len(t.stack)
	err := r.array(func() error { return t.jsonAttribute(r) })
	*list = append(*list, t.pop(height)...)
	return err
}

func (t *telemetry) jsonAttribute(r *jsonReader) error {
	var a attribute
	err := r.object(func(key string) (err error) {
		switch key {
		case "key":
			a.key, err = r.string()
		case "value":
			err = t.jsonValue(r, &a.value)
		default:
			err = r.skip()
		}
		return err
	})
	t.stack = append(t.stack, a)
	return err
}

// jsonValue reads a value. Of several in one object the last counts.
func (t *telemetry) jsonValue(r *jsonReader, v *value) error {
	return r.object(func(key string) (err error) {
		switch key {
		case "stringValue", "string_value":
			*v = value{kind: kindText}
			v.text, err = r.string()
		case "boolValue", "bool_value":
			var b bool
			*v = value{kind: kindBool}
			if b, err = r.bool(); b {
				v.num = 1
			}
		case "intValue", "int_value":
			var n int64
			n, err = r.int64()
			*v = value{kind: kindInt, num: uint64(n)}
		case "doubleValue", "double_value":
			var f float64
			f, err = r.float64()
			*v = value{kind: kindDouble, num: math.Float64bits(f)}
		case "bytesValue", "bytes_value":
			*v = value{kind: kindBytes}
			v.text, err = r.base64()
		case "arrayValue", "array_value":
			*v = value{kind: kindList}
			v.items, err = t.jsonItems(r, func() error {
				var a attribute
				err := t.jsonValue(r, &a.value)
				t.stack = append(t.stack, a)
				return err
			})
		case "kvlistValue", "kvlist_value":
			*v = value{kind: kindMap}
			v.items, err = t.jsonItems(r, func() error { return t.jsonAttribute(r) })
		default:
			err = r.skip()
		}
		return err
	})
}

// jsonItems reads the items of a list or map, each of which item pushes.
func (t *telemetry) jsonItems(r *jsonReader, item func() error) ([]attribute, error) {
	height := len(t.stack)
	err := r.object(func(key string) error {
		if key != "values" {
			return r.skip()
		}
		return r.array(item)
	})
	return t.pop(height), err
}

// numeral returns a number, or the text that stands for one.
func (r *jsonReader) numeral() (string, error) {
	switch r.next() {
	case '"':
		return r.string()
	case 'n':
		return "", errJSONType
	}
	return r.number()
}

func (r *jsonReader) uint64() (uint64, error) {
	text, err := r.numeral()
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

func (r *jsonReader) int64() (int64, error) {
	text, err := r.numeral()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

func (r *jsonReader) float64() (float64, error) {
	text, err := r.numeral()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(text, 64)
}

func (r *jsonReader) base64() (string, error) {
	text, err := r.string()
	if err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	return alias(raw), err
}

// status reads the code of a span's status.
func (r *jsonReader) status() (int64, error) {
	text, err := r.numeral()
	if err != nil {
		return 0, err
	}
	switch text {
	case "STATUS_CODE_UNSET":
		return 0, nil
	case "STATUS_CODE_OK":
		return 1, nil
	case "STATUS_CODE_ERROR":
		return statusError, nil
	}
	return strconv.ParseInt(text, 10, 32)
}

// id reads an id in hexadecimal. An empty text is one without bytes.
func (r *jsonReader) id(to []byte) error {
	text, err := r.string()
	clear(to)
	if err != nil || text == "" {
		return err
	}
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("an id has %d digits, want %d", len(text), hex.EncodedLen(len(to)))
	}
	if _, err := hex.Decode(to, []byte(text)); err != nil {
		return errors.New("an id is not hexadecimal")
	}
	return nil
}

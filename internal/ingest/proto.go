package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The decoder of OTLP in protobuf, for requests of traces and of logs, after opentelemetry-proto 1.x and the Protocol Buffers encoding
// (protobuf.dev/programming-guides/encoding). It walks the wire format by hand, copies no text and keeps only what the mapper reads.
//
// It accepts what pdata accepts: fields in any order, scalar fields and messages that are repeated (the last counts, or they are merged,
// as the encoding says), fields that are not known, texts of any bytes, ids of no bytes, the scope spans of OTLP before 0.15. It refuses
// a field that is known and has another wire type, also in what the mapper does not read; an id of another length; a number, length or
// text that goes beyond its message; a field number that is not positive; and groups, which proto3 has not. What is nested deeper than
// maxProtoDepth messages is left out and noted. A request is refused as a whole: taking it apart is salvage's task.

// The wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var (
	errShort    = errors.New("protobuf: a field goes beyond its message")
	errVarint   = errors.New("protobuf: a number is longer than 10 bytes")
	errNumber   = errors.New("protobuf: a field number is not positive")
	errWireType = errors.New("protobuf: a wire type is not known, or of a group")
)

// wireField is one field: its number, wire type and value, which is num or data.
type wireField struct {
	number int32
	wire   uint8
	num    uint64
	data   []byte
}

func varint(buf []byte) (num uint64, rest []byte, err error) {
	if len(buf) > 0 && buf[0] < 0x80 {
		return uint64(buf[0]), buf[1:], nil
	}
	for i := 0; i < len(buf); i++ {
		if i == binary.MaxVarintLen64 {
			return 0, nil, errVarint
		}
		num |= uint64(buf[i]&0x7f) << (7 * i)
		if buf[i] < 0x80 {
			return num, buf[i+1:], nil
		}
	}
	return 0, nil, errShort
}

// read takes the first field from buf and returns what follows.
func (f *wireField) read(buf []byte) (rest []byte, err error) {
	tag, buf, err := varint(buf)
	if err != nil {
		return nil, err
	}
	f.wire = uint8(tag & 7)
	if f.number = int32(tag >> 3); f.number <= 0 {
		return nil, errNumber
	}
	switch f.wire {
	case wireVarint:
		f.num, buf, err = varint(buf)
		return buf, err
	case wireFixed64:
		if len(buf) < 8 {
			return nil, errShort
		}
		f.num = binary.LittleEndian.Uint64(buf)
		return buf[8:], nil
	case wireBytes:
		size, buf, err := varint(buf)
		if err != nil {
			return nil, err
		}
		if size > uint64(len(buf)) {
			return nil, errShort
		}
		f.data = buf[:size:size]
		return buf[size:], nil
	case wireFixed32:
		if len(buf) < 4 {
			return nil, errShort
		}
		return buf[4:], nil
	}
	return nil, errWireType
}

// is reports an error unless the field has the wire type.
func (f *wireField) is(wire uint8) error {
	if f.wire != wire {
		return fmt.Errorf("protobuf: field %d has wire type %d, want %d", f.number, f.wire, wire)
	}
	return nil
}

func (f *wireField) text(to *string) error {
	*to = alias(f.data)
	return f.is(wireBytes)
}

func (f *wireField) uint64(wire uint8, to *uint64) error {
	*to = f.num
	return f.is(wire)
}

// id reads an id of a fixed length; one without bytes is all zero.
func (f *wireField) id(to []byte) error {
	if err := f.is(wireBytes); err != nil {
		return err
	}
	clear(to)
	if len(f.data) != 0 && len(f.data) != len(to) {
		return fmt.Errorf("protobuf: an id has %d bytes, want %d", len(f.data), len(to))
	}
	copy(to, f.data)
	return nil
}

// message lets decode read the fields of a message one by one.
func (f *wireField) message(decode func(f wireField) error) error {
	if err := f.is(wireBytes); err != nil {
		return err
	}
	return eachField(f.data, decode)
}

func eachField(buf []byte, decode func(f wireField) error) (err error) {
	var f wireField
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return err
		}
		if err = decode(f); err != nil {
			return err
		}
	}
	return nil
}

// items reads the fields of a span or of a log record, and appends it.
type items func(t *telemetry, buf []byte) error

// readProto adds the resources of a request. After an error some of them may be there.
func (t *telemetry) readProto(body []byte, read items) error {
	return eachField(body, func(f wireField) error {
		if f.number != 1 {
			return nil
		}
		if err := f.is(wireBytes); err != nil {
			return err
		}
		return t.protoResource(f.data, read)
	})
}

// Scope spans were called instrumentation library spans before OTLP 0.15, under another number.
const (
	scopeField           = 2
	deprecatedScopeField = 1000
)

func (t *telemetry) protoResource(buf []byte, read items) error {
	r := otlpResource{from: len(t.scopes)}
	deprecated := false
	err := eachField(buf, func(f wireField) error {
		switch f.number {
		case 1:
			height := len(t.stack)
			err := f.message(t.protoResourceField)
			r.attrs = append(r.attrs, t.pop(height)...)
			return err
		case scopeField:
			return t.protoScope(&f, read)
		case 3:
			return f.is(wireBytes)
		case deprecatedScopeField:
			deprecated = true
			return f.is(wireBytes)
		}
		return nil
	})
	if deprecated && err == nil {
		err = t.protoDeprecated(buf, read, len(t.scopes) == r.from)
	}
	r.to = len(t.scopes)
	t.resources = append(t.resources, r)
	return err
}

// protoDeprecated reads the scopes under their former number. They count where there are no others, and must be readable anyway.
func (t *telemetry) protoDeprecated(buf []byte, read items, count bool) error {
	scopes, spans, records := len(t.scopes), len(t.spans), len(t.records)
	err := eachField(buf, func(f wireField) error {
		if f.number == deprecatedScopeField {
			return t.protoScope(&f, read)
		}
		return nil
	})
	if !count {
		t.scopes, t.spans, t.records = shorten(t.scopes, scopes), shorten(t.spans, spans), shorten(t.records, records)
	}
	return err
}

func (t *telemetry) protoResourceField(f wireField) error {
	switch f.number {
	case 1:
		return t.protoAttribute(&f, 3)
	case 2:
		return f.is(wireVarint)
	case 3: // an entity: the names of those attributes that identify it
		return f.message(func(f wireField) error {
			if f.number <= 4 {
				return f.is(wireBytes)
			}
			return nil
		})
	}
	return nil
}

func (t *telemetry) protoScope(f *wireField, read items) error {
	s := otlpScope{from: len(t.spans) + len(t.records)} // one of them is empty
	err := f.message(func(f wireField) error {
		switch f.number {
		case 1:
			return f.message(func(f wireField) error { return t.protoScopeField(&f, &s) })
		case 2:
			if err := f.is(wireBytes); err != nil {
				return err
			}
			return read(t, f.data)
		case 3:
			return f.is(wireBytes)
		}
		return nil
	})
	s.to = len(t.spans) + len(t.records)
	t.scopes = append(t.scopes, s)
	return err
}

func (t *telemetry) protoScopeField(f *wireField, s *otlpScope) error {
	switch f.number {
	case 1:
		return f.text(&s.name)
	case 2:
		return f.is(wireBytes)
	case 3:
		return t.protoUnread(f)
	case 4:
		return f.is(wireVarint)
	}
	return nil
}

// protoUnread checks an attribute that nobody reads.
func (t *telemetry) protoUnread(f *wireField) error {
	height := len(t.stack)
	err := t.protoAttribute(f, 4)
	t.drop(height)
	return err
}

func (t *telemetry) protoSpan(buf []byte) (err error) {
	var s otlpSpan
	var f wireField
	height := len(t.stack)
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return err
		}
		switch f.number {
		case 1:
			err = f.id(s.trace[:])
		case 2:
			err = f.id(s.id[:])
		case 4:
			err = f.id(s.parent[:])
		case 5:
			err = f.text(&s.name)
		case 7:
			err = f.uint64(wireFixed64, &s.start)
		case 8:
			err = f.uint64(wireFixed64, &s.end)
		case 9:
			err = t.protoAttribute(&f, 4)
		case 11:
			err = t.protoEvent(&f, &s)
		case 13:
			err = f.message(t.protoLinkField)
		case 15:
			err = f.message(s.protoStatusField)
		case 3:
			err = f.is(wireBytes)
		case 6, 10, 12, 14:
			err = f.is(wireVarint)
		case 16:
			err = f.is(wireFixed32)
		}
		if err != nil {
			return err
		}
	}
	s.attrs = t.pop(height)
	t.spans = append(t.spans, s)
	return nil
}

func (t *telemetry) protoEvent(f *wireField, s *otlpSpan) error {
	height, name := len(t.stack), ""
	err := f.message(func(f wireField) error {
		switch f.number {
		case 1:
			return f.is(wireFixed64)
		case 2:
			return f.text(&name)
		case 3:
			return t.protoAttribute(&f, 5)
		case 4:
			return f.is(wireVarint)
		}
		return nil
	})
	attrs := t.pop(height)
	if name == "exception" {
		s.exceptions = append(s.exceptions, attrs)
	}
	return err
}

func (t *telemetry) protoLinkField(f wireField) error {
	switch f.number {
	case 1:
		return f.id(new(traceID)[:])
	case 2:
		return f.id(new(spanID)[:])
	case 3:
		return f.is(wireBytes)
	case 4:
		return t.protoUnread(&f)
	case 5:
		return f.is(wireVarint)
	case 6:
		return f.is(wireFixed32)
	}
	return nil
}

func (s *otlpSpan) protoStatusField(f wireField) error {
	switch f.number {
	case 2:
		return f.text(&s.message)
	case 3:
		s.status = int64(int32(f.num))
		return f.is(wireVarint)
	}
	return nil
}

func (t *telemetry) protoRecord(buf []byte) (err error) {
	var r otlpRecord
	var f wireField
	height := len(t.stack)
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return err
		}
		switch f.number {
		case 1:
			err = f.uint64(wireFixed64, &r.time)
		case 5:
			if err = f.is(wireBytes); err == nil {
				err = t.protoValue(f.data, &r.body, 4)
			}
		case 6:
			err = t.protoAttribute(&f, 4)
		case 9:
			err = f.id(r.trace[:])
		case 10:
			err = f.id(r.span[:])
		case 11:
			err = f.uint64(wireFixed64, &r.observed)
		case 12:
			err = f.text(&r.name)
		case 2, 7:
			err = f.is(wireVarint)
		case 3:
			err = f.is(wireBytes)
		case 8:
			err = f.is(wireFixed32)
		}
		if err != nil {
			return err
		}
	}
	r.attrs = t.pop(height)
	t.records = append(t.records, r)
	return nil
}

// inner returns the message in a field that is part of a message at a depth, the request's own being 0.
func (t *telemetry) inner(f *wireField, depth int) ([]byte, error) {
	if depth >= maxProtoDepth-1 && len(f.data) > 1 {
		t.cut = true
		return nil, f.is(wireBytes)
	}
	return f.data, f.is(wireBytes)
}

// protoAttribute pushes a key and value, at a depth. It looks at each message's fields by itself, as do those beneath it: closures would
// have to be made for each.
func (t *telemetry) protoAttribute(in *wireField, depth int) error {
	buf, err := t.inner(in, depth-1)
	if err != nil {
		return err
	}
	var a attribute
	var f wireField
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return err
		}
		switch f.number {
		case 1:
			err = f.text(&a.key)
		case 2:
			var inner []byte
			if inner, err = t.inner(&f, depth); err == nil {
				err = t.protoValue(inner, &a.value, depth+1)
			}
		case 3:
			err = f.is(wireVarint)
		}
		if err != nil {
			return err
		}
	}
	t.stack = append(t.stack, a)
	return nil
}

// protoValue reads a value at a depth. Of several in one message the last counts.
func (t *telemetry) protoValue(buf []byte, v *value, depth int) (err error) {
	var f wireField
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return err
		}
		switch f.number {
		case 1:
			*v = value{kind: kindText}
			err = f.text(&v.text)
		case 2:
			*v = value{kind: kindBool}
			if err = f.is(wireVarint); f.num != 0 {
				v.num = 1
			}
		case 3:
			*v = value{kind: kindInt}
			err = f.uint64(wireVarint, &v.num)
		case 4:
			*v = value{kind: kindDouble}
			err = f.uint64(wireFixed64, &v.num)
		case 5:
			*v = value{kind: kindList}
			v.items, err = t.protoList(&f, depth)
		case 6:
			*v = value{kind: kindMap}
			v.items, err = t.protoMap(&f, depth)
		case 7:
			*v = value{kind: kindBytes}
			err = f.text(&v.text)
		case 8: // the number of a text in a table, which only profiles have
			*v = value{}
			err = f.is(wireVarint)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *telemetry) protoList(in *wireField, depth int) ([]attribute, error) {
	buf, err := t.inner(in, depth)
	if err != nil {
		return nil, err
	}
	height := len(t.stack)
	var f wireField
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return nil, err
		}
		if f.number != 1 {
			continue
		}
		inner, err := t.inner(&f, depth+1)
		if err != nil {
			return nil, err
		}
		var a attribute
		if err := t.protoValue(inner, &a.value, depth+2); err != nil {
			return nil, err
		}
		t.stack = append(t.stack, a)
	}
	return t.pop(height), nil
}

func (t *telemetry) protoMap(in *wireField, depth int) ([]attribute, error) {
	buf, err := t.inner(in, depth)
	if err != nil {
		return nil, err
	}
	height := len(t.stack)
	var f wireField
	for len(buf) > 0 {
		if buf, err = f.read(buf); err != nil {
			return nil, err
		}
		if f.number != 1 {
			continue
		}
		if err := t.protoAttribute(&f, depth+2); err != nil {
			return nil, err
		}
	}
	return t.pop(height), nil
}

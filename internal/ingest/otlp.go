package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

// telemetry is one request of traces or logs as the mapper reads it. Both decoders fill it, the one of protobuf (proto.go) and the one of
// JSON (otlpjson.go). Its texts alias the request's body, which nobody may change from then on; the rest of its memory is used again for
// another request when it is released.
type telemetry struct {
	resources []otlpResource
	scopes    []otlpScope
	spans     []otlpSpan
	records   []otlpRecord
	cut       bool    // values nested too deep were left out
	drafts    []draft // the mapper's
	forest    forest
	arena
}

// signal is what requests of traces and of logs differ in.
type signal struct {
	parts []string // as JSON names them, outermost first
	proto items
	json  jsonSignal
	read  func(m *Mapper, t *telemetry, r Receipt) batch
}

// signalOf returns the signal with a path, if its items become events.
func signalOf(path string) (signal, bool) {
	switch path {
	case pathTraces:
		return signal{spanParts(), (*telemetry).protoSpan, jsonSpans(), (*Mapper).traces}, true
	case pathLogs:
		return signal{logParts(), (*telemetry).protoRecord, jsonRecords(), (*Mapper).logs}, true
	}
	return signal{}, false
}

// mapped decodes a request and maps its items. An item that can't be decoded costs no other.
func (m *Mapper) mapped(s signal, body []byte, contentType string, r Receipt) (batch, error) {
	t := newTelemetry()
	defer t.release()
	err := s.decode(t, body, contentType)
	var unread []Rejection
	if err != nil {
		unread, err = salvage(err, body, contentType, s.parts, func(one []byte) error { return s.decode(t, one, contentType) })
	}
	if err != nil {
		return batch{}, err
	}
	b := s.read(m, t, r)
	b.rejected = append(b.rejected, unread...)
	b.cut = t.cut
	return b, nil
}

// decode adds the items of a request, or none if one of them can't be decoded.
func (s signal) decode(t *telemetry, body []byte, contentType string) error {
	before := *t
	var err error
	switch contentType {
	case typeJSON:
		if err = t.readJSON(body, s.json); err != nil && cutJSON(body, maxJSONDepth) {
			t.forget(&before)
			before.cut, t.cut = true, true
			err = t.readJSON(body, s.json)
		}
	case typeProto:
		err = t.readProto(body, s.proto)
	default:
		err = fmt.Errorf("content type %.80q is not known", contentType)
	}
	if err != nil {
		t.forget(&before)
		return fmt.Errorf("decode OTLP: %w", err)
	}
	return nil
}

// forget goes back to how it was before.
func (t *telemetry) forget(before *telemetry) {
	t.resources, t.scopes = shorten(t.resources, len(before.resources)), shorten(t.scopes, len(before.scopes))
	t.spans, t.records = shorten(t.spans, len(before.spans)), shorten(t.records, len(before.records))
	t.drop(len(before.stack))
	t.cut = before.cut
}

func shorten[T any](list []T, n int) []T {
	clear(list[n:])
	return list[:n]
}

// otlpResource holds a range of the scopes, and otlpScope one of the spans or of the records.
type otlpResource struct {
	attrs    []attribute
	from, to int
}

type otlpScope struct {
	name     string
	from, to int
}

type (
	traceID [16]byte
	spanID  [8]byte
)

// otlpSpan is what the mapper asks of a span. Times are Unix nanoseconds, 0 where the sender did not say.
type otlpSpan struct {
	trace      traceID
	id, parent spanID
	name       string
	start, end uint64
	attrs      []attribute
	status     int64
	message    string        // of the status
	exceptions [][]attribute // the attributes of the events of that name
}

// statusError is the code of a span that failed.
const statusError = 2

type otlpRecord struct {
	trace          traceID
	span           spanID
	time, observed uint64
	name           string
	body           value
	attrs          []attribute
}

// attribute is a named value. An item of a list has no name.
type attribute struct {
	key string
	value
}

// value is an attribute's value, or what JSON in a text holds.
type value struct {
	kind  kind
	text  string      // of kindText and kindBytes
	num   uint64      // the bits of kindBool, kindInt and kindDouble
	items []attribute // of kindList and kindMap; of two with one name the later counts
}

type kind uint8

const (
	kindEmpty kind = iota
	kindText
	kindBool
	kindInt
	kindDouble
	kindBytes
	kindList
	kindMap
	kindTaken // an attribute that a field took
)

func textValue(s string) value { return value{kind: kindText, text: s} }

// get returns what a map has under a key, or nil.
func (v *value) get(key string) *value {
	if v == nil || v.kind != kindMap {
		return nil
	}
	for i := len(v.items) - 1; i >= 0; i-- {
		if v.items[i].key == key {
			return &v.items[i].value
		}
	}
	return nil
}

// str is the text of a text, and empty for anything else.
func (v *value) str() string {
	if v == nil || v.kind != kindText {
		return ""
	}
	return v.text
}

// asText spells any value: structures as JSON, bytes in base64, numbers as JSON does.
func (v *value) asText() string {
	switch v.kind {
	case kindText:
		return v.text
	case kindBool:
		return strconv.FormatBool(v.num != 0)
	case kindInt:
		return strconv.FormatInt(int64(v.num), 10)
	case kindDouble:
		return doubleText(math.Float64frombits(v.num))
	case kindBytes:
		return base64.StdEncoding.EncodeToString([]byte(v.text))
	case kindList, kindMap:
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		if encoder.Encode(v.raw()) != nil { // a number that JSON does not have
			return ""
		}
		return strings.TrimRight(out.String(), "\n")
	}
	return ""
}

func doubleText(f float64) string {
	switch abs := math.Abs(f); {
	case abs == 0 || abs >= 1e-6 && abs < 1e21: // JSON has no exponent for these
		return strconv.FormatFloat(f, 'f', -1, 64)
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	text, err := json.Marshal(f)
	if err != nil { // never: JSON has all other numbers
		return ""
	}
	return string(text)
}

// raw returns the value in the types that encoding/json knows.
func (v *value) raw() any {
	switch v.kind {
	case kindText:
		return v.text
	case kindBool:
		return v.num != 0
	case kindInt:
		return int64(v.num)
	case kindDouble:
		return math.Float64frombits(v.num)
	case kindBytes:
		return append([]byte(nil), v.text...) // none are a null
	case kindList:
		out := make([]any, len(v.items))
		for i := range v.items {
			out[i] = v.items[i].raw()
		}
		return out
	case kindMap:
		out := make(map[string]any, len(v.items))
		for i := range v.items {
			out[v.items[i].key] = v.items[i].raw()
		}
		return out
	}
	return nil
}

// shallow reports whether a value is nested at most limit deep.
func (v *value) shallow(limit int) bool {
	for i := range v.items {
		if limit == 0 || !v.items[i].shallow(limit-1) {
			return false
		}
	}
	return true
}

// arena holds the attributes and values of one request.
type arena struct {
	slab     []attribute // what is taken from
	stack    []attribute // lists under way, each above the one that it is part of
	messages []message   // those that were found in values
	texts    []byte      // texts that were written otherwise in the body; never used again, as events hold them
}

// Bounds on an arena's slabs, in attributes and bytes: what is asked for at once, and of attributes what is used again.
const (
	minSlab, maxSlab   = 256, 4096
	minTexts, maxTexts = 1 << 10, 64 << 10
)

// take returns n attributes, all zero.
func (a *arena) take(n int) []attribute {
	if n > cap(a.slab)-len(a.slab) {
		a.slab = make([]attribute, 0, max(n, minSlab, min(2*cap(a.slab), maxSlab)))
	}
	from := len(a.slab)
	a.slab = a.slab[:from+n]
	return a.slab[from : from+n : from+n]
}

// push appends to a list that was taken here, or to an empty one.
func (a *arena) push(list []attribute, item attribute) []attribute {
	if len(list) == cap(list) {
		list = append(a.take(max(4, 2*len(list)))[:0], list...)
	}
	return append(list, item)
}

// pop ends the list that began where the stack had a given height.
func (a *arena) pop(height int) []attribute {
	list := a.stack[height:]
	if len(list) == 0 {
		return nil
	}
	out := a.take(len(list))
	copy(out, list)
	a.drop(height)
	return out
}

// drop forgets what is on the stack above a height.
func (a *arena) drop(height int) { a.stack = shorten(a.stack, height) }

// open returns an empty slice for a text to be appended to, with room for one of the usual size.
func (a *arena) open() []byte {
	if cap(a.texts)-len(a.texts) < minTexts/2 {
		a.texts = make([]byte, 0, max(minTexts, min(2*cap(a.texts), maxTexts)))
	}
	return a.texts[len(a.texts):]
}

// keep makes what was appended a text. One that was too long for the room has moved to memory of its own.
func (a *arena) keep(text []byte) string {
	if cap(text) == cap(a.texts)-len(a.texts) {
		a.texts = a.texts[:len(a.texts)+len(text)]
	}
	return alias(text)
}

// alias returns bytes that nobody will change as a text.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

var telemetries = sync.Pool{New: func() any { return new(telemetry) }}

func newTelemetry() *telemetry { return telemetries.Get().(*telemetry) }

// release lets the memory be used for another request, unless it is that of an unusually large one.
func (t *telemetry) release() {
	if cap(t.slab) > maxSlab || cap(t.stack) > maxSlab || cap(t.spans) > maxSlab || cap(t.records) > maxSlab || cap(t.drafts) > maxSlab || cap(t.messages) > maxSlab || cap(t.scopes) > maxSlab || cap(t.resources) > maxSlab {
		return
	}
	t.reset()
	telemetries.Put(t)
}

// reset forgets everything, so that nothing of one request is seen, or kept alive, by another.
func (t *telemetry) reset() {
	clear(t.resources)
	clear(t.scopes)
	clear(t.spans)
	clear(t.records)
	clear(t.slab)
	clear(t.drafts)
	clear(t.messages)
	t.forest.clear()
	t.drop(0)
	*t = telemetry{
		resources: t.resources[:0], scopes: t.scopes[:0], spans: t.spans[:0], records: t.records[:0], drafts: t.drafts[:0], forest: t.forest,
		arena: arena{slab: t.slab[:0], stack: t.stack[:0], messages: t.messages[:0]},
	}
}

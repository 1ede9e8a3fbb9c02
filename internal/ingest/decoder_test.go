package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/protobuf/encoding/protowire"
)

// told tells all that the mapper could read of a request, one line for each part.
func told(t *telemetry) (out []string) {
	for _, r := range t.resources {
		out = append(out, "resource "+attrsTold(r.attrs))
		for _, s := range t.scopes[r.from:r.to] {
			out = append(out, "scope "+s.name)
			for i := s.from; i < s.to && i < len(t.spans); i++ {
				span := &t.spans[i]
				out = append(out, fmt.Sprintf("span %x %x %x %q %d %d %d %q %s", span.trace, span.id, span.parent, span.name, span.start, span.end, span.status, span.message, attrsTold(span.attrs)))
				for _, e := range span.exceptions {
					out = append(out, "exception "+attrsTold(e))
				}
			}
			for i := s.from; i < s.to && i < len(t.records); i++ {
				rec := &t.records[i]
				out = append(out, fmt.Sprintf("record %x %x %d %d %q %s %s", rec.trace, rec.span, rec.time, rec.observed, rec.name, rawTold(rec.body.raw()), attrsTold(rec.attrs)))
			}
		}
	}
	return out
}

func attrsTold(attrs []attribute) string {
	var b strings.Builder
	for i := range attrs {
		fmt.Fprintf(&b, "%q: %s as %q, ", attrs[i].key, rawTold(attrs[i].raw()), attrs[i].asText())
	}
	return b.String()
}

// rawTold does not tell one NaN from another.
func rawTold(v any) string {
	if f, ok := v.(float64); ok && !math.IsNaN(f) {
		return fmt.Sprintf("double %x", math.Float64bits(f))
	}
	return fmt.Sprintf("%#v", v)
}

func pdataAttrs(m pcommon.Map) string {
	var b strings.Builder
	for k, v := range m.All() {
		fmt.Fprintf(&b, "%q: %s as %q, ", k, rawTold(v.AsRaw()), v.AsString())
	}
	return b.String()
}

func pdataTraces(in ptraceotlp.ExportRequest) (out []string) {
	for _, rs := range in.Traces().ResourceSpans().All() {
		out = append(out, "resource "+pdataAttrs(rs.Resource().Attributes()))
		for _, ss := range rs.ScopeSpans().All() {
			out = append(out, "scope "+ss.Scope().Name())
			for _, s := range ss.Spans().All() {
				out = append(out, fmt.Sprintf("span %x %x %x %q %d %d %d %q %s", [16]byte(s.TraceID()), [8]byte(s.SpanID()), [8]byte(s.ParentSpanID()), s.Name(),
					uint64(s.StartTimestamp()), uint64(s.EndTimestamp()), s.Status().Code(), s.Status().Message(), pdataAttrs(s.Attributes())))
				for _, e := range s.Events().All() {
					if e.Name() == "exception" {
						out = append(out, "exception "+pdataAttrs(e.Attributes()))
					}
				}
			}
		}
	}
	return out
}

func pdataLogs(in plogotlp.ExportRequest) (out []string) {
	for _, rl := range in.Logs().ResourceLogs().All() {
		out = append(out, "resource "+pdataAttrs(rl.Resource().Attributes()))
		for _, sl := range rl.ScopeLogs().All() {
			out = append(out, "scope "+sl.Scope().Name())
			for _, r := range sl.LogRecords().All() {
				out = append(out, fmt.Sprintf("record %x %x %d %d %q %s %s", [16]byte(r.TraceID()), [8]byte(r.SpanID()), uint64(r.Timestamp()), uint64(r.ObservedTimestamp()),
					r.EventName(), rawTold(r.Body().AsRaw()), pdataAttrs(r.Attributes())))
			}
		}
	}
	return out
}

// asPdata decodes with pdata and tells what it read.
func asPdata(path, contentType string, body []byte) ([]string, error) {
	if path == pathTraces {
		in := ptraceotlp.NewExportRequest()
		_, err := decode(body, contentType, in.UnmarshalProto, in.UnmarshalJSON)
		return pdataTraces(in), err
	}
	in := plogotlp.NewExportRequest()
	_, err := decode(body, contentType, in.UnmarshalProto, in.UnmarshalJSON)
	return pdataLogs(in), err
}

func fuzzProto(f *testing.F, path string) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got := newTelemetry()
		defer got.release()
		signal, _ := signalOf(path)
		err := signal.decode(got, body, typeProto)
		if got.cut || errors.Is(err, errWireType) { // pdata reads some groups, as it should not
			return
		}
		want, wantErr := asPdata(path, typeProto, append([]byte(nil), body...))
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("error %v, pdata's %v", err, wantErr)
		}
		if err != nil {
			want = nil
		}
		if diff := cmp.Diff(want, told(got)); diff != "" {
			t.Fatalf("decoded (-pdata +here):\n%s", diff)
		}
	})
}

func FuzzProtoSpans(f *testing.F) {
	for _, in := range spanSeeds(f) {
		f.Add(encoded(f, in.MarshalProto))
	}
	for _, body := range oddRequests() {
		f.Add(body)
	}
	fuzzProto(f, pathTraces)
}

func FuzzProtoRecords(f *testing.F) {
	for _, in := range logSeeds(f) {
		f.Add(encoded(f, in.MarshalProto))
	}
	for _, body := range oddRequests() {
		f.Add(body)
	}
	fuzzProto(f, pathLogs)
}

// oddRequests are what no client sends and the encoding allows, or nearly.
func oddRequests() [][]byte {
	field := func(n protowire.Number, parts ...string) string {
		return string(protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), []byte(strings.Join(parts, ""))))
	}
	number := func(n protowire.Number, v uint64) string {
		return string(protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v))
	}
	attr := func(key string, value ...string) string { return field(1, key) + field(2, value...) }
	in := func(span ...string) []byte { return []byte(field(1, field(2, field(2, span...)))) }
	text := field(1, "x")
	return [][]byte{
		in(field(9, attr("a", text, field(2, "\x18\x05"))), field(9, field(2, text), field(2, number(3, 7)))),       // a value in two parts
		in(field(15, number(3, 2)), field(15, field(2, "message"))),                                                 // a status in two parts
		[]byte(field(1, field(1, field(1, attr("a", text))), field(1, field(1, attr("b", text))))),                  // a resource in two parts
		[]byte(field(1, field(1000, field(2, field(5, "old"))))),                                                    // scope spans of before 0.15
		[]byte(field(1, field(1000, field(2, field(5, "old"))), field(2, field(2, field(5, "new"))))),               // beside those of now
		in(field(9, attr("list", field(5, field(1, text), field(1, field(6, field(1, attr("k", text)))))))),         // nested
		in(field(9, attr("bytes", field(7, "\x00\xff"))), field(9, attr("none", field(7))), field(9, attr("null"))), // bytes, and none
		in(field(1, "short")), in(field(1)), in(field(11, field(2, "exception"), field(3, attr("exception.message", text)))),
		in(number(9, 1)), in("\x48"), in("\x4a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), in("\x00"), in("\x0b\x0c"), in(number(1<<28, 1)), in(field(13, field(1, "short"))),
	}
}

// emptyKey finds keys without a character, at which pdata takes an object for ended.
var emptyKey = regexp.MustCompile(`""\s*:`)

func fuzzJSON(f *testing.F, path string) {
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) || jsonDepth(body) > maxJSONDepth || emptyKey.Match(body) {
			return
		}
		want, wantErr := asPdata(path, typeJSON, append([]byte(nil), body...))
		if wantErr != nil { // it also refuses for what nobody reads here
			return
		}
		got := newTelemetry()
		defer got.release()
		signal, _ := signalOf(path)
		if err := signal.decode(got, body, typeJSON); err != nil {
			t.Fatalf("pdata reads it: %v", err)
		}
		if diff := cmp.Diff(want, told(got)); diff != "" {
			t.Fatalf("decoded (-pdata +here):\n%s", diff)
		}
	})
}

func FuzzJSONSpans(f *testing.F) {
	for _, in := range spanSeeds(f) {
		f.Add(encoded(f, in.MarshalJSON))
	}
	for _, span := range []string{
		`{"trace_id":"5B8EFFF798038103D269B633813FC60C","span_id":"","parentSpanId":"eee19b7ec3c1b174","startTimeUnixNano":7,"end_time_unix_nano":"8","status":{"code":"STATUS_CODE_ERROR","message":"\u00e9\ud83d\ude00\ud800\n"}}`,
		`{"attributes":[{"key":"a","value":{"stringValue":null}},{"value":null},null,{"key":"b","value":{"intValue":"-7","doubleValue":"NaN"}},{"key":"c","value":{"bytesValue":"AP8="}}]}`,
		`{"attributes":[{"key":"a","value":{"arrayValue":{"values":[{"boolValue":true},null,{"kvlistValue":{"values":[{"key":"k","value":{"doubleValue":-0.5}}]}}]}}}],"attributes":[{"key":"twice"}],"unknown":[1,{"a":"b"}]}`,
		`{"events":[{"name":"exception","attributes":[{"key":"exception.message","value":{"stringValue":"x"}}]},null],"startTimeUnixNano":1.5}`,
	} {
		f.Add([]byte(`{"resourceSpans":[{"scope_spans":[{"scope":{"name":"s"},"spans":[` + span + `]}]}]}`))
	}
	fuzzJSON(f, pathTraces)
}

func FuzzJSONRecords(f *testing.F) {
	for _, in := range logSeeds(f) {
		f.Add(encoded(f, in.MarshalJSON))
	}
	f.Add([]byte(`{"resource_logs":[{"scope_logs":[{"log_records":[{"time_unix_nano":"1","observedTimeUnixNano":2,"eventName":"n","body":{"kvlistValue":{"values":[]}}}]}]}]}`))
	fuzzJSON(f, pathLogs)
}

// FuzzJSONReader compares what is read of a text with what encoding/json reads of it.
func FuzzJSONReader(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,-0.5e+3,"\u00e9\ud83d\ude00\ud800\ud800\u0041\"\\\/\b\f\n\r\t",true,false,null,{}],"a":{"b":[]}}`, `[1e999]`, `01`, `-`, `1.`, `"` + "\x01" + `"`, `"` + "\xff\xe2\x82" + `é"`,
		`"\x"`, `"\u12"`, `"\ud800\u12"`, `{"a"}`, `{,}`, `[1,]`, `[1 2]`, `nul`, `"`, `"\`, ` [ ] `, `[] x`, `{"":1}`, "\x00", `"\ud800\ud83d\ude00"`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if jsonDepth(text) > maxJSONDepth {
			return
		}
		var want any
		wantErr := json.Unmarshal(text, &want)
		var got value
		r := jsonReader{text: text, arena: new(arena)}
		err := r.value(&got)
		if err == nil {
			err = r.end()
		}
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("error %v, encoding/json's %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(want, got.raw()); diff != "" {
			t.Fatalf("read (-encoding/json +here):\n%s", diff)
		}
	})
}

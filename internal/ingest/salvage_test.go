package ingest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/protobuf/encoding/protowire"
)

const span = `{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"NAME","startTimeUnixNano":"1767603600000000000","endTimeUnixNano":"1767603601000000000","attributes":[{"key":"gen_ai.system","value":{"stringValue":"x"}}]}`

// A request with an item that can't be decoded keeps the others, with their resource, and names the bad one.
func TestSalvage(t *testing.T) {
	named := func(name string) string { return strings.Replace(span, "NAME", name, 1) }
	short := strings.Replace(named("bad"), "eee19b7ec3c1b174", "eee19b", 1)
	request := func(spans ...string) string {
		return `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeSpans":[{"scope":{"name":"s"},"spans":[` + strings.Join(spans, ",") + `]}]}]}`
	}
	for _, tc := range []struct {
		name, body string
		want       []string
		bad        []string
	}{
		{"all good", request(named("a"), named("b")), []string{"shop/a", "shop/b"}, nil},
		{"one id too short", request(named("a"), short, named("b")), []string{"shop/a", "shop/b"}, []string{"spans 2"}},
		{"a time that is text", request(strings.Replace(named("a"), "1767603600000000000", "now", 1), named("b")), []string{"shop/b"}, []string{"spans 1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkSalvaged(t, []byte(tc.body), typeJSON, tc.want, tc.bad)
		})
	}
	for _, body := range []string{request(short), `{"resourceSpans":[`} {
		if _, _, err := NewMapper(Options{}).Capture(Request{Path: pathTraces, ContentType: typeJSON, Body: []byte(body)}, Receipt{}); err == nil {
			t.Errorf("%.60s: got no error", body)
		}
	}
}

func checkSalvaged(t *testing.T, body []byte, contentType string, want, bad []string) {
	t.Helper()
	events, rejected, err := NewMapper(Options{}).Capture(Request{Path: pathTraces, ContentType: contentType, Body: body}, Receipt{})
	if err != nil {
		t.Fatal(err)
	}
	var got, items []string
	for _, e := range events {
		got = append(got, e.Agent.Service+"/"+e.Trace.Name)
	}
	for _, r := range rejected {
		items = append(items, r.Item)
	}
	if diff := cmp.Diff([][]string{want, bad}, [][]string{got, items}); diff != "" {
		t.Error(diff)
	}
}

// The same in protobuf, where an id has any length that its sender gives it.
func TestSalvageProto(t *testing.T) {
	in := ptraceotlp.NewExportRequest()
	rs := in.Traces().ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "shop")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	for _, name := range []string{"a", "bad", "b"} {
		s := spans.AppendEmpty()
		s.SetName(name)
		s.SetSpanID([8]byte(bytes.Repeat([]byte(name[:1]), 8)))
		s.SetStartTimestamp(1_767_603_600_000_000_000)
		s.Attributes().PutStr("gen_ai.system", "x")
	}
	spans.At(1).SetSpanID([8]byte{9, 9, 9, 9, 9, 9, 9, 9})
	body, err := in.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	singles, err := singlesProto(body, firstPart, 3)
	if err != nil || len(singles) != 3 {
		t.Fatalf("%d items, %v", len(singles), err)
	}
	// An id of six bytes and an unknown field in the place of eight.
	id := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), bytes.Repeat([]byte{9}, 8))
	copy(body[bytes.Index(body, id):], append(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), bytes.Repeat([]byte{9}, 6)), 0x78, 0x01))
	checkSalvaged(t, body, typeProto, []string{"shop/a", "shop/b"}, []string{"spans 2"})
}

// A resource that is copied to each of very many items is too much.
func TestSalvageIsBounded(t *testing.T) {
	bad := strings.Replace(span, "eee19b7ec3c1b174", "eee19b", 1)
	body := `{"resourceSpans":[{"resource":{"attributes":[{"key":"k","value":{"stringValue":"` + strings.Repeat("x", 1<<20) + `"}}]},"scopeSpans":[{"spans":[` +
		bad + strings.Repeat(","+span, 200) + `]}]}]}`
	if _, _, err := NewMapper(Options{}).Capture(Request{Path: pathTraces, ContentType: typeJSON, Body: []byte(body)}, Receipt{}); err == nil || !strings.Contains(err.Error(), "take request apart") {
		t.Errorf("got %v", err)
	}
}

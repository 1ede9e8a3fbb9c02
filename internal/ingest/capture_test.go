package ingest

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestReadCapture(t *testing.T) {
	const spans, records = `{"headers":{"path":"/v1/traces"},"otlp":{"resourceSpans":[]}}`, `{"signal":"logs","headers":{"path":"/grpc"},"otlp":{"resourceLogs":[]}}`
	tests := []struct {
		name, in string
		want     []string
		err      string
	}{
		{"array", " [" + spans + "," + records + "]", []string{"/v1/traces", "/v1/logs"}, ""},
		{"lines", spans + "\n" + records + "\n", []string{"/v1/traces", "/v1/logs"}, ""},
		{"by body", `{"otlp":{"resourceMetrics":[]}}`, []string{"/v1/metrics"}, ""},
		{"empty", "\n", nil, ""},
		{"no body", `{"headers":{"path":"/v1/traces"}}`, nil, `read capture: request 0: want an object in "otlp"`},
		{"other path", `{"headers":{"path":"/x"},"otlp":{}}`, nil, `read capture: request 0: path "/x" is not one of OTLP`},
		{"cut", "[" + spans, []string{"/v1/traces"}, "read capture: EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			err := ReadCapture(strings.NewReader(tt.in), func(r Request) error { got = append(got, r.Path); return nil })
			if err == nil && tt.err != "" || err != nil && err.Error() != tt.err {
				t.Errorf("error = %v, want %q", err, tt.err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestShift(t *testing.T) {
	m := NewMapper(Options{})
	for _, name := range []string{"vercel-ai-sdk", "claude-code"} {
		for _, req := range readRequests(t, filepath.Join("testdata", name+".jsonl")) {
			moved, err := Shift(req, 36*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			before, _, _ := m.Capture(req, Receipt{})
			after, _, err := m.Capture(moved, Receipt{})
			if err != nil || len(after) != len(before) {
				t.Fatalf("%d events, then %d: %v", len(before), len(after), err)
			}
			for i := range before {
				if got := after[i].Time.Sub(before[i].Time); got != 36*time.Hour || after[i].Duration != before[i].Duration {
					t.Errorf("%s moved by %s", before[i].Trace.Name, got)
				}
			}
			if name == "claude-code" && strings.Contains(string(moved.Body), "2026-11-23T07") {
				t.Error("event.timestamp was not moved")
			}
		}
	}
	if _, err := Shift(Request{Path: pathTraces, ContentType: typeJSON, Body: []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"5"}]}]}]}`)}, -time.Second); err == nil {
		t.Error("a time before the epoch is no error")
	}
}

// What can't be decoded can't be moved, and is told of as it would be without moving the request.
func TestShiftTellsWhatIsLost(t *testing.T) {
	for _, req := range []Request{
		{Path: pathTraces, ContentType: typeJSON, Body: []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"ab","startTimeUnixNano":"5"},{"startTimeUnixNano":"6"}]}]}]}`)},
		{Path: pathLogs, ContentType: typeJSON, Body: []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"ab","timeUnixNano":"5"},{"timeUnixNano":"6"}]}]}]}`)},
	} {
		m := NewMapper(Options{})
		_, want, err := m.Capture(req, Receipt{})
		if err != nil || len(want) != 1 {
			t.Fatalf("rejected %v: %v", want, err)
		}
		for range 2 { // the second time there is nothing more to lose
			if req, err = Shift(req, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		_, got, err := m.Capture(req, Receipt{})
		if err != nil || len(got) != 1 || got[0].Item != want[0].Item {
			t.Errorf("rejected %v, want %v: %v", got, want, err)
		}
	}
}

func TestShiftBackIsIdentity(t *testing.T) {
	var all []Request
	for _, name := range []string{"vercel-ai-sdk", "langchain", "openai", "claude-code"} {
		for _, req := range readRequests(t, filepath.Join("testdata", name+".jsonl")) {
			plain, err := Shift(req, 0) // the encoder's own spelling
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, plain)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		req := rapid.SampledFrom(all).Draw(t, "request")
		by := time.Duration(rapid.Int64Range(-3e10, 3e10).Draw(t, "milliseconds")) * time.Millisecond
		moved, err := Shift(req, by)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Shift(moved, -by)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if json.Unmarshal(req.Body, &want) != nil || json.Unmarshal(back.Body, &got) != nil {
			t.Fatal("bodies are no JSON")
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("shifted by %s and back (-want +got):\n%s", by, d)
		}
	})
}

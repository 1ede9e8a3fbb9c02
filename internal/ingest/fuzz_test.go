package ingest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// checkEvents holds what is promised of every event, whatever came in.
func checkEvents(t *testing.T, events []event.Event) {
	t.Helper()
	for _, e := range events {
		if e.ID == "" || e.ID == "-" {
			t.Errorf("%s has no id", e.Kind)
		}
		if err := e.Check(); err != nil {
			t.Errorf("%s does not pass its check: %v", e.Kind, err)
		}
		if _, err := e.MarshalLine(); err != nil {
			t.Errorf("%s can't be encoded: %v", e.Kind, err)
		}
	}
}

// fuzzMappers are one that stores content and one that doesn't.
var fuzzMappers = []*Mapper{NewMapper(Options{}), NewMapper(Options{Content: ContentHashed, Hasher: event.NewHasher([]byte("salt"))})}

func fuzzCapture(t *testing.T, req Request) {
	t.Helper()
	for _, m := range fuzzMappers {
		events, _, err := m.Capture(req, Receipt{})
		if err == nil {
			checkEvents(t, events)
		}
	}
}

// spanSeeds are requests of one span each: the fuzzer gets nowhere with large ones.
func spanSeeds(f *testing.F) []ptraceotlp.ExportRequest {
	f.Helper()
	var out []ptraceotlp.ExportRequest
	for _, name := range []string{"vercel-ai-sdk", "langchain", "openai-agents", "openai"} {
		for _, req := range readRequests(f, filepath.Join("testdata", name+".jsonl")) {
			if req.Path != pathTraces {
				continue
			}
			in := ptraceotlp.NewExportRequest()
			if err := in.UnmarshalJSON(req.Body); err != nil {
				f.Fatal(err)
			}
			rs := in.Traces().ResourceSpans().At(0)
			for _, span := range rs.ScopeSpans().At(0).Spans().All() {
				td := ptrace.NewTraces()
				to := td.ResourceSpans().AppendEmpty()
				rs.Resource().CopyTo(to.Resource())
				ss := to.ScopeSpans().AppendEmpty()
				rs.ScopeSpans().At(0).Scope().CopyTo(ss.Scope())
				span.CopyTo(ss.Spans().AppendEmpty())
				out = append(out, ptraceotlp.NewExportRequestFromTraces(td))
			}
		}
	}
	return out
}

func logSeeds(f *testing.F) []plogotlp.ExportRequest {
	f.Helper()
	var out []plogotlp.ExportRequest
	for _, req := range readRequests(f, filepath.Join("testdata", "claude-code.jsonl")) {
		if req.Path != pathLogs {
			continue
		}
		in := plogotlp.NewExportRequest()
		if err := in.UnmarshalJSON(req.Body); err != nil {
			f.Fatal(err)
		}
		for _, rec := range in.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			ld := logs(nil)
			rec.CopyTo(ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0))
			out = append(out, plogotlp.NewExportRequestFromLogs(ld))
		}
	}
	return out
}

func encoded(f *testing.F, marshal func() ([]byte, error)) []byte {
	f.Helper()
	body, err := marshal()
	if err != nil {
		f.Fatal(err)
	}
	return body
}

func FuzzTracesJSON(f *testing.F) {
	for _, in := range spanSeeds(f) {
		f.Add(encoded(f, in.MarshalJSON))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzCapture(t, Request{Path: pathTraces, ContentType: typeJSON, Body: body})
	})
}

func FuzzTracesProto(f *testing.F) {
	for _, in := range spanSeeds(f) {
		f.Add(encoded(f, in.MarshalProto))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzCapture(t, Request{Path: pathTraces, ContentType: typeProto, Body: body})
	})
}

func FuzzLogsJSON(f *testing.F) {
	for _, in := range logSeeds(f) {
		f.Add(encoded(f, in.MarshalJSON))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzCapture(t, Request{Path: pathLogs, ContentType: typeJSON, Body: body})
	})
}

func FuzzJSONEvents(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("[" + minimal + ",{}]"))
	for _, name := range []string{"vercel-ai-sdk", "openai"} {
		golden, err := os.ReadFile(filepath.Join("testdata", name+".golden.jsonl"))
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(golden) {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, m := range fuzzMappers {
			events, _, err := m.JSON(bytes.NewReader(body), Receipt{})
			if err == nil {
				checkEvents(t, events)
			}
		}
	})
}

func FuzzCapture(f *testing.F) {
	for _, in := range logSeeds(f) {
		f.Add(fmt.Appendf(nil, `{"headers":{"path":"/v1/logs"},"otlp":%s}`, encoded(f, in.MarshalJSON)))
	}
	for _, in := range spanSeeds(f) {
		f.Add(fmt.Appendf(nil, `[{"signal":"traces","otlp":%s}]`, encoded(f, in.MarshalJSON)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = ReadCapture(bytes.NewReader(body), func(req Request) error {
			fuzzCapture(t, req)
			if moved, err := Shift(req, time.Hour); err == nil {
				fuzzCapture(t, moved)
			}
			return nil
		})
	})
}

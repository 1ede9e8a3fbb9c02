package ingest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

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
func fuzzMappers() []*Mapper {
	return []*Mapper{NewMapper(Options{}), NewMapper(Options{Content: ContentHashed, Hasher: event.NewHasher([]byte("salt"))})}
}

func fuzzCapture(t *testing.T, req Request) {
	t.Helper()
	for _, m := range fuzzMappers() {
		events, _, err := m.Capture(req, Receipt{})
		if err == nil {
			checkEvents(t, events)
		}
	}
}

func seed(f *testing.F, path string) []Request {
	f.Helper()
	var out []Request
	for _, name := range []string{"vercel-ai-sdk", "langchain", "openai-agents", "openai", "claude-code"} {
		for _, req := range readRequests(f, filepath.Join("testdata", name+".jsonl")) {
			if req.Path == path {
				out = append(out, req)
			}
		}
	}
	return out
}

func FuzzTracesJSON(f *testing.F) {
	for _, req := range seed(f, pathTraces) {
		f.Add(req.Body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzCapture(t, Request{Path: pathTraces, ContentType: typeJSON, Body: body})
	})
}

func FuzzTracesProto(f *testing.F) {
	for _, req := range seed(f, pathTraces) {
		in := ptraceotlp.NewExportRequest()
		if err := in.UnmarshalJSON(req.Body); err != nil {
			f.Fatal(err)
		}
		body, err := in.MarshalProto()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzCapture(t, Request{Path: pathTraces, ContentType: typeProto, Body: body})
	})
}

func FuzzLogsJSON(f *testing.F) {
	for _, req := range seed(f, pathLogs) {
		f.Add(req.Body)
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
		f.Add(golden)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, m := range fuzzMappers() {
			events, _, err := m.JSON(bytes.NewReader(body), Receipt{})
			if err == nil {
				checkEvents(t, events)
			}
		}
	})
}

func FuzzCapture(f *testing.F) {
	for _, name := range []string{"vercel-ai-sdk", "openai", "claude-code"} {
		body, err := os.ReadFile(filepath.Join("testdata", name+".jsonl"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
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

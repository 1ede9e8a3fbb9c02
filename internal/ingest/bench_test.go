package ingest

import (
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// benchRequests are the recorded requests of traces as they came, in JSON, and the same in protobuf.
func benchRequests(b *testing.B) (asJSON, asProto []Request) {
	b.Helper()
	paths, err := filepath.Glob("../../testdata/captures/*.jsonl")
	if err != nil || len(paths) == 0 {
		b.Fatalf("no captures: %v", err)
	}
	for _, path := range paths {
		for _, req := range readRequests(b, path) {
			if req.Path != pathTraces {
				continue
			}
			asJSON = append(asJSON, req)
			in := ptraceotlp.NewExportRequest()
			if err := in.UnmarshalJSON(req.Body); err != nil {
				b.Fatal(err)
			}
			if req.Body, err = in.MarshalProto(); err != nil {
				b.Fatal(err)
			}
			req.ContentType = typeProto
			asProto = append(asProto, req)
		}
	}
	return asJSON, asProto
}

// BenchmarkIngest takes OTLP bytes to events that are fit to be logged, in both encodings and under both content policies, beside what
// pdata takes to decode the same bytes. One iteration is all captures; what is reported is for one event. Time is the process's, the
// garbage collector's share included, because it matters less what else the machine does.
func BenchmarkIngest(b *testing.B) {
	asJSON, asProto := benchRequests(b)
	full := NewMapper(Options{})
	hashed := NewMapper(Options{Content: ContentHashed, Hasher: event.NewHasher(nil)})
	ingest := func(m *Mapper) func(Request) (int, error) {
		return func(req Request) (int, error) {
			events, _, err := m.Capture(req, Receipt{})
			return len(events), err
		}
	}
	pdata := func(req Request) (int, error) {
		in := ptraceotlp.NewExportRequest()
		_, err := decode(req.Body, req.ContentType, in.UnmarshalProto, in.UnmarshalJSON)
		return in.Traces().SpanCount(), err
	}
	own := func(req Request) (int, error) {
		t := newTelemetry()
		defer t.release()
		s, _ := signalOf(req.Path)
		err := s.decode(t, req.Body, req.ContentType)
		return len(t.spans), err
	}
	for _, bench := range []struct {
		name     string
		requests []Request
		run      func(Request) (int, error)
	}{
		{"proto/pdata-decode", asProto, pdata},
		{"proto/decode", asProto, own},
		{"proto/ingest", asProto, ingest(full)},
		{"proto/ingest-hashed", asProto, ingest(hashed)},
		{"json/pdata-decode", asJSON, pdata},
		{"json/decode", asJSON, own},
		{"json/ingest", asJSON, ingest(full)},
	} {
		b.Run(bench.name, func(b *testing.B) { perEvent(b, bench.requests, bench.run) })
	}
}

func perEvent(b *testing.B, requests []Request, run func(Request) (int, error)) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	events, bytes, start := 0, 0, cpuTime(b)
	for b.Loop() {
		for _, req := range requests {
			n, err := run(req)
			if err != nil {
				b.Fatal(err)
			}
			events += n
			bytes += len(req.Body)
		}
	}
	elapsed := cpuTime(b) - start
	runtime.ReadMemStats(&after)
	n := float64(events)
	b.ReportMetric(float64(elapsed.Nanoseconds())/n, "cpu-ns/event")
	b.ReportMetric(float64(bytes)/n, "body-B/event")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/event")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/event")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what the process has used of the processor.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

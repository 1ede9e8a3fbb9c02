package app

import (
	"runtime"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/stream"
)

// BenchmarkPathStages takes the events of BenchmarkWholePath through each stage of the path alone, on one goroutine and without the log
// in between. One iteration is 20,000 events; what is reported is the process's time for one of them, the garbage collector's included.
func BenchmarkPathStages(b *testing.B) {
	set, sent := manyRules(b, 500), toolCalls(b, 200)
	hasher := event.NewHasher(nil)
	mapper := ingest.NewMapper(ingest.Options{Hasher: hasher})
	codec, err := event.NewCodec()
	if err != nil {
		b.Fatal(err)
	}
	mapped := func() (out [][]event.Event) {
		for _, r := range sent {
			events, _, err := mapper.Capture(ingest.Request{Path: "/v1/traces", ContentType: "application/x-protobuf", Body: r.body}, ingest.Receipt{At: time.Now()})
			if err != nil {
				b.Fatal(err)
			}
			out = append(out, events)
		}
		return out
	}
	encoded := func(requests [][]event.Event) (out [][]byte) {
		for _, events := range requests {
			data, _ := stream.EncodeBatch(codec, events)
			out = append(out, data)
		}
		return out
	}
	decoded := func(batches [][]byte) (out [][]event.Event) {
		for _, data := range batches {
			events, err := stream.DecodeBatch(codec, data)
			if err != nil {
				b.Fatal(err)
			}
			out = append(out, events)
		}
		return out
	}
	judged := func(requests [][]event.Event) *pipeline.Shard {
		shard := pipeline.New(set, hasher, pipeline.Options{})
		for i := range requests {
			for j := range requests[i] {
				shard.Process(&requests[i][j], pipeline.Position{Sequence: uint64(i)})
			}
		}
		return shard
	}
	requests := mapped()
	batches := encoded(requests)
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	empty := heap()
	state := judged(decoded(batches))
	kept := heap() - empty
	stage := func(name string, run func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			used := cpuTime(b)
			for b.Loop() {
				run(b)
			}
			took := cpuTime(b) - used
			runtime.ReadMemStats(&after)
			n := float64(b.N * len(sent) * 100)
			b.ReportMetric(float64(took.Nanoseconds())/n, "cpu-ns/event")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/event")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/event")
			b.ReportMetric(0, "ns/op")
		})
	}
	stage("ingest", func(*testing.B) { mapped() })
	stage("log-encode", func(*testing.B) { encoded(requests) })
	stage("log-decode", func(*testing.B) { decoded(batches) })
	stage("decode-and-judge", func(*testing.B) { judged(decoded(batches)) })
	stage("snapshot", func(b *testing.B) {
		data, err := state.Snapshot(1)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(data))/float64(len(sent)*100), "bytes-kept/event")
		b.ReportMetric(kept/float64(len(sent)*100), "bytes-in-memory/event")
	})
}

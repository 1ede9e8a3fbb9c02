package app

import (
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/testdata"
)

// captured returns every recorded request, its sessions laid out in time.
func captured(b *testing.B) []ingest.Request {
	b.Helper()
	var requests []ingest.Request
	for _, name := range []string{"billing-bot", "refund-bot", "support-desk", "research-crew", "billing-bot-control", "billing-bot-hijacked"} {
		f, err := testdata.Captures.Open("captures/" + name + ".jsonl")
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if err := ingest.ReadCapture(f, func(r ingest.Request) error { requests = append(requests, r); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	requests, err := Spread(requests, time.Time{}, 20*time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	return requests
}

func shippedRules(b *testing.B) *detect.Set {
	b.Helper()
	read, err := ReadRules("")
	if err != nil {
		b.Fatal(err)
	}
	set, err := detect.Compile(read.Rules)
	if err != nil {
		b.Fatal(err)
	}
	return set
}

// BenchmarkIngestToFinding takes the captures from OTLP bytes to findings on one goroutine, with the shipped rules and without the
// log in between, and then each stage alone over the same events. One iteration is all captures.
func BenchmarkIngestToFinding(b *testing.B) {
	requests, set, hasher := captured(b), shippedRules(b), event.NewHasher(nil)
	mapper := ingest.NewMapper(ingest.Options{Hasher: hasher})
	codec, err := event.NewCodec()
	if err != nil {
		b.Fatal(err)
	}
	var events []event.Event
	for _, r := range requests {
		mapped, _, err := mapper.Capture(r, ingest.Receipt{})
		if err != nil {
			b.Fatal(err)
		}
		events = append(events, mapped...)
	}
	data, _ := stream.EncodeBatch(codec, events)
	// fresh returns copies, because the shard changes events.
	fresh := func() []event.Event {
		out, err := stream.DecodeBatch(codec, data)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	stage := func(name string, run func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run(b)
			}
			b.ReportMetric(float64(b.N*len(events))/b.Elapsed().Seconds(), "events/s")
		})
	}
	decode := func(b *testing.B) {
		for _, r := range requests {
			if _, _, err := mapper.Capture(r, ingest.Receipt{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	detectAll := func(b *testing.B) {
		shard := pipeline.New(set, hasher, pipeline.Options{})
		findings := 0
		for i, e := range fresh() {
			findings += len(shard.Process(&e, pipeline.Position{Sequence: uint64(i)}))
		}
		if findings == 0 {
			b.Fatal("nothing was found")
		}
	}
	stage("whole", func(b *testing.B) { decode(b); detectAll(b) })
	stage("decode-otlp-json", decode)
	stage("detect", detectAll)
	stage("log-encode", func(*testing.B) { stream.EncodeBatch(codec, events) })
	stage("log-decode", func(*testing.B) { fresh() })
}

package app

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/stream"
)

// manyRules returns the shipped rules and as many more as make n: equality with a literal, literals, a pattern, a threshold, a list,
// and one in ten that counts.
func manyRules(b *testing.B, n int) *detect.Set {
	b.Helper()
	shipped, err := ReadRules("")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	whens := []string{
		`tool.name == "tool_%[1]d" && arg("body") contains "needle%[1]d"`,
		`arg("body") contains "alpha%[1]d" || arg("body") contains "beta%[1]d" || tool.result contains "gamma%[1]d"`,
		`tool.command matches "(curl|wget) .*host%[1]d.*\\| *sh"`,
		`tool.name == "tool_%[1]d" && number("amount") > %[1]d000`,
		`tool.host in ["h%[1]d.example", "i%[1]d.example", "j%[1]d.example"] && not (arg("to") contains "@corp.example")`,
		`arg("path") startsWith "/srv/%[1]d/"`,
	}
	for i := range n - len(shipped.Rules) {
		operator := ""
		if i%10 == 0 {
			operator = "count: {at_least: 1000, within: 1h}\n"
		}
		when := fmt.Sprintf(whens[i%len(whens)], i)
		text := fmt.Sprintf(`id: made-%[1]d
version: 1.0.0
title: Made
severity: low
confidence: low
lane: hunt
on: [tool.result]
key: agent
when: |
  %[2]s
%[3]stags: {asi: [ASI10]}
triage: None.
tests:
  - {name: fires not, fires: 0, events: [{kind: prompt}]}
`, i, when, operator)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("made-%d.yaml", i)), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	read, err := ReadRules(dir)
	if err != nil {
		b.Fatal(err)
	}
	set, err := detect.Compile(read.Rules)
	if err != nil {
		b.Fatal(err)
	}
	return set
}

// request is an OTLP request with the places in it of what tells its spans from those of the last round.
type request struct {
	body                []byte
	traces, calls, when []int
}

// roundSpan is how much later the spans of each round are.
const roundSpan = 100 * time.Second

// next makes other spans of the request, of the same conversations.
func (r *request) next() {
	for _, at := range r.traces {
		r.body[at]++
	}
	for _, at := range r.calls {
		r.body[at]++
	}
	for _, at := range r.when {
		nanos := r.body[at:]
		binary.LittleEndian.PutUint64(nanos, binary.LittleEndian.Uint64(nanos)+uint64(roundSpan))
	}
}

// find notes the places in the body of what comes once in it.
func (r *request) find(b *testing.B, trace pcommon.TraceID, call string, start, end time.Time) {
	b.Helper()
	place := func(what []byte, plus int) int {
		at := bytes.Index(r.body, what)
		if at < 0 {
			b.Fatalf("%q is not in the request", what)
		}
		return at + plus
	}
	r.traces = append(r.traces, place(trace[:], 4))
	r.calls = append(r.calls, place([]byte(call), len("call-")))
	for tag, t := range map[byte]time.Time{0x39: start, 0x41: end} { // fields 7 and 8 of a span, eight bytes each
		r.when = append(r.when, place(binary.LittleEndian.AppendUint64([]byte{tag}, uint64(t.UnixNano())), 1))
	}
}

// toolCalls returns at most a thousand OTLP requests of 100 tool calls each, of about 1,400 bytes a span, from ten thousand agents of 64
// services.
func toolCalls(b *testing.B, requests int) (out []*request) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 400)
	for i := range words {
		words[i] = fmt.Sprintf("w%c%c%c", 'a'+rng.IntN(26), 'a'+rng.IntN(26), 'a'+rng.IntN(26))
		if i%20 == 0 { // some name one thing
			words[i] += fmt.Sprint(rng.IntN(1000))
		}
	}
	prose := func(n int) string {
		var text strings.Builder
		for text.Len() < n {
			text.WriteString(words[rng.IntN(len(words))])
			text.WriteByte(' ')
		}
		return text.String()
	}
	start := time.Now().Add(-time.Hour)
	for r := range requests {
		traces := ptrace.NewTraces()
		rs := traces.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", fmt.Sprintf("service-%d", r%64))
		scope := rs.ScopeSpans().AppendEmpty()
		scope.Scope().SetName("bench")
		var made request
		var find []func()
		for i := range 100 {
			s := scope.Spans().AppendEmpty()
			n := r*100 + i
			at := start.Add(time.Duration(n) * time.Millisecond)
			trace, call := pcommon.TraceID{byte(n), byte(n >> 8), byte(n >> 16), 1, 0, 0, 0, 7}, fmt.Sprintf("call-0%06d", n)
			s.SetTraceID(trace)
			s.SetSpanID(pcommon.SpanID{byte(n), byte(n >> 8), byte(n >> 16), 2})
			s.SetName("execute_tool")
			s.SetStartTimestamp(pcommon.NewTimestampFromTime(at))
			s.SetEndTimestamp(pcommon.NewTimestampFromTime(at.Add(20 * time.Millisecond)))
			a := s.Attributes()
			agent := rng.IntN(156)
			a.PutStr("gen_ai.operation.name", "execute_tool")
			a.PutStr("gen_ai.agent.name", fmt.Sprintf("agent-%d", agent))
			a.PutStr("gen_ai.conversation.id", fmt.Sprintf("conversation-%d-%d", agent, r/256))
			a.PutStr("gen_ai.tool.name", fmt.Sprintf("tool_%d", rng.IntN(40)))
			a.PutStr("gen_ai.tool.call.id", call)
			a.PutStr("gen_ai.tool.call.arguments", fmt.Sprintf(`{"path":"/home/%d/notes.txt","amount":%d,"body":%q}`, agent, rng.IntN(500), prose(400)))
			a.PutStr("gen_ai.tool.call.result", prose(500))
			find = append(find, func() { made.find(b, trace, call, at, at.Add(20*time.Millisecond)) })
		}
		body, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
		if err != nil {
			b.Fatal(err)
		}
		made.body = body
		for _, fn := range find {
			fn()
		}
		out = append(out, &made)
	}
	return out
}

// warmUp is how many requests are sent before the clock runs, as a server's memory does not grow from nothing all the time.
const warmUp = 500

// BenchmarkWholePath takes OTLP requests over the receiver into the synced log and through the detectors, with 500 rules. One
// iteration is one request of 100 spans; it ends when the detectors have judged the last event. Every thousand requests the same
// conversations go on with new calls, for at most ten thousand.
func BenchmarkWholePath(b *testing.B) {
	collectAsRun(b)
	set, requests := manyRules(b, 500), toolCalls(b, 1000)
	b.SetBytes(int64(len(requests[0].body)))
	embedded, err := stream.StartEmbedded(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer embedded.Stop()
	nc, err := embedded.Connect()
	if err != nil {
		b.Fatal(err)
	}
	const partitions = 8
	log, err := stream.Open(b.Context(), nc, stream.Options{Partitions: partitions, Replicas: 1, MaxAge: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	codec, err := event.NewCodec()
	if err != nil {
		b.Fatal(err)
	}
	hasher, metrics, logger := event.NewHasher(nil), measure.NewMetrics(), slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	var detectors []*detector
	for p := range partitions {
		meter := detect.NewMeter(time.Now)
		d := &detector{
			partition: p, of: partitions, log: log, codec: codec, metrics: metrics, logger: logger, errs: make(map[string]int), meter: meter,
			shard: pipeline.New(set, hasher, pipeline.Options{Meter: meter}),
		}
		detectors = append(detectors, d)
		running.Go(func() { _ = d.run(ctx) })
	}
	defer running.Wait()
	defer stop()
	writer := stream.NewWriter(log, codec)
	defer writer.Close()
	mux := http.NewServeMux()
	ingest.NewReceiver(ingest.NewMapper(ingest.Options{Hasher: hasher}), writer, ingest.ReceiverOptions{}).Routes(mux)
	sent := 0
	next := make(chan []byte)
	var senders sync.WaitGroup
	for range 32 {
		senders.Go(func() {
			for body := range next {
				req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/traces", bytes.NewReader(body))
				req.Header.Set("Content-Type", "application/x-protobuf")
				answer := httptest.NewRecorder()
				if mux.ServeHTTP(answer, req); answer.Code != http.StatusOK {
					b.Error(answer.Code, answer.Body)
				}
			}
		})
	}
	send := func() {
		r := requests[sent%len(requests)]
		if sent >= len(requests) {
			r.next()
		}
		next <- r.body
		sent++
	}
	for range warmUp {
		send()
	}
	judged(detectors, (warmUp-32)*100) // what is on its way takes the place of what is at the end
	used, faults := cpuTime(b), pageFaults(b)
	b.ResetTimer()
	for b.Loop() {
		send()
	}
	close(next)
	senders.Wait()
	judged(detectors, sent*100)
	b.StopTimer()
	events := float64((sent - warmUp) * 100)
	b.ReportMetric(events/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/events, "cpu-µs/event")
	b.ReportMetric(float64(pageFaults(b)-faults)/events, "faults/event")
}

// collectAsRun has the garbage collector run as often as in tocsin run.
func collectAsRun(b *testing.B) {
	b.Helper()
	if err := UseMemory(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
	})
}

// judged waits until so many events went through the detectors.
func judged(detectors []*detector, events int) {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for processed(detectors) < events {
		<-look.C
	}
}

func processed(detectors []*detector) (n int) {
	for _, d := range detectors {
		n += d.processed()
	}
	return n
}

// pageFaults is how many pages of memory the process touched for the first time so far.
func pageFaults(b *testing.B) int64 {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return use.Minflt
}

// cpuTime is what the process used of the processors so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkEventToIncident sends 2,000 events a second over OTLP, five of them a second ones that a rule proposes to contain, each in a
// session of its own, and measures the time from sending such an event until its incident's workflow has it. An iteration is a second.
func BenchmarkEventToIncident(b *testing.B) {
	collectAsRun(b)
	var mu sync.Mutex
	sent, took := make(map[string]time.Time), []time.Duration(nil)
	arrived := make(chan struct{}, 1)
	a, stop := launch(b, configured(b), func(a *App) {
		a.workflows = told{a.workflows, func(session string) {
			mu.Lock()
			defer mu.Unlock()
			if at, ok := sent[session]; ok {
				took = append(took, time.Since(at))
				delete(sent, session)
				select {
				case arrived <- struct{}{}:
				default: // it will be looked at anyway
				}
			}
		}}
	})
	defer stop()
	requests := toolCalls(b, 200)
	post := func(path, contentType string, body []byte) {
		answer, err := http.Post("http://"+a.Addresses.OTLPHTTP+path, contentType, bytes.NewReader(body))
		if err != nil {
			b.Error(err)
			return
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			b.Error(answer.Status)
		}
	}
	var senders sync.WaitGroup
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for b.Loop() {
		for i := range 20 { // a request of 100 events each 50 ms
			<-tick.C
			r := requests[n%len(requests)]
			if n >= len(requests) {
				r.next()
			}
			senders.Go(func() { post("/v1/traces", "application/x-protobuf", r.body) })
			if i%4 == 0 {
				session := fmt.Sprint("bench-", n)
				request := quick(session, "wire_now")
				mu.Lock()
				sent[session] = time.Now()
				mu.Unlock()
				senders.Go(func() { post(request.Path, request.ContentType, request.Body) })
			}
			n++
		}
	}
	senders.Wait()
	late := time.After(20 * time.Second)
	for left := 1; left > 0; {
		select {
		case <-arrived:
		case <-late:
			b.Fatal("some incidents are not reached in 20 s")
		}
		mu.Lock()
		left = len(sent)
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	if len(took) == 0 || len(sent) > 0 {
		b.Fatalf("%d incidents were reached, %d not", len(took), len(sent))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(len(took)), "incidents")
}

// told is a workflow client that tells of each session whose finding reached its incident.
type told struct {
	client.Client
	tell func(session string)
}

// SignalWithStartWorkflow implements client.Client.
func (t told) SignalWithStartWorkflow(ctx context.Context, id, signal string, arg any, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	run, err := t.Client.SignalWithStartWorkflow(ctx, id, signal, arg, o, workflow, args...)
	if raised, ok := arg.(pipeline.Raised); ok && err == nil {
		t.tell(raised.Finding.Session)
	}
	return run, err
}

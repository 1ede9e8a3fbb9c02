package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
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

// toolCalls returns OTLP requests of 100 tool calls each, of about 1,400 bytes a span, from ten thousand agents of 64 services.
func toolCalls(b *testing.B, requests int) (bodies [][]byte) {
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
		for i := range 100 {
			s := scope.Spans().AppendEmpty()
			n := r*100 + i
			at := start.Add(time.Duration(n) * time.Millisecond)
			s.SetTraceID(pcommon.TraceID{byte(n), byte(n >> 8), byte(n >> 16), 1})
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
			a.PutStr("gen_ai.tool.call.id", fmt.Sprintf("call-%d", n))
			a.PutStr("gen_ai.tool.call.arguments", fmt.Sprintf(`{"path":"/home/%d/notes.txt","amount":%d,"body":%q}`, agent, rng.IntN(500), prose(400)))
			a.PutStr("gen_ai.tool.call.result", prose(500))
		}
		body, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
		if err != nil {
			b.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	return bodies
}

// BenchmarkWholePath takes OTLP requests over the receiver into the synced log and through the detectors, with 500 rules. One
// iteration is one request of 100 spans; it ends when the detectors have judged the last event.
func BenchmarkWholePath(b *testing.B) {
	set, bodies := manyRules(b, 500), toolCalls(b, 1000)
	b.SetBytes(int64(len(bodies[0])))
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
		d := &detector{
			partition: p, of: partitions, log: log, codec: codec, metrics: metrics, logger: logger, errs: make(map[string]int),
			shard: pipeline.New(set, hasher, pipeline.Options{}),
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
	used := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		next <- bodies[sent%len(bodies)]
		sent++
	}
	close(next)
	senders.Wait()
	for processed(detectors) < sent*100 {
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	events := float64(sent * 100)
	b.ReportMetric(events/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/events, "cpu-µs/event")
}

func processed(detectors []*detector) (n int) {
	for _, d := range detectors {
		n += d.processed()
	}
	return n
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
	var mu sync.Mutex
	sent, took := make(map[string]time.Time), []time.Duration(nil)
	a, stop := launch(b, configured(b), func(a *App) {
		a.workflows = told{a.workflows, func(session string) {
			mu.Lock()
			defer mu.Unlock()
			if at, ok := sent[session]; ok {
				took = append(took, time.Since(at))
				delete(sent, session)
			}
		}}
	})
	defer stop()
	bodies := toolCalls(b, 200)
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
			body := bodies[n%len(bodies)]
			senders.Go(func() { post("/v1/traces", "application/x-protobuf", body) })
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
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		mu.Lock()
		left := len(sent)
		mu.Unlock()
		if left == 0 {
			break
		}
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

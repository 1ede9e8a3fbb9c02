package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// memory is an event log that can be made to fail.
type memory struct {
	mu     sync.Mutex
	events []event.Event
	err    error
}

func (l *memory) Append(_ context.Context, events []event.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	codec, err := event.NewCodec()
	if err != nil {
		return err
	}
	var kept []event.Event // the memory of events is used again
	if err := codec.Unmarshal(codec.AppendAll(nil, events), &kept); err != nil {
		return err
	}
	l.events = append(l.events, kept...)
	return nil
}

func authenticate(token string) (string, bool) { return "gateway", token == "right" }

// mixed is a request of one good, one bad and one foreign span.
func mixed() ptraceotlp.ExportRequest {
	td := traces("s", map[string]any{"gen_ai.operation.name": "chat"}, nil)
	ss := td.ResourceSpans().At(0).ScopeSpans().At(0)
	addSpan(ss, map[string]any{"gen_ai.operation.name": "chat"}, func(s ptrace.Span) { s.SetStartTimestamp(0); s.SetEndTimestamp(0) })
	addSpan(ss, nil, func(s ptrace.Span) { s.SetTraceID([16]byte{9}) })
	return ptraceotlp.NewExportRequestFromTraces(td)
}

func compressed(t *testing.T, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHTTP(t *testing.T) {
	asProto, err := mixed().MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := mixed().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	const partial = `{"partialSuccess":{"rejectedSpans":"1","errorMessage":"resourceSpans[0].scopeSpans[0].spans[1] \"\": time: is empty, want RFC 3339"}}`
	deep := func(n int) []byte {
		return []byte(`{"resourceSpans":[{"resource":{"attributes":[{"key":"a","value":` + strings.Repeat(`{"arrayValue":{"values":[`, n) + `{"intValue":1}` + strings.Repeat(`]}}`, n) + `}]}}]}`)
	}
	noise := make([]byte, 200<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	tests := []struct {
		name, path, contentType, encoding, token string
		body                                     []byte
		fail                                     error
		code, kept                               int
		want                                     string
	}{
		{name: "partly bad protobuf", path: pathTraces, contentType: typeProto, body: asProto, code: 200, kept: 1},
		{name: "partly bad JSON", path: pathTraces, contentType: "application/json; charset=utf-8", body: asJSON, code: 200, kept: 1, want: partial},
		{name: "gzip", path: pathTraces, contentType: typeJSON, encoding: "gzip", body: compressed(t, asJSON), code: 200, kept: 1, want: partial},
		{name: "empty", path: pathLogs, contentType: typeProto, code: 200},
		{name: "metrics", path: pathMetrics, contentType: typeJSON, body: []byte(`{"resourceMetrics":[]}`), code: 200},
		{name: "undecodable", path: pathTraces, contentType: typeJSON, body: []byte("{"), code: 400},
		{name: "undecodable protobuf", path: pathLogs, contentType: typeProto, body: []byte("\x0a\xff"), code: 400},
		{name: "too deep", path: pathTraces, contentType: typeJSON, body: deep(200_000), code: 200, want: `"errorMessage":"request: values nested too deep were cut out before it was read"`},
		{name: "not too deep", path: pathTraces, contentType: typeJSON, body: deep(20), code: 200},
		{name: "not gzip", path: pathTraces, contentType: typeJSON, encoding: "gzip", body: asJSON, code: 400},
		{name: "bomb", path: pathTraces, contentType: typeJSON, encoding: "gzip", body: compressed(t, make([]byte, 1<<20)), code: 413},
		{name: "large", path: pathTraces, contentType: typeJSON, body: make([]byte, 200<<10), code: 413},
		{name: "large compressed", path: pathTraces, contentType: typeJSON, encoding: "gzip", body: compressed(t, noise), code: 413},
		{name: "type", path: pathTraces, contentType: "text/plain", body: asJSON, code: 415},
		{name: "encoding", path: pathTraces, contentType: typeJSON, encoding: "br", body: asJSON, code: 415},
		{name: "log fails", path: pathTraces, contentType: typeJSON, body: asJSON, fail: errors.New("disk of db1 is full"), code: 503, want: `"can't append to the event log, try again"`},
		{name: "no token", path: pathLogs, contentType: typeJSON, token: "-", body: asJSON, code: 401},
		{name: "wrong token", path: "/v1/events", contentType: typeJSON, token: "wrong", body: []byte(minimal), code: 401},
		{name: "events", path: "/v1/events", contentType: "application/x-ndjson", body: []byte(minimal + "\n{}\n"), code: 200, kept: 1, want: `{"accepted":1,"rejected":[{"item":"line 2","reason":"kind: is empty"}]}`},
		{name: "events all good", path: "/v1/events", contentType: typeJSON, body: []byte(minimal), code: 200, kept: 1, want: `{"accepted":1,"rejected":[]}`},
		{name: "events undecodable", path: "/v1/events", contentType: typeJSON, body: []byte("x"), code: 400},
		{name: "events fail", path: "/v1/events", contentType: typeJSON, body: []byte(minimal), fail: errors.New("x"), code: 503},
		{name: "events type", path: "/v1/events", contentType: typeProto, body: []byte(minimal), code: 415},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := &memory{err: tt.fail}
			var counted []string
			count := func(signal string, code int) { counted = append(counted, fmt.Sprintf("/v1/%s %d", signal, code)) }
			mux := http.NewServeMux()
			r := NewReceiver(NewMapper(Options{}), log, ReceiverOptions{Authenticate: authenticate, Answered: count})
			if tt.name != "too deep" { // which is larger than the limits of the others
				r.maxWire, r.maxInflated = 128<<10, 512<<10
			}
			r.Routes(mux)
			req := httptest.NewRequest(http.MethodPost, tt.path, bytes.NewReader(tt.body))
			req.Header.Set("Content-Type", tt.contentType)
			req.Header.Set("Content-Encoding", tt.encoding)
			switch tt.token {
			case "":
				req.Header.Set("Authorization", "bearer right")
			case "-":
			default:
				req.Header.Set("Authorization", "Bearer "+tt.token)
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			if w.Code != tt.code {
				t.Fatalf("status = %d (%s), want %d", w.Code, w.Body, tt.code)
			}
			if want := fmt.Sprintf("%s %d", tt.path, tt.code); len(counted) != 1 || counted[0] != want {
				t.Errorf("counted %v, want %s", counted, want)
			}
			if len(log.events) != tt.kept {
				t.Errorf("kept %d events, want %d", len(log.events), tt.kept)
			}
			if tt.want != "" && !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("answer = %s, want %s", w.Body, tt.want)
			}
			if got := w.Header().Get("Retry-After"); (got != "") != (tt.code == 503) {
				t.Errorf("Retry-After = %q", got)
			}
			if strings.Contains(w.Body.String(), "db1") {
				t.Error("answer names internals")
			}
			for _, e := range log.events {
				if e.Source.Authn != "gateway" || e.Ingested.IsZero() {
					t.Errorf("receipt = %q, %s", e.Source.Authn, e.Ingested)
				}
			}
		})
	}
}

// One deep value costs neither its span nor the batch, in neither encoding, however deep it is; the sender is told.
func TestDeepValueCostsNoOther(t *testing.T) {
	request := func(depth int) ptraceotlp.ExportRequest {
		in := mixed()
		spans := in.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans()
		spans.At(0).Attributes().PutStr("kept", "yes")
		deep := spans.At(0).Attributes().PutEmptySlice("deep")
		for range depth {
			deep = deep.AppendEmpty().SetEmptySlice()
		}
		return in
	}
	for _, depth := range []int{1, maxValueDepth, maxValueDepth + 1, 41, 42, 43, 60, 61, 62, 63, 64, 65, 1000, 20_000} {
		for _, contentType := range []string{typeJSON, typeProto} {
			in := request(depth)
			body, err := encode(contentType, in.MarshalProto, in.MarshalJSON)
			if err != nil {
				t.Fatal(err)
			}
			log := &memory{}
			mux := http.NewServeMux()
			NewReceiver(NewMapper(Options{}), log, ReceiverOptions{}).Routes(mux)
			req := httptest.NewRequest(http.MethodPost, pathTraces, bytes.NewReader(body))
			req.Header.Set("Content-Type", contentType)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			if w.Code != 200 || len(log.events) != 1 || log.events[0].Attrs["kept"] != "yes" {
				t.Fatalf("%s, %d deep: %d %s, kept %d", contentType, depth, w.Code, w.Body, len(log.events))
			}
			if told := strings.Contains(w.Body.String(), `attribute \"deep\": nested deeper than 32, left out`) || strings.Contains(w.Body.String(), `attribute "deep": nested deeper than 32, left out`); told != (depth > maxValueDepth) {
				t.Errorf("%s, %d deep: the sender is told %s", contentType, depth, w.Body)
			}
			if cut := strings.Contains(w.Body.String(), "cut out"); cut && depth < 40 || !cut && depth > 64 {
				t.Errorf("%s, %d deep: cut %v", contentType, depth, cut)
			}
		}
	}
}

// Whatever a text holds, what is left of it is as long as before, has nothing more to cut, and is as it was where nothing is cut.
func TestCut(t *testing.T) {
	cuts := []struct {
		name  string
		cut   func([]byte, int) bool
		parts []string
	}{
		{"JSON", cutJSON, []string{"{", "[", "}", "]", `"`, "\\", ",", `{"a":`, "1"}},
		{"protobuf", cutProto, []string{"\x0a", "\x12", "\x02", "\x04", "\x08", "\x10", "\x01", "\x0b", "\x0c", "\x0d", "\x80", "\x00"}},
	}
	for _, tt := range cuts {
		rapid.Check(t, func(t *rapid.T) {
			text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(tt.parts), 0, 80).Draw(t, tt.name), "")
			limit := rapid.IntRange(1, 4).Draw(t, "limit")
			got := []byte(text)
			cut := tt.cut(got, limit)
			again := bytes.Clone(got)
			tt.cut(again, limit)
			if len(got) != len(text) || cut == (string(got) == text) && tt.name == "JSON" || !cut && string(got) != text || string(again) != string(got) {
				t.Fatalf("%q became %q, cut %v", text, got, cut)
			}
		})
	}
}

// TestProtoDepth holds that no protobuf is decoded that could overflow the stack.
func TestProtoDepth(t *testing.T) {
	value := []byte{0x18, 1} // int_value: 1
	wrap := func(tag byte, b []byte) []byte {
		out := append(make([]byte, 0, len(b)+11), tag)
		n := uint64(len(b))
		for n >= 0x80 {
			out, n = append(out, byte(n)|0x80), n>>7
		}
		return append(append(out, byte(n)), b...)
	}
	for range 1000 {
		value = wrap(0x2a, wrap(0x0a, value)) // array_value{values}
	}
	attr := wrap(0x0a, append([]byte{0x0a, 1, 'a'}, wrap(0x12, value)...))
	body := wrap(0x0a, wrap(0x0a, attr))
	asSent := bytes.Clone(body)
	in := ptraceotlp.NewExportRequest()
	if cut, err := decode(body, typeProto, in.UnmarshalProto, in.UnmarshalJSON); err != nil || !cut || len(body) != len(asSent) {
		t.Errorf("error %v, cut %v", err, cut)
	}
	if b, err := NewMapper(Options{}).mapped(tracesSignal(), asSent, typeProto, Receipt{}); err != nil || !b.cut {
		t.Errorf("error %v, cut %v", err, b.cut)
	}
	text := []byte(strings.Repeat("\n\x12\"*2:BJRZbjrz", 10_000))
	if as := string(text); cutProto(text, maxProtoDepth) || string(text) != as {
		t.Error("a text is taken for nested messages")
	}
}

func TestObserve(t *testing.T) {
	var got []string
	r := NewReceiver(NewMapper(Options{}), &memory{}, ReceiverOptions{Observe: func(signal string, accepted, rejected, ignored int) {
		got = append(got, fmt.Sprint(signal, accepted, rejected, ignored))
	}})
	mux := http.NewServeMux()
	r.Routes(mux)
	asProto, err := mixed().MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	send := func(path, contentType string, body io.Reader) {
		req := httptest.NewRequest(http.MethodPost, path, body)
		req.Header.Set("Content-Type", contentType)
		mux.ServeHTTP(httptest.NewRecorder(), req)
	}
	send(pathTraces, typeProto, bytes.NewReader(asProto))
	send("/v1/events", typeJSON, strings.NewReader(minimal+"\n{}"))
	if d := cmp.Diff([]string{"traces1 1 1", "events1 1 0"}, got); d != "" {
		t.Error(d)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	var many []Rejection
	for i := range 1000 {
		many = append(many, Rejection{Item: fmt.Sprint(i), Reason: strings.Repeat("x", 100)})
	}
	if got := reasons(many); len(got) > maxMessage+40 || !strings.HasSuffix(got, " more") {
		t.Errorf("%d bytes: …%s", len(got), got[max(0, len(got)-20):])
	}
}

func dial(t *testing.T, log Appender, answered func(string, int)) *grpc.ClientConn {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 10))
	NewReceiver(NewMapper(Options{}), log, ReceiverOptions{Authenticate: authenticate, Answered: answered}).Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestGRPC(t *testing.T) {
	log := &memory{}
	counted := make(chan string, 10)
	conn := dial(t, log, func(signal string, code int) { counted <- fmt.Sprint(signal, code) })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer right")
	client := ptraceotlp.NewGRPCClient(conn)

	out, err := client.Export(ctx, mixed(), grpc.UseCompressor(grpcgzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	if p := out.PartialSuccess(); p.RejectedSpans() != 1 || !strings.Contains(p.ErrorMessage(), "time: is empty") {
		t.Errorf("partial success = %d, %s", p.RejectedSpans(), p.ErrorMessage())
	}
	if len(log.events) != 1 || log.events[0].Source.Authn != "gateway" {
		t.Errorf("kept %+v", log.events)
	}

	records := plogotlp.NewExportRequestFromLogs(logs(map[string]any{"event.name": "auth"}))
	if _, err := plogotlp.NewGRPCClient(conn).Export(ctx, records); err != nil || len(log.events) != 2 {
		t.Errorf("logs: %v, kept %d", err, len(log.events))
	}
	if _, err := pmetricotlp.NewGRPCClient(conn).Export(ctx, pmetricotlp.NewExportRequest()); err != nil {
		t.Errorf("metrics: %v", err)
	}

	log.mu.Lock()
	log.err = errors.New("full")
	log.mu.Unlock()
	large := traces("s", map[string]any{"gen_ai.operation.name": "chat", "a": strings.Repeat("x", 100<<10)}, nil)
	for _, tt := range []struct {
		name string
		ctx  context.Context
		in   ptraceotlp.ExportRequest
		want codes.Code
	}{
		{"log fails", ctx, mixed(), codes.Unavailable},
		{"no token", t.Context(), mixed(), codes.Unauthenticated},
		{"large", ctx, ptraceotlp.NewExportRequestFromTraces(large), codes.ResourceExhausted},
	} {
		if _, err := client.Export(tt.ctx, tt.in); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	for _, want := range []string{"traces200", "logs200", "metrics200", "traces503", "traces401"} { // what is too large never comes so far
		if got := <-counted; got != want {
			t.Errorf("counted %s, want %s", got, want)
		}
	}
}

// TestRetryIsTheSameEvent sends a request again, as a client does whose answer was lost.
func TestRetryIsTheSameEvent(t *testing.T) {
	log := &memory{}
	mux := http.NewServeMux()
	NewReceiver(NewMapper(Options{}), log, ReceiverOptions{}).Routes(mux)
	var wg sync.WaitGroup
	for _, req := range readRequests(t, "testdata/claude-code.jsonl") {
		for range 2 {
			wg.Go(func() {
				in := httptest.NewRequest(http.MethodPost, req.Path, bytes.NewReader(req.Body))
				in.Header.Set("Content-Type", req.ContentType)
				mux.ServeHTTP(httptest.NewRecorder(), in)
			})
		}
	}
	wg.Wait()
	ids := map[string]int{}
	for _, e := range log.events {
		ids[e.ID]++
	}
	if len(ids) != 15 || len(log.events) != 30 {
		t.Errorf("%d ids in %d events, want 15 in 30", len(ids), len(log.events))
	}
}

func TestAnswerIsJSON(t *testing.T) {
	w := httptest.NewRecorder()
	refuse(w, typeJSON, http.StatusBadRequest, codes.InvalidArgument, "bad \xff")
	var got struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Code != 3 || got.Message != "bad " {
		t.Errorf("answer = %s: %v", w.Body, err)
	}
}

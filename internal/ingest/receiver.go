package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Appender is the event log. Append returns only when the events are safe, and keeps nothing of them once it succeeded: their memory, and
// the request's that their texts lie in, is used again.
type Appender interface {
	Append(ctx context.Context, events []event.Event) error
}

// Limits on one HTTP body in bytes, as it comes and decompressed.
const (
	maxWire     = 16 << 20
	maxInflated = 64 << 20
)

// Decoding takes several times the size of a body, and a few KiB inflate to the limit. Therefore at most maxLarge bodies of more than
// smallBody bytes are decoded at once; the others wait. At most maxHeld wait or are on their way: slow senders of large bodies must not
// take the memory that the gate and the detectors need.
const (
	smallBody = 1 << 20
	maxLarge  = 4
	maxHeld   = 64
)

// errHeld says that no further large body is taken now.
var errHeld = errors.New("too many large bodies at once, try again")

// maxReasons bounds the rejections that an answer lists, and maxMessage the bytes of a partial success's message.
const (
	maxReasons = 100
	maxMessage = 1024
)

// ReceiverOptions are the settings of a Receiver.
type ReceiverOptions struct {
	// Authenticate returns the name of the sender that a bearer token belongs to. Without it no token is asked for.
	Authenticate func(token string) (name string, ok bool)
	// Observe is told of each request: events accepted, items rejected, and items that concern no agent. Signal is traces, logs,
	// metrics or events. It is called concurrently.
	Observe func(signal string, accepted, rejected, ignored int)
	// Answered is told the HTTP status of each answer; for gRPC the one that means the same. It is called concurrently.
	Answered func(signal string, code int)
	// Now is the clock of Event.Ingested; nil is time.Now.
	Now func() time.Time
}

// Receiver serves the ingest endpoints. It is safe for concurrent use.
type Receiver struct {
	mapper *Mapper
	log    Appender
	opts   ReceiverOptions
	large  chan struct{} // the places of large bodies that are decoded
	held   chan struct{} // those of all large bodies that are not decoded yet

	maxWire, maxInflated int64

	buffers sync.Pool // of *bytes.Buffer
}

// NewReceiver returns a Receiver that appends to log what m makes of the requests.
func NewReceiver(m *Mapper, log Appender, opts ReceiverOptions) *Receiver {
	if opts.Observe == nil {
		opts.Observe = func(string, int, int, int) {}
	}
	if opts.Answered == nil {
		opts.Answered = func(string, int) {}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Receiver{mapper: m, log: log, opts: opts, large: make(chan struct{}, maxLarge), held: make(chan struct{}, maxHeld), maxWire: maxWire, maxInflated: maxInflated}
}

// Routes adds the HTTP endpoints: OTLP's three, and POST /v1/events for JSON events.
func (r *Receiver) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+pathTraces, r.counted("traces", r.otlp(r.traces)))
	mux.HandleFunc("POST "+pathLogs, r.counted("logs", r.otlp(r.logs)))
	mux.HandleFunc("POST "+pathMetrics, r.counted("metrics", r.otlp(r.metrics)))
	mux.HandleFunc("POST /v1/events", r.counted("events", r.events))
	mux.HandleFunc("GET /v1/events/schema.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/schema+json")
		_, _ = io.WriteString(w, EventSchema())
	})
}

// counted serves a signal and tells with which status it was answered.
func (r *Receiver) counted(signal string, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		a := &answered{w, http.StatusOK}
		handle(a, req)
		r.opts.Answered(signal, a.code)
	}
}

// answered keeps the status of an answer.
type answered struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(code int) {
	a.code = code
	a.ResponseWriter.WriteHeader(code)
}

// answer is what both OTLP transports answer to one request.
type answer interface {
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

// otlp serves one signal. handle's errors carry a gRPC code, which decides about the HTTP status.
func (r *Receiver) otlp(handle func(ctx context.Context, body []byte, contentType string, rc Receipt) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		contentType := mediaType(req)
		if contentType != typeJSON && contentType != typeProto {
			refuse(w, typeJSON, http.StatusUnsupportedMediaType, codes.InvalidArgument, "want Content-Type "+typeProto+" or "+typeJSON)
			return
		}
		rc, body, done, ok := r.open(w, req, contentType)
		if !ok {
			return
		}
		kept := false // by the log, which then needs neither the events nor the body
		defer func() { done(kept) }()
		out, err := handle(req.Context(), body, contentType, rc)
		kept = err == nil
		if err != nil {
			code := status.Code(err)
			refuse(w, contentType, httpStatus(code), code, status.Convert(err).Message())
			return
		}
		raw, err := encode(contentType, out.MarshalProto, out.MarshalJSON)
		if err != nil {
			refuse(w, contentType, http.StatusInternalServerError, codes.Internal, "can't encode the answer")
			return
		}
		write(w, contentType, http.StatusOK, raw)
	}
}

// open authenticates the sender and reads the body, or answers why not. The caller calls done when it needs the body no more.
func (r *Receiver) open(w http.ResponseWriter, req *http.Request, contentType string) (rc Receipt, body []byte, done release, ok bool) {
	name, ok := r.authenticate(req.Header.Get("Authorization"))
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, contentType, http.StatusUnauthorized, codes.Unauthenticated, "want a valid bearer token")
		return Receipt{}, nil, nil, false
	}
	body, done, code, err := r.read(w, req)
	if err != nil {
		refuse(w, contentType, code, codes.InvalidArgument, err.Error())
		return Receipt{}, nil, nil, false
	}
	return Receipt{Authn: name, At: r.opts.Now().UTC()}, body, done, true
}

func (r *Receiver) authenticate(header string) (string, bool) {
	if r.opts.Authenticate == nil {
		return "", true
	}
	scheme, token, _ := strings.Cut(header, " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return r.opts.Authenticate(token)
}

// release is called when a body is no longer decoded: again says that nothing that lies in it is needed any more either.
type release func(again bool)

// buffer returns memory for a body, of another one if there is some.
func (r *Receiver) buffer() *bytes.Buffer {
	if b, ok := r.buffers.Get().(*bytes.Buffer); ok {
		return b
	}
	return new(bytes.Buffer)
}

// reuse lets a buffer be used for another body, unless it is unusually large.
func (r *Receiver) reuse(b *bytes.Buffer) {
	if b.Cap() <= 2*smallBody {
		b.Reset()
		r.buffers.Put(b)
	}
}

// read returns the decompressed body with what to call when it is no longer used, or the HTTP status that tells what is wrong with
// it. A large body waits for its place only when all of it has come, so that slow senders take none.
func (r *Receiver) read(w http.ResponseWriter, req *http.Request) (body []byte, done release, code int, err error) {
	if a, ok := w.(*answered); ok {
		w = a.ResponseWriter // the server's own closes the connection of a body that is too large
	}
	wire := r.buffer()
	wire.Grow(int(min(max(req.ContentLength, 0), smallBody)) + bytes.MinRead) // what was announced need not come
	free, err := r.fill(wire, http.MaxBytesReader(w, req.Body, r.maxWire))
	defer free() // it is decoded, or inflated to what is
	if err != nil {
		return nil, nil, readStatus(err), fmt.Errorf("read body: %w", err)
	}
	switch encoding := strings.ToLower(req.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		if done, err = r.place(req.Context(), wire); err != nil {
			return nil, nil, readStatus(err), fmt.Errorf("read body: %w", err)
		}
		return wire.Bytes(), done, 0, nil
	case "gzip":
		defer r.reuse(wire)
		return r.inflate(req.Context(), wire)
	default:
		return nil, nil, http.StatusUnsupportedMediaType, fmt.Errorf("content encoding %.40q is not supported, use gzip", encoding)
	}
}

// fill reads a body as it comes. One that turns out to be large is held until free is called, or refused.
func (r *Receiver) fill(wire *bytes.Buffer, from io.Reader) (free func(), err error) {
	free = func() {}
	if _, err = wire.ReadFrom(io.LimitReader(from, smallBody+1)); err != nil || wire.Len() <= smallBody {
		return free, err
	}
	select {
	case r.held <- struct{}{}:
		free = func() { <-r.held }
	default:
		return free, errHeld
	}
	_, err = wire.ReadFrom(from)
	return free, err
}

// place waits until a body may be decoded, and returns what to call after that.
func (r *Receiver) place(ctx context.Context, body *bytes.Buffer) (done release, err error) {
	if body.Len() <= smallBody {
		return func(again bool) {
			if again {
				r.reuse(body)
			}
		}, nil
	}
	select {
	case r.large <- struct{}{}:
		return func(bool) { <-r.large }, nil
	case <-ctx.Done():
		return nil, errHeld
	}
}

// inflate is read for a body that came compressed.
func (r *Receiver) inflate(ctx context.Context, wire io.Reader) (body []byte, done release, code int, err error) {
	z, err := gzip.NewReader(wire)
	if err != nil {
		return nil, nil, http.StatusBadRequest, fmt.Errorf("read gzip: %w", err)
	}
	defer func() { _ = z.Close() }() // frees nothing that is needed
	out, limit := r.buffer(), r.maxInflated
	done = func(bool) {}
	if _, err = out.ReadFrom(io.LimitReader(z, min(limit, smallBody)+1)); err == nil {
		if done, err = r.place(ctx, out); err != nil {
			return nil, nil, readStatus(err), fmt.Errorf("read body: %w", err)
		}
		if out.Len() > smallBody {
			_, err = out.ReadFrom(io.LimitReader(z, limit+1-int64(out.Len())))
		}
	}
	switch {
	case err != nil:
		code, err = http.StatusBadRequest, fmt.Errorf("read body: %w", err)
	case int64(out.Len()) > limit:
		code, err = http.StatusRequestEntityTooLarge, fmt.Errorf("body is larger than %d bytes", limit)
	default:
		return out.Bytes(), done, 0, nil
	}
	done(true)
	return nil, nil, code, err
}

func readStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errHeld):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

func (r *Receiver) traces(ctx context.Context, body []byte, contentType string, rc Receipt) (answer, error) {
	s, _ := signalOf(pathTraces)
	b, err := r.mapper.mapped(s, body, contentType, rc)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	out := ptraceotlp.NewExportResponse()
	if told := b.told(); len(told) > 0 {
		out.PartialSuccess().SetRejectedSpans(int64(len(b.rejected)))
		out.PartialSuccess().SetErrorMessage(reasons(told))
	}
	return out, r.keep(ctx, "traces", b)
}

func (r *Receiver) logs(ctx context.Context, body []byte, contentType string, rc Receipt) (answer, error) {
	s, _ := signalOf(pathLogs)
	b, err := r.mapper.mapped(s, body, contentType, rc)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	out := plogotlp.NewExportResponse()
	if told := b.told(); len(told) > 0 {
		out.PartialSuccess().SetRejectedLogRecords(int64(len(b.rejected)))
		out.PartialSuccess().SetErrorMessage(reasons(told))
	}
	return out, r.keep(ctx, "logs", b)
}

// told is what the sender must know: the items that were rejected, and what the others were kept without.
func (b *batch) told() []Rejection {
	out := append(b.rejected[:len(b.rejected):len(b.rejected)], b.left...)
	if b.cut {
		out = append(out, Rejection{Item: "request", Reason: "values nested too deep were cut out before it was read"})
	}
	return out
}

// metrics answers success so that clients that send all signals to one place don't retry; metrics hold no events.
func (r *Receiver) metrics(_ context.Context, body []byte, contentType string, _ Receipt) (answer, error) {
	in := pmetricotlp.NewExportRequest()
	if _, err := decode(body, contentType, in.UnmarshalProto, in.UnmarshalJSON); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	r.opts.Observe("metrics", 0, 0, in.Metrics().DataPointCount())
	return pmetricotlp.NewExportResponse(), nil
}

// keep appends a batch. Nothing is acknowledged before.
func (r *Receiver) keep(ctx context.Context, signal string, b batch) error {
	if len(b.events) > 0 {
		if err := r.log.Append(ctx, b.events); err != nil {
			// The cause may name internals; the sender can only retry.
			return status.Error(codes.Unavailable, "can't append to the event log, try again")
		}
		r.mapper.reuse(b.events)
	}
	r.opts.Observe(signal, len(b.events), len(b.rejected), b.ignored)
	return nil
}

type eventsAnswer struct {
	Accepted int         `json:"accepted"`
	Rejected []Rejection `json:"rejected"`
	Omitted  int         `json:"omitted,omitempty"` // rejections beyond those listed
}

func (r *Receiver) events(w http.ResponseWriter, req *http.Request) {
	switch mediaType(req) {
	case typeJSON, "application/x-ndjson", "application/jsonl", "application/json-lines":
	default:
		refuse(w, typeJSON, http.StatusUnsupportedMediaType, codes.InvalidArgument, "want Content-Type "+typeJSON+" or application/x-ndjson")
		return
	}
	rc, body, done, ok := r.open(w, req, typeJSON)
	if !ok {
		return
	}
	defer done(true) // what is decoded of it is a copy
	events, rejected, err := r.mapper.JSON(bytes.NewReader(body), rc)
	if err != nil {
		code := http.StatusBadRequest
		if errors.Is(err, ErrTooLarge) {
			code = http.StatusRequestEntityTooLarge
		}
		refuse(w, typeJSON, code, codes.InvalidArgument, err.Error())
		return
	}
	if err := r.keep(req.Context(), "events", batch{events: events, rejected: rejected}); err != nil {
		refuse(w, typeJSON, http.StatusServiceUnavailable, codes.Unavailable, status.Convert(err).Message())
		return
	}
	out := eventsAnswer{Accepted: len(events), Rejected: []Rejection{}}
	out.Rejected = append(out.Rejected, rejected[:min(len(rejected), maxReasons)]...)
	out.Omitted = len(rejected) - len(out.Rejected)
	raw, err := json.Marshal(out)
	if err != nil {
		refuse(w, typeJSON, http.StatusInternalServerError, codes.Internal, "can't encode the answer")
		return
	}
	write(w, typeJSON, http.StatusOK, raw)
}

// reasons joins the first rejections into one message.
func reasons(rejected []Rejection) string {
	var b strings.Builder
	for i, rej := range rejected {
		line := rej.Item + ": " + rej.Reason
		if b.Len()+len(line) > maxMessage {
			b.WriteString("; and " + strconv.Itoa(len(rejected)-i) + " more")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return strings.ToValidUTF8(b.String(), "")
}

func mediaType(req *http.Request) string {
	t, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

func httpStatus(code codes.Code) int {
	switch code {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse answers with a google.rpc.Status in the request's own encoding, as OTLP wants it.
func refuse(w http.ResponseWriter, contentType string, code int, grpcCode codes.Code, message string) {
	st := status.New(grpcCode, strings.ToValidUTF8(message, "")).Proto()
	raw, err := proto.Marshal(st)
	if contentType == typeJSON {
		raw, err = protojson.Marshal(st)
	}
	if err != nil {
		raw = nil // the HTTP status says the most
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	write(w, contentType, code, raw)
}

func write(w http.ResponseWriter, contentType string, code int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that went away will send again
}

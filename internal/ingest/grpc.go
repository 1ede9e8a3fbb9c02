package ingest

import (
	"bytes"
	"context"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // clients compress
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Register adds the OTLP services of the three signals. A server refuses messages larger than its own limit (4 MiB by default)
// with ResourceExhausted; no larger limit than 8 MiB should be set, as metrics are decoded before their depth can be checked.
func (r *Receiver) Register(s *grpc.Server) {
	s.RegisterService(r.exportService("opentelemetry.proto.collector.trace.v1.TraceService", "traces", r.traces), r)
	s.RegisterService(r.exportService("opentelemetry.proto.collector.logs.v1.LogsService", "logs", r.logs), r)
	pmetricotlp.RegisterGRPCServer(s, &metricService{r: r})
}

// exportService serves a signal with the same code as over HTTP: messages come as bytes, so that they are decoded where one bad item costs
// no other.
func (r *Receiver) exportService(name, signal string, handle func(context.Context, []byte, string, Receipt) (answer, error)) *grpc.ServiceDesc {
	export := func(ctx context.Context, in any) (any, error) {
		rc, err := r.receipt(ctx)
		if err != nil {
			return nil, r.told(signal, err)
		}
		out, err := handle(ctx, *in.(*rawMessage), typeProto, rc)
		if err = r.told(signal, err); err != nil {
			return nil, err
		}
		raw, err := out.MarshalProto()
		return (*rawMessage)(&raw), err
	}
	return &grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Export",
		Handler: func(server any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := new(rawMessage)
			if err := decode(in); err != nil {
				return nil, err
			}
			if interceptor == nil {
				return export(ctx, in)
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: server, FullMethod: "/" + name + "/Export"}, export)
		},
	}}}
}

// rawMessage is a message as its bytes. Its methods are those by which pdata's codec, which is the server's, knows messages that encode
// themselves.
type rawMessage []byte

// SizeProto implements what pdata's codec asks for.
func (m *rawMessage) SizeProto() int { return len(*m) }

// MarshalProto implements what pdata's codec asks for.
func (m *rawMessage) MarshalProto(to []byte) int { return copy(to, *m) }

// UnmarshalProto implements what pdata's codec asks for. The bytes are the codec's and will be used again.
func (m *rawMessage) UnmarshalProto(from []byte) error {
	*m = bytes.Clone(from)
	return nil
}

type metricService struct {
	pmetricotlp.UnimplementedGRPCServer
	r *Receiver
}

// Export implements pmetricotlp.GRPCServer.
func (s *metricService) Export(ctx context.Context, in pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	if _, err := s.r.receipt(ctx); err != nil {
		return pmetricotlp.NewExportResponse(), s.r.told("metrics", err)
	}
	s.r.opts.Observe("metrics", 0, 0, in.Metrics().DataPointCount())
	return pmetricotlp.NewExportResponse(), s.r.told("metrics", nil)
}

// told counts an answer and returns its error.
func (r *Receiver) told(signal string, err error) error {
	r.opts.Answered(signal, httpStatus(status.Code(err)))
	return err
}

func (r *Receiver) receipt(ctx context.Context) (Receipt, error) {
	header := ""
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) > 0 {
		header = values[0]
	}
	name, ok := r.authenticate(header)
	if !ok {
		return Receipt{}, status.Error(codes.Unauthenticated, "want a valid bearer token")
	}
	return Receipt{Authn: name, At: r.opts.Now().UTC()}, nil
}

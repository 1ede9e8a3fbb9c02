package ingest

import (
	"context"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // clients compress
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Register adds the OTLP services of the three signals. A server refuses messages larger than its own limit (4 MiB by default)
// with ResourceExhausted; no larger limit than 8 MiB should be set, as messages are decoded before their depth can be checked.
func (r *Receiver) Register(s *grpc.Server) {
	ptraceotlp.RegisterGRPCServer(s, &traceService{r: r})
	plogotlp.RegisterGRPCServer(s, &logService{r: r})
	pmetricotlp.RegisterGRPCServer(s, &metricService{r: r})
}

type traceService struct {
	ptraceotlp.UnimplementedGRPCServer
	r *Receiver
}

// Export implements ptraceotlp.GRPCServer.
func (s *traceService) Export(ctx context.Context, in ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	rc, err := s.r.receipt(ctx)
	if err != nil {
		return ptraceotlp.NewExportResponse(), s.r.told("traces", err)
	}
	out, err := s.r.exportTraces(ctx, in, false, rc)
	return out, s.r.told("traces", err)
}

type logService struct {
	plogotlp.UnimplementedGRPCServer
	r *Receiver
}

// Export implements plogotlp.GRPCServer.
func (s *logService) Export(ctx context.Context, in plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	rc, err := s.r.receipt(ctx)
	if err != nil {
		return plogotlp.NewExportResponse(), s.r.told("logs", err)
	}
	out, err := s.r.exportLogs(ctx, in, false, rc)
	return out, s.r.told("logs", err)
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

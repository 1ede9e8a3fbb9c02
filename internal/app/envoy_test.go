package app

import (
	"net/http"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
)

// A whole Tocsin answers Envoy over gRPC, where it is told to listen for it.
func TestEnvoyAsksARunningTocsin(t *testing.T) {
	cfg := configured(t)
	cfg.Listen.ExtAuthz = "127.0.0.1:0"
	h, _ := start(t, cfg)
	conn, err := grpc.NewClient(h.Addresses.ExtAuthz, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func() codes.Code {
		t.Helper()
		answer, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: http.MethodPost, Headers: map[string]string{"x-tocsin-agent": "shop/bot"}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return codes.Code(answer.GetStatus().GetCode())
	}
	if got := ask(); got != codes.OK {
		t.Errorf("without a lease: %s", got)
	}
	l := action.Lease{ID: "r1", Plan: approval.Plan{Action: action.NameQuarantine, Target: approval.Target{Agent: "shop/bot"}}, Ends: time.Now().Add(time.Hour)}
	if _, err := h.gate.Apply(t.Context(), l, func([]action.Lease) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != codes.PermissionDenied {
		t.Errorf("with a lease: %s", got)
	}
}

package app

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestRealClients runs agents on real agent SDKs against a running Tocsin. It needs Node 22 or newer in PATH and, in
// TOCSIN_TEST_CLIENTS, a copy of testdata/clients with its packages installed.
func TestRealClients(t *testing.T) {
	dir := os.Getenv("TOCSIN_TEST_CLIENTS")
	if dir == "" {
		t.Skip("TOCSIN_TEST_CLIENTS names no folder with the clients and their packages; .ci/run installs them")
	}
	cfg := Config{Data: t.TempDir()}
	cfg.Listen.OTLPHTTP, cfg.Listen.OTLPGRPC, cfg.Listen.Console = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.defaults()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	a, err := New(ctx, cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(runCtx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, client := range [][]string{{"support-desk.mjs"}, {"research-crew.mjs"}, {"billing-bot.mjs", "control"}} {
		runClient(ctx, t, dir, a.Addresses.OTLPHTTP, client...)
	}
	if alerts, err := a.store.Alerts(ctx, "", 10); err != nil || len(alerts) > 0 {
		t.Fatalf("benign agents raised %d findings, want none; %v", len(alerts), err)
	}
	runClient(ctx, t, dir, a.Addresses.OTLPHTTP, "billing-bot.mjs", "hijacked")
	for {
		requests, err := a.store.Requests(ctx, "pending", 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(requests) == 1 && requests[0].Plan.Target.Agent == "billing/billing-bot" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no request for billing/billing-bot came; there are %d", len(requests))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func runClient(ctx context.Context, t *testing.T, dir, endpoint string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join(dir, args[0])}, args[1:]...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + endpoint}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

package app

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestStopFinishesRequests: a request under way at the end gets its answer, and an open page holds nothing up.
func TestStopFinishesRequests(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &App{hub: newHub(nil)}
	began, opened, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/decide", func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-finish
		if r.Context().Err() != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/live", func(_ http.ResponseWriter, r *http.Request) {
		changes := a.hub.subscribe(r.Context())
		close(opened)
		<-changes
		close(finish) // only now may the other end
	})
	ctx, cancel := context.WithCancel(context.Background())
	group := new(errgroup.Group)
	a.serveHTTP(ctx, group, listener, mux)
	status := make(chan int, 2)
	for _, path := range []string{"/decide", "/live"} {
		go func() {
			response, err := http.Get("http://" + listener.Addr().String() + path)
			if err != nil {
				status <- 0
				return
			}
			response.Body.Close()
			status <- response.StatusCode
		}()
	}
	<-began
	<-opened
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got := <-status; got != http.StatusOK {
			t.Errorf("a request under way was answered with %d", got)
		}
	}
}

// TestSecretIsWhole: a start that was cut off leaves a secret that is whole, or none.
func TestSecretIsWhole(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "grant.key.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := secret(dir, "grant.key", 32)
	if err != nil || len(first) != 32 {
		t.Fatalf("%d bytes: %v", len(first), err)
	}
	again, err := secret(dir, "grant.key", 32)
	if err != nil || string(again) != string(first) {
		t.Errorf("the next start reads another secret: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the directory holds %v: %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "grant.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret's mode is %v: %v", info.Mode(), err)
	}
}

// TestStopWithOpenCall keeps a call open that never sends its message.
func TestStopWithOpenCall(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{})
	s := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		close(began)
		<-stream.Context().Done()
		return stream.Context().Err()
	}))
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	client, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stream, err := client.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true}, "/x/y")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.CloseSend()
	<-began
	go stopGRPC(s)
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * shutdownGrace):
		t.Fatal("the server waits for a call that never ends")
	}
}

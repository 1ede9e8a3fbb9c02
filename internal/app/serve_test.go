package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"
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

// crowd is a listener that has more clients than are served, each of which says hello and then nothing.
type crowd struct {
	net.Listener
	accepted atomic.Int32
	closed   chan struct{}
}

func (c *crowd) Accept() (net.Conn, error) {
	if c.accepted.Add(1) > 3*maxConnections {
		<-c.closed
		return nil, net.ErrClosed
	}
	client, conn := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	go func() { _, _ = io.WriteString(client, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") }() // with empty settings
	return conn, nil
}
func (c *crowd) Close() error   { close(c.closed); return nil }
func (c *crowd) Addr() net.Addr { return &net.TCPAddr{} }

// TestBoundedConnections: so many clients are served and no more, until those that do nothing are sent away.
func TestBoundedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		group, all := new(errgroup.Group), &crowd{closed: make(chan struct{})}
		(&App{}).serveGRPC(ctx, group, all, func(*grpc.Server) {})
		synctest.Wait()
		if n := all.accepted.Load(); n != maxConnections {
			t.Errorf("%d connections were accepted, want %d", n, maxConnections)
		}
		time.Sleep(grpcIdle + time.Minute)
		synctest.Wait()
		if n := all.accepted.Load(); n != 2*maxConnections {
			t.Errorf("%d connections were accepted after those before had been idle, want %d", n, 2*maxConnections)
		}
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// TestBoundedCalls: so many calls are under way over all connections and no more, and one whose message does not come makes room.
func TestBoundedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		group, listener := new(errgroup.Group), bufconn.Listen(1<<10)
		(&App{}).serveGRPC(ctx, group, listener, func(s *grpc.Server) {
			wait := func(_ any, stream grpc.ServerStream) error { return stream.RecvMsg(new(emptypb.Empty)) }
			s.RegisterService(&grpc.ServiceDesc{ServiceName: "x", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{StreamName: "y", ClientStreams: true, Handler: wait}}}, t)
		})
		var clients []*grpc.ClientConn
		for range maxCalls/maxStreams + 1 {
			client, err := grpc.NewClient("passthrough:///tocsin", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, client)
		}
		begin := func(i int) grpc.ClientStream {
			call, err := clients[i/maxStreams].NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/x/y")
			if err != nil {
				t.Fatal(err)
			}
			return call
		}
		first := begin(0)
		for i := range maxCalls - 1 {
			begin(i + 1)
		}
		synctest.Wait()
		for _, tc := range []struct {
			name string
			call func() grpc.ClientStream
			want codes.Code
		}{
			{"one too many", func() grpc.ClientStream { return begin(maxCalls) }, codes.Unavailable},
			{"one without a message", func() grpc.ClientStream { return first }, codes.DeadlineExceeded},
			{"one in its place", func() grpc.ClientStream { return begin(maxCalls) }, codes.DeadlineExceeded},
		} {
			if err := tc.call().RecvMsg(new(emptypb.Empty)); status.Code(err) != tc.want {
				t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
			}
			synctest.Wait()
		}
		for _, client := range clients {
			client.Close()
		}
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

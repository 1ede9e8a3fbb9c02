package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	sdklog "go.temporal.io/sdk/log"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/slack"
	"github.com/tocsin-dr/tocsin/ui"
)

// shutdownGrace is how long requests under way may take when Tocsin stops.
const shutdownGrace = 5 * time.Second

// maxGRPC bounds one gRPC message. pdata decodes recursively, and a deeper message than this allows could overflow the stack.
const maxGRPC = 8 << 20

// maxStreams bounds the calls that one gRPC connection has under way, each of which holds a message of up to maxGRPC.
const maxStreams = 64

// maxConnections bounds the gRPC connections of a listener: more wait to be accepted. One without a call for grpcIdle, as long as HTTP
// grants, makes room.
const (
	maxConnections = 2048
	grpcIdle       = 2 * time.Minute
)

// maxCalls bounds the calls that all gRPC connections of a listener have under way, and callTime each: who sends no message holds no place.
const (
	maxCalls = 256
	callTime = 30 * time.Second
)

// admit bounds calls before their messages are read. What is too much is sent again by clients of OTLP; to Envoy it is a check that failed.
func admit() tap.ServerInHandle {
	calls := make(chan struct{}, maxCalls)
	return func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		select {
		case calls <- struct{}{}:
		default:
			return nil, status.Errorf(codes.Unavailable, "%d calls are under way; try again later", maxCalls)
		}
		ctx, cancel := context.WithTimeout(ctx, callTime)
		context.AfterFunc(ctx, func() {
			cancel()
			<-calls
		})
		return ctx, nil
	}
}

// serve starts the listeners in the group.
func (a *App) serve(ctx context.Context, group *errgroup.Group) {
	receiver := ingest.NewReceiver(ingest.NewMapper(ingest.Options{Hasher: a.hasher, Content: a.cfg.Content, MaySpeak: a.cfg.maySpeak}), timedLog{a}, a.ingestOptions())
	telemetry, agents := http.NewServeMux(), http.NewServeMux()
	receiver.Routes(telemetry)
	agents.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		start := a.now()
		telemetry.ServeHTTP(w, r)
		a.metrics.IngestRequest(a.now().Sub(start))
	})
	api.GateRoutes(agents, api.GateOptions{Gate: a.gate, OnError: a.cfg.onError, Authenticate: a.authenticate(), Observe: a.metrics.GateCheck})
	a.serveHTTP(ctx, group, a.listeners.otlpHTTP, agents)
	a.serveHTTP(ctx, group, a.listeners.console, a.consoleHandler())
	a.serveGRPC(ctx, group, a.listeners.otlpGRPC, receiver.Register)
	if a.listeners.extAuthz != nil {
		a.serveGRPC(ctx, group, a.listeners.extAuthz, gate.NewExtAuthz(a.gate, a.cfg.Gate.ExtAuthz, a.authenticate(), a.metrics.GateCheck).Register)
	}
}

func (a *App) serveGRPC(ctx context.Context, group *errgroup.Group, listener net.Listener, register func(*grpc.Server)) {
	group.Go(func() error {
		options := []grpc.ServerOption{
			grpc.MaxRecvMsgSize(maxGRPC), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(10 * time.Second), grpc.WaitForHandlers(true),
			grpc.InTapHandle(admit()), grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: grpcIdle}),
		}
		if a.cfg.TLS.Cert != "" {
			creds, err := credentials.NewServerTLSFromFile(a.cfg.TLS.Cert, a.cfg.TLS.Key)
			if err != nil {
				return fmt.Errorf("read TLS certificate: %w", err)
			}
			options = append(options, grpc.Creds(creds))
		}
		s := grpc.NewServer(options...)
		register(s)
		stop := context.AfterFunc(ctx, func() { stopGRPC(s) })
		defer stop()
		return s.Serve(netutil.LimitListener(listener, maxConnections))
	})
}

// stopGRPC lets the calls under way end. A client that keeps one open is cut off after a while, or it would keep Tocsin from stopping.
func stopGRPC(s *grpc.Server) {
	cut := time.AfterFunc(shutdownGrace, s.Stop)
	defer cut.Stop()
	s.GracefulStop()
}

func (a *App) serveHTTP(ctx context.Context, group *errgroup.Group, listener net.Listener, handler http.Handler) {
	s := server(handler)
	// A request under way is finished: only the end of its connection ends it, and pages that wait for changes are told to go.
	s.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	s.RegisterOnShutdown(a.hub.end)
	serveUntil(ctx, group, s, func() error {
		if a.cfg.TLS.Cert == "" {
			return s.Serve(listener)
		}
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		return s.ServeTLS(listener, a.cfg.TLS.Cert, a.cfg.TLS.Key)
	})
}

// serveUntil runs a server until the context ends, and then lets the requests under way end, for a while.
func serveUntil(ctx context.Context, group *errgroup.Group, s *http.Server, serve func() error) {
	group.Go(func() error {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if err := s.Shutdown(grace); err != nil {
			return s.Close()
		}
		return nil
	})
}

// consoleHandler serves the console, the API, the sign-in and the metrics.
func (a *App) consoleHandler() http.Handler {
	mux := http.NewServeMux()
	a.auth.Routes(mux)
	api.Routes(mux, api.Options{Reader: a.store, Facts: a.facts, Actor: a.control, Events: a.events, Rules: a.rules, Planner: &planner{a.library, a.policies, a.actions, a.elsewhere, a.store}, Exporter: &exporter{a.store, a.vault, a.anchor, a.now}, Auth: a.auth, Now: a.now, Log: a.logger})
	if a.slack != nil && a.cfg.Slack.Mode == slack.ModeHTTP {
		mux.Handle("POST /slack/interactions", a.slack.Handler())
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.Registry(), promhttp.HandlerOpts{}))
	jwks(mux, a.cfg.Actions.CAEP, a.logger) // receivers verify by it what was signed
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/", ui.New(ui.Options{
		Reader: a.store, Facts: a.facts, Actor: a.control, Principal: a.auth.Principal, Playbooks: a.library,
		Site: a.site(), Password: true, OIDC: a.cfg.OIDC != nil, Version: Version, Now: a.now, Log: a.logger,
	}))
	return mux
}

// site is how browsers reach the console. Without a configured name it is this machine's own, on the port that is listened on.
func (a *App) site() string {
	if a.cfg.Console.URL != "" {
		return strings.TrimSuffix(a.cfg.Console.URL, "/")
	}
	_, port, err := net.SplitHostPort(a.Addresses.Console)
	if err != nil {
		port = "8700"
	}
	scheme := "http"
	if a.cfg.TLS.Cert != "" {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort("localhost", port)
}

// openAuth sets up sign-in. Where nobody could sign in, it makes a first user whose password is shown once.
func (a *App) openAuth(ctx context.Context) (err error) {
	var users []auth.User
	for _, u := range a.cfg.Users {
		users = append(users, auth.User{Name: u.Name, PasswordHash: u.PasswordHash, Role: u.Role})
	}
	if len(users) == 0 && a.cfg.OIDC == nil {
		first, err := a.firstUser()
		if err != nil {
			return err
		}
		users = append(users, first)
	}
	options := auth.Options{
		Users: users, Sessions: a.store, Keys: a.store, Site: a.site(), Now: a.now, TLS: a.cfg.TLS.Proxy || a.cfg.TLS.Cert != "", Proxy: a.cfg.TLS.Proxy,
		Record: func(ctx context.Context, kind, actor, subject string, body any) error {
			return a.store.Record(ctx, a.now(), kind, actor, subject, "", body)
		},
	}
	if o := a.cfg.OIDC; o != nil {
		secret, err := os.ReadFile(o.ClientSecretFile)
		if err != nil {
			return fmt.Errorf("read OIDC client secret: %w", err)
		}
		options.OIDC = &auth.OIDC{
			Issuer: o.Issuer, ClientID: o.ClientID, ClientSecret: strings.TrimSpace(string(secret)),
			RedirectURL: o.RedirectURL, GroupsClaim: o.GroupsClaim, Roles: o.Roles,
		}
	}
	options.Groups = belonging{a.policies, a.roster}.of
	a.auth, err = auth.New(options)
	return err
}

// firstUser makes the user admin. Its password is kept in the data directory, which only its owner can read, so that restarts keep it.
func (a *App) firstUser() (auth.User, error) {
	seed, err := secret(a.cfg.Data, "admin.secret", 12)
	if err != nil {
		return auth.User{}, err
	}
	a.AdminPassword = fmt.Sprintf("%x", seed)
	hash, err := auth.HashPassword(a.AdminPassword)
	return auth.User{Name: "admin", PasswordHash: hash, Role: approval.Admin}, err
}

// lockFile takes an advisory lock that ends with the process, however it ends.
func lockFile(name string) (release func() error, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("another Tocsin runs on it"), f.Close())
	}
	return f.Close, nil
}

// quietLogger passes on only what a person must see of the workflow client's log.
func quietLogger(l *slog.Logger) sdklog.Logger {
	return sdklog.NewStructuredLogger(slog.New(&atLeast{l.Handler(), slog.LevelError}))
}

// atLeast drops records below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

// Enabled implements slog.Handler.
func (h *atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h *atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &atLeast{h.Handler.WithAttrs(attrs), h.level}
}

// WithGroup implements slog.Handler.
func (h *atLeast) WithGroup(name string) slog.Handler {
	return &atLeast{h.Handler.WithGroup(name), h.level}
}

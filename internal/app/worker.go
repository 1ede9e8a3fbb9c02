package app

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// WorkerConfig is what a process decides that only carries out actions.
type WorkerConfig struct {
	// Data is where a file named halt stops this process.
	Data string `yaml:"data"`
	// Listen is an address on loopback for /metrics, /healthz and, of actions.caep, /caep/jwks.json.
	Listen string `yaml:"listen"`
	// GrantKey is the file of the control plane's public key.
	GrantKey string         `yaml:"grant_key"`
	Temporal TemporalConfig `yaml:"temporal"`
	Store    struct {
		URL string `yaml:"url"` // the store of tocsin run
	} `yaml:"store"`
	Actions ActionOptions `yaml:"actions"`
	Limits  Limits        `yaml:"limits"`
}

// ReadWorkerConfig reads a YAML file. Unknown keys are errors that name the line.
func ReadWorkerConfig(file string) (c WorkerConfig, err error) {
	err = readYAML(file, &c, func() error {
		set(&c.Data, "tocsin-worker")
		set(&c.Listen, "127.0.0.1:8701")
		set(&c.Temporal.Namespace, "tocsin")
		set(&c.Limits.PerHour, defaultPerHour)
		return c.check()
	})
	return c, err
}

func (c *WorkerConfig) check() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return bad("listen", "%q: want an address on loopback: nobody else has business with a worker", c.Listen)
	}
	for field, value := range map[string]string{"grant_key": c.GrantKey, "temporal.address": c.Temporal.Address, "store.url": c.Store.URL} {
		if value == "" {
			return bad(field, "is missing: a worker shares the workflow server and the store of tocsin run, and verifies grants by its public key")
		}
	}
	if _, err := readGrantKey(c.GrantKey); err != nil {
		return bad("grant_key", "%s", err)
	}
	if err := c.Temporal.check(); err != nil {
		return err
	}
	if err := c.Limits.check(); err != nil {
		return err
	}
	if len(c.Actions.Elsewhere) > 0 {
		return bad("actions.elsewhere", "is for tocsin run: a worker carries out what it has sections of")
	}
	if !c.Actions.any() {
		return bad("actions", "has no section: a worker carries out what it has sections of")
	}
	return c.Actions.check()
}

// Worker is a running process that only carries out actions: it holds their credentials, and neither the key that signs grants nor
// anything that listens for agents or people.
type Worker struct {
	cfg       WorkerConfig
	logger    *slog.Logger
	closers   closers
	metrics   *measure.WorkerMetrics
	listener  net.Listener
	store     *store.Store
	workflows client.Client
	workers   []worker.Worker

	// Address is where it listens, and Actions what it carries out.
	Address string
	Actions []string
	// GrantKey is the fingerprint of the key by which it verifies grants.
	GrantKey string
}

// NewWorker connects to what tocsin run shares. On an error it stops what it started.
func NewWorker(ctx context.Context, cfg WorkerConfig, logger *slog.Logger) (w *Worker, err error) {
	w = &Worker{cfg: cfg, logger: logger, metrics: measure.NewWorkerMetrics(Version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
			w = nil
		}
	}()
	key, err := readGrantKey(cfg.GrantKey)
	if err != nil {
		return w, err
	}
	if err = os.MkdirAll(cfg.Data, 0o700); err != nil {
		return w, fmt.Errorf("make data directory: %w", err)
	}
	if w.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		return w, fmt.Errorf("listen: %w", err)
	}
	w.Address = w.listener.Addr().String()
	w.closers.add(func() error { return closed(w.listener) })
	if w.store, err = store.Open(ctx, cfg.Store.URL); err != nil {
		return w, err
	}
	w.closers.add(w.store.Close)
	secure, err := cfg.Temporal.TLS.config()
	if err != nil {
		return w, fmt.Errorf("read temporal.tls: %w", err)
	}
	if w.workflows, err = cfg.Temporal.dial(ctx, cfg.Temporal.Address, secure, logger); err != nil {
		return w, err
	}
	w.closers.add(func() error { w.workflows.Close(); return nil })
	w.act(key)
	return w, nil
}

// act makes the workers of the actions.
func (w *Worker) act(key ed25519.PublicKey) {
	actions := w.cfg.Actions.ship(w.store, time.Now)
	for _, a := range actions {
		w.Actions = append(w.Actions, a.Describe().Name)
	}
	w.GrantKey = fingerprint(key)
	limits := &governor{store: w.store, file: filepath.Join(w.cfg.Data, "halt"), perHour: w.cfg.Limits.PerHour, now: time.Now}
	w.workers = acting{
		client: w.workflows, store: w.store, book: book{w.store, time.Now}, limits: limits, key: key, count: w.metrics.Effect, now: time.Now,
	}.workers(actions)
}

// Close stops every part in the reverse of the order in which it was started.
func (w *Worker) Close() error { return w.closers.close() }

// Run carries out actions until the context ends, and returns when what is under way is finished.
func (w *Worker) Run(ctx context.Context) error {
	stop, err := startAll(w.workers)
	if err != nil {
		return err
	}
	defer stop()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.Registry(), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		_, err := w.workflows.CheckHealth(ctx, &client.CheckHealthRequest{})
		if err = errors.Join(err, w.store.Ping(ctx)); err != nil {
			w.logger.Error("the worker can't work", "error", err)
			http.Error(rw, "the workflow server or the store does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	jwks(mux, w.cfg.Actions.CAEP, w.logger)
	s := server(mux)
	group, ctx := errgroup.WithContext(ctx)
	serveUntil(ctx, group, s, func() error { return s.Serve(w.listener) })
	return group.Wait()
}

// jwks serves the keys by which receivers of security events verify them, where there are any.
func jwks(mux *http.ServeMux, o *action.CAEPOptions, logger *slog.Logger) {
	if o == nil {
		return
	}
	mux.HandleFunc("GET /caep/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		keys, err := o.JWKS()
		if err != nil {
			logger.Error("the key of security events can't be read", "error", err)
			http.Error(w, "the key can't be read", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Write(keys)
	})
}

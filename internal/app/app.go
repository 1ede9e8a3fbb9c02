// Package app wires Tocsin together: it reads the configuration, starts what is embedded, connects what is not, and runs until it
// is told to stop. It is the only place that knows every part, and it holds no logic of its own beyond passing things on.
package app

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/oncall"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/shelf"
	"github.com/tocsin-dr/tocsin/internal/slack"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/internal/temporal"
	"github.com/tocsin-dr/tocsin/playbooks"
	"github.com/tocsin-dr/tocsin/workflows"
)

// Version is the release. It is written into reports and shown in the console.
const Version = "0.1.0"

// App is a running Tocsin.
type App struct {
	cfg     Config
	logger  *slog.Logger
	now     func() time.Time
	closers closers

	metrics   *measure.Metrics
	store     *store.Store
	anchor    *ledger.Anchor
	vault     *evidence.Vault
	log       *stream.Log
	writer    *stream.Writer
	codec     *event.Codec
	events    *logReader
	hasher    *event.Hasher
	rules     *rulebook
	library   map[string]playbooks.Playbook
	gate      *gate.Gate
	actions   *action.Catalogue // those that this process carries out
	governor  *governor
	policies  approval.Policies
	roster    *oncall.Roster // nil without schedules
	signer    *approval.Signer
	workflows client.Client
	workers   []worker.Worker
	elsewhere *elsewhere // nil where this process carries out all actions
	hub       *hub
	auth      *auth.Auth
	detectors []*detector
	facts     *facts
	control   *control
	slack     *slack.Slack // nil without a configuration

	// AdminPassword is set when the configuration names nobody who can sign in: the password of the user admin.
	AdminPassword string
	// Addresses are where the listeners are bound, once New returned.
	Addresses struct{ OTLPHTTP, OTLPGRPC, Console, ExtAuthz string }
	listeners struct{ otlpHTTP, otlpGRPC, console, extAuthz net.Listener }
}

// New starts or connects every part, in the order of their dependencies. On an error it stops what it started.
func New(ctx context.Context, cfg Config, logger *slog.Logger) (a *App, err error) {
	a = &App{cfg: cfg, logger: logger, now: time.Now, metrics: measure.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
			a = nil
		}
	}()
	a.metrics.Version(Version)
	a.hub = newHub(a.metrics)
	if err = os.MkdirAll(cfg.Data, 0o700); err != nil {
		return a, fmt.Errorf("make data directory: %w", err)
	}
	for _, start := range []func(context.Context) error{
		a.lock, a.listen, a.openStores, a.openAnchor, a.loadDetections, a.openRoster, a.openLog, a.openGate, a.openWorkflows, a.openAuth, a.openDetectors, a.openSlack,
	} {
		if err = start(ctx); err != nil {
			return a, err
		}
	}
	a.metrics.Watch(func(ctx context.Context) (measure.Summary, error) { return a.facts.Summary(ctx, window) }, a.now)
	return a, nil
}

// Close stops every part in the reverse of the order in which it was started.
func (a *App) Close() error { return a.closers.close() }

func (a *App) onClose(fn func() error) { a.closers.add(fn) }

// closers stop the parts of a process.
type closers []func() error

func (c *closers) add(fn func() error) { *c = append(*c, fn) }

func (c *closers) close() error {
	var errs []error
	for _, fn := range slices.Backward(*c) {
		errs = append(errs, fn())
	}
	*c = nil
	return errors.Join(errs...)
}

// closed closes a listener that its server may have closed.
func closed(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// lock keeps a second process off the same data directory, where it would break the embedded servers' files.
func (a *App) lock(context.Context) error {
	release, err := lockFile(filepath.Join(a.cfg.Data, "lock"))
	if err != nil {
		return fmt.Errorf("lock data directory %s: %w", a.cfg.Data, err)
	}
	a.onClose(release)
	return nil
}

// listen binds the ports first: a port that is taken must fail before anything is started.
func (a *App) listen(context.Context) error {
	for _, l := range []struct {
		address string
		into    *net.Listener
		bound   *string
	}{
		{a.cfg.Listen.OTLPHTTP, &a.listeners.otlpHTTP, &a.Addresses.OTLPHTTP},
		{a.cfg.Listen.OTLPGRPC, &a.listeners.otlpGRPC, &a.Addresses.OTLPGRPC},
		{a.cfg.Listen.Console, &a.listeners.console, &a.Addresses.Console},
		{a.cfg.Listen.ExtAuthz, &a.listeners.extAuthz, &a.Addresses.ExtAuthz},
	} {
		if l.address == "" {
			continue // off
		}
		listener, err := net.Listen("tcp", l.address)
		if err != nil {
			return fmt.Errorf("listen: %w (is another Tocsin or collector running? set listen in the configuration)", err)
		}
		*l.into, *l.bound = listener, listener.Addr().String()
		a.onClose(func() error { return closed(listener) })
	}
	return nil
}

func (a *App) openStores(ctx context.Context) (err error) {
	if a.store, err = store.Open(ctx, a.cfg.Store.URL); err != nil {
		return err
	}
	a.onClose(a.store.Close)
	if b := a.cfg.Evidence.Bucket; b != nil {
		a.vault, err = evidence.OpenBucket(ctx, *b)
	} else {
		a.vault, err = evidence.Open(a.cfg.Evidence.Dir)
	}
	if err != nil {
		return err
	}
	a.onClose(a.vault.Close)
	return nil
}

// checkpointEvery is how often a checkpoint of the ledger is signed at most.
const checkpointEvery = time.Second

// openAnchor opens the ledger's transparency log. It is on local files even where the ledger is in a shared database: each process
// anchors what it sees, and their logs must be alike.
func (a *App) openAnchor(ctx context.Context) error {
	key, err := checkpointKey(a.cfg.Data)
	if err != nil {
		return err
	}
	klog.SetSlogLogger(slog.New(&atLeast{a.logger.Handler(), slog.LevelWarn})) // the log's library has no other way to tell
	if a.anchor, err = ledger.OpenAnchor(ctx, LedgerLog(a.cfg.Data), key, a.store, checkpointEvery); err != nil {
		return err
	}
	a.onClose(a.anchor.Close)
	a.metrics.Ledger(func() float64 {
		n, err := a.store.LedgerSize(context.Background())
		if err != nil {
			return math.NaN()
		}
		return float64(n - a.anchor.State().Size)
	})
	return nil
}

// loadDetections reads playbooks and rules.
func (a *App) loadDetections(ctx context.Context) (err error) {
	if a.library, err = ReadPlaybooks(a.cfg.Playbooks.Dir); err != nil {
		return err
	}
	if a.policies, err = readPolicies(a.cfg.Policies.File); err != nil {
		return err
	}
	a.rules = &rulebook{dir: a.cfg.Rules.Dir, playbooks: a.library, vault: a.vault, store: a.store, metrics: a.metrics, logger: a.logger, now: a.now}
	return a.rules.load(ctx, "tocsin")
}

func (a *App) openLog(ctx context.Context) (err error) {
	nc, err := a.connectNATS()
	if err != nil {
		return err
	}
	a.log, err = stream.Open(ctx, nc, stream.Options{Partitions: a.cfg.NATS.Partitions, Replicas: a.cfg.NATS.Replicas, MaxAge: a.cfg.NATS.MaxAge, MaxBytes: a.cfg.NATS.MaxBytes})
	if err != nil {
		nc.Close()
		return err
	}
	a.onClose(func() error { a.log.Close(); return nil })
	if a.codec, err = event.NewCodec(); err != nil {
		return err
	}
	a.writer = stream.NewWriter(a.log, a.codec)
	a.onClose(func() error { a.writer.Close(); return nil })
	salt, err := secret(a.cfg.Data, "token.salt", 32)
	if err != nil {
		return err
	}
	a.hasher = event.NewHasher(salt)
	return nil
}

func (a *App) connectNATS() (*nats.Conn, error) {
	if a.cfg.NATS.URL == "" {
		embedded, err := stream.StartEmbedded(filepath.Join(a.cfg.Data, "nats"))
		if err != nil {
			return nil, err
		}
		a.onClose(func() error { embedded.Stop(); return nil })
		return embedded.Connect()
	}
	options := []nats.Option{nats.Name("tocsin"), nats.MaxReconnects(-1)}
	if a.cfg.NATS.Credentials != "" {
		options = append(options, nats.UserCredentials(a.cfg.NATS.Credentials))
	}
	nc, err := nats.Connect(a.cfg.NATS.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to event log at %s: %w", a.cfg.NATS.URL, err)
	}
	return nc, nil
}

func (a *App) openGate(ctx context.Context) (err error) {
	if a.gate, err = gate.Open(ctx, a.store, a.cfg.Gate.Tools, a.now); err != nil {
		return err
	}
	key, err := grantKey(a.cfg.Data)
	if err != nil {
		return err
	}
	a.signer = approval.NewSigner(key)
	if err := writeGrantKey(a.cfg.Data, a.signer.Public()); err != nil {
		return err
	}
	a.governor = &governor{store: a.store, file: filepath.Join(a.cfg.Data, "halt"), mirrors: true, perHour: a.cfg.Limits.PerHour, now: a.now}
	a.actions = action.NewCatalogue(a.signer.Public(), a.gate, a.governor, a.now, a.shipped()...)
	return nil
}

// shipped are the actions that this process carries out.
func (a *App) shipped() []action.Action {
	return append(atGate(a.gate), a.cfg.Actions.ship(a.store, a.now)...)
}

// offered are the actions that this deployment has, here or elsewhere.
func (a *App) offered() map[string]action.Description {
	out := make(map[string]action.Description)
	for _, s := range a.shipped() {
		out[s.Describe().Name] = s.Describe()
	}
	for _, name := range a.cfg.Actions.Elsewhere {
		out[name] = action.Descriptions()[name]
	}
	return out
}

func (a *App) openWorkflows(ctx context.Context) (err error) {
	address := a.cfg.Temporal.Address
	secure, err := a.cfg.Temporal.TLS.config()
	if err != nil {
		return fmt.Errorf("read temporal.tls: %w", err)
	}
	if address == "" {
		exposed, err := a.cfg.Temporal.exposed(a.cfg.Data)
		if err != nil {
			return fmt.Errorf("make keys of workers: %w", err)
		}
		server, err := temporal.Start(ctx, a.cfg.Data, a.cfg.Temporal.Namespace, exposed)
		if err != nil {
			return err
		}
		a.onClose(server.Stop)
		address, secure = server.Address(), server.TLS()
	}
	if a.workflows, err = a.cfg.Temporal.dial(ctx, address, secure, a.logger); err != nil {
		return err
	}
	a.onClose(func() error { a.workflows.Close(); return nil })
	memories, err := evidence.NewMemories(a.cfg.Evidence.Memories)
	if err != nil {
		return err
	}
	records := worker.New(a.workflows, workflows.TaskQueue, worker.Options{WorkerStopTimeout: stopTime})
	records.RegisterWorkflow(workflows.Incident)
	records.RegisterWorkflow(workflows.ContainmentLease)
	records.RegisterWorkflow(workflows.PlanNow)
	records.RegisterActivity(&workflows.Activities{
		Store: a.store, Vault: a.vault, Session: &sessionReader{a.log, a.codec}, Memory: memories, Offered: a.offered(), Policies: a.policies, Decided: &standing{a.store, a.signer, a.atWork, a.now}, Tell: a.hub, Now: a.now,
	})
	effects := acting{client: a.workflows, store: a.store, book: a.gate, limits: a.governor, key: a.signer.Public(), count: a.metrics.Effect, now: a.now}
	a.workers = append(effects.workers(a.shipped()), records)
	if away := a.cfg.Actions.Elsewhere; len(away) > 0 {
		a.elsewhere = &elsewhere{client: a.workflows, actions: away, key: a.signer.Public(), now: a.now}
	}
	return nil
}

// atWork are the agents that taught their baseline lately, or are new.
func (a *App) atWork() (out []string) {
	for _, d := range a.detectors {
		for _, l := range d.agents() {
			if l.Life != baselines.Stale {
				out = append(out, l.Agent)
			}
		}
	}
	return out
}

// openDetectors makes one detector for each partition and the two views over everything that people and programs use.
func (a *App) openDetectors(context.Context) error {
	for p := range a.cfg.NATS.Partitions {
		pages, err := shelf.Open(filepath.Join(a.cfg.Data, "pages", strconv.Itoa(p)))
		if err != nil {
			return err
		}
		a.onClose(pages.Close)
		b, meter := a.cfg.Baselines, detect.NewMeter(time.Now)
		a.detectors = append(a.detectors, &detector{
			partition: p, of: a.cfg.NATS.Partitions, log: a.log, codec: a.codec, metrics: a.metrics, logger: a.logger, errs: make(map[string]int), meter: meter,
			shard: pipeline.New(a.rules.inForce(), a.hasher, pipeline.Options{
				Alpha: b.Alpha, AgentAlerts: b.Alerts, ClassAlerts: b.ClassAlerts, TenantAlerts: b.TenantAlerts, AgentsInMemory: b.AgentsInMemory, Agents: b.Agents, Shelf: pages, Meter: meter,
			}),
		})
	}
	a.rules.detectors = a.detectors
	a.events = &logReader{log: a.log, codec: a.codec, store: a.store, partitions: a.cfg.NATS.Partitions, now: a.now, busy: make(chan struct{}, 1)}
	a.facts = &facts{rules: a.rules, store: a.store, anchor: a.anchor, log: a.log, workflows: a.workflows, vault: a.vault, governor: a.governor, detectors: a.detectors, elsewhere: a.elsewhere, hub: a.hub, roster: a.roster, sla: a.cfg.SLA, now: a.now}
	a.control = &control{rules: a.rules, vault: a.vault, workflows: a.workflows, store: a.store, signer: a.signer, policies: a.policies, roster: a.roster, governor: a.governor, metrics: a.metrics, hub: a.hub, events: a.writer, logger: a.logger, now: a.now}
	return nil
}

// ReloadRules reads the rules again and puts them in force. Rules that can't be read leave those in force as they are.
func (a *App) ReloadRules(ctx context.Context) {
	if err := a.rules.load(ctx, "tocsin"); err != nil {
		a.logger.Error("the rules can't be read; those in force stay", "error", err)
	}
}

// Run serves until the context ends, then stops taking requests, and returns when everything under way is finished.
func (a *App) Run(ctx context.Context) error {
	stop, err := startAll(a.workers)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range a.detectors {
		group.Go(func() error { return d.run(ctx) })
	}
	responder := newResponder(a.workflows, a.store, a.library, a.signer.Public(), a.now)
	group.Go(func() error {
		insist(ctx, a.logger, "follow the findings", func() error {
			return a.log.HandleFindings(ctx, responder.handle, a.unhandled)
		})
		return nil
	})
	group.Go(func() error { return a.sweepLeases(ctx) })
	if a.elsewhere != nil {
		group.Go(func() error { return a.watchElsewhere(ctx) })
	}
	group.Go(func() error { // the detectors come to know their agents meanwhile; after that the sweep does it
		ctx, cancel := context.WithTimeout(ctx, sweepEvery)
		defer cancel()
		insist(ctx, a.logger, "make the loosenings that were signed", func() error { return a.control.repair(ctx) })
		return nil
	})
	if a.slack != nil {
		group.Go(func() error { return a.runSlack(ctx) })
	}
	if a.roster != nil {
		group.Go(func() error { return a.roster.Run(ctx) })
	}
	group.Go(func() error {
		a.anchor.Run(ctx, func(err error) { a.logger.Error("the ledger is not anchored", "error", err) })
		return nil
	})
	a.serve(ctx, group)
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// unhandled tells of a finding that could not be handed to its incident.
func (a *App) unhandled(err error) {
	if permanent := (*stream.Permanent)(nil); errors.As(err, &permanent) {
		a.metrics.Unhandled()
		a.logger.Error("a finding can't be handled and is given up", "error", err)
		return
	}
	a.logger.Error("a finding waits to be handled", "error", err)
}

// sweepEvery is how often leases without an owner are looked for.
const sweepEvery = time.Minute

func (a *App) sweepLeases(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := a.control.sweep(ctx); err != nil {
				a.logger.Error("leases and loosenings can't be checked", "error", err)
			}
		}
	}
}

// authenticate checks a sender's bearer token against the configuration's; nil when it names none.
func (a *App) authenticate() func(string) (string, bool) {
	if len(a.cfg.Tokens) == 0 {
		return nil
	}
	return func(token string) (string, bool) {
		sum := sha256.Sum256([]byte(token))
		got := hex.EncodeToString(sum[:])
		for _, t := range a.cfg.Tokens {
			if subtle.ConstantTimeCompare([]byte(got), []byte(t.SHA256)) == 1 {
				return t.Name, true
			}
		}
		return "", false
	}
}

// ingestOptions are the receiver's, with its metrics.
func (a *App) ingestOptions() ingest.ReceiverOptions {
	return ingest.ReceiverOptions{Authenticate: a.authenticate(), Now: a.now, Observe: a.metrics.IngestItems, Answered: a.metrics.IngestAnswer}
}

// timedLog measures appends and counts events on their way to the log.
type timedLog struct{ app *App }

// Append implements ingest.Appender.
func (t timedLog) Append(ctx context.Context, events []event.Event) error {
	start := t.app.now()
	if err := t.app.writer.Append(ctx, events); err != nil {
		return err
	}
	t.app.metrics.LogAppend(t.app.now().Sub(start))
	for i := range events {
		t.app.metrics.Event(events[i].Source.Dialect, events[i].Kind)
	}
	return nil
}

// server returns an HTTP server with the timeouts that a hostile client can't outlast. Live pages and large uploads need the long ones.
func server(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

package app

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/ui"
	"github.com/tocsin-dr/tocsin/workflows"
)

// acting is what the workers of actions need.
type acting struct {
	client client.Client
	store  *store.Store
	book   action.Book
	limits action.Governor
	key    ed25519.PublicKey
	count  func(action, what string, err error)
	now    func() time.Time
}

// workers makes one for each queue of the given actions. Each has the activities and the actions of its queue, and no others.
func (x acting) workers(actions []action.Action) (out []worker.Worker) {
	byQueue := make(map[string][]action.Action)
	for _, a := range actions {
		queue := workflows.Queue(a.Describe().Name)
		byQueue[queue] = append(byQueue[queue], a)
	}
	for _, queue := range slices.Sorted(maps.Keys(byQueue)) {
		w := worker.New(x.client, queue, worker.Options{DisableWorkflowWorker: true, WorkerStopTimeout: stopTime, Identity: identity(x.key)})
		w.RegisterActivity(&workflows.Effects{Actions: action.NewCatalogue(x.key, x.book, x.limits, x.now, byQueue[queue]...), Store: x.store, Count: x.count, Now: x.now})
		out = append(out, w)
	}
	return out
}

// stopTime is how long work under way may take when a worker stops.
const stopTime = 5 * time.Second

// startAll starts workers, or none.
func startAll(workers []worker.Worker) (stop func(), err error) {
	for n, w := range workers {
		if err := w.Start(); err != nil {
			stopAll(workers[:n])
			return nil, fmt.Errorf("start worker: %w", err)
		}
	}
	return func() { stopAll(workers) }, nil
}

func stopAll(workers []worker.Worker) {
	for _, w := range workers {
		w.Stop()
	}
}

// identity names this process among the workers of a queue, with the key by which it verifies grants.
func identity(key ed25519.PublicKey) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%d@%s%s%s", os.Getpid(), host, byKey, fingerprint(key))
}

const byKey = " by grant key "

func fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// book keeps the leases of actions that the gate does not enforce. It implements action.Book.
type book struct {
	store *store.Store
	now   func() time.Time
}

// Find implements action.Book.
func (b book) Find(ctx context.Context, id string) (action.Lease, bool, error) {
	return b.store.Lease(ctx, id)
}

// Apply implements action.Book.
func (b book) Apply(ctx context.Context, l action.Lease, admit func([]action.Lease) error) (action.Lease, error) {
	l, err := b.store.BeginLease(ctx, l, b.now().Add(-action.LimitWindow), admit)
	if err == nil && !l.Lifted.IsZero() {
		err = action.ErrLifted
	}
	return l, err
}

// Update implements action.Book.
func (b book) Update(ctx context.Context, l action.Lease) error { return b.store.SaveLease(ctx, l) }

// elsewhere watches the workers of actions that other processes carry out.
type elsewhere struct {
	client  client.Client
	actions []string
	key     ed25519.PublicKey
	now     func() time.Time
}

// seenWithin is how lately a worker that lives asked for work: it asks anew each minute.
const seenWithin = 75 * time.Second

// look counts the workers of an action that were there lately, and says what is wrong with them; nothing where all is well.
func (e *elsewhere) look(ctx context.Context, name string) (n int, problem string, err error) {
	queue, err := e.client.DescribeTaskQueue(ctx, workflows.Queue(name), enums.TASK_QUEUE_TYPE_ACTIVITY)
	if err != nil {
		return 0, "", fmt.Errorf("look for workers of %s: %w", name, err)
	}
	for _, p := range queue.GetPollers() {
		if e.now().Sub(p.GetLastAccessTime().AsTime()) > seenWithin {
			continue
		}
		n++
		if _, key, _ := strings.Cut(p.GetIdentity(), byKey); key != fingerprint(e.key) {
			problem = fmt.Sprintf("the worker %.80q verifies grants by another key than %s, and refuses them all", p.GetIdentity(), fingerprint(e.key))
		}
	}
	if n == 0 {
		problem = "no worker asked for its work within " + seenWithin.String()
	}
	return n, problem, nil
}

// health is a line for each action.
func (e *elsewhere) health(ctx context.Context) (out []ui.Health) {
	for _, name := range e.actions {
		n, problem, err := e.look(ctx, name)
		h := ui.Health{Part: "action " + name, OK: err == nil && problem == "", Text: problem}
		switch {
		case err != nil:
			h.Text = err.Error()
		case h.OK:
			h.Text = fmt.Sprintf("%d at work elsewhere", n)
		}
		out = append(out, h)
	}
	return out
}

// workersEvery is how often the workers of actions elsewhere are counted.
const workersEvery = 15 * time.Second

// watchElsewhere keeps the metric of workers elsewhere up to date, and lets the halt file of this process bind them.
func (a *App) watchElsewhere(ctx context.Context) error {
	count, halt := time.NewTicker(workersEvery), time.NewTicker(time.Second)
	defer count.Stop()
	defer halt.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-halt.C:
			if err := a.governor.mirror(ctx); err != nil && ctx.Err() == nil {
				a.logger.Error("the halt file does not bind the workers elsewhere", "error", err)
			}
		case <-count.C:
			for _, name := range a.elsewhere.actions {
				n, problem, err := a.elsewhere.look(ctx, name)
				if err != nil && ctx.Err() == nil {
					a.logger.Error("the workers elsewhere can't be counted", "error", err)
				}
				if problem != "" {
					n = 0 // one that refuses everything is none
				}
				a.metrics.ActionWorkers(name, n)
			}
		}
	}
}

// GrantPublicKey is the file of a data directory that holds the key which verifies grants.
func GrantPublicKey(dir string) string { return filepath.Join(dir, "grant.pub") }

// writeGrantKey writes the public half of the key that signs grants, for workers elsewhere.
func writeGrantKey(dir string, key ed25519.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("encode grant key: %w", err)
	}
	if err := writeWhole(GrantPublicKey(dir), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		return fmt.Errorf("write grant key: %w", err)
	}
	return nil
}

// readGrantKey reads a key that verifies grants.
func readGrantKey(file string) (ed25519.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read grant key: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil && block.Type == "PUBLIC KEY" {
		if parsed, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PublicKey); ok {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("read grant key: %s is no Ed25519 public key in PEM; want grant.pub of the data directory of tocsin run, and never grant.key", file)
}

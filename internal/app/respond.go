package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/time/rate"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/playbooks"
	"github.com/tocsin-dr/tocsin/workflows"
)

// Workflow starts cost milliseconds each; the findings wait in their stream, which is durable, until the rate allows them.
const (
	signalsPerSecond = 20
	signalBurst      = 100
)

// responder hands findings to incident workflows: one workflow for each agent and session. It is safe for concurrent use with findings
// of different incidents.
type responder struct {
	workflows client.Client
	store     *store.Store
	input     workflows.IncidentInput
	limit     *rate.Limiter
	now       func() time.Time

	mu   sync.Mutex
	sent sent
}

func newResponder(c client.Client, s *store.Store, library map[string]playbooks.Playbook, key []byte, now func() time.Time) *responder {
	return &responder{
		workflows: c, store: s, limit: rate.NewLimiter(signalsPerSecond, signalBurst), sent: make(sent), now: now,
		input: workflows.IncidentInput{Playbooks: library, GrantKey: key},
	}
}

func (r *responder) handle(ctx context.Context, m stream.Message) error {
	var raised pipeline.Raised
	if err := json.Unmarshal(m.Data, &raised); err != nil {
		return &stream.Permanent{Err: fmt.Errorf("decode finding %d of the stream: %w", m.Sequence, err)}
	}
	f := raised.Finding
	if f.Source == detect.SourceHealth || f.Lane == detect.Hunt || f.Lane == detect.Shadow {
		return r.store.SaveAlert(ctx, store.Alert{Finding: f, Raised: m.Stored, Ingested: raised.Ingested})
	}
	// A detector that lost its state reads the log again. What it then finds once more must not open a closed incident's session anew.
	known, err := r.store.Alert(ctx, f.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if known.Incident != "" && known.Finding.Agent.ID == f.Agent.ID {
		return nil
	}
	if err := r.limit.Wait(ctx); err != nil {
		return err
	}
	key, now := incident.Key(f), r.now()
	r.mu.Lock()
	light := r.sent.lighten(key, raised, now)
	r.mu.Unlock()
	_, err = r.workflows.SignalWithStartWorkflow(ctx, workflows.IncidentID(key), workflows.SignalFound, light, client.StartWorkflowOptions{
		TaskQueue: workflows.TaskQueue, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
	}, workflows.Incident, r.input)
	var refused *serviceerror.InvalidArgument
	switch {
	case errors.As(err, &refused): // no retry makes it one that the workflow server takes; people see it without an incident
		err = &stream.Permanent{Err: fmt.Errorf("hand finding %s to its incident: %w", f.ID, err)}
		return errors.Join(r.store.SaveAlert(ctx, store.Alert{Finding: f, Raised: m.Stored, Ingested: raised.Ingested}), err)
	case err != nil:
		return fmt.Errorf("hand finding %s to its incident: %w", f.ID, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent.note(key, raised, now)
	return nil
}

// A finding is small; the places of its session's events and the baseline are not, and a flood of them would fill the history of
// the incident's workflow faster than it can continue as new.
const (
	wholeEvery     = time.Minute // how often one incident is sent all of it
	leastPositions = 64          // always sent: the finding's own events are among the latest
	maxAgents      = 8           // whose baselines are told apart
	maxSent        = 4096        // incidents that are remembered; forgetting one costs a large message
)

// sent remembers what the incident of a key was sent lately.
type sent map[string]delivery

type delivery struct {
	at     time.Time // of what was sent whole
	last   uint64    // sequence in the log
	agents []string
}

// lighten leaves out of a finding what its incident was sent before. It comes whole again after a while, because the incident may
// be another one by then.
func (s sent) lighten(key string, raised pipeline.Raised, now time.Time) pipeline.Raised {
	known, ok := s[key]
	if !ok || now.Sub(known.at) >= wholeEvery {
		return raised
	}
	fresh := slices.IndexFunc(raised.Positions, func(at pipeline.Position) bool { return at.Sequence > known.last })
	if fresh < 0 {
		fresh = len(raised.Positions)
	}
	raised.Positions = raised.Positions[max(0, min(fresh, len(raised.Positions)-leastPositions)):]
	if slices.Contains(known.agents, raised.Finding.Agent.ID) || len(known.agents) >= maxAgents {
		raised.Baseline = baselines.Learned{}
	}
	return raised
}

// note remembers a finding that was sent.
func (s sent) note(key string, raised pipeline.Raised, now time.Time) {
	known, ok := s[key]
	if !ok || now.Sub(known.at) >= wholeEvery {
		if len(s) >= maxSent {
			clear(s)
		}
		known = delivery{at: now}
	}
	for _, at := range raised.Positions {
		known.last = max(known.last, at.Sequence)
	}
	if !slices.Contains(known.agents, raised.Finding.Agent.ID) && len(known.agents) < maxAgents {
		known.agents = append(known.agents, raised.Finding.Agent.ID)
	}
	s[key] = known
}

// window is how far back the measures look by default.
const window = 30 * 24 * time.Hour

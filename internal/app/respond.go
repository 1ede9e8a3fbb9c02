package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/time/rate"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
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

// responder hands findings to incident workflows: one workflow for each agent and session.
type responder struct {
	workflows client.Client
	store     *store.Store
	input     workflows.IncidentInput
	limit     *rate.Limiter
}

func newResponder(c client.Client, s *store.Store, library map[string]playbooks.Playbook, key []byte) *responder {
	return &responder{
		workflows: c, store: s, limit: rate.NewLimiter(signalsPerSecond, signalBurst),
		input: workflows.IncidentInput{Playbooks: library, GrantKey: key},
	}
}

func (r *responder) handle(ctx context.Context, m stream.Message) error {
	var raised pipeline.Raised
	if err := json.Unmarshal(m.Data, &raised); err != nil {
		return fmt.Errorf("decode finding: %w", err)
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
	_, err = r.workflows.SignalWithStartWorkflow(ctx, workflows.IncidentID(incident.Key(f)), workflows.SignalFound, raised, client.StartWorkflowOptions{
		TaskQueue: workflows.TaskQueue, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
	}, workflows.Incident, r.input)
	if err != nil {
		return fmt.Errorf("hand finding %s to its incident: %w", f.ID, err)
	}
	return nil
}

// sessionReader reads a session's events back from the log.
type sessionReader struct {
	log   *stream.Log
	codec *event.Codec
}

// SessionEvents implements workflows.SessionReader: it reads the messages that findings point at, and keeps the events of their
// sessions and traces, once each, in order.
func (s *sessionReader) SessionEvents(ctx context.Context, raised []pipeline.Raised) ([]event.Event, error) {
	var all []event.Event
	seen := make(map[uint64]bool)
	for _, r := range raised {
		for _, at := range r.Positions {
			if seen[at.Sequence] {
				continue
			}
			seen[at.Sequence] = true
			m, err := s.log.Read(ctx, at.Sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue // retention took it; the evidence says what is missing, and the response must go on without
			}
			if err != nil {
				return nil, err
			}
			events, err := stream.DecodeBatch(s.codec, m.Data)
			if err != nil {
				return nil, err
			}
			all = append(all, events...)
		}
	}
	return ofSessions(all, raised), nil
}

// ofSessions keeps the events that belong to the findings' sessions by id, or share a trace with an event that does. A batch holds
// events of several classes, whose senders choose their ids, so ids count only within the tenant and class of a finding.
func ofSessions(all []event.Event, raised []pipeline.Raised) []event.Event {
	type scoped struct{ tenant, class, id string }
	sessions, causes, traces := make(map[scoped]bool), make(map[scoped]bool), make(map[scoped]bool)
	for _, r := range raised {
		f := r.Finding
		sessions[scoped{f.Tenant, f.Agent.Class, f.Session}] = true
		for _, id := range f.Events {
			causes[scoped{f.Tenant, f.Agent.Class, id}] = true
		}
	}
	in := func(set map[scoped]bool, e *event.Event, id string) bool {
		return set[scoped{e.Tenant, e.Agent.Class, id}]
	}
	for i := range all {
		e := &all[i]
		if e.Trace.TraceID != "" && (in(sessions, e, e.Session.ID) || in(causes, e, e.ID)) {
			traces[scoped{e.Tenant, e.Agent.Class, e.Trace.TraceID}] = true
		}
	}
	seen := make(map[string]bool)
	out := slices.DeleteFunc(all, func(e event.Event) bool {
		mine := in(sessions, &e, e.Session.ID) || in(causes, &e, e.ID) || in(traces, &e, e.Trace.TraceID)
		if !mine || seen[e.ID] {
			return true
		}
		seen[e.ID] = true
		return false
	})
	slices.SortStableFunc(out, func(a, b event.Event) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Seq, b.Seq)) })
	return out
}

// window is how far back the measures look by default.
const window = 30 * 24 * time.Hour

package app

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/workflows"
)

// batches is a log that the test makes up: the bytes of each message, or why there are none.
type batches map[uint64]any

func (b batches) Read(_ context.Context, sequence uint64) (stream.Message, error) {
	if err, failed := b[sequence].(error); failed {
		return stream.Message{}, err
	}
	return stream.Message{Sequence: sequence, Data: b[sequence].([]byte)}, nil
}

// TestSessionEvents has senders of other classes and tenants, and another sender of the same class, choose the session, the trace
// and the ids of the session concerned, and a log that lost and damaged some of its messages.
func TestSessionEvents(t *testing.T) {
	codec, err := event.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	encode := func(events ...event.Event) []byte {
		data, _ := stream.EncodeBatch(codec, events)
		return data
	}
	mine := event.Event{ID: "e1", Agent: event.Agent{ID: "bank/teller", Class: "bank"}, Session: event.Session{ID: "s"}, Trace: event.Trace{TraceID: "t"}, Source: event.Source{Authn: "gateway"}}
	change := func(fn func(*event.Event)) event.Event { e := mine; fn(&e); return e }
	foreign := change(func(e *event.Event) { e.Agent = event.Agent{ID: "mallory", Class: "mallory"} })
	tenant := change(func(e *event.Event) { e.Tenant = "other" })
	replaced := change(func(e *event.Event) { e.Source.Authn, e.Agent.Name = "mallory", "replaced" })
	byTrace := change(func(e *event.Event) { e.ID, e.Session.ID = "e2", "" })
	apart := change(func(e *event.Event) { e.ID, e.Session.ID, e.Trace.TraceID = "e3", "another", "" })
	damaged := encode(mine)
	damaged[40] ^= 1
	log := batches{
		1: encode(byTrace, apart), 2: encode(foreign, tenant, replaced), 3: encode(mine), 4: encode(mine),
		5: damaged, 6: jetstream.ErrMsgNotFound, 7: errors.New("nats: the block is damaged"),
	}
	var positions []pipeline.Position
	for sequence := range log {
		positions = append(positions, pipeline.Position{Sequence: sequence})
	}
	raised := []pipeline.Raised{{Positions: positions, Finding: detect.Finding{Sender: "gateway", Agent: mine.Agent, Session: "s", Events: []string{"e1"}}}}
	var got []string
	take := func(e *event.Event) error {
		got = append(got, e.Tenant+" "+e.Agent.Class+" "+e.Source.Authn+" "+e.ID)
		return nil
	}
	reader := &sessionReader{log, codec}
	unread, err := reader.SessionEvents(t.Context(), raised, take)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{" bank gateway e2", " bank mallory e1", " bank gateway e1"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(workflows.Unread{Gone: 1, Damaged: 2}, unread); diff != "" {
		t.Errorf("unread (-want +got):\n%s", diff)
	}
	log[7] = nats.ErrNoResponders
	if _, err := reader.SessionEvents(t.Context(), raised, take); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a log that does not answer gives %v, want its error, so that it is asked again", err)
	}
}

// refusing is a workflow server that answers as the test says.
type refusing struct {
	client.Client
	err error
}

func (s refusing) SignalWithStartWorkflow(context.Context, string, string, any, client.StartWorkflowOptions, any, ...any) (client.WorkflowRun, error) {
	return nil, s.err
}

// TestUnhandledFindings: what can never be handled is told from what can be later, and is kept as far as it can be.
func TestUnhandledFindings(t *testing.T) {
	finding := func(id string) []byte {
		return []byte(`{"finding":{"id":"` + id + `","lane":"alert","source":"rule"}}`)
	}
	tests := []struct {
		name      string
		data      []byte
		answer    error
		permanent bool
		stored    bool
		fails     bool
	}{
		{"handled", finding("f1"), nil, false, false, false},
		{"no finding", []byte("{"), nil, true, false, true},
		{"refused by the server", finding("f2"), serviceerror.NewInvalidArgument("blob size exceeds limit"), true, true, true},
		{"no server", finding("f3"), serviceerror.NewUnavailable("no server"), false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			r := newResponder(refusing{err: tt.answer}, s, nil, nil, time.Now)
			err = r.handle(t.Context(), stream.Message{Data: tt.data})
			if permanent := (*stream.Permanent)(nil); errors.As(err, &permanent) != tt.permanent || (err != nil) != tt.fails {
				t.Errorf("handled with %v", err)
			}
			if alerts, err := s.Alerts(t.Context(), "", 9); err != nil || (len(alerts) == 1) != tt.stored {
				t.Errorf("%d findings are stored: %v", len(alerts), err)
			}
		})
	}
}

// TestLighten: of one session's findings only what is new is sent, so that a flood can't fill the history of the incident's workflow.
func TestLighten(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	finding := func(agent string, positions int) pipeline.Raised {
		r := pipeline.Raised{Finding: detect.Finding{Agent: event.Agent{ID: agent}}, Baseline: baselines.Learned{Agent: agent}}
		for i := range positions {
			r.Positions = append(r.Positions, pipeline.Position{Sequence: uint64(i + 1)})
		}
		return r
	}
	tests := []struct {
		name      string
		after     time.Duration
		raised    pipeline.Raised
		positions int
		baseline  bool
	}{
		{"the first", 0, finding("a", 1000), 1000, true},
		{"nothing new", time.Second, finding("a", 1000), leastPositions, false},
		{"a growing session", 2 * time.Second, finding("a", 1200), 200, false},
		{"another agent", 3 * time.Second, finding("b", 1200), leastPositions, true},
		{"the other agent again", 4 * time.Second, finding("b", 1200), leastPositions, false},
		{"a short session", 5 * time.Second, finding("a", 3), 3, false},
		{"later", wholeEvery, finding("a", 1200), 1200, true},
		{"just after", wholeEvery + 1, finding("a", 1200), leastPositions, false},
	}
	s := make(sent)
	for _, tt := range tests {
		got := s.lighten("key", tt.raised, now.Add(tt.after))
		if len(got.Positions) != tt.positions || (got.Baseline.Agent != "") != tt.baseline {
			t.Errorf("%s: %d positions, baseline %q; want %d, %v", tt.name, len(got.Positions), got.Baseline.Agent, tt.positions, tt.baseline)
		}
		s.note("key", tt.raised, now.Add(tt.after))
	}
	if got := s.lighten("another key", finding("a", 1000), now); len(got.Positions) != 1000 {
		t.Error("another incident's finding was lightened")
	}
}

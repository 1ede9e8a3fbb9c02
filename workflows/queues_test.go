package workflows

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// TestQueues: what needs an action's credentials is asked of its own queue alone, and nothing else is.
func TestQueues(t *testing.T) {
	h := newHouse(t)
	effects := make(map[string]bool)
	for m := range reflect.TypeFor[*Effects]().Methods() {
		effects[m.Name] = true
	}
	for m := range reflect.TypeFor[*Activities]().Methods() {
		if effects[m.Name] {
			t.Errorf("who observes has the activity %s", m.Name)
		}
	}
	asked := make(map[string]string)
	h.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		h.mu.Lock()
		defer h.mu.Unlock()
		asked[info.ActivityType.Name] = info.TaskQueue
	})
	h.decide(time.Minute, approval.Approve, nil)
	h.run()
	for name, queue := range asked {
		if own := queue == Queue(action.NameQuarantine); own != effects[name] {
			t.Errorf("%s is asked of the queue %s", name, queue)
		}
	}
	for name := range effects {
		if asked[name] == "" {
			t.Errorf("%s was not asked", name)
		}
	}
	queues := make(map[string]string)
	for name := range action.Descriptions() {
		if other := queues[Queue(name)]; other != "" && !(action.AtGate(name) && action.AtGate(other)) {
			t.Errorf("%s and %s share the queue %s", name, other, Queue(name))
		}
		queues[Queue(name)] = name
	}
}

// TestUnattended: where no worker takes the work of an action it is told once, the work waits, and the first worker that comes back does
// it once. What nobody does while its approval lasts is not done.
func TestUnattended(t *testing.T) {
	gone := temporal.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, nil)
	for _, tt := range []struct {
		name, activity string
		times          int  // that no worker is there
		begun          bool // the first worker is killed after it acted
		told           string
		contained      bool
		nothing        string // what people learn where nothing was done
	}{
		{"the plan, for a while", "Plan", 2, false, "the plan of quarantine waits", true, ""},
		{"the effect, for a while", "Contain", 2, false, "what was approved of quarantine waits", true, ""},
		{"the effect, after it was made", "Contain", 2, true, "what was approved of quarantine waits", true, ""},
		{"the effect, too long", "Contain", 100, false, "what was approved of quarantine waits", false, "Nothing was done: no worker took it in time"},
		{"the effect, too long after it was made", "Contain", 100, true, "what was approved of quarantine waits", false, "its effect is unknown, and is undone when its lease ends"},
		{"the proof, for a while", "Verify", 1, false, "the proof of the effect of quarantine waits", true, ""},
		{"the undo, for long", "Revert", 30, false, "the undo of quarantine waits", true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			missed := 0
			absent := func(work func()) bool {
				if missed++; missed > tt.times {
					return false
				}
				if tt.begun && missed == 1 {
					work()
				}
				return true
			}
			on := h.env.OnActivity(tt.activity, anything, anything).After(2 * time.Minute)
			switch tt.activity {
			case "Plan":
				on.Return(func(ctx context.Context, in PlanInput) (PlanOutput, error) {
					if absent(nil) {
						return PlanOutput{}, gone
					}
					return h.does.Plan(ctx, in)
				})
			case "Contain":
				on.Return(func(ctx context.Context, in action.Input) (action.Lease, error) {
					if absent(func() { read(h, action.Lease{}, second(h.does.Contain(ctx, in))) }) {
						return action.Lease{}, gone
					}
					return h.does.Contain(ctx, in)
				})
			case "Verify":
				on.Return(func(ctx context.Context, l action.Lease) (action.Lease, error) {
					if absent(nil) {
						return l, gone
					}
					return h.does.Verify(ctx, l)
				})
			case "Revert":
				on.Return(func(ctx context.Context, in RevertInput) error {
					if absent(nil) {
						return gone
					}
					return h.does.Revert(ctx, in)
				})
			}
			h.decide(10*time.Minute, approval.Approve, nil)
			h.run()
			var told, nothing []string
			for _, e := range h.entries("note") {
				if strings.HasPrefix(e.Text, "No worker") {
					told = append(told, e.Text)
				} else if e.Ref == h.requests("")[0].ID {
					nothing = append(nothing, e.Text)
				}
			}
			if len(told) != 1 || !strings.Contains(told[0], tt.told) {
				t.Errorf("people were told %q, want once that %s", told, tt.told)
			}
			if tt.nothing == "" && len(nothing) > 0 || tt.nothing != "" && (len(nothing) != 1 || !strings.Contains(nothing[0], tt.nothing)) {
				t.Errorf("people were told %q, want %q", nothing, tt.nothing)
			}
			count := make(map[string]int)
			for _, row := range h.containments() {
				what, _, _ := strings.Cut(row, "/")
				count[what]++
			}
			made := tt.contained || tt.begun
			if want := map[bool]int{true: 1}[made]; count["applied"] != want || count["reverted"] != want {
				t.Errorf("the ledger has %v, want %d effects", count, want)
			}
			if h.incident().Status != incident.Closed || !h.incident().Times.Contained.IsZero() != tt.contained {
				t.Errorf("the incident is %+v", h.incident())
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// TestUndoneIsStored: a lease that no store has is not undone, whoever asks for it, and people are told to look.
func TestUndoneIsStored(t *testing.T) {
	h := newHouse(t)
	kept := action.Lease{ID: "INC-1-R1", Incident: "INC-1", Plan: approval.Plan{Action: action.NameQuarantine}, Ends: h.env.Now().Add(time.Hour)}
	for name, asked := range map[string]action.Lease{"unknown": {ID: "INC-1-R2", Incident: "INC-1", Plan: kept.Plan}, "another action's": {ID: kept.ID, Plan: approval.Plan{Action: action.NameThrottle}}} {
		if err := h.store.SaveLease(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
		if err := h.does.Revert(t.Context(), RevertInput{Lease: asked, Lift: Lift{By: "tocsin", Reason: "it ended"}}); err == nil || len(h.containments()) > 0 {
			t.Errorf("%s: Revert = %v, the ledger has %q", name, err, h.containments())
		}
	}
	h.env.ExecuteWorkflow(ContainmentLease, LeaseInput{Lease: action.Lease{ID: "INC-1-R2", Incident: "INC-1", Plan: kept.Plan}, Incident: "incident/1"})
	told, err := h.store.Timeline(t.Context(), "INC-1")
	if err != nil || len(told) != 1 || !strings.Contains(told[0].Text, "Look: the undo of quarantine failed") {
		t.Errorf("people are told %+v: %v", told, err)
	}
}

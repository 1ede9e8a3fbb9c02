package workflows

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// anyResponse draws a playbook with questions beside and after each other.
func anyResponse(t *rapid.T) string {
	n := 0
	effect := func() string {
		n++
		return fmt.Sprintf("{id: stop%d, do: quarantine, class: contain, after: [seal], target: agent, lease: %dm, ask: {deadline: %dm, on_expiry: %s}}", n,
			rapid.IntRange(1, 90).Draw(t, "lease"), rapid.IntRange(1, 15).Draw(t, "deadline"), rapid.SampledFrom([]string{"deny", "escalate"}).Draw(t, "silence"))
	}
	steps := func() (out []string) {
		for range rapid.IntRange(1, 2).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				out = append(out, fmt.Sprintf("{id: each%d, foreach: {in: incident.agents, max: 3, steps: [%s]}}", n, effect()))
			case 1:
				out = append(out, fmt.Sprintf("{id: draft%d, do: draft, class: record, fallback: [%s]}", n, effect()))
			default:
				out = append(out, effect())
			}
		}
		return out
	}
	var b strings.Builder
	fmt.Fprintf(&b, "name: quarantine-agent\nversion: 9.0.0\ntitle: Any\ntimeout: %dm\nsteps:\n  - {id: seal, do: seal, class: record}\n", rapid.SampledFrom([]int{5, 60, 600}).Draw(t, "run"))
	fmt.Fprintf(&b, "  - id: both\n    timeout: %dm\n    parallel:\n      mode: %s\n      branches:\n", rapid.SampledFrom([]int{3, 20, 300}).Draw(t, "time"), rapid.SampledFrom([]string{"settled", "fail-fast"}).Draw(t, "mode"))
	for i := range rapid.IntRange(1, 3).Draw(t, "branches") {
		fmt.Fprintf(&b, "        - {name: b%d, steps: [%s]}\n", i, strings.Join(steps(), ", "))
	}
	return b.String()
}

// answers has people answer whatever waits, at any time, several at once and the same one twice. Of what is not signed for, nothing counts.
func (h *house) answers(t *rapid.T) {
	for range rapid.IntRange(0, 6).Draw(t, "answers") {
		verb := rapid.SampledFrom([]approval.Verb{approval.Approve, approval.Approve, approval.Deny}).Draw(t, "verb")
		who := rapid.SampledFrom([]string{"ana", "bob"}).Draw(t, "who")
		forged := rapid.IntRange(0, 4).Draw(t, "forged") == 0
		again := rapid.IntRange(1, 2).Draw(t, "times")
		h.at(time.Duration(rapid.IntRange(1, 12).Draw(t, "minute"))*time.Minute, func() {
			waiting := h.requests(approval.Pending)
			if h.env.IsWorkflowCompleted() || len(waiting) == 0 {
				return
			}
			d := h.decision(waiting[0], verb, by(who))
			if forged && d.Grant != nil {
				d.Grant.Signature[0] ^= 1
			}
			for range again {
				h.env.UpdateWorkflow(UpdateDecide, "", &testsuite.TestUpdateCallback{OnAccept: func() {}, OnReject: func(error) {}, OnComplete: func(any, error) {}}, d)
			}
		})
	}
}

// faults make effects fail before they began, after they were made, or at their proof.
func (h *house) faults(t *rapid.T) {
	script := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "not begun", "lost", "not proved"}), 8, 8).Draw(t, "faults")
	of := func(id string) string { return script[int(id[len(id)-1]-'0')%len(script)] }
	h.env.OnActivity("Contain", anything, anything).Return(func(ctx context.Context, in action.Input) (action.Lease, error) {
		if of(in.Request) == "not begun" {
			return action.Lease{}, temporal.NewNonRetryableApplicationError("a limit is reached", notBegun, nil)
		}
		l, err := h.does.Contain(ctx, in)
		if of(in.Request) == "lost" && err == nil {
			return action.Lease{}, temporal.NewNonRetryableApplicationError("the answer was lost", "unknown", nil)
		}
		return l, err
	})
	h.env.OnActivity("Verify", anything, anything).Return(func(ctx context.Context, l action.Lease) (action.Lease, error) {
		if of(l.ID) == "not proved" {
			return l, temporal.NewNonRetryableApplicationError("the probe was not denied", "verify", nil)
		}
		return h.does.Verify(ctx, l)
	})
}

// TestEveryEffectEnds: whatever the playbook, whatever people answer and whatever fails, an effect has a grant for exactly its plan, is made
// once, and is undone, even where its incident's workflow is cancelled.
func TestEveryEffectEnds(t *testing.T) {
	made := 0
	rapid.Check(t, func(rt *rapid.T) {
		h := newHouse(t)
		text := anyResponse(rt)
		p, err := playbooks.Compile("any.yaml", []byte(text), action.Descriptions())
		if err != nil {
			rt.Fatalf("%v\n%s", err, text)
		}
		all := library(t)
		all[p.Name] = p
		h.answers(rt)
		h.faults(rt)
		cancelled := rapid.IntRange(0, 3).Draw(rt, "cancelled") == 0
		if cancelled {
			h.at(time.Duration(rapid.IntRange(1, 30).Draw(rt, "cancelled after"))*time.Minute+time.Second, h.env.CancelWorkflow)
		} else {
			h.close(100 * hour)
		}
		h.signal(0, SignalFound, h.finding("f1"))
		h.execute(IncidentInput{Playbooks: all, GrantKey: h.signer.Public()})
		if err := h.env.GetWorkflowError(); (err != nil) != cancelled {
			rt.Fatalf("the incident ended with %v\n%s", err, text)
		}
		made += h.effects(rt, cancelled)
	})
	if made == 0 {
		t.Error("no effect was made at all")
	}
}

// effects checks what became of every question and effect, and returns how many were made.
func (h *house) effects(t *rapid.T, cancelled bool) (made int) {
	rows, requests := h.containments(), h.requests("")
	count := func(what, id string) (n int) {
		return len(slices.DeleteFunc(slices.Clone(rows), func(row string) bool { return row != what+"/"+id }))
	}
	for _, r := range requests {
		lease, found, err := h.store.Lease(h.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if r.State == approval.Pending && !cancelled {
			t.Fatalf("%s is not settled: %+v", r.ID, requests)
		}
		if !found {
			if count("applied", r.ID)+count("reverted", r.ID) > 0 {
				t.Fatalf("an effect without a lease: %q", rows)
			}
			continue
		}
		made++
		if err := approval.Enough(lease.Grants, h.signer.Public(), r.ID, lease.Plan, lease.Applied); err != nil {
			t.Fatalf("%s was made without a grant: %v", r.ID, err)
		}
		if lease.Applied.IsZero() || lease.Lifted.IsZero() || lease.Lifted.Before(lease.Applied) || count("applied", r.ID) != 1 || count("reverted", r.ID) != 1 {
			t.Fatalf("%s was not undone: %+v %q", r.ID, lease, rows)
		}
		if !cancelled && lease.Lifted.After(lease.Ends.Add(time.Minute)) {
			t.Fatalf("%s ended at %s, and was undone at %s", r.ID, lease.Ends, lease.Lifted)
		}
	}
	timeline, err := h.store.Timeline(h.Context(), h.incident().ID)
	if err != nil || slices.ContainsFunc(timeline, func(e incident.Entry) bool { return e.Actor == "" || e.Source == "" || e.At.IsZero() }) {
		t.Fatalf("an entry of the timeline says not when, by whom or from where: %v %+v", err, timeline)
	}
	if !h.gate.Check(gate.Query{Agent: bot.ID}).Allow {
		t.Fatalf("the gate still denies: %q", rows)
	}
	return made
}

package app

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// TestInAdvance is a decision taken in advance on a whole Tocsin: proposed, signed by another, used, revoked; and then responses that are
// halted.
func TestInAdvance(t *testing.T) {
	h, _ := start(t, configured(t))
	d := approval.Standing{Action: "quarantine", Lease: time.Hour, PerHour: 5, Until: time.Now().Add(24 * time.Hour), Reason: "payments do not wait for us"}
	requests, session := hijacked(t, 0)
	d.Rules, d.Agents = h.whatProposes(requests, session)

	var proposed approval.Standing
	status, answer := h.call("ana", http.MethodPost, "/api/v1/standing", d)
	if err := json.Unmarshal(answer, &proposed); err != nil || status != http.StatusOK || proposed.ID == "" {
		t.Fatalf("%d %s", status, answer)
	}
	sign := "/api/v1/standing/" + proposed.ID + "/sign"
	if status, answer := h.call("ana", http.MethodPost, sign, struct{}{}); status != http.StatusForbidden {
		t.Errorf("a responder signed: %d %s", status, answer)
	}
	h.ok("bob", http.MethodPost, sign, struct{}{})

	second, other := hijacked(t, 1)
	h.send(second...)
	i := h.of(other)
	h.until("the containment that nobody was asked about", func() bool {
		i = h.of(other)
		return i.Status == incident.Contained
	})
	asked, err := h.store.IncidentRequests(t.Context(), i.ID)
	if err != nil || len(asked) != 1 || asked[0].Standing != proposed.ID || asked[0].Decision.By.ID != "bob" {
		t.Fatalf("%+v %v", asked, err)
	}
	if !i.Times.Noticed.IsZero() {
		t.Error("a decision taken in advance counts as a human who is aware")
	}
	if got, err := h.store.Standing(t.Context(), proposed.ID); err != nil || got.Uses != 1 {
		t.Errorf("%+v %v", got, err)
	}
	h.ok("ana", http.MethodPost, "/api/v1/standing/"+proposed.ID+"/revoke", api.ReasonBody{Reason: "it was enough"})

	h.ok("ana", http.MethodPost, "/api/v1/halt", api.ReasonBody{Reason: "we look first"})
	if status, _ := h.call("ana", http.MethodPost, "/api/v1/resume", api.ReasonBody{Reason: "go on"}); status != http.StatusForbidden {
		t.Errorf("a responder resumed: %d", status)
	}
	r := h.asked(session)
	if status, answer := h.decide("ana", r, r.Digest); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	h.until("the timeline to say that nothing was done", func() bool {
		entries, err := h.store.Timeline(t.Context(), r.Incident)
		return err == nil && slices.ContainsFunc(entries, func(e incident.Entry) bool {
			return e.Kind == "note" && strings.Contains(e.Text, "responses are halted: ana halted them")
		})
	})
	if _, made := h.gate.Lease(r.ID); made {
		t.Error("an effect was made though responses were halted")
	}
	h.ok("bob", http.MethodPost, "/api/v1/resume", api.ReasonBody{Reason: "we looked"})
	for kind, want := range map[string]int{ledger.KindStanding: 3, ledger.KindHalt: 2} {
		if rows, err := h.store.LedgerOf(t.Context(), kind, 10); err != nil || len(rows) != want {
			t.Errorf("the ledger has %d rows of kind %s, want %d: %v", len(rows), kind, want, err)
		}
	}
	h.verify()
}

// whatProposes sends a session and returns the rules and the agent of the findings that propose, once its request is there.
func (h *running) whatProposes(requests []ingest.Request, session string) (rules, agents []string) {
	h.Helper()
	h.send(requests...)
	r := h.asked(session)
	alerts, err := h.store.Alerts(h.Context(), r.Incident, 100)
	if err != nil {
		h.Fatal(err)
	}
	for _, a := range alerts {
		if !slices.Contains(rules, a.Finding.Rule) {
			rules = append(rules, a.Finding.Rule)
		}
	}
	return rules, []string{r.Plan.Target.Agent}
}

// of is the incident of a session.
func (h *running) of(session string) (out incident.Incident) {
	for _, i := range h.incidents() {
		if i.Session == session {
			out = i
		}
	}
	return out
}

func TestGovernor(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	additive := action.Description{Name: "quarantine", Additive: true}
	single := action.Description{Name: "revoke-token"}
	target := approval.Target{Agent: "a"}
	lease := func(id, name string, applied time.Time, lifted bool) action.Lease {
		l := action.Lease{ID: id, Plan: approval.Plan{Action: name, Target: target}, Applied: applied, Ends: applied.Add(2 * time.Hour)}
		if lifted {
			l.Lifted = applied.Add(time.Minute)
		}
		return l
	}
	tests := []struct {
		name   string
		leases []action.Lease
		halt   *store.Halt
		file   bool
		d      action.Description
		want   error
	}{
		{"nothing before", nil, nil, false, additive, nil},
		{"halted by a person", nil, &store.Halt{By: "ana", Reason: "wait", At: now}, false, additive, action.ErrHalted},
		{"halted by a file", nil, nil, true, additive, action.ErrHalted},
		{"as many as may begin", []action.Lease{lease("1", "quarantine", now, false), lease("2", "quarantine", now, true)}, nil, false, additive, action.ErrLimit},
		{"as many, an hour ago", []action.Lease{lease("1", "quarantine", now.Add(-time.Hour), false), lease("2", "quarantine", now, true)}, nil, false, additive, nil},
		{"as many of another action", []action.Lease{lease("1", "x", now, false), lease("2", "x", now, false)}, nil, false, additive, nil},
		{"beside another lease", []action.Lease{lease("1", "quarantine", now, false)}, nil, false, additive, nil},
		{"a change of a target that has one", []action.Lease{lease("1", "revoke-token", now, false)}, nil, false, single, action.ErrLimit},
		{"a change of a target that had one", []action.Lease{lease("1", "revoke-token", now, true)}, nil, false, single, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := store.Open(t.Context(), filepath.Join(dir, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			g := &governor{store: s, file: filepath.Join(dir, "halt"), perHour: 2, now: func() time.Time { return now }}
			for _, l := range tt.leases {
				err = errors.Join(err, s.SaveLease(t.Context(), l))
			}
			if tt.file {
				err = errors.Join(err, os.WriteFile(g.file, nil, 0o600))
			}
			if err = errors.Join(err, s.SaveHalt(context.Background(), tt.halt)); err != nil {
				t.Fatal(err)
			}
			err = g.Halted(t.Context())
			if err == nil {
				l := action.Lease{ID: "R", Plan: approval.Plan{Action: tt.d.Name, Target: target}}
				_, err = s.BeginLease(t.Context(), l, now.Add(-action.LimitWindow), func(begun []action.Lease) error { return g.Admit(l, tt.d, begun) })
			}
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("it begins: %v, want %v", err, tt.want)
			}
		})
	}
}

// TestRevocationIsFinal: a decision that is signed and revoked at the same moment ends up revoked.
func TestRevocationIsFinal(t *testing.T) {
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	metrics := measure.NewMetrics()
	c := &control{store: s, signer: approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))), metrics: metrics, hub: newHub(metrics), now: time.Now}
	for range 20 {
		d, err := c.Propose(t.Context(), approval.Principal{ID: "ana", Role: approval.Responder}, approval.Standing{
			Action: "quarantine", Rules: []string{"r"}, Agents: []string{"a"}, Lease: time.Hour, PerHour: 1, Until: time.Now().Add(time.Hour), Reason: "we are slow",
		})
		if err != nil {
			t.Fatal(err)
		}
		var people sync.WaitGroup
		people.Go(func() {
			if _, err := c.SignStanding(t.Context(), approval.Principal{ID: "lea", Role: approval.Lead}, d.ID); err != nil && approval.Kind(err) != approval.RefusedLate {
				t.Error(err)
			}
		})
		people.Go(func() {
			if _, err := c.RevokeStanding(t.Context(), approval.Principal{ID: "bob", Role: approval.Responder}, d.ID, "no, wait"); err != nil {
				t.Error(err)
			}
		})
		people.Wait()
		if got, err := s.Standing(t.Context(), d.ID); err != nil || got.Revoked.IsZero() {
			t.Fatalf("it is not revoked: %+v %v", got, err)
		}
	}
}

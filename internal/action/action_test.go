package action

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// door is an enforcement point of which the test decides whether it works.
type door struct {
	leases map[string]Lease
	broken bool
	err    error
}

func (d *door) Apply(_ context.Context, l Lease) (Lease, error) {
	if known, ok := d.leases[l.ID]; ok {
		return known, nil
	}
	d.leases[l.ID] = l
	return l, d.err
}

func (d *door) Update(_ context.Context, l Lease) error { d.leases[l.ID] = l; return d.err }

func (d *door) Denies(_ approval.Target, lease string) bool {
	l := d.leases[lease]
	return !d.broken && l.InForce(noon)
}

// fixture is a catalogue of what ships, with a signer and an input that is granted.
func fixture(t *testing.T) (*Catalogue, *door, Input, *approval.Signer) {
	t.Helper()
	signer := approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	d := &door{leases: make(map[string]Lease)}
	now := func() time.Time { return noon }
	in := Input{Request: "r1", Incident: "INC-1", Plan: approval.Plan{Action: "quarantine", Class: approval.Contain, Target: approval.Target{Agent: "a"}, Lease: time.Hour, Evidence: []string{"aa"}}}
	in.Grant = sign(t, signer, in.Request, in.Plan, noon)
	return NewCatalogue(signer.Public(), now, NewQuarantine(d, now)), d, in, signer
}

func sign(t *testing.T, s *approval.Signer, request string, plan approval.Plan, at time.Time) *approval.Grant {
	t.Helper()
	digest, err := approval.DigestOf(plan)
	if err != nil {
		t.Fatal(err)
	}
	r := approval.Request{ID: request, Incident: "INC-1", Plan: plan, Digest: digest}
	g, err := s.Sign(r, approval.Decision{Request: request, Verb: approval.Approve, Digest: digest, By: approval.Principal{ID: "ada", Role: approval.Responder}, At: at})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestCatalogueRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, in *Input, s *approval.Signer)
		want   string
	}{
		{"no grant", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Grant = nil }, `apply quarantine: there is no grant for request "r1"`},
		{"no grant, and a class that needs none", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Grant, in.Plan.Class = nil, approval.Observe }, "there is no grant"},
		{"another request's", func(t *testing.T, in *Input, s *approval.Signer) { in.Grant = sign(t, s, "r2", in.Plan, noon) }, "there is no grant"},
		{"another request's, renamed", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grant = sign(t, s, "r2", in.Plan, noon)
			in.Grant.Request = "r1"
		}, "the signature is not the control plane's"},
		{"other target", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Target.Agent = "b" }, "for another action, target or parameters"},
		{"longer lease", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Lease *= 2 }, "for another action, target or parameters"},
		{"other evidence", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Evidence = nil }, "for another action, target or parameters"},
		{"other key", func(t *testing.T, in *Input, _ *approval.Signer) {
			other := approval.NewSigner(ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize))))
			in.Grant = sign(t, other, in.Request, in.Plan, noon)
		}, "the signature is not the control plane's"},
		{"expired", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grant = sign(t, s, in.Request, in.Plan, noon.Add(-time.Hour))
		}, "it ran out at 2026-03-01T11:15:00Z"},
		{"longer life", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grant = sign(t, s, in.Request, in.Plan, noon.Add(-time.Hour))
			in.Grant.NotAfter = noon.Add(time.Hour)
		}, "the signature is not the control plane's"},
		{"unknown action", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Action = "erase" }, `there is no action "erase"`},
		{"no agent", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Plan.Target.Agent = ""
			in.Grant = sign(t, s, in.Request, in.Plan, noon)
		}, "apply quarantine: the plan names no agent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, d, in, signer := fixture(t)
			tt.change(t, &in, signer)
			if _, err := c.Apply(t.Context(), in); err == nil || !strings.Contains(err.Error(), tt.want) || len(d.leases) > 0 {
				t.Errorf("Apply = %v with %d leases, want %s", err, len(d.leases), tt.want)
			}
		})
	}
}

func TestApplyVerifyUndo(t *testing.T) {
	c, d, in, _ := fixture(t)
	first, err := c.Apply(t.Context(), in)
	if err != nil || first.Approver != "ada" || !first.Ends.Equal(noon.Add(time.Hour)) || first.ID != in.Request || !first.Verified.IsZero() {
		t.Fatalf("%+v %v", first, err)
	}
	if again, err := c.Apply(t.Context(), in); err != nil || again.Applied != first.Applied || len(d.leases) != 1 {
		t.Fatalf("%+v %v: applying twice must be one lease", again, err)
	}
	q, err := c.Find("quarantine")
	if err != nil {
		t.Fatal(err)
	}
	d.broken = true
	if l, err := q.Verify(t.Context(), first); err != nil || !l.Verified.IsZero() {
		t.Errorf("%+v %v: contained, though the gate lets the target pass", l, err)
	}
	d.broken = false
	verified, err := q.Verify(t.Context(), first)
	if err != nil || !verified.Verified.Equal(noon) || d.leases["r1"].Verified.IsZero() {
		t.Fatalf("%+v %v", verified, err)
	}
	for range 2 {
		if err := q.Undo(t.Context(), verified, "bob"); err != nil || d.leases["r1"].LiftedBy != "bob" {
			t.Errorf("%+v %v", d.leases["r1"], err)
		}
	}
	if l, err := q.Verify(t.Context(), verified); err != nil || !l.Verified.IsZero() {
		t.Errorf("%+v %v: contained, though it was undone", l, err)
	}
	d.err = errors.New("disk full")
	if err := q.Undo(t.Context(), verified, "bob"); err == nil {
		t.Error("an effect that is unknown is no error")
	}
}

// Every action says what it does, how it ends and what it can't do, and one with an effect outside needs a grant.
func TestCatalogue(t *testing.T) {
	c, _, in, _ := fixture(t)
	for name, a := range c.actions {
		d := a.Describe()
		if d.Name != name || d.Effect == "" || d.Undo == "" || d.DoesNotStop == "" || !d.Class.Gated() {
			t.Errorf("%s: %+v", name, d)
		}
		in.Plan.Action, in.Grant = name, nil
		if _, err := c.Apply(t.Context(), in); err == nil {
			t.Errorf("%s acts without a grant", name)
		}
	}
}

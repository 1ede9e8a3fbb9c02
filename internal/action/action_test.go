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

// door is an enforcement point and book of which the test decides whether it works.
type door struct {
	leases map[string]Lease
	broken bool
	halted error
	err    error
}

func (d *door) Find(_ context.Context, id string) (Lease, bool, error) {
	l, ok := d.leases[id]
	return l, ok, nil
}

func (d *door) Apply(_ context.Context, l Lease, admit func([]Lease) error) (Lease, error) {
	if known, ok := d.leases[l.ID]; ok {
		return known, nil
	}
	if err := admit(nil); err != nil {
		return Lease{}, err
	}
	d.leases[l.ID] = l
	return l, d.err
}

func (d *door) Update(_ context.Context, l Lease) error { d.leases[l.ID] = l; return d.err }

func (d *door) Halted(context.Context) error { return d.halted }

func (d *door) Admit(Lease, Description, []Lease) error { return nil }

func (d *door) Probe(lease, _ string, _ int) Word {
	if l := d.leases[lease]; d.broken || !l.InForce(noon) {
		return Allow
	}
	return Deny
}

// fixture is a catalogue of what ships, with a signer and an input that is granted.
func fixture(t *testing.T) (*Catalogue, *door, Input, *approval.Signer) {
	t.Helper()
	signer := approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	d := &door{leases: make(map[string]Lease)}
	c := NewCatalogue(signer.Public(), d, d, func() time.Time { return noon }, NewQuarantine(d))
	in := Input{Request: "r1", Incident: "INC-1", Plan: approval.Plan{Action: "quarantine", Class: approval.Contain, Target: approval.Target{Agent: "a"}, Lease: time.Hour, Evidence: []string{"aa"}}}
	var err error
	if in.Plan, err = c.Plan(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	in.Grants = sign(t, signer, in.Request, in.Plan, noon)
	return c, d, in, signer
}

func sign(t *testing.T, s *approval.Signer, request string, plan approval.Plan, at time.Time, people ...string) (grants []approval.Grant) {
	t.Helper()
	digest, err := approval.DigestOf(plan)
	if err != nil {
		t.Fatal(err)
	}
	r := approval.Request{ID: request, Incident: "INC-1", Plan: plan, Digest: digest}
	if people == nil {
		people = []string{"ada"}
	}
	for _, who := range people {
		g, err := s.Sign(r, approval.Decision{Request: request, Verb: approval.Approve, Digest: digest, By: approval.Principal{ID: who, Role: approval.Responder}, At: at})
		if err != nil {
			t.Fatal(err)
		}
		grants = append(grants, *g)
	}
	return grants
}

func TestCatalogueRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, in *Input, s *approval.Signer)
		want   string
	}{
		{"no grant", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Grants = nil }, `apply quarantine: the grants do not allow it: verify grant: 0 of 1 different people granted request "r1"`},
		{"no grant, and a class that needs none", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Grants, in.Plan.Class = nil, approval.Observe }, "0 of 1 different people"},
		{"another request's", func(t *testing.T, in *Input, s *approval.Signer) { in.Grants = sign(t, s, "r2", in.Plan, noon) }, `it is for request "r2", not "r1"`},
		{"another request's, renamed", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grants = sign(t, s, "r2", in.Plan, noon)
			in.Grants[0].Request = "r1"
		}, "the signature is not the control plane's"},
		{"other target", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Target.Agent = "b" }, "for another action, target or parameters"},
		{"longer lease", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Lease *= 2 }, "for another action, target or parameters"},
		{"other evidence", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Evidence = nil }, "for another action, target or parameters"},
		{"other key", func(t *testing.T, in *Input, _ *approval.Signer) {
			other := approval.NewSigner(ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize))))
			in.Grants = sign(t, other, in.Request, in.Plan, noon)
		}, "the signature is not the control plane's"},
		{"expired", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grants = sign(t, s, in.Request, in.Plan, noon.Add(-time.Hour))
		}, "it ran out at 2026-03-01T11:15:00Z"},
		{"longer life", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Grants = sign(t, s, in.Request, in.Plan, noon.Add(-time.Hour))
			in.Grants[0].NotAfter = noon.Add(time.Hour)
		}, "the signature is not the control plane's"},
		{"one person where two are needed", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Plan.Need = 2
			in.Grants = sign(t, s, in.Request, in.Plan, noon, "ada", "ada")
		}, `1 of 2 different people granted request "r1"`},
		{"other change than was approved", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Plan.Change = []string{"the gate denies one call"}
			in.Grants = sign(t, s, in.Request, in.Plan, noon)
		}, "the action would now do something else than was approved"},
		{"unknown action", func(_ *testing.T, in *Input, _ *approval.Signer) { in.Plan.Action = "erase" }, `there is no action "erase"`},
		{"no agent", func(t *testing.T, in *Input, s *approval.Signer) {
			in.Plan.Target.Agent = ""
			in.Grants = sign(t, s, in.Request, in.Plan, noon)
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
	d.broken = true
	if l, err := c.Verify(t.Context(), first); err != nil || !l.Verified.IsZero() {
		t.Errorf("%+v %v: contained, though the gate lets the target pass", l, err)
	}
	d.broken = false
	verified, err := c.Verify(t.Context(), first)
	if err != nil || !verified.Verified.Equal(noon) || d.leases["r1"].Verified.IsZero() {
		t.Fatalf("%+v %v", verified, err)
	}
	for range 2 {
		if err := c.Undo(t.Context(), verified, "bob"); err != nil || d.leases["r1"].LiftedBy != "bob" {
			t.Errorf("%+v %v", d.leases["r1"], err)
		}
	}
	if l, err := c.Verify(t.Context(), verified); err != nil || !l.Verified.IsZero() {
		t.Errorf("%+v %v: contained, though it was undone", l, err)
	}
	d.err = errors.New("disk full")
	if err := c.Undo(t.Context(), verified, "bob"); err == nil {
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
		in.Plan.Action, in.Grants = name, nil
		if _, err := c.Apply(t.Context(), in); err == nil {
			t.Errorf("%s acts without a grant", name)
		}
	}
}

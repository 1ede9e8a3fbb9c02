package action

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// lever is an action whose every answer the test decides, and that counts what it did.
type lever struct {
	d        Description
	change   []string
	holds    bool
	fail     error // of Apply, after it acted
	acted    int
	snapshot string
}

func (l *lever) Describe() Description { return l.d }
func (l *lever) Plan(context.Context, Input) (Change, error) {
	return Change{Lines: l.change, Blast: 1}, nil
}

func (l *lever) Snapshot(context.Context, Input) (json.RawMessage, error) {
	return json.RawMessage(l.snapshot), nil
}
func (l *lever) Apply(context.Context, Lease) error { l.acted++; l.holds = true; return l.fail }
func (l *lever) Verify(context.Context, Lease) (bool, error) {
	return l.holds, nil
}
func (l *lever) Undo(context.Context, Lease) error { l.holds = false; return nil }
func (l *lever) Lag(Lease) (time.Time, string) {
	return noon.Add(5 * time.Minute), "tokens live to their end"
}

func pull(t *testing.T, d Description, lease time.Duration) (*Catalogue, *door, *lever, Input) {
	t.Helper()
	signer := approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	d.Name = "pull"
	book, l := &door{leases: make(map[string]Lease)}, &lever{d: d, change: []string{"down"}, snapshot: `{"before":"up"}`}
	c := NewCatalogue(signer.Public(), book, book, func() time.Time { return noon }, l)
	in := Input{Request: "r1", Plan: approval.Plan{Action: "pull", Class: d.Class, Target: approval.Target{Agent: "a"}, Lease: lease, Need: d.Class.Least()}}
	var err error
	if in.Plan, err = c.Plan(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	in.Grants = sign(t, signer, in.Request, in.Plan, noon, "ada", "bob")
	return c, book, l, in
}

// TestUnknownOutcome: an action that can't be repeated is not, when nobody knows whether it acted. The probe decides, or people do.
func TestUnknownOutcome(t *testing.T) {
	lost := errors.New("the answer was lost")
	tests := []struct {
		name       string
		idempotent bool
		holds      bool // after the try whose outcome is unknown
		want       error
		acted      int
	}{
		{"the probe sees it", false, true, nil, 1},
		{"the probe does not see it", false, false, ErrUnknown, 1},
		{"it can be repeated", true, false, nil, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, book, l, in := pull(t, Description{Class: approval.Contain, Idempotent: tt.idempotent}, time.Hour)
			l.fail = lost
			if _, err := c.Apply(t.Context(), in); !errors.Is(err, lost) {
				t.Fatal(err)
			}
			if held := book.leases["r1"]; !held.Applied.IsZero() || string(held.Snapshot) != `{"before":"up"}` {
				t.Errorf("what undo needs is not stored before the action acts: %+v", held)
			}
			l.fail, l.holds = nil, tt.holds
			lease, err := c.Apply(t.Context(), in)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || l.acted != tt.acted {
				t.Errorf("the second try: %v, it acted %d times, want %v and %d", err, l.acted, tt.want, tt.acted)
			}
			if err == nil && (lease.Applied.IsZero() || lease.Lag == "" || !lease.Effective.Equal(noon.Add(5*time.Minute))) {
				t.Errorf("the lease does not say until when what it contains can act: %+v", lease)
			}
		})
	}
}

// TestChangedSincePlanned: an action does what was approved, or nothing.
func TestChangedSincePlanned(t *testing.T) {
	c, book, l, in := pull(t, Description{Class: approval.Contain}, time.Hour)
	l.change = []string{"down", "and out"}
	if _, err := c.Apply(t.Context(), in); !errors.Is(err, ErrChanged) || l.acted > 0 || len(book.leases) > 0 {
		t.Errorf("Apply = %v, it acted %d times, %d leases", err, l.acted, len(book.leases))
	}
}

// TestHalted: nothing begins while responses are halted, and nothing is left behind.
func TestHalted(t *testing.T) {
	c, book, l, in := pull(t, Description{Class: approval.Contain}, time.Hour)
	book.halted = ErrHalted
	if _, err := c.Apply(t.Context(), in); !errors.Is(err, ErrHalted) || l.acted > 0 || len(book.leases) > 0 {
		t.Errorf("Apply = %v, it acted %d times, %d leases", err, l.acted, len(book.leases))
	}
}

// TestForGood: what can't be undone needs two people, is no lease, and acts once.
func TestForGood(t *testing.T) {
	c, _, l, in := pull(t, Description{Class: approval.Destroy, Irreversible: true}, 0)
	for range 2 {
		lease, err := c.Apply(t.Context(), in)
		if err != nil || lease.InForce(noon) || lease.Lifted.IsZero() || l.acted != 1 {
			t.Errorf("%+v %v, it acted %d times", lease, err, l.acted)
		}
	}
	one := in
	one.Request, one.Plan.Need = "r2", 1
	signer := approval.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	one.Grants = sign(t, signer, "r2", one.Plan, noon, "ada")
	if _, err := c.Apply(t.Context(), one); !errors.Is(err, ErrGrants) || l.acted != 1 {
		t.Errorf("one person destroys: %v", err)
	}
}

func TestPlanRefusesUnknownParameters(t *testing.T) {
	c, _, _, in := pull(t, Description{Class: approval.Contain, Params: map[string]string{"how": "how"}}, time.Hour)
	in.Plan.Params = map[string]string{"hwo": "x"}
	if _, err := c.Plan(t.Context(), in); err == nil || !cmp.Equal(err.Error(), `plan pull: it takes no parameter "hwo"`) {
		t.Errorf("Plan = %v", err)
	}
}

package gate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
)

var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// memory is a store that outlives gates. Like the real one it lists what was not lifted, ended leases included.
type memory struct {
	mu     sync.Mutex
	leases map[string]action.Lease
	err    error
}

func (m *memory) SaveLease(_ context.Context, l action.Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if known := m.leases[l.ID]; !known.Lifted.IsZero() && l.Lifted.IsZero() {
		return action.ErrLifted
	}
	m.leases[l.ID] = l
	return nil
}

func (m *memory) BeginLease(_ context.Context, l action.Lease, _ time.Time, admit func([]action.Lease) error) (action.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, found := m.leases[l.ID]; found || m.err != nil {
		return known, m.err
	}
	if err := admit(nil); err != nil {
		return action.Lease{}, err
	}
	m.leases[l.ID] = l
	return l, nil
}

func (m *memory) Lease(_ context.Context, id string) (action.Lease, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, found := m.leases[id]
	return l, found, m.err
}

func (m *memory) Leases(context.Context) ([]action.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(m.leases)), func(l action.Lease) bool { return !l.Lifted.IsZero() }), m.err
}

// fixture is a gate on a store and a clock that the test moves.
type fixture struct {
	*Gate
	store *memory
	tools map[string]event.Effect
	now   time.Time
}

// Apply puts a lease in force beside any others.
func (f *fixture) Apply(ctx context.Context, l action.Lease) (action.Lease, error) {
	return f.Gate.Apply(ctx, l, func([]action.Lease) error { return nil })
}

func newFixture(t testing.TB, leases ...action.Lease) *fixture {
	t.Helper()
	f := &fixture{store: &memory{leases: make(map[string]action.Lease)}, now: noon}
	f.open(t)
	for _, l := range leases {
		if _, err := f.Apply(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fixture) open(t testing.TB) {
	t.Helper()
	g, err := Open(context.Background(), f.store, f.tools, func() time.Time { return f.now })
	if err != nil {
		t.Fatal(err)
	}
	f.Gate = g
}

func lease(id string, target approval.Target) action.Lease {
	return action.Lease{ID: id, Incident: "INC-1", Approver: "ada", Plan: approval.Plan{Action: "quarantine", Target: target, Lease: time.Hour}, Applied: noon, Ends: noon.Add(time.Hour)}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("a", 300)
	tests := []struct {
		name   string
		target approval.Target
		query  Query
		allow  bool
	}{
		{"agent", approval.Target{Agent: "a"}, Query{Agent: "a", Session: "s", Tool: "t"}, false},
		{"agent, asked without a tool", approval.Target{Agent: "a"}, Query{Agent: "a"}, false},
		{"other agent", approval.Target{Agent: "a"}, Query{Agent: "b"}, true},
		{"no agent", approval.Target{Agent: "a"}, Query{}, true},
		{"session", approval.Target{Agent: "a", Session: "s"}, Query{Agent: "a", Session: "s"}, false},
		{"other session", approval.Target{Agent: "a", Session: "s"}, Query{Agent: "a", Session: "s2"}, true},
		{"session not named", approval.Target{Agent: "a", Session: "s"}, Query{Agent: "a"}, false},
		{"tool not named", approval.Target{Agent: "a", Tool: "t"}, Query{Agent: "a", Session: "s"}, false},
		{"tool", approval.Target{Agent: "a", Tool: "t"}, Query{Agent: "a", Session: "s", Tool: "t"}, false},
		{"other tool", approval.Target{Agent: "a", Tool: "t"}, Query{Agent: "a", Tool: "t2"}, true},
		{"an agent of the service", approval.Target{Agent: "bank"}, Query{Agent: "bank/payer", Tool: "t"}, false},
		{"the service of the agent", approval.Target{Agent: "claude-code/reviewer"}, Query{Agent: "claude-code", Tool: "t"}, false},
		{"the service of the agent's tool", approval.Target{Agent: "bank/payer", Tool: "t"}, Query{Agent: "bank", Tool: "t"}, false},
		{"other tool of the service", approval.Target{Agent: "bank/payer", Tool: "t"}, Query{Agent: "bank", Tool: "t2"}, true},
		{"other session of the service", approval.Target{Agent: "bank/payer", Session: "s"}, Query{Agent: "bank", Session: "s2"}, true},
		{"other agent of the service", approval.Target{Agent: "bank/payer"}, Query{Agent: "bank/teller"}, true},
		{"a service that begins alike", approval.Target{Agent: "bank"}, Query{Agent: "banking/payer"}, true},
		{"an agent that begins alike", approval.Target{Agent: "bank/payer"}, Query{Agent: "bank/pay"}, true},
		{"a service with a path", approval.Target{Agent: "eu/bank/payer"}, Query{Agent: "eu/bank"}, false},
		{"a tool as its server spells it", approval.Target{Agent: "a", Tool: "export"}, Query{Agent: "a", Tool: "mcp__crm__export"}, false},
		{"a server's tool, bare", approval.Target{Agent: "a", Tool: "mcp__crm__export"}, Query{Agent: "a", Tool: "export"}, false},
		{"a server's tool", approval.Target{Agent: "a", Tool: "mcp__crm__export"}, Query{Agent: "a", Tool: "mcp__crm__export"}, false},
		{"another server's tool", approval.Target{Agent: "a", Tool: "mcp__crm__export"}, Query{Agent: "a", Tool: "mcp__files__export"}, true},
		{"another tool of the server", approval.Target{Agent: "a", Tool: "mcp__crm__export"}, Query{Agent: "a", Tool: "mcp__crm__list"}, true},
		{"ids as long as events hold them", approval.Target{Agent: long[:256], Session: long[:256], Tool: long[:256]}, Query{Agent: long, Session: long, Tool: "mcp__crm__" + long}, false},
		{"tool of a session", approval.Target{Agent: "a", Session: "s", Tool: "t"}, Query{Agent: "a", Session: "s2", Tool: "t"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := newFixture(t, lease("r1", tt.target)).Check(tt.query); got.Allow != tt.allow || (got.Lease == "r1") == tt.allow {
				t.Errorf("%+v", got)
			}
		})
	}
	want := Answer{Reason: "agent a, tool t is quarantined until 2026-03-01T13:00:00Z by decision of ada (incident INC-1)", Lease: "r1", Until: noon.Add(time.Hour)}
	if diff := cmp.Diff(want, newFixture(t, lease("r1", approval.Target{Agent: "a", Tool: "t"})).Check(Query{Agent: "a", Tool: "t"})); diff != "" {
		t.Error(diff)
	}
}

// Whoever asks for a service whose other agent is held must learn whose lease it is.
func TestReasonNamesTheAgent(t *testing.T) {
	f := newFixture(t, lease("r1", approval.Target{Agent: "claude-code/reviewer"}))
	want := "agent claude-code/reviewer is quarantined until 2026-03-01T13:00:00Z by decision of ada (incident INC-1), and the question names its service alone"
	if diff := cmp.Diff(want, f.Check(Query{Agent: "claude-code"}).Reason); diff != "" {
		t.Error(diff)
	}
}

// What an agent is called in a lease and how it asks are two things; a lease that is proved holds for every way to ask.
func TestProvedMeansDenied(t *testing.T) {
	part := func(label string) *rapid.Generator[string] { return rapid.SampledFrom([]string{"", "a", "b", label}) }
	rapid.Check(t, func(rt *rapid.T) {
		service, name, tool := rapid.SampledFrom([]string{"s", "t"}).Draw(rt, "service"), part("n").Draw(rt, "name"), part("x").Draw(rt, "tool")
		target := approval.Target{Agent: event.AgentID(service, name), Session: part("c").Draw(rt, "session"), Tool: tool}
		f := newFixture(t, lease("r1", target))
		if f.Probe("r1", "", 1) != action.Deny {
			rt.Fatal("a lease in force does not deny")
		}
		q := Query{Agent: rapid.SampledFrom([]string{target.Agent, service}).Draw(rt, "asks as"), Session: rapid.SampledFrom([]string{"", target.Session}).Draw(rt, "in"), Tool: tool}
		if tool != "" && rapid.Bool().Draw(rt, "by server") {
			q.Tool = "mcp__crm__" + tool
		}
		if got := f.Check(q); got.Allow {
			rt.Fatalf("a lease on %s lets %+v pass", target, q)
		}
	})
}

// TestLiftIsFinal: neither a proof that is written late nor the grant, while it lasts, puts a lifted lease in force again.
func TestLiftIsFinal(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		f := newFixture(t, lease("r1", approval.Target{Agent: "a"}))
		proved, lifted := lease("r1", approval.Target{Agent: "a"}), lease("r1", approval.Target{Agent: "a"})
		proved.Verified, lifted.Lifted, lifted.LiftedBy = noon, noon, "lea"
		if err := f.Update(t.Context(), lifted); err != nil {
			t.Fatal(err)
		}
		if restarted {
			f.open(t)
		}
		if err := f.Update(t.Context(), proved); !errors.Is(err, action.ErrLifted) {
			t.Errorf("restarted %v: the late proof was answered with %v", restarted, err)
		}
		if _, err := f.Apply(t.Context(), lease("r1", approval.Target{Agent: "a"})); !errors.Is(err, action.ErrLifted) {
			t.Errorf("restarted %v: applying again was answered with %v", restarted, err)
		}
		if !f.Check(Query{Agent: "a"}).Allow || f.store.leases["r1"].LiftedBy != "lea" {
			t.Errorf("restarted %v: the lease is in force again: %+v", restarted, f.store.leases["r1"])
		}
		lifted.LiftedBy = "tocsin"
		if err := f.Update(t.Context(), lifted); err != nil {
			t.Errorf("lifting twice: %v", err)
		}
	}
}

func TestLeaseEnds(t *testing.T) {
	f := newFixture(t, lease("r1", approval.Target{Agent: "a"}))
	f.now = noon.Add(time.Hour - 1)
	if f.Check(Query{Agent: "a"}).Allow || len(f.InForce()) != 1 {
		t.Error("the lease ended early")
	}
	f.now = noon.Add(time.Hour)
	if !f.Check(Query{Agent: "a"}).Allow || len(f.InForce()) != 0 || f.Probe("r1", "", 1) != action.Allow {
		t.Error("the lease holds after its end")
	}
	if _, err := f.Apply(t.Context(), lease("r1", approval.Target{Agent: "a"})); err != nil || !f.Check(Query{Agent: "a"}).Allow {
		t.Errorf("a lease that ended is in force again: %v", err)
	}
}

func TestSurvivesReopening(t *testing.T) {
	f := newFixture(t, lease("r1", approval.Target{Agent: "a"}), lease("r2", approval.Target{Agent: "b"}))
	lifted, _ := f.Lease("r2")
	lifted.Lifted = noon
	if err := f.Update(t.Context(), lifted); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	if f.Check(Query{Agent: "a"}).Allow || !f.Check(Query{Agent: "b"}).Allow {
		t.Error("a gate that was opened again forgot a lease, or that it was lifted")
	}
	f.now = noon.Add(2 * time.Hour)
	f.open(t)
	if !f.Check(Query{Agent: "a"}).Allow {
		t.Error("a gate that was opened again put an ended lease in force")
	}
}

func TestApplyIsIdempotent(t *testing.T) {
	f := newFixture(t, lease("r1", approval.Target{Agent: "a"}))
	again := lease("r1", approval.Target{Agent: "a"})
	again.Ends = again.Ends.Add(time.Hour)
	if got, err := f.Apply(t.Context(), again); err != nil || !got.Ends.Equal(noon.Add(time.Hour)) || len(f.InForce()) != 1 {
		t.Errorf("%+v %v: applying again must not lengthen a lease", got, err)
	}
}

// Lifting one lease leaves what another denies; a probe of the lifted one is no proof any more.
func TestAnotherLeaseStillDenies(t *testing.T) {
	agent, tool := approval.Target{Agent: "a"}, approval.Target{Agent: "a", Tool: "t"}
	f := newFixture(t, lease("r1", agent), lease("r2", tool))
	if f.Probe("r1", "", 1) != action.Deny || f.Probe("r2", "", 1) != action.Deny {
		t.Error("a lease in force does not deny")
	}
	l, ok := f.Lease("r1")
	if !ok {
		t.Fatal("the lease is gone")
	}
	l.Lifted = noon
	if err := f.Update(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if got := f.Check(Query{Agent: "a", Tool: "t"}); got.Allow || got.Lease != "r2" {
		t.Errorf("%+v", got)
	}
	if !f.Check(Query{Agent: "a", Tool: "other"}).Allow || f.Probe("r1", "", 1) != action.Allow {
		t.Error("the lifted lease still holds")
	}
	ended := lease("r3", agent)
	ended.Ends = noon.Add(time.Minute)
	if _, err := f.Apply(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	if f.now = noon.Add(2 * time.Minute); f.Probe("r3", "", 1) != action.Allow {
		t.Error("a lease that ended passes for proved because another denies")
	}
}

// No load makes the gate forget.
func TestNothingIsEvicted(t *testing.T) {
	f := newFixture(t, lease("first", approval.Target{Agent: "a"}))
	for i := range 2000 {
		if _, err := f.Apply(t.Context(), lease(fmt.Sprint(i), approval.Target{Agent: fmt.Sprint("x", i%500), Session: fmt.Sprint(i)})); err != nil {
			t.Fatal(err)
		}
	}
	if f.Check(Query{Agent: "a"}).Allow || len(f.InForce()) != 2001 {
		t.Errorf("%d leases in force, want 2001", len(f.InForce()))
	}
}

// What the store did not take is not in force: a restart would forget it.
func TestStoreFails(t *testing.T) {
	f := newFixture(t, lease("r1", approval.Target{Agent: "a"}))
	f.store.err = errors.New("disk full")
	if _, err := f.Apply(t.Context(), lease("r2", approval.Target{Agent: "b"})); err == nil || !f.Check(Query{Agent: "b"}).Allow {
		t.Errorf("a lease that was not stored is in force: %v", err)
	}
	l, _ := f.Lease("r1")
	l.Lifted = noon
	if err := f.Update(t.Context(), l); err == nil || f.Check(Query{Agent: "a"}).Allow {
		t.Errorf("a lease was lifted that is stored as in force: %v", err)
	}
	if _, err := Open(t.Context(), f.store, nil, time.Now); err == nil {
		t.Error("a gate opens without knowing its leases")
	}
}

// The action and the enforcement point together: applied, proved, lifted, and lifted again. A lease of another action is in the book
// and denies nothing.
func TestQuarantine(t *testing.T) {
	f := newFixture(t)
	q := action.NewQuarantine(f)
	target := approval.Target{Agent: "a", Tool: "t"}
	l := action.Lease{ID: "r1", Plan: approval.Plan{Action: action.NameQuarantine, Target: target, Lease: time.Hour}, Ends: noon.Add(time.Hour)}
	other := l
	other.ID, other.Plan.Action = "r0", "revoke-token"
	if _, err := f.Apply(t.Context(), other); err != nil || !f.Check(Query{Agent: "a", Tool: "t"}).Allow {
		t.Fatal("a lease of another action denies at the gate", err)
	}
	if _, err := f.Apply(t.Context(), l); err != nil || f.Check(Query{Agent: "a", Tool: "t"}).Allow {
		t.Fatal(l, err)
	}
	if holds, err := q.Verify(t.Context(), l); err != nil || !holds {
		t.Fatal(holds, err)
	}
	l.Lifted = noon
	for range 2 {
		if err := f.Update(t.Context(), l); err != nil || !f.Check(Query{Agent: "a", Tool: "t"}).Allow {
			t.Fatal(err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t, lease("fixed", approval.Target{Agent: "fixed"}))
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 100 {
				l := lease(fmt.Sprint(w, "/", i), approval.Target{Agent: fmt.Sprint("agent", w)})
				if _, err := f.Apply(context.Background(), l); err != nil {
					t.Error(err)
				}
				if f.Check(Query{Agent: fmt.Sprint("agent", w)}).Allow {
					t.Error("an applied lease does not hold")
				}
				l.Lifted = noon
				if err := f.Update(context.Background(), l); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 1000 {
				if f.Check(Query{Agent: "fixed"}).Allow || len(f.InForce()) == 0 {
					t.Error("a lease was gone for a moment")
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{0, 1, 10_000} {
		for _, same := range []bool{false, true} {
			if same && n < 2 {
				continue
			}
			leases := make(map[string]action.Lease, n)
			for i := range n {
				target := approval.Target{Agent: fmt.Sprint("agent", i), Session: fmt.Sprint("s", i)}
				if same {
					target.Agent = "agent0"
				}
				leases[fmt.Sprint(i)] = lease(fmt.Sprint(i), target)
			}
			f := &fixture{store: &memory{leases: leases}, now: noon}
			f.open(b)
			b.Run(fmt.Sprintf("%d/same=%v", n, same), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f.Check(Query{Agent: "agent0", Session: "s0", Tool: "t"})
				}
			})
		}
	}
}

package pipeline

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

func TestSpend(t *testing.T) {
	type alert struct {
		at             time.Duration
		agent, session string
		lane, want     detect.Lane
	}
	tests := []struct {
		name   string
		alerts []alert
	}{
		{"an alert of one agent takes what follows in a day", []alert{{0, "a", "1", detect.Alert, detect.Alert}, {time.Hour, "a", "2", detect.Alert, detect.Hunt}, {25 * time.Hour, "a", "3", detect.Alert, detect.Alert}}},
		{"its own session goes on", []alert{{0, "a", "1", detect.Alert, detect.Alert}, {time.Hour, "a", "1", detect.Alert, detect.Alert}}},
		{"a proposal always comes through", []alert{{0, "a", "1", detect.Alert, detect.Alert}, {time.Hour, "a", "2", detect.Propose, detect.Propose}}},
		{"agents have their own", []alert{{0, "a", "1", detect.Alert, detect.Alert}, {time.Hour, "b", "2", detect.Alert, detect.Alert}}},
		{"the class has two a day", []alert{{0, "a", "1", detect.Alert, detect.Alert}, {time.Hour, "b", "2", detect.Alert, detect.Alert}, {time.Hour, "c", "3", detect.Alert, detect.Hunt}, {24 * time.Hour, "c", "4", detect.Alert, detect.Alert}}},
		{"a clock that was a month fast hides nothing", []alert{{700 * time.Hour, "a", "1", detect.Alert, detect.Alert}, {0, "a", "2", detect.Alert, detect.Alert}}},
		{"a hunt costs nothing", []alert{{0, "a", "1", detect.Hunt, detect.Hunt}, {time.Hour, "a", "2", detect.Alert, detect.Alert}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := New(nil, event.NewHasher(nil), Options{ClassAlerts: 2})
			c := s.class("class")
			for i, a := range tt.alerts {
				e := event.Event{Time: detect.StreamStart.Add(a.at), Agent: event.Agent{ID: a.agent}, Session: event.Session{ID: a.session}}
				s.saw(c, &e)
				f := detect.Finding{Lane: a.lane}
				if s.spend(c, &e, &f); f.Lane != a.want {
					t.Errorf("alert %d: %s, want %s", i, f.Lane, a.want)
				}
			}
		})
	}
}

// A noisy tenant leaves others their alerts; what another sender brings under its name is not its own, and a new day begins anew.
func TestTenantBudget(t *testing.T) {
	s := New(nil, event.NewHasher(nil), Options{ClassAlerts: 5, TenantAlerts: 2})
	c := s.class("class")
	for i, a := range []struct {
		day            int
		sender, tenant string
		want           detect.Lane
	}{
		{0, "s", "noisy", detect.Alert},
		{0, "s", "noisy", detect.Alert},
		{0, "s", "noisy", detect.Hunt},
		{0, "other", "noisy", detect.Alert},
		{0, "s", "quiet", detect.Alert},
		{0, "s", "quiet", detect.Alert},
		{0, "s", "third", detect.Hunt}, // the class has had five
		{1, "s", "noisy", detect.Alert},
	} {
		e := event.Event{
			Tenant: a.tenant, Source: event.Source{Authn: a.sender}, Time: detect.StreamStart.AddDate(0, 0, a.day), Agent: event.Agent{ID: fmt.Sprint("a", i)},
			Session: event.Session{ID: fmt.Sprint("s", i)},
		}
		s.saw(c, &e)
		f := detect.Finding{Lane: detect.Alert}
		if s.spend(c, &e, &f); f.Lane != a.want {
			t.Errorf("alert %d: %s, want %s", i, f.Lane, a.want)
		}
	}
}

// Whatever tenants senders make up, no more than maxTenants are counted, and none has more than its alerts.
func TestTenantsAreBounded(t *testing.T) {
	s := New(nil, event.NewHasher(nil), Options{ClassAlerts: 10_000, TenantAlerts: 3})
	c := s.class("class")
	for i := range 1000 {
		e := event.Event{Tenant: fmt.Sprint("t", i%300), Time: detect.StreamStart, Agent: event.Agent{ID: fmt.Sprint("a", i)}, Session: event.Session{ID: fmt.Sprint("s", i)}}
		s.saw(c, &e)
		s.spend(c, &e, &detect.Finding{Lane: detect.Alert})
	}
	if n := len(c.Budget.Tenants); n != maxTenants+1 || !c.Budget.check() {
		t.Errorf("%d tenants are counted, want %d and one for the rest", n, maxTenants)
	}
	for tenant, n := range c.Budget.Tenants {
		if n > 3 {
			t.Errorf("tenant %q has %d alerts", tenant, n)
		}
	}
}

// However often baselines would alert, in the long run they do as often as the budget says, unless that would need an alpha under a tenth.
func TestBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0, 0.08).Draw(t, "alerts an agent a day at the configured alpha")
		r := rapid.Uint64().Draw(t, "seed")
		var b budget
		fired, days := 0, 20_000
		for range days {
			b.agentDay(defaultAgentAlerts)
			r = r*6364136223846793005 + 1442695040888963407
			if float64(r>>11)/(1<<53) < b.alpha(rate) {
				fired++
				b.Ease = max(leastEase, b.Ease-easeStep)
			}
			if !(b.Ease <= 0 && b.Ease >= leastEase) {
				t.Fatalf("ease %g", b.Ease)
			}
		}
		want := min(rate, defaultAgentAlerts)
		if got := float64(fired) / float64(days); got > want+4*math.Sqrt(want/float64(days))+0.002 {
			t.Errorf("%g alerts an agent a day, want %g", got, want)
		}
	})
}

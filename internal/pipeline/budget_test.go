package pipeline

import (
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

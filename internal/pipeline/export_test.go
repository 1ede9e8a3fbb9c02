package pipeline

import (
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
)

// Delegation is what the rules last saw of who delegated.
func (s *Shard) Delegation() detect.DelegationEnv { return s.env.Delegation }

// Learned returns what an agent's baseline holds; ok is false for an agent of no known class.
func (s *Shard) Learned(class, agent string) (l baselines.Learned, ok bool) {
	c := s.classes[class]
	if c == nil || !c.Model.Has(agent) {
		return baselines.Learned{}, false
	}
	return c.Model.Learned(agent), true
}

// Watermark is the newest event time seen, over all classes.
func (s *Shard) Watermark() (at time.Time) {
	for _, c := range s.classes {
		at = later(at, c.Watermark)
	}
	return at
}

// Keep lowers how many findings of a rule are kept.
func (b *Backtest) Keep(n int) { b.keep = n }

// Minutes is how many minutes of events are counted one by one.
func (b *Backtest) Minutes() int { return len(b.minutes.of) }

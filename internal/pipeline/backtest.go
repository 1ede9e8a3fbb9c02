package pipeline

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Backtest runs two sets of rules over the same events and compares what they raise. Not safe for concurrent use.
type Backtest struct {
	since  time.Time
	shards [2]*Shard // the candidate's and the one in force
	raised [2]map[string]detect.Finding
	first  time.Time
	last   time.Time
	events int
}

// BacktestReport is what a backtest found. Counts are of findings by their id; health findings are left out.
type BacktestReport struct {
	Events    int            `json:"events"` // since the time asked for
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Rules     []RuleBacktest `json:"rules"`
	Proposals []Proposal     `json:"proposals"` // of the candidate
}

// RuleBacktest compares one rule, or one baseline's feature.
type RuleBacktest struct {
	Rule     string     `json:"rule"`
	Lane     string     `json:"lane"`
	Findings int        `json:"findings"`        // of the candidate
	Running  int        `json:"running"`         // of the set in force
	Added    int        `json:"added,omitempty"` // raised by the candidate alone
	Lost     int        `json:"lost,omitempty"`  // raised by the set in force alone
	Days     []DayCount `json:"days,omitempty"`
}

// DayCount is how often the candidate fired for an agent on a day, in UTC.
type DayCount struct {
	Day   string `json:"day"`
	Agent string `json:"agent"`
	N     int    `json:"n"`
}

// Proposal is a session for which a containment would have been proposed: each asks a human once.
type Proposal struct {
	Agent   string    `json:"agent"`
	Session string    `json:"session"`
	Rules   []string  `json:"rules"`
	At      time.Time `json:"at"`
	Running bool      `json:"running"` // the set in force would have proposed it too
}

// NewBacktest compares a candidate with the set in force, on events since a time. Earlier events teach the baselines and fill windows.
func NewBacktest(candidate, running *detect.Set, hasher *event.Hasher, options Options, since time.Time) *Backtest {
	b := &Backtest{since: since}
	for i, set := range []*detect.Set{candidate, running} {
		b.shards[i], b.raised[i] = New(set, hasher, options), make(map[string]detect.Finding)
	}
	return b
}

// Event takes the next event of the log. Events of one class must come in the log's order.
func (b *Backtest) Event(e *event.Event) {
	in := !e.Time.Before(b.since)
	if in {
		b.events++
		if b.first.IsZero() || e.Time.Before(b.first) {
			b.first = e.Time
		}
		b.last = later(b.last, e.Time)
	}
	for i, shard := range b.shards {
		own := e.Clone()
		for _, r := range shard.Process(&own, Position{}) {
			if in && r.Finding.Source != detect.SourceHealth {
				b.raised[i][r.Finding.ID] = r.Finding // judged again under its agent's name, it takes the place of the first
			}
		}
	}
}

// Report sums up.
func (b *Backtest) Report() BacktestReport {
	out := BacktestReport{Events: b.events, From: b.first, To: b.last, Proposals: b.proposals()}
	byRule := make(map[string]*RuleBacktest)
	rule := func(f detect.Finding) *RuleBacktest {
		if byRule[f.Rule] == nil {
			byRule[f.Rule] = &RuleBacktest{Rule: f.Rule, Lane: string(f.Lane)}
		}
		return byRule[f.Rule]
	}
	days := make(map[string]map[DayCount]int)
	for id, f := range b.raised[0] {
		r := rule(f)
		r.Lane = string(f.Lane)
		r.Findings++
		if _, ok := b.raised[1][id]; !ok {
			r.Added++
		}
		if days[f.Rule] == nil {
			days[f.Rule] = make(map[DayCount]int)
		}
		days[f.Rule][DayCount{Day: f.Time.UTC().Format(time.DateOnly), Agent: f.Agent.ID}]++
	}
	for id, f := range b.raised[1] {
		r := rule(f)
		r.Running++
		if _, ok := b.raised[0][id]; !ok {
			r.Lost++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byRule)) {
		r := byRule[name]
		for d, n := range days[name] {
			d.N = n
			r.Days = append(r.Days, d)
		}
		slices.SortFunc(r.Days, func(a, b DayCount) int { return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Agent, b.Agent)) })
		out.Rules = append(out.Rules, *r)
	}
	return out
}

func (b *Backtest) proposals() []Proposal {
	type session struct{ class, agent, id string }
	proposed := [2]map[session]*Proposal{{}, {}}
	for i := range b.raised {
		for _, f := range b.raised[i] {
			if f.Lane != detect.Propose {
				continue
			}
			key := session{f.Agent.Class, f.Agent.ID, f.Session}
			p := proposed[i][key]
			if p == nil {
				p = &Proposal{Agent: f.Agent.ID, Session: f.Session, At: f.Time}
				proposed[i][key] = p
			}
			if f.Time.Before(p.At) {
				p.At = f.Time
			}
			if !slices.Contains(p.Rules, f.Rule) {
				p.Rules = append(p.Rules, f.Rule)
			}
		}
	}
	var out []Proposal
	for key, p := range proposed[0] {
		slices.Sort(p.Rules)
		p.Running = proposed[1][key] != nil
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Proposal) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Session, b.Session))
	})
	return out
}

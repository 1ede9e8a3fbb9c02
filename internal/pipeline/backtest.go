package pipeline

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Bounds of the findings that a backtest keeps, of one rule and of all.
const (
	KeptOfRule = 50_000
	KeptOfAll  = 500_000
)

// backtestBatch is how many events both shards judge side by side before what they raised is compared.
const backtestBatch = 128

// Backtest runs two sets of rules over the same events, which it does not keep, and compares what they raise. Not safe for concurrent use.
type Backtest struct {
	since   time.Duration
	shards  []*Shard // the candidate's and the one in force; one where both sets are the same
	batch   []*event.Event
	raised  [2][]detect.Finding // of the batch
	minutes minutes
	found   map[string]*compared
	ofRule  map[string]int
	cut     map[string]int
	keep    int // findings of one rule
	swept   time.Time
	sets    [2]RuleSet
}

// compared is a finding and who raised it.
type compared struct {
	rule unique.Handle[string]
	at   time.Time
	by   [2]side
}

// side is a finding as one of the sets raised it. Its session is kept where a containment would be proposed.
type side struct {
	lane, agent, class, session unique.Handle[string]
	raised                      bool
}

// BacktestReport is what a backtest found. Counts are of findings by their id; health findings are left out.
type BacktestReport struct {
	Candidate RuleSet        `json:"candidate"`
	InForce   RuleSet        `json:"in_force"`
	Events    int            `json:"events"` // since the time asked for
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Rules     []RuleBacktest `json:"rules"`
	Proposals []Proposal     `json:"proposals"` // of the candidate
}

// RuleSet is one of the two sets that are compared.
type RuleSet struct {
	From   string `json:"from,omitempty"` // for people: where it was read
	Rules  int    `json:"rules"`
	Digest string `json:"digest"`
}

// RuleBacktest compares one rule, or one baseline's feature.
type RuleBacktest struct {
	Rule     string     `json:"rule"`
	Lane     string     `json:"lane"`
	Findings int        `json:"findings"`        // of the candidate
	Running  int        `json:"running"`         // of the set in force
	Added    int        `json:"added,omitempty"` // raised by the candidate alone
	Lost     int        `json:"lost,omitempty"`  // raised by the set in force alone
	Cut      int        `json:"cut,omitempty"`   // of either set, left out of all counts for want of room
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

// NewBacktest compares a candidate with the set in force on what was found in the time before the newest event, to the full minute; 0 is
// all of it. Earlier events teach the baselines and fill windows. Two sets with one digest find the same, and are judged once.
func NewBacktest(candidate, running *detect.Set, hasher *event.Hasher, options Options, since time.Duration) *Backtest {
	b := &Backtest{since: since, found: make(map[string]*compared), ofRule: make(map[string]int), cut: make(map[string]int), keep: KeptOfRule, minutes: minutes{since: since, of: make(map[int64]minute)}}
	for i, set := range []*detect.Set{candidate, running} {
		b.sets[i] = RuleSet{Rules: len(set.Rules()), Digest: set.Digest()}
		if i == 0 || b.sets[i].Digest != b.sets[0].Digest {
			b.shards = append(b.shards, New(set, hasher, options))
		}
	}
	return b
}

// Event takes the next event of the log, which must not be changed any more. Events of one class must come in the log's order.
func (b *Backtest) Event(e *event.Event) {
	b.minutes.add(e.Time)
	if b.batch = append(b.batch, e); len(b.batch) == backtestBatch {
		b.judge()
	}
}

// judge has the shards judge the batch, each on a core of its own, and compares what they raised.
func (b *Backtest) judge() {
	var both sync.WaitGroup
	for i, shard := range b.shards {
		both.Go(func() {
			for _, e := range b.batch {
				own := e.Clone()
				for _, r := range shard.Process(&own, Position{}) {
					b.raised[i] = append(b.raised[i], r.Finding)
				}
			}
		})
	}
	both.Wait()
	b.minutes.trim()
	if len(b.shards) == 1 {
		b.raised[1] = append(b.raised[1], b.raised[0]...)
	}
	for i := range b.raised {
		for j := range b.raised[i] {
			b.note(i, &b.raised[i][j])
		}
		clear(b.raised[i])
		b.raised[i] = b.raised[i][:0]
	}
	clear(b.batch)
	b.batch = b.batch[:0]
}

// note keeps what must be known of a finding to compare it.
func (b *Backtest) note(i int, f *detect.Finding) {
	if f.Source == detect.SourceHealth || f.Time.Before(b.start()) {
		return
	}
	x := b.found[f.ID]
	if x == nil {
		if !b.room(f.Rule) {
			b.cut[f.Rule]++
			return
		}
		x = &compared{rule: unique.Make(f.Rule), at: f.Time}
		b.found[f.ID] = x
		b.ofRule[f.Rule]++
	}
	// Judged again under its agent's name, it takes the place of the first.
	x.by[i] = side{raised: true, lane: unique.Make(string(f.Lane)), agent: unique.Make(f.Agent.ID)}
	if f.Lane == detect.Propose {
		x.by[i].class, x.by[i].session = unique.Make(f.Agent.Class), unique.Make(f.Session)
	}
}

// room reports whether another finding of a rule can be kept. Those that the time asked for has left behind make room.
func (b *Backtest) room(rule string) bool {
	full := func() bool { return b.ofRule[rule] >= b.keep || len(b.found) >= KeptOfAll }
	if start := b.start(); full() && start.Sub(b.swept) > b.since/64 && b.since > 0 {
		b.swept = start
		maps.DeleteFunc(b.found, func(_ string, x *compared) bool {
			old := x.at.Before(start)
			if old {
				b.ofRule[x.rule.Value()]--
			}
			return old
		})
	}
	return !full()
}

// start is when the time asked for begins, by what was read so far.
func (b *Backtest) start() time.Time { return b.minutes.start() }

// minutes count events by the minute, so that those of the time asked for are known once its end is.
type minutes struct {
	since time.Duration
	of    map[int64]minute // since 1970; one for all of them where the time asked for has no beginning
	last  time.Time
}

type minute struct {
	events int
	first  time.Time
}

func (m *minutes) start() time.Time {
	if m.since <= 0 {
		return time.Time{}
	}
	return m.last.Add(-m.since).Truncate(time.Minute)
}

func (m *minutes) add(at time.Time) {
	m.last = later(m.last, at)
	key := int64(0)
	if m.since > 0 {
		key = at.Truncate(time.Minute).Unix()
	}
	x := m.of[key]
	if x.events++; x.first.IsZero() || at.Before(x.first) {
		x.first = at
	}
	m.of[key] = x
}

// spareMinutes are how many of no use any more are kept before they are dropped together.
const spareMinutes = 10_000

func (m *minutes) trim() {
	if m.since > 0 && len(m.of) > int(m.since/time.Minute)+spareMinutes {
		start := m.start().Unix()
		maps.DeleteFunc(m.of, func(key int64, _ minute) bool { return key < start })
	}
}

// counted are the events of the time asked for, and when the first one was.
func (m *minutes) counted() (events int, first time.Time) {
	start := m.start().Unix()
	for key, x := range m.of {
		if key < start {
			continue
		}
		events += x.events
		if first.IsZero() || x.first.Before(first) {
			first = x.first
		}
	}
	return events, first
}

// Report sums up what was read so far.
func (b *Backtest) Report() BacktestReport {
	b.judge()
	start := b.start()
	maps.DeleteFunc(b.found, func(_ string, x *compared) bool { return x.at.Before(start) })
	out := BacktestReport{Candidate: b.sets[0], InForce: b.sets[1], To: b.minutes.last, Rules: b.rules(), Proposals: b.proposals()}
	out.Events, out.From = b.minutes.counted()
	return out
}

func (b *Backtest) rules() (out []RuleBacktest) {
	byRule, days, lanes := make(map[string]*RuleBacktest), make(map[string]map[DayCount]int), make(map[string][2]string)
	rule := func(name string) *RuleBacktest {
		if byRule[name] == nil {
			byRule[name], days[name] = &RuleBacktest{Rule: name, Cut: b.cut[name]}, make(map[DayCount]int)
		}
		return byRule[name]
	}
	for name := range b.cut {
		rule(name)
	}
	for _, x := range b.found {
		name, candidate, running := x.rule.Value(), x.by[0], x.by[1]
		r := rule(name)
		lanes[name] = [2]string{farther(lanes[name][0], candidate), farther(lanes[name][1], running)}
		if running.raised {
			r.Running++
		}
		switch {
		case !candidate.raised:
			r.Lost++
			continue
		case !running.raised:
			r.Added++
		}
		r.Findings++
		days[name][DayCount{Day: x.at.UTC().Format(time.DateOnly), Agent: candidate.agent.Value()}]++
	}
	for _, name := range slices.Sorted(maps.Keys(byRule)) {
		r := byRule[name]
		r.Lane = cmp.Or(lanes[name][0], lanes[name][1])
		for d, n := range days[name] {
			d.N = n
			r.Days = append(r.Days, d)
		}
		slices.SortFunc(r.Days, func(a, b DayCount) int { return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Agent, b.Agent)) })
		out = append(out, *r)
	}
	return out
}

// farther is the lane whose word reaches farther: a baseline's findings are in several.
func farther(lane string, of side) string {
	order := []detect.Lane{detect.Hunt, detect.Shadow, detect.Alert, detect.Propose}
	if of.raised && slices.Index(order, detect.Lane(of.lane.Value())) >= slices.Index(order, detect.Lane(lane)) {
		return of.lane.Value()
	}
	return lane
}

func (b *Backtest) proposals() []Proposal {
	type session struct{ class, agent, id string }
	proposed := [2]map[session]*Proposal{{}, {}}
	for _, x := range b.found {
		for i, by := range x.by {
			if !by.raised || by.lane.Value() != string(detect.Propose) {
				continue
			}
			key := session{by.class.Value(), by.agent.Value(), by.session.Value()}
			p := proposed[i][key]
			if p == nil {
				p = &Proposal{Agent: key.agent, Session: key.id, At: x.at}
				proposed[i][key] = p
			}
			if x.at.Before(p.At) {
				p.At = x.at
			}
			if rule := x.rule.Value(); !slices.Contains(p.Rules, rule) {
				p.Rules = append(p.Rules, rule)
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

package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// Shelf keeps the pages that made room in memory. What was put there stays readable until Keep is told that its segment has nothing live.
type Shelf interface {
	baselines.Shelf
	Sync() error
	Bytes() int64
	Sparse(live map[uint32]int64) map[uint32]bool
	Keep(live map[uint32]int64) error
}

// Defaults of how many agents a shard has. One class may have a quarter of them, so that whoever speaks for one class can't push out the
// others'.
const (
	defaultAwake = 1 << 15 // pages in memory: 128 MiB
	defaultKnown = 1 << 20
	classShare   = 4
)

// classRoom is how many agents one class may have.
func (s *Shard) classRoom() baselines.Room {
	r := baselines.Room{Awake: max(1, s.options.AgentsInMemory/classShare), Known: max(1, s.options.Agents/classShare)}
	if s.options.Shelf != nil {
		r.Shelf = s.options.Shelf
	}
	return r
}

// countAgents brings the shard's counts of agents up to date with a class.
func (s *Shard) countAgents(c *class) {
	s.awake, s.known = s.awake-c.awake, s.known-c.known
	c.awake, c.known = c.Model.InMemory(), c.Model.Known()
	s.awake, s.known = s.awake+c.awake, s.known+c.known
}

// settleAgents makes room where a class that an event changed has made all classes together too many. The pages that acted least lately are
// put away, whosever they are; of agents that are too many the largest class forgets some, because it is nobody's fault but theirs.
// It returns other classes that this changed.
func (s *Shard) settleAgents(c *class) (others []*class) {
	s.countAgents(c)
	if s.awake > max(s.options.AgentsInMemory, s.full) {
		others = append(others, s.putAway(s.awake-s.options.AgentsInMemory+s.options.AgentsInMemory/8)...)
		if s.full = 0; s.awake > s.options.AgentsInMemory { // the disk takes no more: it is tried again when there are an eighth more
			s.full = s.awake + s.options.AgentsInMemory/8
		}
	}
	if s.known > s.options.Agents {
		largest := c
		for _, name := range slices.Sorted(maps.Keys(s.classes)) {
			if other := s.classes[name]; other.known > largest.known {
				largest = other
			}
		}
		largest.Model.Forget(min(s.known-s.options.Agents+forgetMore, largest.known-1))
		s.countAgents(largest)
		others = append(others, largest)
	}
	return others
}

// forgetMore is how many more agents are forgotten than must be: what is told of them is one finding.
const forgetMore = 63

// putAway puts the pages away that acted least lately, over all classes.
func (s *Shard) putAway(n int) (changed []*class) {
	type idle struct {
		baselines.Idle
		class *class
	}
	var all []idle
	for _, c := range s.classes {
		for _, i := range c.Model.Idle(n) {
			all = append(all, idle{i, c})
		}
	}
	slices.SortFunc(all, func(a, b idle) int { return cmp.Compare(a.Used, b.Used) })
	of := make(map[*class][]baselines.Idle)
	for _, i := range all[:min(n, len(all))] {
		of[i.class] = append(of[i.class], i.Idle)
	}
	for _, name := range slices.Sorted(maps.Keys(s.classes)) {
		if c := s.classes[name]; len(of[c]) > 0 {
			c.Model.PutAway(of[c])
			s.countAgents(c)
			changed = append(changed, c)
		}
	}
	return changed
}

// garbage is by how much the pages' files may outgrow what they were at the last whole snapshot, beside their double: only a whole one frees
// what nobody refers to.
const garbage = 256 << 20

// overgrown reports whether a whole snapshot is due for the sake of the disk.
func (s *Shard) overgrown() bool {
	return s.options.Shelf != nil && s.options.Shelf.Bytes() > 2*s.shelved+garbage
}

// live are the bytes of the pages on disk, by segment.
func (s *Shard) live() map[uint32]int64 {
	live := make(map[uint32]int64)
	for _, c := range s.classes {
		c.Model.Places(func(p baselines.Place) { live[p.Segment] += int64(p.Size) })
	}
	return live
}

// gather moves pages out of files that hold few, so that these can go once a whole snapshot is kept.
func (s *Shard) gather() {
	sparse := s.options.Shelf.Sparse(s.live())
	if len(sparse) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.classes)) {
		s.classes[name].Model.Move(func(p baselines.Place) bool { return sparse[p.Segment] })
	}
}

// Stored is how many agents a shard knows, and where.
type Stored struct {
	Agents, InMemory int
	Bytes            int64 // on disk
}

// Stored returns how many agents taught something, over all classes.
func (s *Shard) Stored() Stored {
	out := Stored{Agents: s.known, InMemory: s.awake}
	if s.options.Shelf != nil {
		out.Bytes = s.options.Shelf.Bytes()
	}
	return out
}

// troubles are the findings of what happened to pages.
func (s *Shard) troubles(e *event.Event, classes ...*class) (out []Raised) {
	for _, c := range classes {
		told := c.Model.Troubles()
		if len(told) == 0 {
			continue
		}
		text := make([]string, 0, len(told))
		for _, t := range told {
			text = append(text, fmt.Sprintf("%.100q: %s", t.Agent, t.Why))
		}
		name := c.Model.Class
		f := detect.Finding{
			Source: detect.SourceHealth, Rule: "baseline-pages", Version: baselines.Version, Title: "What agents taught was lost or can't be put on disk",
			Severity: detect.Medium, Confidence: detect.HighConfidence, Lane: detect.Alert, Tenant: e.Tenant, Sender: e.Source.Authn,
			Agent: event.Agent{ID: told[0].Agent, Class: name}, First: e.Time, Time: e.Time, Events: []string{e.ID},
			Reason: fmt.Sprintf("%d agents of class %.100q. %s.", len(told), name, strings.Join(text, "; ")),
			Triage: "Look whether somebody sends events under ever new names of agents, and whether the disk is full or damaged. More agents can be known: baselines.agents.",
		}
		f.ID = detect.FindingID(e.Tenant, name, f.Rule, f.Events)
		out = append(out, Raised{Finding: f, Ingested: e.Ingested})
	}
	return out
}

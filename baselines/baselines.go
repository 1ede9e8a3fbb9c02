// Package baselines learns what is normal for each agent and says how surprising an event is, as a calibrated p-value. It
// does no I/O, reads no clock, and decides nothing: a caller chooses what to learn from and when a p-value matters.
//
// Agents of one class are peers: an agent's counts are shrunk towards its class's, so that a new agent is judged by its peers
// until it has a history. Learning takes whole sessions, after they ended without a finding, so that an attack can't teach.
package baselines

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Version names the way scores are made. A change of it makes older scores incomparable.
const Version = "rarity-1"

// Bounds and weights of a model. Each table is bounded, so that an agent's page can't grow without end.
const (
	priorWeight    = 10.0 // observations that the class's word is worth beside the agent's own
	maxTools       = 128  // tools of one agent
	maxContexts    = 256  // (tool, argument) pairs of one agent
	maxValues      = 256  // values of one argument
	maxKnown       = 4096 // tokens that an agent is known to have used
	maxAgents      = 4096 // agents of one class that keep a page
	minSessions    = 10   // sessions of its own before an agent's baseline is active
	minCalibration = 50   // scores of the class before its p-values mean anything
	minContext     = 20   // scores of one argument before it is calibrated by its own, and not by all arguments'
	warmSessions   = 3    // sessions before an agent's scores calibrate its class
)

// Life is the stage of an agent's baseline. While it is learning, the answer to every question is unknown.
type Life string

// The stages.
const (
	Learning Life = "learning"
	Active   Life = "active"
)

// Model is what one class of agents taught. It is not safe for concurrent use: one detector shard owns it.
type Model struct {
	Class   string                  `json:"class"`
	Peers   page                    `json:"peers"` // all agents of the class together
	Agents  map[string]*page        `json:"agents"`
	Scores  map[string]*calibration `json:"scores"`  // by feature, and by argument
	Evicted int                     `json:"evicted"` // pages dropped because the class had too many agents
}

// page is what one agent, or a class, was seen to do.
type page struct {
	Sessions int               `json:"sessions"`
	Tools    table             `json:"tools"`
	Values   map[string]*table `json:"values"`     // by tool and argument
	Origins  map[string]*table `json:"provenance"` // by tool and argument
	Dests    table             `json:"destinations"`
	Known    map[uint64]int    `json:"known"` // tokens of argument values, with the session that last used them
	LastSeen int               `json:"last_seen"`
}

// NewModel returns an empty model.
func NewModel(class string) *Model {
	return &Model{Class: class, Agents: make(map[string]*page), Scores: make(map[string]*calibration)}
}

// The features that the model scores.
const (
	FeatureTool        = "tool"        // which tool, among the tools this agent uses
	FeatureDestination = "destination" // where data goes
	FeatureArgument    = "argument"    // an argument's value: its rarity times the rarity of where it came from
)

// weights of the features in an event's p-value; they sum to 1. Provenance says most, see the harmonic mean in combine.
var weights = map[string]float64{FeatureArgument: 0.5, FeatureDestination: 0.25, FeatureTool: 0.25}

// Observation is what one tool call leaves behind to learn from. It holds no text but a destination's.
type Observation struct {
	Tool  string            `json:"tool"`
	Args  []ArgObservation  `json:"args,omitempty"`
	Dests []DestObservation `json:"dests,omitempty"`
}

// ArgObservation is one argument value: its key, its tokens and where it came from.
type ArgObservation struct {
	Path       string           `json:"path"`
	Value      uint64           `json:"value"`
	Tokens     event.Hashes     `json:"tokens,omitempty"`
	Provenance event.Provenance `json:"provenance,omitempty"`
}

// DestObservation is one destination of a call.
type DestObservation struct {
	Key  uint64 `json:"key"`
	Text string `json:"text"`
	Arg  string `json:"arg,omitempty"`
}

// Observe reads a tool call into an observation; ok is false for an event that baselines don't look at. Provenance must be set.
func Observe(e *event.Event, h *event.Hasher) (o Observation, ok bool) {
	if e.Tool == nil || (e.Kind != event.KindToolResult && e.Kind != event.KindToolRequest) {
		return Observation{}, false
	}
	o.Tool = e.Tool.Name
	for _, a := range e.Tool.Args {
		tokens := a.Tokens
		if len(tokens) == 0 {
			tokens = h.Hash(a.Value)
		}
		if len(tokens) == 0 {
			continue
		}
		o.Args = append(o.Args, ArgObservation{Path: a.Path, Value: fold(tokens), Tokens: bounded(tokens), Provenance: a.Provenance})
	}
	for _, d := range e.Destinations {
		o.Dests = append(o.Dests, DestObservation{Key: fold(h.Hash(d.Kind + " " + d.Value)), Text: d.Value, Arg: d.Arg})
	}
	return o, true
}

// maxKept bounds the tokens of one value that enter an agent's history.
const maxKept = 32

// bounded keeps a value's identifying tokens, which alone can prove that the value was used before.
func bounded(tokens event.Hashes) event.Hashes {
	var out event.Hashes
	for _, t := range tokens {
		if t.Identifying() && len(out) < maxKept {
			out = append(out, t)
		}
	}
	return out
}

// fold makes one key of a value's tokens, in order (FNV-1a over words).
func fold(tokens event.Hashes) uint64 {
	key := uint64(14695981039346656037)
	for _, t := range tokens {
		key = (key ^ uint64(t)) * 1099511628211
	}
	return key
}

// Knows reports whether an agent used a token in an earlier, learned session.
func (m *Model) Knows(agent string, token event.Hash) bool {
	page := m.Agents[agent]
	if page == nil {
		return false
	}
	_, ok := page.Known[uint64(token)]
	return ok
}

// Life returns the stage of an agent's baseline with the reason, for people.
func (m *Model) Life(agent string) (Life, string) {
	sessions := 0
	if page := m.Agents[agent]; page != nil {
		sessions = page.Sessions
	}
	if sessions < minSessions {
		return Learning, fmt.Sprintf("%d of %d sessions learned", sessions, minSessions)
	}
	if n := m.scored(); n < minCalibration {
		return Learning, fmt.Sprintf("%d of %d scores of its class calibrated", n, minCalibration)
	}
	return Active, fmt.Sprintf("%d sessions learned", sessions)
}

func (m *Model) scored() int {
	if s := m.Scores[FeatureTool]; s != nil {
		return s.N
	}
	return 0
}

// Learn takes a session that ended without a finding. The class is calibrated with how surprising the session is to the model
// as it stood before it, as the next one will be judged.
func (m *Model) Learn(agent string, session []Observation) {
	if len(session) == 0 {
		return
	}
	p := m.page(agent)
	if p.Sessions >= warmSessions {
		for i := range session {
			m.calibrate(p, &session[i])
		}
	}
	m.Peers.Sessions++
	p.Sessions++
	p.LastSeen = m.Peers.Sessions
	for _, o := range session {
		p.learn(o)
		m.Peers.learn(o)
		p.remember(o)
	}
}

func (m *Model) calibrate(p *page, o *Observation) {
	for _, s := range m.scores(p, o) {
		m.calibrateOne(s.feature, s.bits)
	}
	for i := range o.Args {
		a := &o.Args[i]
		m.calibrateOne(argKey(o.Tool, a.Path), m.argScore(p, o.Tool, a))
	}
}

func (m *Model) calibrateOne(key string, bits float64) {
	c := m.Scores[key]
	if c == nil {
		if len(m.Scores) > maxContexts && strings.HasPrefix(key, FeatureArgument+"\x00") {
			return // a class with more arguments than that is calibrated by all of them together
		}
		c = &calibration{}
		m.Scores[key] = c
	}
	c.add(bits)
}

// argKey is the calibration of one argument of a tool.
func argKey(tool, path string) string { return FeatureArgument + "\x00" + tool + "\x00" + path }

// page returns an agent's page, making room by dropping the page that was idle longest.
func (m *Model) page(agent string) *page {
	if p := m.Agents[agent]; p != nil {
		return p
	}
	if len(m.Agents) >= maxAgents {
		victim := slices.MinFunc(slices.Sorted(maps.Keys(m.Agents)), func(a, b string) int {
			return cmp.Compare(m.Agents[a].LastSeen, m.Agents[b].LastSeen)
		})
		delete(m.Agents, victim)
		m.Evicted++
	}
	p := &page{}
	m.Agents[agent] = p
	return p
}

func (p *page) learn(o Observation) {
	p.Tools.add(toolKey(o.Tool), o.Tool, maxTools)
	for _, a := range o.Args {
		context := o.Tool + "\x00" + a.Path
		if values := at(&p.Values, context); values != nil {
			values.add(a.Value, "", maxValues)
		}
		if origins := at(&p.Origins, context); origins != nil && a.Provenance != event.ProvenanceUnknown {
			origins.add(toolKey(string(a.Provenance)), string(a.Provenance), maxValues)
		}
	}
	for _, d := range o.Dests {
		p.Dests.add(d.Key, d.Text, maxValues)
	}
}

// at returns the table of a context, or nil for a new context on a full page.
func at(tables *map[string]*table, context string) *table {
	if *tables == nil {
		*tables = make(map[string]*table)
	}
	t := (*tables)[context]
	if t == nil && len(*tables) < maxContexts {
		t = &table{}
		(*tables)[context] = t
	}
	return t
}

func (p *page) remember(o Observation) {
	if p.Known == nil {
		p.Known = make(map[uint64]int)
	}
	for _, a := range o.Args {
		for _, t := range a.Tokens {
			p.Known[uint64(t)] = p.Sessions
		}
	}
	for len(p.Known) > maxKnown {
		p.forgetOldest()
	}
}

// forgetOldest drops the tokens of the session that was used longest ago.
func (p *page) forgetOldest() {
	oldest := math.MaxInt
	for _, session := range p.Known {
		oldest = min(oldest, session)
	}
	maps.DeleteFunc(p.Known, func(_ uint64, session int) bool { return session == oldest })
}

func toolKey(name string) uint64 {
	key := uint64(14695981039346656037)
	for i := range len(name) {
		key = (key ^ uint64(name[i])) * 1099511628211
	}
	return key
}

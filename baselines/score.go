package baselines

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Anomaly is what a baseline says of one event.
type Anomaly struct {
	// P is the probability that unremarkable traffic of this class is at least as surprising; 1 while learning.
	P    float64 `json:"p"`
	Life Life    `json:"life"`
	// Why is the reason for the stage.
	Why      string    `json:"why"`
	Version  string    `json:"version"`
	Features []Feature `json:"features"` // by share, largest first
}

// Feature is one way in which the event was looked at.
type Feature struct {
	Name string `json:"name"`
	// About names the argument or destination; Got is what was found and Want what is usual, in words of counts. All three may
	// hold an agent's text.
	About string  `json:"about"`
	Got   string  `json:"got"`
	Want  string  `json:"want"`
	Score float64 `json:"score"` // bits
	P     float64 `json:"p"`
	Share float64 `json:"share"` // of the event's surprise; all shares sum to 1
}

// score is one feature's surprise, and which destination or argument it is about (an index into the observation).
type score struct {
	feature string
	index   int
	bits    float64
	p       float64
}

// Score says how surprising an observation is to the model. It changes nothing. The event gives the words of the explanation.
func (m *Model) Score(e *event.Event, o *Observation) Anomaly {
	life, why := m.Life(e.Agent.ID)
	a := Anomaly{P: 1, Life: life, Why: why, Version: Version}
	if life != Active {
		return a
	}
	agent := m.Agents[e.Agent.ID]
	var features []Feature
	for _, s := range m.scores(agent, o) {
		f := m.explain(agent, o, s)
		f.Name, f.Score, f.P = s.feature, s.bits, s.p
		features = append(features, f)
	}
	a.Features, a.P = combine(features)
	return a
}

// Familiarity says whether an agent did something before.
type Familiarity string

// The familiarities. While a baseline is learning, everything is unknown.
const (
	Unknown Familiarity = "unknown"
	Known   Familiarity = "known"
	New     Familiarity = "new"
)

// Familiar says whether the agent used the observation's tool before, and reached all of its destinations.
func (m *Model) Familiar(agent string, o *Observation) (tool, destination Familiarity) {
	if life, _ := m.Life(agent); life != Active {
		return Unknown, Unknown
	}
	page := m.Agents[agent]
	tool, destination = Known, Known
	if page.Tools.count(toolKey(o.Tool)) == 0 {
		tool = New
	}
	for _, d := range o.Dests {
		if page.Dests.count(d.Key) == 0 {
			destination = New
		}
	}
	return tool, destination
}

// combine is the weighted harmonic mean of the features' p-values (Wilson, 2019), which keeps its level under dependence up to
// a factor near 1 for the small p-values that matter here. The shares are each feature's part of the sum.
func combine(features []Feature) ([]Feature, float64) {
	total, used := 0.0, 0.0
	for _, f := range features {
		total += weights[f.Name] / f.P
		used += weights[f.Name]
	}
	if total == 0 {
		return nil, 1
	}
	for i, f := range features {
		features[i].Share = weights[f.Name] / f.P / total
	}
	slices.SortFunc(features, func(a, b Feature) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), strings.Compare(a.Name, b.Name))
	})
	return features, min(1, used/total)
}

// scores looks at what the observation shows: always the tool, the most surprising of its destinations, and the least probable of
// its arguments; the first of equals.
func (m *Model) scores(agent *page, o *Observation) []score {
	tool := score{feature: FeatureTool, bits: bits(&agent.Tools, &m.Peers.Tools, toolKey(o.Tool))}
	tool.p = m.p(FeatureTool, tool.bits)
	out := []score{tool}
	if len(o.Dests) > 0 {
		dest := score{feature: FeatureDestination, bits: -1}
		for i, d := range o.Dests {
			if b := bits(&agent.Dests, &m.Peers.Dests, d.Key); b > dest.bits {
				dest.index, dest.bits = i, b
			}
		}
		dest.p = m.p(FeatureDestination, dest.bits)
		out = append(out, dest)
	}
	if len(o.Args) > 0 {
		out = append(out, m.argument(agent, o))
	}
	return out
}

// argument scores each argument against its own calibration and returns the least probable, its p-value corrected for having
// looked at all of them (Bonferroni).
func (m *Model) argument(agent *page, o *Observation) score {
	best := score{feature: FeatureArgument, p: 2}
	for i := range o.Args {
		b := m.argScore(agent, o.Tool, &o.Args[i])
		p := m.p(FeatureArgument, b)
		if c := m.Scores[argKey(o.Tool, o.Args[i].Path)]; c != nil && c.N >= minContext {
			p = c.p(b)
		}
		if p < best.p {
			best.index, best.bits, best.p = i, b, p
		}
	}
	best.p = min(1, best.p*float64(len(o.Args)))
	return best
}

// p is the p-value of a score by a calibration; 1 where there is none.
func (m *Model) p(key string, bits float64) float64 {
	if c := m.Scores[key]; c != nil {
		return c.p(bits)
	}
	return 1
}

// argScore is the surprise of a value and of where it came from, as if both were independent. A value from the prompt or from the
// agent's own history was asked for or is habit: it scores 0 however rare it is.
func (m *Model) argScore(agent *page, tool string, a *ArgObservation) float64 {
	if a.Provenance != event.ProvenanceToolOutput && a.Provenance != event.ProvenanceNowhere {
		return 0
	}
	context := tool + "\x00" + a.Path
	return bits(agent.Values[context], m.Peers.Values[context], a.Value) + bits(agent.Origins[context], m.Peers.Origins[context], toolKey(string(a.Provenance)))
}

// explain says in counts what was found and what is usual.
func (m *Model) explain(agent *page, o *Observation, s score) Feature {
	switch s.feature {
	case FeatureDestination:
		d := o.Dests[s.index]
		return Feature{About: d.Text, Got: counts("reached", &agent.Dests, &m.Peers.Dests, d.Key), Want: "usual destinations: " + usual(&agent.Dests)}
	case FeatureArgument:
		a := o.Args[s.index]
		context := o.Tool + "\x00" + a.Path
		return Feature{
			About: a.Path, Want: "it usually comes from: " + usual(agent.Origins[context]),
			Got: provenanceWords[a.Provenance] + "; " + counts("used", agent.Values[context], m.Peers.Values[context], a.Value),
		}
	}
	return Feature{About: o.Tool, Got: counts("used", &agent.Tools, &m.Peers.Tools, toolKey(o.Tool)), Want: "usual tools: " + usual(&agent.Tools)}
}

func counts(verb string, agent, class *table, key uint64) string {
	return fmt.Sprintf("%s by this agent in %d of %d calls, by its class in %d of %d", verb, agent.count(key), agent.total(), class.count(key), class.total())
}

var provenanceWords = map[event.Provenance]string{
	event.ProvenanceUnknown:    "its origin is unknown",
	event.ProvenancePrompt:     "the value is in the prompt",
	event.ProvenanceHistory:    "the agent used the value in earlier sessions",
	event.ProvenanceToolOutput: "the value came from a tool's output, not from the user",
	event.ProvenanceNowhere:    "the value appears nowhere before this call",
}

// usual names the three most frequent values of a table with their share.
func usual(t *table) string {
	top := t.top(3)
	if len(top) == 0 {
		return "none yet"
	}
	words := make([]string, 0, len(top))
	for _, c := range top {
		words = append(words, fmt.Sprintf("%s %.0f %%", c.Text, math.Round(100*float64(c.N)/float64(t.Total))))
	}
	return strings.Join(words, ", ")
}

// Learned is what an agent's page holds, for people.
type Learned struct {
	Agent        string  `json:"agent"`
	Class        string  `json:"class"`
	Life         Life    `json:"life"`
	Why          string  `json:"why"`
	Sessions     int     `json:"sessions"`
	Peers        int     `json:"peers"` // other agents of the class
	Tools        []Count `json:"tools"`
	Destinations []Count `json:"destinations"`
	// Provenance counts, for each argument ("tool argument"), where its values came from.
	Provenance map[string][]Count `json:"provenance"`
	Version    string             `json:"version"`
	// Events and LastSeen tell of an agent that taught nothing yet too. The shard counts them.
	Events   int       `json:"events,omitempty"`
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// Learned returns what an agent taught.
func (m *Model) Learned(agent string) Learned {
	life, why := m.Life(agent)
	out := Learned{Agent: agent, Class: m.Class, Life: life, Why: why, Version: Version, Provenance: make(map[string][]Count)}
	p := m.Agents[agent]
	if p == nil {
		out.Peers = len(m.Agents)
		return out
	}
	out.Sessions, out.Peers = p.Sessions, len(m.Agents)-1
	out.Tools, out.Destinations = p.Tools.top(20), p.Dests.top(20)
	for _, context := range slices.Sorted(maps.Keys(p.Origins)) {
		out.Provenance[strings.Replace(context, "\x00", " ", 1)] = p.Origins[context].top(4)
	}
	return out
}

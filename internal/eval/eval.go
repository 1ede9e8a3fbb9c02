// Package eval measures the learned detections on sessions whose truth is known, recorded or generated. Everything goes through
// the shard that runs live, and baselines are looked at from outside alone: by the anomaly of each event and by what was raised.
// What sets a threshold is never what it is tested on, and equal seeds give equal results. It detects nothing itself, reads no
// clock and prints nothing.
package eval

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// session is one run of an agent, in time order.
type session struct {
	agent  string
	events []event.Event
}

// verdict is what a detector says of one session.
type verdict struct {
	// scores is how suspicious the session was once each of its events was judged; larger is more, and they never fall. Scores of
	// different agents are comparable.
	scores []float64
	// alarm is the first event at which the detector, as it is shipped, raises something that a human sees; -1 is none.
	alarm int
	// top is, for each event, the feature that the detector's explanation names first.
	top []baselines.Feature
}

func newVerdict(events int) verdict {
	return verdict{scores: make([]float64, events), alarm: -1, top: make([]baselines.Feature, events)}
}

// final is the score of the whole session.
func (v verdict) final() float64 { return v.scores[len(v.scores)-1] }

// reached is the first event at which the score was as high as a threshold; -1 is none.
func (v verdict) reached(threshold float64) int {
	return slices.IndexFunc(v.scores, func(score float64) bool { return score >= threshold })
}

// detector is what is measured: ours, or a peer's.
type detector interface {
	// teach learns sessions in their order and returns a judge of later ones. Judging one session teaches nothing about another.
	teach(sessions []*session) (judge, error)
}

type judge func(*session) (verdict, error)

// Rig is the whole pipeline as a detector.
type Rig struct {
	rules  *detect.Set
	hasher *event.Hasher
	mapper *ingest.Mapper
}

// NewRig returns a rig with a set of rules in force, as live: a session in which a rule fired teaches nothing.
func NewRig(rules *detect.Set) *Rig {
	hasher := event.NewHasher(nil)
	return &Rig{rules: rules, hasher: hasher, mapper: ingest.NewMapper(ingest.Options{Hasher: hasher})}
}

// logged brings events into the form in which they are logged: checked and without secrets.
func (r *Rig) logged(events []event.Event) ([]event.Event, error) {
	var body bytes.Buffer
	for i := range events {
		line, err := events[i].MarshalLine()
		if err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
		body.Write(append(line, '\n'))
	}
	out, rejected, err := r.mapper.JSON(&body, ingest.Receipt{})
	if err != nil {
		return nil, err
	}
	if len(rejected) > 0 {
		return nil, fmt.Errorf("%s: %s", rejected[0].Item, rejected[0].Reason)
	}
	for i := range out {
		r.hash(&out[i])
	}
	return out, nil
}

// hash puts token hashes in the place of an event's long texts, as a sender may that keeps its texts to itself. The shard would make
// the same hashes each time that it sees the event, which is hundreds of times here.
func (r *Rig) hash(e *event.Event) {
	content := func(c *event.Content) {
		if c.Text != "" {
			c.Signs = event.Signs{Hidden: c.HasHidden(), Instructs: c.Instructs(), Private: c.Private()}
			c.Tokens, c.Text, c.State = r.hasher.Hash(c.Text), "", event.StateHashed
		}
	}
	for i := range e.Content {
		content(&e.Content[i])
	}
	if e.Tool != nil {
		content(&e.Tool.Result)
	}
}

func (r *Rig) teach(sessions []*session) (judge, error) {
	shard := pipeline.New(r.rules, r.hasher, pipeline.Options{})
	for _, s := range sessions {
		for i := range s.events {
			e := s.events[i].Clone()
			shard.Process(&e, pipeline.Position{})
		}
	}
	if len(sessions) > 0 {
		e := quiet(sessions[len(sessions)-1])
		shard.Process(&e, pipeline.Position{})
	}
	taught, err := shard.Snapshot(0)
	if err != nil {
		return nil, err
	}
	return func(s *session) (verdict, error) { return r.judge(taught, s) }, nil
}

// quietFor is longer than a session is kept.
const quietFor = 25 * time.Hour

// quiet is an event after a day in which nothing happened: by it each session has ended and was learned.
func quiet(last *session) event.Event {
	e := last.events[len(last.events)-1]
	return event.Event{ID: "quiet", Kind: event.KindSession, Time: e.Time.Add(quietFor), Agent: e.Agent, Session: event.Session{ID: "quiet"}}
}

// judge takes a session through a shard that was restored for it alone.
func (r *Rig) judge(taught []byte, s *session) (verdict, error) {
	v, at, least := newVerdict(len(s.events)), 0, 1.0
	shard := pipeline.New(r.rules, r.hasher, pipeline.Options{Scored: func(_ *event.Event, a baselines.Anomaly) {
		least = min(least, a.P)
		v.top[at] = top(a)
	}})
	if _, _, err := shard.Restore(taught); err != nil {
		return v, err
	}
	for at = range s.events {
		e := s.events[at].Clone()
		for _, raised := range shard.Process(&e, pipeline.Position{}) {
			if v.alarm < 0 && raised.Finding.Source == detect.SourceBaseline && seen(&raised.Finding) {
				v.alarm = at
			}
		}
		v.scores[at] = -least // what an anomaly's p-value promises, it promises of a session
	}
	return v, nil
}

// seen reports whether a human sees a finding.
func seen(f *detect.Finding) bool { return f.Lane == detect.Alert || f.Lane == detect.Propose }

// top is the feature that an anomaly's explanation names first, if there is one.
func top(a baselines.Anomaly) (out baselines.Feature) {
	if len(a.Features) > 0 {
		out = a.Features[0]
	}
	return out
}

// begin is when laid-out time starts: a Monday.
var begin = time.Date(2025, 1, 6, 0, 0, 0, 0, time.UTC)

// seeded is the randomness of a measurement, which must be the same again.
func seeded(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // nothing secret comes of it
}

package pipeline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// fleet is a shard with so many full classes of agents that worked on two days, each with its copy of the first.
func fleet(classes int) *Shard {
	s, r := New(&detect.Set{}, event.NewHasher(nil), Options{}), rand.New(rand.NewPCG(1, 1))
	for n := range classes {
		c := s.class(fmt.Sprint("class", n))
		for day := range 2 {
			for agent := range 4096 {
				work(c, r, fmt.Sprint("svc/", agent), day)
			}
		}
		s.settle(c)
	}
	return s
}

// work learns a session of a dozen calls with values of the agent's own.
func work(c *class, r *rand.Rand, agent string, day int) {
	var session []baselines.Observation
	at := detect.StreamStart.AddDate(0, 0, day)
	for i := range 12 {
		tool := fmt.Sprint("tool", r.IntN(8))
		session = append(session, baselines.Observation{
			Tool: tool, At: at.Add(time.Duration(i) * time.Minute),
			Dests: []baselines.DestObservation{{Key: r.Uint64N(40), Text: "host"}},
			Args:  []baselines.ArgObservation{{Path: "to", Value: r.Uint64N(30), Tokens: event.Hashes{event.Hash(r.Uint64())}, Provenance: event.ProvenancePrompt, Number: 100 * r.ExpFloat64()}},
		})
		c.Model.Count(&event.Event{Kind: event.KindToolResult, Time: at.Add(time.Duration(i) * time.Hour), Agent: event.Agent{ID: agent}, Tool: &event.Tool{Name: tool}})
	}
	c.Model.Learn(agent, session)
}

// BenchmarkAgents saves and restores the state of agents: a million is 244 classes of 4,096. Run it with -benchtime 1x.
func BenchmarkAgents(b *testing.B) {
	for _, classes := range []int{1, 25} {
		s, agents := fleet(classes), float64(classes*4096)
		var out bytes.Buffer
		b.Run(fmt.Sprintf("write/%d", int(agents)), func(b *testing.B) {
			for b.Loop() {
				out.Reset()
				if err := s.WriteSnapshot(&out, 1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/agents, "ns/agent")
			b.ReportMetric(float64(out.Len())/agents, "B/agent")
		})
		b.Run(fmt.Sprintf("restore/%d", int(agents)), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.Restore(out.Bytes()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/agents, "ns/agent")
		})
	}
}

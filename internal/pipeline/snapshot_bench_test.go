package pipeline

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// fleet is a shard with so many full classes of agents that worked on two days, each with its copy of the first.
func fleet(classes int) *Shard {
	s, r := New(&detect.Set{}, event.NewHasher(nil), Options{AgentsInMemory: 4 << 20}), rand.New(rand.NewPCG(1, 1))
	for n := range classes {
		c := s.class(fmt.Sprint("class", n))
		for day := range 2 {
			for agent := range 4096 {
				work(c, r, fmt.Sprint("svc/", agent), day)
			}
		}
		s.settle(c)
		s.settleAgents(c)
	}
	return s
}

// work learns a session of a dozen calls with values of the agent's own.
func work(c *class, r *rand.Rand, agent string, day int) {
	var session []baselines.Observation
	at := detect.StreamStart.AddDate(0, 0, day)
	for i := range 12 {
		tool := fmt.Sprint("tool", min(i, r.IntN(8))) // the first one is always the same
		session = append(session, baselines.Observation{
			Tool: tool, At: at.Add(time.Duration(i) * time.Minute),
			Dests: []baselines.DestObservation{{Key: r.Uint64N(40), Text: "host"}},
			Args:  []baselines.ArgObservation{{Path: "to", Value: r.Uint64N(30), Tokens: event.Hashes{event.Hash(r.Uint64())}, Provenance: event.ProvenancePrompt, Number: 100 * r.ExpFloat64()}},
		})
		c.Model.Count(&event.Event{Kind: event.KindToolResult, Time: at.Add(time.Duration(i) * time.Hour), Agent: event.Agent{ID: agent}, Tool: &event.Tool{Name: tool}})
	}
	c.Model.Learn(agent, session)
}

// counted counts what is written.
type counted int

func (c *counted) Write(p []byte) (int, error) { *c += counted(len(p)); return len(p), nil }

// BenchmarkAgents saves and restores the state of agents, all of it and, where one agent in a hundred worked, the changes. A million agents
// are 244 classes of 4,096. Run it with -benchtime 1x.
func BenchmarkAgents(b *testing.B) {
	for _, classes := range []int{1, 25} {
		s, agents := fleet(classes), float64(classes*4096)
		save := func(name string, write func(io.Writer, uint64) error) {
			b.Run(fmt.Sprintf("%s/%d", name, int(agents)), func(b *testing.B) {
				var n counted
				for b.Loop() {
					n = 0
					if err := write(&n, 1); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/agents, "ns/agent")
				b.ReportMetric(float64(n)/agents, "B/agent")
			})
		}
		save("write", s.WriteSnapshot)
		data, err := s.Snapshot(1)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Kept(); err != nil {
			b.Fatal(err)
		}
		for n := range classes {
			for agent := 0; agent < 4096; agent += 100 {
				s.class(fmt.Sprint("class", n)).Model.Doubt(fmt.Sprint("svc/", agent))
			}
		}
		save("changes", s.WriteChanges)
		b.Run(fmt.Sprintf("restore/%d", int(agents)), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.Restore(data); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/agents, "ns/agent")
		})
	}
}

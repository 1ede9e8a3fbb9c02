package pipeline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// events are scored at once.
const events = 20_000

// partitions of the benchmark. They are written and read side by side, as detectors do.
const partitions = 8

// million is so many agents in classes of 4,096, in as many shards. One class is taught; the others are the same under other names, because
// teaching a million agents takes longer than everything that is measured.
func million(b *testing.B, agents int, options func(shard int) Options) []*Shard {
	b.Helper()
	one := fleet(1)
	data, err := one.Snapshot(1)
	if err != nil {
		b.Fatal(err)
	}
	shards := make([]*Shard, partitions)
	for i := range shards {
		shards[i] = New(&detect.Set{}, event.NewHasher(nil), options(i))
	}
	for n := range (agents + 4095) / 4096 {
		s, copied := shards[n%partitions], New(&detect.Set{}, event.NewHasher(nil), Options{})
		if _, _, err := copied.Restore(data); err != nil {
			b.Fatal(err)
		}
		c, name := copied.classes["class0"], fmt.Sprint("class", n)
		c.Model.Class, c.awake, c.known = name, 0, 0
		c.Model.SetRoom(s.classRoom())
		s.classes[name] = c
		s.count(c)
		s.settleAgents(c)
	}
	return shards
}

func sideBySide(b *testing.B, shards []*Shard, fn func(i int, s *Shard) error) {
	b.Helper()
	var group errgroup.Group
	group.SetLimit(2)
	for i, s := range shards {
		group.Go(func() error { return fn(i, s) })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

func resident() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkMillion has as many agents as TOCSIN_AGENTS says, in eight shards: their state saved and restored, and events scored of agents that
// were not heard of for long. It takes several gigabytes. Run it with -benchtime 1x.
func BenchmarkMillion(b *testing.B) {
	agents, err := strconv.Atoi(os.Getenv("TOCSIN_AGENTS"))
	if err != nil || agents <= 0 {
		b.Skip("TOCSIN_AGENTS does not say how many")
	}
	for _, where := range []string{"memory", "disk"} {
		dir := b.TempDir()
		options := func(i int) Options {
			if where == "memory" {
				return Options{AgentsInMemory: 4 * agents, Agents: 4 * agents}
			}
			return Options{AgentsInMemory: agents / partitions / 16, Agents: 4 * agents, Shelf: openShelf(b, fmt.Sprint(dir, "/", i))}
		}
		shards := million(b, agents, options)
		files := make([]bytes.Buffer, partitions)
		b.Run(where+"/write", func(b *testing.B) {
			n, since := atomic.Int64{}, spent(b)
			for b.Loop() {
				n.Store(0)
				sideBySide(b, shards, func(_ int, s *Shard) error {
					var out counted
					err := s.WriteSnapshot(&out, 1)
					n.Add(int64(out))
					return err
				})
			}
			perAgent(b, agents, since)
			b.ReportMetric(float64(n.Load())/float64(agents), "B/agent")
		})
		sideBySide(b, shards, func(i int, s *Shard) error { return s.WriteSnapshot(&files[i], 1) })
		shards = nil
		before := resident()
		b.Run(where+"/restore", func(b *testing.B) {
			since := spent(b)
			for b.Loop() {
				shards = make([]*Shard, partitions)
				for i := range shards {
					shards[i] = New(&detect.Set{}, event.NewHasher(nil), options(i))
				}
				sideBySide(b, shards, func(i int, s *Shard) error {
					_, _, err := s.Restore(files[i].Bytes())
					return err
				})
			}
			perAgent(b, agents, since)
		})
		for i := range files {
			files[i] = bytes.Buffer{}
		}
		b.Logf("%s: %.0f bytes of memory an agent once restored", where, (resident()-before)/float64(agents))
		classes := (agents + 4095) / 4096
		score := func(name string, agents int) {
			r := rand.New(rand.NewPCG(1, 2))
			b.Run(where+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				o := baselines.Observation{Tool: "tool0", At: detect.StreamStart, Args: []baselines.ArgObservation{{Path: "to", Value: 3, Provenance: event.ProvenancePrompt}}}
				var ids []string // of agents for whom the event is nothing unusual
				for i, c := 0, shards[0].classes["class0"]; i < 4096; i++ {
					id := fmt.Sprint("svc/", i)
					if a := c.Model.Score(&event.Event{Agent: event.Agent{ID: id}}, &o); a.Features == nil {
						ids = append(ids, id)
					}
				}
				e, names := &event.Event{}, make([]string, classes)
				for i := range names {
					names[i] = fmt.Sprint("class", i)
				}
				explained, since := 0, spent(b)
				for b.Loop() {
					for range events {
						n := r.IntN(min(classes, agents))
						e.Agent.ID = ids[r.IntN(min(len(ids), agents))]
						s := shards[n%partitions]
						s.events++
						c := s.classes[names[n]]
						c.Model.Tick(s.events)
						if a := c.Model.Score(e, &o); a.Features != nil {
							explained++
						}
						s.settleAgents(c)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
				b.ReportMetric(float64((spent(b)-since).Nanoseconds())/float64(b.N)/events, "cpu-ns/event")
				b.ReportMetric(float64(explained)/float64(b.N)/events, "explained")
			})
		}
		score("score cold, first time", classes*4096)
		if where == "memory" {
			sideBySide(b, shards, func(_ int, s *Shard) error {
				for _, c := range s.classes {
					for i := range 4096 {
						c.Model.Doubt(fmt.Sprint("svc/", i))
					}
				}
				return nil
			})
			b.Logf("%.0f bytes of memory an agent with all pages unpacked", (resident()-before)/float64(agents))
			score("score cold, in memory", classes*4096)
		}
		score("score warm", 16)
	}
}

// spent is the processor time of the process: on a machine that others use it says more than the clock.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func perAgent(b *testing.B, agents int, since time.Duration) {
	b.ReportMetric(float64((spent(b)-since).Nanoseconds())/float64(b.N)/float64(agents), "cpu-ns/agent")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(agents), "ns/agent")
}

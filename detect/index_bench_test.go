//go:build unix

package detect

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// plainEngine is the best plain expr set-up there is: a flat map made beforehand, one reused machine, every rule on every event.
type plainEngine struct {
	programs []*vm.Program
	machine  vm.VM
}

func newPlainEngine(tb testing.TB, w *workload) *plainEngine {
	tb.Helper()
	p := &plainEngine{}
	for _, r := range w.rules {
		program, err := expr.Compile(r.plain, expr.Env(w.flat[0]), expr.AsBool())
		if err != nil {
			tb.Fatalf("%s: %v", r.plain, err)
		}
		p.programs = append(p.programs, program)
	}
	return p
}

func (p *plainEngine) matches(tb testing.TB, flat map[string]any, out []int) []int {
	for i, program := range p.programs {
		v, err := p.machine.Run(program, flat)
		if err != nil {
			tb.Fatal(err)
		}
		if v.(bool) {
			out = append(out, i)
		}
	}
	return out
}

// indexEngine fills the Env, asks the index, completes what the candidates need, and runs their unchanged expressions.
type indexEngine struct {
	programs []*vm.Program
	needs    []lazy
	ix       *index
	probe    *probe
	env      *Env
	machine  vm.VM
	asked    int
}

func newIndexEngine(tb testing.TB, w *workload) *indexEngine {
	tb.Helper()
	x := &indexEngine{env: NewEnv()}
	list := indexedOf(tb, w, func(program *vm.Program, need lazy) {
		x.programs, x.needs = append(x.programs, program), append(x.needs, need)
	})
	x.use(newIndex(list))
	return x
}

func indexedOf(tb testing.TB, w *workload, each func(*vm.Program, lazy)) []indexed {
	tb.Helper()
	var list []indexed
	for i, r := range w.rules {
		named := make(map[string]bool)
		program, err := compileExpr(r.ours, scope{library: &Library{}, named: named}, expr.AsBool())
		if err != nil {
			tb.Fatalf("%s: %v", r.ours, err)
		}
		need := lazy(0)
		for name, l := range lazyFields() {
			if named[name] {
				need |= l
			}
		}
		each(program, need)
		list = append(list, indexed{at: i, conditions: []condition{{on: []event.Kind{event.KindToolResult}, when: program.Node()}}})
	}
	return list
}

func (x *indexEngine) use(ix *index) { x.ix, x.probe = ix, ix.newProbe() }

func (x *indexEngine) matches(tb testing.TB, e *event.Event, out []int) []int {
	x.env.Fill(e, SessionFacts{}, BaselineEnv{P: 1})
	for _, c := range x.ix.candidates(x.env, e.Kind, x.probe) {
		i := c.at
		if c.holds {
			out = append(out, i)
			continue
		}
		x.asked++
		x.probe.complete(x.needs[i])
		v, err := x.machine.Run(x.programs[i], x.env)
		if err != nil {
			tb.Fatal(err)
		}
		if v.(bool) {
			out = append(out, i)
		}
	}
	return out
}

// spent is the processor time of the process, garbage collection included.
func spent(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perEvent is the processor time of one event over some of them.
func perEvent(tb testing.TB, n int, each func(i int)) float64 {
	runtime.GC()
	before := spent(tb)
	for i := range n {
		each(i)
	}
	return float64(spent(tb)-before) / float64(n)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkIndex compares the index with plain expr as reference/performance.md does: same rules, same events, one process, one
// core, processor time, plain expr before and after in each round, the median of the rounds' ratios. One iteration is a round:
//
//	GOMAXPROCS=1 go test ./detect -run '^$' -bench BenchmarkIndex -benchtime 5x
func BenchmarkIndex(b *testing.B) {
	for _, mix := range []struct {
		name string
		hard bool
	}{{"normal", false}, {"hard", true}} {
		for _, n := range []int{50, 500, 5000} {
			b.Run(fmt.Sprintf("%s/%d", mix.name, n), func(b *testing.B) { benchIndex(b, newWorkload(b, n, mix.hard, calm)) })
		}
	}
}

func benchIndex(b *testing.B, w *workload) {
	plain := newPlainEngine(b, w)
	x := newIndexEngine(b, w)
	full, bare := x.ix, unfiltered(x.ix)
	b.ReportMetric(float64(checkEngines(b, w, plain, x)), "matches")

	const events = workEvents
	share := max(64, events*50/len(w.rules)) // plain expr sees as many as take a bearable time
	var ratios, bareRatios, plainCost, indexCost []float64
	var sink []int
	for b.Loop() {
		from := rand.IntN(events)
		naive := func() float64 {
			return perEvent(b, share, func(i int) { sink = plain.matches(b, w.flat[(from+i)%events], sink[:0]) })
		}
		ours := func(ix *index) float64 {
			x.use(ix)
			return perEvent(b, 4*events, func(i int) { sink = x.matches(b, &w.events[i%events], sink[:0]) })
		}
		before := naive()
		one := ours(full)
		middle := naive()
		two := ours(bare)
		after := naive()
		ratios, bareRatios = append(ratios, (before+middle)/2/one), append(bareRatios, (middle+after)/2/two)
		plainCost, indexCost = append(plainCost, middle), append(indexCost, one)
	}
	b.ReportMetric(median(ratios), "x-naive")
	b.ReportMetric(median(bareRatios), "x-unfiltered")
	b.ReportMetric(median(plainCost)/1e3, "naive-µs/event")
	b.ReportMetric(median(indexCost)/1e3, "µs/event")
	for _, c := range []struct {
		ix   *index
		unit string
	}{{full, "asked/event"}, {bare, "found/event"}} {
		x.use(c.ix)
		x.asked = 0
		for i := range w.events {
			sink = x.matches(b, &w.events[i], sink[:0])
		}
		b.ReportMetric(float64(x.asked)/events, c.unit)
	}
	x.use(full)
	b.ReportMetric(quietAllocs(b, w, x), "allocs/quiet-event")
	b.ReportMetric(0, "ns/op")
}

// checkEngines compares what both find, and returns how many matches there are.
func checkEngines(b *testing.B, w *workload, plain *plainEngine, x *indexEngine) int {
	b.Helper()
	n := 0
	for i := range min(len(w.events), 4_000_000/len(w.rules)) {
		want, got := plain.matches(b, w.flat[i], nil), x.matches(b, &w.events[i], nil)
		if diff := cmp.Diff(want, got); diff != "" {
			b.Fatalf("event %d: %s", i, diff)
		}
		n += len(want)
	}
	return n
}

// quietAllocs is the mean of allocations on events that match nothing.
func quietAllocs(b *testing.B, w *workload, x *indexEngine) float64 {
	var quiet []*event.Event
	for i := range w.events {
		if len(x.matches(b, &w.events[i], nil)) == 0 {
			quiet = append(quiet, &w.events[i])
		}
	}
	if len(quiet) == 0 {
		return 0
	}
	return testing.AllocsPerRun(3, func() {
		for _, e := range quiet {
			x.matches(b, e, nil)
		}
	}) / float64(len(quiet))
}

// BenchmarkIndexHostile compares texts made of the rules' own literals, cut or whole, with ordinary ones of the same length.
func BenchmarkIndexHostile(b *testing.B) {
	for _, n := range []int{50, 500, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			calmly, cut, whole := newWorkload(b, n, false, calm), newWorkload(b, n, false, cuts), newWorkload(b, n, false, wholes)
			x := newIndexEngine(b, calmly)
			run := func(w *workload) float64 {
				return perEvent(b, 4*workEvents, func(i int) { x.matches(b, &w.events[i%workEvents], nil) })
			}
			var ratios, wholeRatios, cost []float64
			for b.Loop() {
				before, c, middle, h, after := run(calmly), run(cut), run(calmly), run(whole), run(calmly)
				ratios, wholeRatios = append(ratios, c/(before+middle)*2), append(wholeRatios, h/(middle+after)*2)
				cost = append(cost, c)
			}
			x.asked = 0
			for i := range whole.events {
				x.matches(b, &whole.events[i], nil)
			}
			b.ReportMetric(float64(x.asked)/workEvents, "asked-whole/event")
			b.ReportMetric(median(ratios), "x-calm")
			b.ReportMetric(median(wholeRatios), "x-calm-whole")
			b.ReportMetric(median(cost)/1e3, "µs/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkIndexBuild is the time and memory of an index.
func BenchmarkIndexBuild(b *testing.B) {
	for _, n := range []int{500, 5000} {
		w := newWorkload(b, n, false, calm)
		list := indexedOf(b, w, func(*vm.Program, lazy) {})
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var ix *index
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				ix = newIndex(list)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/(1<<20), "MiB")
			runtime.KeepAlive(ix)
		})
	}
}

// The workload is as it is said to be: size, fields, share of events that match.
func TestWorkload(t *testing.T) {
	w := newWorkload(t, 50, false, calm)
	bytes := 0
	for _, flat := range w.flat {
		bytes += len(fmt.Sprint(flat)) // close to its JSON
		if len(flat) != 32 {
			t.Fatalf("%d fields", len(flat))
		}
	}
	if mean := bytes / len(w.flat); mean < 1000 || mean > 1350 {
		t.Errorf("mean of %d bytes", mean)
	}
}

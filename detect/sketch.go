package detect

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

// The size of a sketch: its standard error is 1.04/√registers.
const (
	registerBits = 9
	registers    = 1 << registerBits
	maxRank      = 64 - registerBits + 1
	rankBits     = 6   // hold a rank
	sketchTicks  = 256 // into which a window is cut: times are kept that exactly
	keptOfValue  = 4   // events of one value that matter to the windows of now and to late ones
	maxEntries   = 48  // of a register; a window of a million values needs some fifteen
)

// sketchError is the standard error of a sketch's estimate, as a share of it.
var sketchError = 1.04 / math.Sqrt(registers)

// sketch estimates how many different values any window of a length holds, where they are too many to keep: a sliding HyperLogLog
// (Chabchoub and Hébrail, 2010). A register keeps, in place of its largest rank, all ranks that are the largest of some window, with
// their times. Late values count where they belong, and the order of arrival changes no estimate.
type sketch struct {
	// Registers hold entries, time in ticks above rank, in ascending order. They are a map because most are empty at first.
	Registers map[uint16][]uint64 `json:"registers"`
	Entries   int                 `json:"entries"`
}

func entryTick(entry uint64) int64 { return int64(entry >> rankBits) }

func entryRank(entry uint64) int { return int(entry & (1<<rankBits - 1)) }

// add counts a value, hashed by hashKey, at a tick, and reports whether an estimate can have changed. Over the bound, the entry farthest
// in time from the new one goes, so that a value with a false time pushes out no others.
func (s *sketch) add(value string, tick int64) bool {
	hash, err := base64.RawStdEncoding.DecodeString(value)
	if err != nil || len(hash) < 8 {
		return false
	}
	h := binary.BigEndian.Uint64(hash)
	at, rank := uint16(h>>(64-registerBits)), bits.LeadingZeros64(h<<registerBits|1<<(registerBits-1))+1
	entry := uint64(tick)<<rankBits | uint64(rank)
	list := s.Registers[at]
	i, found := slices.BinarySearch(list, entry)
	if found {
		return false
	}
	before := len(list)
	list = thin(slices.Insert(list, i, entry))
	if last := len(list) - 1; last >= maxEntries {
		if tick-entryTick(list[0]) >= entryTick(list[last])-tick {
			list = slices.Delete(list, 0, 1)
		} else {
			list = list[:last]
		}
	}
	s.Registers[at], s.Entries = list, s.Entries+len(list)-before
	return slices.Contains(list, entry)
}

// thin drops entries that are the largest of no window: each window that they are in holds, before them or after them, one that is
// as large. The others' answers stay, so entries may go one by one.
func thin(list []uint64) []uint64 {
	for i := 0; i < len(list); i++ {
		atLeast := func(o uint64) bool { return entryRank(o) >= entryRank(list[i]) }
		left, right := -1, slices.IndexFunc(list[i+1:], atLeast)+i+1
		for j := i - 1; j >= 0 && left < 0; j-- {
			if atLeast(list[j]) {
				left = j
			}
		}
		if right < len(list) && right > i && entryTick(list[right]) == entryTick(list[i]) { // the same windows
			left = i
		}
		if right > i && left >= 0 && entryTick(list[right])-entryTick(list[left]) <= sketchTicks {
			list = slices.Delete(list, i, i+1)
			i--
		}
	}
	return list
}

// estimate is how many different values the window holds that ends at a tick, by the improved raw estimator of Ertl (2017, algorithm
// 6), which needs no correction at either end. The conversions keep a processor from fusing operations: all must find the same.
func (s *sketch) estimate(to int64) float64 {
	var ranks [maxRank + 1]float64 // registers by their largest rank
	ranks[0] = registers
	for _, list := range s.Registers {
		largest := 0
		for _, entry := range list {
			if t := entryTick(entry); t > to-sketchTicks && t <= to {
				largest = max(largest, entryRank(entry))
			}
		}
		ranks[0]--
		ranks[largest]++
	}
	z := float64(registers * tau(1-ranks[maxRank]/registers))
	for k := maxRank - 1; k >= 1; k-- {
		z = 0.5 * (z + ranks[k])
	}
	z += float64(registers * sigma(ranks[0]/registers))
	return registers / (2 * math.Ln2) * registers / z
}

func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for last := -1.0; z != last; y += y {
		x *= x
		last = z
		z += float64(x * y)
	}
	return z
}

func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for last := -1.0; z != last; {
		x = math.Sqrt(x)
		last = z
		y *= 0.5
		z -= float64((1 - x) * (1 - x) * y)
	}
	return z / 3
}

// most is the largest estimate among the windows that a value at a tick is in. A window's estimate is the largest where it ends at an
// entry; only a value that changed the sketch can have changed those that end later than it.
func (s *sketch) most(tick int64, changed bool) (most float64) {
	ends := map[int64]bool{tick: true}
	if changed {
		for _, list := range s.Registers {
			for _, entry := range list {
				if t := entryTick(entry); t > tick && t < tick+sketchTicks {
					ends[t] = true
				}
			}
		}
	}
	for end := range ends {
		most = max(most, s.estimate(end))
	}
	return most
}

// tick is the part of a window's length in which a time lies.
func (c *compiled) tick(at moment) int64 { return int64(at) / int64(c.within/sketchTicks) }

// estimates reports whether the rule counts further than it keeps values.
func (c *compiled) estimates() bool { return c.Distinct != nil && c.n > c.events }

// many adds a value to a group of a rule that estimates. Up to the rule's bound the group keeps the values; beyond, a sketch, and some
// of the values as examples.
func (c *compiled) many(g *group, h hit) []hit {
	changed := g.Sketch == nil
	if changed {
		g.insert(h, math.MaxInt)
		g.thin(h.Value, c.within)
		few := len(g.Hits) <= c.events || len(g.Hits) <= keptOfValue*c.events && different(g.Hits) <= c.events
		if few || g.dropFar(h.At, c.within+c.Lateness) {
			return nil // fewer values than the rule needs
		}
		g.Sketch = &sketch{Registers: make(map[uint16][]uint64)}
		for _, o := range g.Hits {
			g.Sketch.add(o.Value, c.tick(o.At))
		}
		for len(g.Hits) > MaxEvents {
			g.dropFar(h.At, 0)
		}
	} else {
		changed = g.Sketch.add(h.Value, c.tick(h.At))
		g.insert(h, MaxEvents)
	}
	if g.estimate = g.Sketch.most(c.tick(h.At), changed); g.estimate < float64(c.n) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.Hits), func(o hit) bool { return h.At.sub(o.At).Abs() >= c.within })
}

// dropFar drops the hit farthest from a time if it is at least that far.
func (g *group) dropFar(from moment, far time.Duration) bool {
	last := len(g.Hits) - 1
	before, after := from.sub(g.Hits[0].At), g.Hits[last].At.sub(from)
	switch {
	case max(before, after) < far:
		return false
	case before >= after:
		g.Hits = slices.Delete(g.Hits, 0, 1)
	default:
		g.Hits = g.Hits[:last]
	}
	return true
}

// thin drops the events of a value that lie between two others of it in each window that they are in.
func (g *group) thin(value string, within time.Duration) {
	var places []int
	for i, h := range g.Hits {
		if h.Value == value {
			places = append(places, i)
		}
	}
	for i := len(places) - 2; i >= 1; i-- {
		if g.Hits[places[i+1]].At.sub(g.Hits[places[i-1]].At) <= within {
			g.Hits = slices.Delete(g.Hits, places[i], places[i]+1)
			places = slices.Delete(places, i, i+1)
			for j := i; j < len(places); j++ {
				places[j]--
			}
		}
	}
}

// different counts the values of hits.
func different(hits []hit) int {
	seen := make(map[string]bool)
	for _, h := range hits {
		seen[h.Value] = true
	}
	return len(seen)
}

func (c *compiled) describeEstimate(n float64) string {
	return fmt.Sprintf("About %.0f different values within %s, an estimate with a standard error of %.1f %%; the bound is %d.", n, c.within, 100*sketchError, c.n)
}

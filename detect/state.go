package detect

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr/vm"
)

// maxKeys bounds the keys of one rule, over windows and suppressions each, and maxHits the matching events that its windows may
// hold together. At a bound, the eighth of the keys that was silent longest is evicted, and a finding says so, because a full
// table is a way to blind a rule.
const (
	maxKeys = 50_000
	maxHits = 1 << 21
)

// State is what the rules of one shard remember: windows and suppressions by rule and key. It is saved in the shard's snapshot
// as JSON. Not safe for concurrent use.
type State struct {
	Windows map[string]map[string]window    `json:"windows"`
	Silent  map[string]map[string]time.Time `json:"silent"` // until when a rule stays silent for a key
	Errors  map[string]int                  `json:"errors"` // run-time errors by rule
	Evicted map[string]int                  `json:"evicted"`
	Clock   int                             `json:"clock"` // matching events counted, the order of window.Touched

	vm vm.VM
}

// window holds the matching events of one key. Touched, and no event's time, says how stale it is: a sender chooses times.
type window struct {
	Hits    []hit `json:"hits"` // ascending by time
	Touched int   `json:"touched"`
}

// hit is one matching event.
type hit struct {
	At    time.Time `json:"at"`
	Event string    `json:"event"`
}

// NewState returns an empty state.
func NewState() *State {
	return &State{
		Windows: make(map[string]map[string]window), Silent: make(map[string]map[string]time.Time),
		Errors: make(map[string]int), Evicted: make(map[string]int),
	}
}

// Prune drops the state of rules that are gone or whose operator changed, and returns the names of what it dropped.
func (st *State) Prune(s *Set) []string {
	known := make(map[string]bool)
	for _, c := range s.rules {
		known[c.state], known["error@"+c.ID], known["evicted@"+c.ID] = true, true, true
	}
	gone := make(map[string]bool)
	for _, name := range slices.Concat(slices.Collect(maps.Keys(st.Windows)), slices.Collect(maps.Keys(st.Silent))) {
		if !known[name] && !strings.HasPrefix(name, "baseline-") {
			gone[name] = true
			delete(st.Windows, name)
			delete(st.Silent, name)
		}
	}
	return slices.Sorted(maps.Keys(gone))
}

// hit adds a matching event to a key's window. It returns n events that lie within the span and include the new one, or nil if
// there are none. Event time alone decides, so a late event counts where it belongs. A key keeps its 2n last events, and drops
// the one farthest from the new event, so that an event with a false time pushes out no others.
func (st *State) hit(rule, key string, h hit, n int, within time.Duration) []hit {
	windows := st.Windows[rule]
	if windows == nil {
		windows = make(map[string]window)
		st.Windows[rule] = windows
	}
	w, ok := windows[key]
	if !ok && len(windows) >= min(maxKeys, maxHits/(2*n)) {
		st.Evicted[rule] += evict(windows, func(a, b window) int { return cmp.Compare(a.Touched, b.Touched) })
	}
	i, _ := slices.BinarySearchFunc(w.Hits, h.At, func(a hit, at time.Time) int { return a.At.Compare(at) })
	for ; i < len(w.Hits) && w.Hits[i].At.Equal(h.At); i++ {
		if w.Hits[i].Event == h.Event {
			return nil
		}
	}
	hits := slices.Insert(w.Hits, i, h)
	if last := len(hits) - 1; last >= 2*n {
		if h.At.Sub(hits[0].At) >= hits[last].At.Sub(h.At) {
			hits, i = slices.Delete(hits, 0, 1), i-1
		} else {
			hits = hits[:last]
		}
	}
	st.Clock++
	windows[key] = window{Hits: hits, Touched: st.Clock}
	for from := max(0, i-n+1); from <= i && from+n <= len(hits); from++ {
		if hits[from+n-1].At.Sub(hits[from].At) < within {
			return hits[from : from+n]
		}
	}
	return nil
}

// Allow reports whether a rule may speak for a key at an event time, and if so silences it for a while. The silence reaches as far
// back as forward: late events are covered, and an event dated to next year silences nothing of today.
func (st *State) Allow(rule, key string, at time.Time, silence time.Duration) bool {
	if silence <= 0 {
		return true
	}
	silent := st.Silent[rule]
	if silent == nil {
		silent = make(map[string]time.Time)
		st.Silent[rule] = silent
	}
	until, ok := silent[key]
	if ok && at.Before(until) && at.After(until.Add(-2*silence)) {
		return false
	}
	if !ok && len(silent) >= maxKeys {
		st.Evicted[rule] += evict(silent, time.Time.Compare)
	}
	silent[key] = at.Add(silence)
	return true
}

// evict drops an eighth of the entries, stalest first, keys breaking ties so that a replay drops the same ones.
func evict[V any](m map[string]V, compare func(a, b V) int) int {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(compare(m[a], m[b]), cmp.Compare(a, b)) })
	n := max(1, len(keys)/8)
	for _, k := range keys[:n] {
		delete(m, k)
	}
	return n
}

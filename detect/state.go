package detect

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr/vm"
)

const stringKind = reflect.String

// maxKeys bounds the keys of one rule, over windows and suppressions each. When it is reached, an eighth is evicted: first what
// expired, then the stalest. Evictions are counted in State.Evicted, because a full table is a way to blind a rule.
const maxKeys = 50_000

// State is what the rules of one shard remember: windows and suppressions by rule and key. It is saved in the shard's snapshot
// as JSON. Not safe for concurrent use.
type State struct {
	Windows map[string]map[string]window    `json:"windows"`
	Silent  map[string]map[string]time.Time `json:"silent"` // until when a rule stays silent for a key
	Errors  map[string]int                  `json:"errors"` // run-time errors by rule
	Evicted map[string]int                  `json:"evicted"`

	vm vm.VM
}

type window struct {
	Hits []hit `json:"hits"` // ascending by time
}

// hit is one matching event.
type hit struct {
	At    time.Time `json:"at"`
	Event string    `json:"event"`
}

// NewState returns an empty state.
func NewState() *State {
	return &State{Windows: make(map[string]map[string]window), Silent: make(map[string]map[string]time.Time),
		Errors: make(map[string]int), Evicted: make(map[string]int)}
}

// Prune drops the state of rules that are gone or whose operator changed, and returns their names.
func (st *State) Prune(s *Set) []string {
	known := make(map[string]bool)
	for _, c := range s.rules {
		known[c.state], known["error@"+c.ID] = true, true
	}
	var dropped []string
	for _, name := range slices.Sorted(maps.Keys(st.Windows)) {
		if !known[name] {
			dropped = append(dropped, name)
			delete(st.Windows, name)
		}
	}
	maps.DeleteFunc(st.Silent, func(name string, _ map[string]time.Time) bool {
		return !known[name] && !strings.HasPrefix(name, "baseline-")
	})
	return dropped
}

// hit adds a matching event to a window and returns the hits that lie within it, at most limit of the newest. Event time
// decides; an event that is late by less than the window still counts where it belongs.
func (st *State) hit(rule, key string, h hit, limit int, within time.Duration) []hit {
	windows := st.Windows[rule]
	if windows == nil {
		windows = make(map[string]window)
		st.Windows[rule] = windows
	}
	if _, ok := windows[key]; !ok && len(windows) >= maxKeys {
		st.Evicted[rule] += evict(windows, func(w window) time.Time { return w.Hits[len(w.Hits)-1].At })
	}
	hits := windows[key].Hits
	i, _ := slices.BinarySearchFunc(hits, h, func(a, b hit) int { return a.At.Compare(b.At) })
	hits = slices.Insert(hits, i, h)
	newest := hits[len(hits)-1].At
	hits = slices.DeleteFunc(hits, func(x hit) bool { return newest.Sub(x.At) >= within })
	if len(hits) > limit {
		hits = slices.Clone(hits[len(hits)-limit:])
	}
	windows[key] = window{Hits: hits}
	return hits
}

// Allow reports whether a rule may speak for a key at an event time, and if so silences it for a while.
func (st *State) Allow(rule, key string, at time.Time, silence time.Duration) bool {
	if silence <= 0 {
		return true
	}
	silent := st.Silent[rule]
	if silent == nil {
		silent = make(map[string]time.Time)
		st.Silent[rule] = silent
	}
	if until, ok := silent[key]; ok && at.Before(until) {
		return false
	}
	if len(silent) >= maxKeys {
		st.Evicted[rule] += evict(silent, func(until time.Time) time.Time { return until })
	}
	silent[key] = at.Add(silence)
	return true
}

// evict drops an eighth of the entries, oldest first, keys breaking ties so that a replay drops the same ones.
func evict[V any](m map[string]V, age func(V) time.Time) int {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(age(m[a]).Compare(age(m[b])), cmp.Compare(a, b))
	})
	n := max(1, len(keys)/8)
	for _, k := range keys[:n] {
		delete(m, k)
	}
	return n
}

// envNames lists the names an expression may use, for suggestions.
func envNames() []string {
	var names []string
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() {
				continue
			}
			names = append(names, f.Tag.Get("expr"))
			ft := f.Type
			if ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				walk(ft)
			}
		}
	}
	walk(reflect.TypeFor[Env]())
	return names
}

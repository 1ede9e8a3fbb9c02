package detect

import "slices"

// automaton finds all needles of one text field in one pass: the algorithm of Aho and Corasick, with its failure links worked
// into a table of byte classes, so that each byte of a text costs one step whatever an attacker writes. With fold, an ASCII
// letter and its other case are one class.
type automaton struct {
	class   [256]uint8
	width   uint32   // classes
	next    []uint32 // by state and class. A state is its number times width
	reports uint32   // states from here on have a needle to report at once
	longest []int32  // by state's number: the longest needle that ends here, or -1
	shorter []int32  // by needle: the next shorter one that ends where it ends, or -1
	needles []needle
	span    int    // bytes of the longest needle
	first   uint32 // number of the first needle among all of an index
}

// needle is a text to find.
type needle struct {
	text       string
	start, end bool    // it counts only there
	rules      []int32 // that it makes candidates, ascending
}

// maxTable bounds the entries of an automaton's table to 32 MiB. Beyond it needles are cut short, which finds more candidates.
const maxTable = 8 << 20

// newAutomaton builds the automaton for needles, none of which is empty. With fold they are in lower case.
func newAutomaton(needles []needle, fold bool) *automaton {
	for limit := maxLiteralBytes; ; limit /= 2 {
		a := &automaton{needles: needles}
		states := a.classify(fold)
		if limit < 4 || states*int(a.width) <= maxTable {
			a.build(a.trie(states))
			return a
		}
		needles = cut(needles, limit/2)
	}
}

// cut shortens needles to a limit and joins those that become the same.
func cut(needles []needle, limit int) []needle {
	b := newNeedles()
	for _, n := range needles {
		if len(n.text) > limit {
			n.text, n.end = n.text[:limit], false
		}
		for _, r := range n.rules {
			b.add(n.text, n.start, n.end, r)
		}
	}
	return b.list()
}

// classify gives each byte that is in a needle a class, and all others class 0. It returns the most states there can be.
func (a *automaton) classify(fold bool) int {
	states := 1
	a.width = 1
	for _, n := range a.needles {
		states += len(n.text)
		a.span = max(a.span, len(n.text))
		for _, b := range []byte(n.text) {
			if a.class[b] == 0 && a.width < 256 {
				a.class[b] = uint8(a.width)
				a.width++
			}
		}
	}
	for c := 'A'; fold && c <= 'Z'; c++ {
		a.class[c] = a.class[c|0x20]
	}
	return states
}

// trie fills the table with the needles' own ways; 0 is no way, because none leads to the root. It returns the number of states
// and by needle the state in which it ends.
func (a *automaton) trie(states int) (int, []uint32) {
	a.next = make([]uint32, states*int(a.width))
	count, ends := uint32(1), make([]uint32, len(a.needles))
	for i, n := range a.needles {
		s := uint32(0)
		for _, b := range []byte(n.text) {
			way := &a.next[s*a.width+uint32(a.class[b])]
			if *way == 0 {
				*way = count
				count++
			}
			s = *way
		}
		ends[i] = s
	}
	a.next = slices.Clip(a.next[:count*a.width])
	return int(count), ends
}

// build works the failure links into the table, breadth first, so that a state's link is complete before the state is.
func (a *automaton) build(states int, ends []uint32) {
	a.longest, a.shorter = make([]int32, states), make([]int32, len(a.needles))
	for i := range a.longest {
		a.longest[i] = -1
	}
	for i, s := range ends { // needles that end in one state differ by their anchors
		a.shorter[i], a.longest[s] = a.longest[s], int32(i)
	}
	link, queue := make([]uint32, states), make([]uint32, 0, states)
	for _, s := range a.row(0) {
		if s != 0 {
			queue = append(queue, s)
		}
	}
	for i := 0; i < len(queue); i++ {
		s := queue[i]
		a.inherit(s, link[s])
		back := a.row(link[s])
		for c, t := range a.row(s) {
			if t == 0 {
				a.row(s)[c] = back[c]
				continue
			}
			link[t] = back[c]
			queue = append(queue, t)
		}
	}
	a.renumber(append([]uint32{0}, queue...))
}

func (a *automaton) row(state uint32) []uint32 {
	return a.next[state*a.width : (state+1)*a.width]
}

// inherit lets a state report what its link reports, after its own needles.
func (a *automaton) inherit(state, link uint32) {
	own := a.longest[state]
	if own < 0 {
		a.longest[state] = a.longest[link]
		return
	}
	for a.shorter[own] >= 0 {
		own = a.shorter[own]
	}
	a.shorter[own] = a.longest[link]
}

// renumber orders the states, given from the root outwards. Shallow ones come first, because ordinary text stays in them and they
// then share pages of memory; those that report at once come last, so that the scan tells them by one comparison.
func (a *automaton) renumber(outwards []uint32) {
	states := len(outwards)
	order := make([]uint32, 0, states)
	for _, reporting := range []bool{false, true} {
		if reporting {
			a.reports = uint32(len(order)) * a.width
		}
		for _, s := range outwards {
			if a.atOnce(s) == reporting {
				order = append(order, s)
			}
		}
	}
	place := make([]uint32, states)
	for i, s := range order {
		place[s] = uint32(i)
	}
	next, longest := make([]uint32, len(a.next)), make([]int32, states)
	for i, s := range order {
		longest[i] = a.longest[s]
		for c, t := range a.row(s) {
			next[uint32(i)*a.width+uint32(c)] = place[t] * a.width
		}
	}
	a.next, a.longest = next, longest
}

// atOnce reports whether a needle ends in a state that counts before the text's end is known.
func (a *automaton) atOnce(state uint32) bool {
	for i := a.longest[state]; i >= 0; i = a.shorter[i] {
		if !a.needles[i].end {
			return true
		}
	}
	return false
}

// scan goes on from a state with a part of the text that begins at an offset, marks the rules of the needles in it, and returns
// the state that it ends in.
func (a *automaton) scan(state uint32, part string, offset int, p *probe) uint32 {
	next, reports := a.next, a.reports
	for i := 0; i < len(part); i++ {
		state = next[state+uint32(a.class[part[i]])]
		if state >= reports {
			a.report(state, offset+i+1, false, p)
		}
	}
	return state
}

// report marks the rules of the needles that end in a state, once for each needle and event. read is how much of the text was
// read, and at its end, the needles that count only there are meant.
func (a *automaton) report(state uint32, read int, end bool, p *probe) {
	for i := a.longest[state/a.width]; i >= 0; i = a.shorter[i] {
		n := &a.needles[i]
		if n.end != end || n.start && read != len(n.text) || p.seen[a.first+uint32(i)] == p.round {
			continue
		}
		p.seen[a.first+uint32(i)] = p.round
		p.rules.add(n.rules)
	}
}

// find scans a whole text. Each step of a scan waits for the one before; a longer text is therefore read in two halves at once,
// the second from so far back that every needle which ends in it is in it.
func (a *automaton) find(text string, p *probe) {
	if len(text) < 4*a.span {
		a.report(a.scan(0, text, 0, p), len(text), true, p)
		return
	}
	half := (len(text) + a.span) / 2
	from := half - a.span
	next, reports := a.next, a.reports
	left, right := uint32(0), uint32(0)
	for i := range len(text) - half {
		left, right = next[left+uint32(a.class[text[i]])], next[right+uint32(a.class[text[from+i]])]
		if left >= reports {
			a.report(left, i+1, false, p)
		}
		if right >= reports {
			a.report(right, from+i+1, false, p)
		}
	}
	a.scan(left, text[len(text)-half:half], len(text)-half, p)
	right = a.scan(right, text[from+len(text)-half:], from+len(text)-half, p)
	a.report(right, len(text), true, p)
}

// needleSet gathers needles, and the rules of equal ones.
type needleSet struct {
	places  map[needleKey]int
	needles []needle
}

type needleKey struct {
	text       string
	start, end bool
}

func newNeedles() *needleSet { return &needleSet{places: make(map[needleKey]int)} }

func (s *needleSet) add(text string, start, end bool, rule int32) {
	key := needleKey{text, start, end}
	i, ok := s.places[key]
	if !ok {
		i = len(s.needles)
		s.places[key] = i
		s.needles = append(s.needles, needle{text: text, start: start, end: end})
	}
	if n := &s.needles[i]; !slices.Contains(n.rules, rule) {
		n.rules = append(n.rules, rule)
	}
}

func (s *needleSet) list() []needle { return s.needles }

package baselines

// A sketch counts in how many sessions a token was seen, in a fixed number of bytes (a count-min sketch with conservative update:
// Cormode and Muthukrishnan, 2005; Estan and Varghese, 2002). It has two generations: when the younger is full enough that other
// tokens' counts could be taken for this one's, the elder is forgotten. A count may be too high, seldom and by little, and is never
// too low but for what was forgotten.
type sketch struct {
	Young, Elder []byte // nil until something is counted
	Used         int    // cells of the young generation's first row that are not 0
}

const (
	sketchRows  = 4
	sketchWidth = 1 << 14
	// sketchFull: at a quarter of the cells in use, four rows take one unseen token in 256 for one that was seen.
	sketchFull = sketchWidth / 4
)

func cells(key uint64) (at [sketchRows]int) {
	key = finish(key)
	step := key>>32 | 1
	for row := range at {
		at[row] = row*sketchWidth + int(key%sketchWidth)
		key += step
	}
	return at
}

func least(counts []byte, at *[sketchRows]int) int {
	if counts == nil {
		return 0
	}
	n := 255
	for _, cell := range at {
		n = min(n, int(counts[cell]))
	}
	return n
}

// count returns in about how many sessions a token was seen, up to 510.
func (s *sketch) count(key uint64) int {
	at := cells(key)
	return least(s.Young, &at) + least(s.Elder, &at)
}

// add counts a token once.
func (s *sketch) add(key uint64) {
	if s.Young == nil {
		s.Young = make([]byte, sketchRows*sketchWidth)
	}
	at := cells(key)
	n := least(s.Young, &at)
	if n == 255 {
		return
	}
	if s.Young[at[0]] == 0 {
		s.Used++
	}
	for _, cell := range at {
		if int(s.Young[cell]) == n {
			s.Young[cell]++
		}
	}
	if s.Used >= sketchFull {
		s.Elder, s.Young, s.Used = s.Young, s.Elder, 0
		clear(s.Young)
	}
}

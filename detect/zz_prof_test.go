package detect

import (
	"os"
	"strconv"
	"testing"
)

func BenchmarkProf(b *testing.B) {
	n, _ := strconv.Atoi(os.Getenv("N"))
	w := newWorkload(b, n, os.Getenv("HARD") != "", calm)
	x := newIndexEngine(b, w, nil)
	var sink []int
	i := 0
	b.ResetTimer()
	for b.Loop() {
		sink = x.matches(b, &w.events[i%workEvents], sink[:0])
		i++
	}
}

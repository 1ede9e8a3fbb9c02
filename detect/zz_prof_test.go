package detect
import ("testing";"os";"strconv";"fmt";"slices")
func TestProf(t *testing.T) {
	n,_ := strconv.Atoi(os.Getenv("N"))
	if n == 0 { t.Skip() }
	w := newWorkload(t, n, os.Getenv("HARD")!="", calm)
	x := newIndexEngine(t, w, nil)
	var sink []int
	var c []float64
	for range 40 { c = append(c, perEvent(t, 4096, func(i int) { sink = x.matches(t, &w.events[i%workEvents], sink[:0]) })) }
	slices.Sort(c)
	fmt.Printf("min %.2f q1 %.2f med %.2f\n", c[0]/1e3, c[10]/1e3, c[20]/1e3)
}

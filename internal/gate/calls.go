package gate

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// calls are the times, in nanoseconds and ascending, of the calls that were let pass within the last minute. Every change makes a new
// slice, so that no reader waits for another.
type calls struct {
	most int
	at   atomic.Pointer[[]int64]
}

// take counts a call and reports whether it is one of the most that any minute may have. Where the clock is set back, no call is
// forgotten before a minute of it has passed again.
func (c *calls) take(now time.Time) bool {
	t := now.UnixNano()
	for {
		old := c.at.Load()
		var recent []int64
		if old != nil {
			recent = *old
			recent = recent[sort.Search(len(recent), func(i int) bool { return t-recent[i] < int64(time.Minute) }):]
		}
		if len(recent) >= c.most {
			return false
		}
		place, _ := slices.BinarySearch(recent, t)
		more := make([]int64, 0, len(recent)+1)
		more = append(append(append(more, recent[:place]...), t), recent[place:]...)
		if c.at.CompareAndSwap(old, &more) {
			return true
		}
	}
}

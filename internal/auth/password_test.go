package auth

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuessesAtOnce sends wrong passwords at the same time: no more of them may be looked at than one after the other.
func TestGuessesAtOnce(t *testing.T) {
	b := newBench(t, func(o *Options) { // the bench's own list of records is for one request at a time
		o.Record = func(context.Context, string, string, string, any) error { return nil }
	})
	var looked atomic.Int64
	b.wait = func(_ context.Context, d time.Duration) error { // who must wait goes away
		if d > 0 {
			return context.Canceled
		}
		return nil
	}
	var all sync.WaitGroup
	for range 8 * freeFailures {
		all.Go(func() {
			if got := b.form("ana", "wrong", "/").Header.Get("Location"); strings.Contains(got, "refused=wrong") {
				looked.Add(1)
			}
		})
	}
	all.Wait()
	if n := looked.Load(); n != freeFailures {
		t.Errorf("%d passwords were compared, want %d", n, freeFailures)
	}
}

// TestRightPasswordsDontCount signs a person in more often than they may fail.
func TestRightPasswordsDontCount(t *testing.T) {
	b := newBench(t, nil)
	for i := range 2 * freeFailures {
		if got := b.form("ana", password, "/").Header.Get("Location"); got != "/" {
			t.Fatalf("sign-in %d: sent to %q", i, got)
		}
	}
}

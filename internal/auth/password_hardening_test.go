package auth

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestGuessesAtOnce sends wrong passwords at the same time: no more of them may be looked at than one after the other.
func TestGuessesAtOnce(t *testing.T) {
	b := newBench(t, func(o *Options) { // the bench's own list of records is for one request at a time
		o.Record = func(context.Context, string, string, string, any) error { return nil }
	})
	var looked atomic.Int64
	var all sync.WaitGroup
	for range 8 * maxFailures {
		all.Go(func() {
			if got := b.form("ana", "wrong", "/").Header.Get("Location"); strings.Contains(got, "refused=wrong") {
				looked.Add(1)
			}
		})
	}
	all.Wait()
	if n := looked.Load(); n != maxFailures {
		t.Errorf("%d passwords were compared, want %d", n, maxFailures)
	}
}

// TestRightPasswordsDontCount signs a person in more often than they may fail.
func TestRightPasswordsDontCount(t *testing.T) {
	b := newBench(t, nil)
	for i := range 2 * maxFailures {
		if got := b.form("ana", password, "/").Header.Get("Location"); got != "/" {
			t.Fatalf("sign-in %d: sent to %q", i, got)
		}
	}
}

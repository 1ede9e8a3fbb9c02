package auth

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits on wrong passwords, in a window of time. Nobody is locked out by them: whoever shares a name and an address with a guesser
// waits as the guesser does, and is let in.
const (
	limitWindow  = 15 * time.Minute
	freeFailures = 5                // per user and address; each one after that waits twice as long as the one before
	maxDelay     = 10 * time.Second // and no longer than this
	maxWaiting   = 4                // per user and address; a request more is told to come again
	maxRecorded  = 100              // per address, one by one; then they are recorded by their number
	maxRemembers = 10_000
)

// delay is how long the nth attempt of a window waits before its password is compared.
func delay(n int) time.Duration {
	if n <= freeFailures {
		return 0
	}
	return min(time.Second<<min(n-freeFailures-1, 10), maxDelay)
}

// sleep waits, unless the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// address is where a request comes from: the other end of the connection, or what the proxy in front says of its own. What is left of
// the proxy's word in the header is the sender's, and is not heard.
func (a *Auth) address(r *http.Request) string {
	if a.o.Proxy {
		if lines := r.Header.Values("X-Forwarded-For"); len(lines) > 0 {
			list := strings.Split(lines[len(lines)-1], ",")
			last := strings.TrimSpace(list[len(list)-1])
			if host, _, err := net.SplitHostPort(last); err == nil {
				last = host
			}
			if ip := net.ParseIP(last); ip != nil {
				return ip.String()
			}
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// window counts failures by key in fixed windows of time. Its zero value is ready; it is safe for concurrent use.
type window struct {
	mu   sync.Mutex
	seen map[string]failures
}

type failures struct {
	n       int
	waiting int
	until   time.Time
}

// enter counts an attempt before its password is compared, so that guesses that come at once wait as they would one after the other,
// and returns how long it waits. It is refused where too many wait. Otherwise leave must follow.
func (w *window) enter(key string, now time.Time) (wait time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = make(map[string]failures)
	}
	f, known := w.seen[key]
	if !now.Before(f.until) {
		f.n, f.until = 0, now.Add(limitWindow)
	}
	if !known && len(w.seen) >= maxRemembers {
		w.forget(now)
	}
	if f.n >= freeFailures && f.waiting >= maxWaiting {
		return 0, false
	}
	f.n++
	f.waiting++
	w.seen[key] = f
	return delay(f.n), true
}

// leave ends an attempt; one that was no failure is uncounted.
func (w *window) leave(key string, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, known := w.seen[key]
	if !known {
		return
	}
	f.waiting = max(0, f.waiting-1)
	if !failed && f.n > 0 {
		f.n--
	}
	w.seen[key] = f
}

// forget makes room: ended windows go, and if there are none, any one does.
func (w *window) forget(now time.Time) {
	for key, f := range w.seen {
		if !now.Before(f.until) {
			delete(w.seen, key)
		}
	}
	for key := range w.seen {
		if len(w.seen) < maxRemembers {
			return
		}
		delete(w.seen, key)
	}
}

// tallies count refusals by address until the ledger, which can't be emptied, has them: one by one at first, then by their number. Its
// zero value is ready; it is safe for concurrent use.
type tallies struct {
	mu   sync.Mutex
	seen map[string]tally
	next time.Time // when ended windows are looked for again
}

type tally struct {
	n, told int
	until   time.Time
}

// due is a number of refusals that the ledger does not have yet.
type due struct {
	address string
	n       int
}

// add counts a refusal and returns what is to be recorded now.
func (t *tallies) add(address string, now time.Time) (out []due) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil {
		t.seen = make(map[string]tally)
	}
	out = t.ended(now)
	c, known := t.seen[address]
	if !known {
		if len(t.seen) >= maxRemembers {
			out = append(out, t.drop()...)
		}
		c.until = now.Add(limitWindow)
	}
	c.n++
	if c.n <= maxRecorded || c.n >= 2*c.told {
		out = append(out, due{address, c.n - c.told})
		c.told = c.n
	}
	t.seen[address] = c
	return out
}

// ended returns what is left of the windows that have ended, looking for them once in a while.
func (t *tallies) ended(now time.Time) (out []due) {
	if now.Before(t.next) {
		return nil
	}
	t.next = now.Add(time.Minute)
	for address, c := range t.seen {
		if now.Before(c.until) {
			continue
		}
		if c.n > c.told {
			out = append(out, due{address, c.n - c.told})
		}
		delete(t.seen, address)
	}
	return out
}

// drop makes room for one address.
func (t *tallies) drop() []due {
	for address, c := range t.seen {
		delete(t.seen, address)
		if c.n > c.told {
			return []due{{address, c.n - c.told}}
		}
		return nil
	}
	return nil
}

// refuse counts a refusal and tells the ledger what it is to know now.
func (a *Auth) refuse(r *http.Request, name, why, via string) error {
	from := a.address(r)
	for _, d := range a.refusals.add(from, a.o.Now()) {
		who, outcome := name, "refused: "+why
		if d.n > 1 || d.address != from {
			who, outcome = "", fmt.Sprintf("refused: %d sign-ins", d.n)
		}
		if err := a.recordFrom(r.Context(), d.address, who, outcome, via); err != nil {
			return err
		}
	}
	return nil
}

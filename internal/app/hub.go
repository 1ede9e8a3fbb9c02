package app

import (
	"context"
	"sync"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/ui"
)

// hub tells open pages what changed. A reader that is slow misses changes and never blocks a workflow. It is safe for
// concurrent use.
type hub struct {
	metrics *measure.Metrics

	mu    sync.Mutex
	subs  map[chan ui.Change]bool
	ended bool
}

func newHub(metrics *measure.Metrics) *hub {
	return &hub{metrics: metrics, subs: make(map[chan ui.Change]bool)}
}

// subscribe returns a channel that closes with the context, or with the hub.
func (h *hub) subscribe(ctx context.Context) <-chan ui.Change {
	c := make(chan ui.Change, 16)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		close(c)
		return c
	}
	h.subs[c] = true
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leave(c)
	})
	return c
}

func (h *hub) leave(c chan ui.Change) {
	if h.subs[c] {
		delete(h.subs, c)
		close(c)
	}
}

// end closes every channel: nothing more will be told.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for c := range h.subs {
		h.leave(c)
	}
}

// Changed implements workflows.Teller.
func (h *hub) Changed(topic, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.subs {
		select {
		case c <- ui.Change{Topic: topic, ID: id}:
		default:
		}
	}
}

// Decided implements workflows.Teller.
func (h *hub) Decided(r approval.Request) {
	if r.Decision == nil {
		h.metrics.Expired()
		return
	}
	h.metrics.Decided(r.Decision.Verb, r.Decision.At.Sub(r.Asked))
}

// Contained implements workflows.Teller.
func (h *hub) Contained(l action.Lease, decided time.Time) {
	h.metrics.TimeToContain(l.Verified.Sub(decided))
}

// Unattended implements workflows.Teller.
func (h *hub) Unattended(action string) { h.metrics.Unattended(action) }

package app

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Bounds on the memory of who has which request open. What is forgotten leaves the look of a decision unknown, never short.
const (
	maxLooks = 10_000
	lookLife = 24 * time.Hour
)

// looks remember when people first opened the requests that they have open. The zero value is ready; safe for concurrent use.
type looks struct {
	mu     sync.Mutex
	opened map[look]time.Time
}

type look struct{ person, request string }

// open notes that a person opened a request. A page that shows it again, by itself or by the person, is the same look.
func (l *looks) open(person, request string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		l.opened = make(map[look]time.Time)
	}
	k := look{person, request}
	if at, ok := l.opened[k]; ok && now.Sub(at) < lookLife {
		return
	}
	if len(l.opened) >= maxLooks {
		l.forget(now)
	}
	l.opened[k] = now
}

// forget makes room: old looks go, and if there are none, any one does.
func (l *looks) forget(now time.Time) {
	for k, at := range l.opened {
		if now.Sub(at) >= lookLife {
			delete(l.opened, k)
		}
	}
	for k := range l.opened {
		if len(l.opened) < maxLooks {
			return
		}
		delete(l.opened, k)
	}
}

// since is how long a person has had a request open; 0 if that is not known.
func (l *looks) since(person, request string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.opened[look{person, request}]
	if took := now.Sub(at); ok && took < lookLife {
		return max(took, 1) // 0 would say that it is not known
	}
	return 0
}

// Looking implements ui.Actor.
func (c *control) Looking(by approval.Principal, requestID string) {
	c.looks.open(by.ID, requestID, c.now())
}

// Review records a lead's judgement of a decision that broke the glass. Whoever broke it can't judge it.
func (c *control) Review(ctx context.Context, by approval.Principal, requestID, reason string) error {
	return c.turnedAway(ctx, by, "review", requestID, reason, c.review(ctx, by, requestID, strings.TrimSpace(reason)))
}

func (c *control) review(ctx context.Context, by approval.Principal, requestID, reason string) error {
	if !by.Role.AtLeast(approval.Lead) {
		return c.denied(by, approval.Lead)
	}
	r, err := c.store.Request(ctx, requestID)
	if err != nil {
		return err
	}
	known, err := c.store.ReviewOf(ctx, requestID)
	switch {
	case err != nil:
		return err
	case r.Decision == nil || !r.Decision.BreakGlass:
		return approval.Refuse(approval.RefusedUnknown, "nobody broke the glass for this request: there is nothing to review")
	case r.Decision.By.ID == by.ID:
		return approval.Refuse(approval.RefusedRequester, "%s broke the glass: another lead must review it", by.ID)
	case known != nil:
		return approval.Refuse(approval.RefusedDecided, "%s reviewed it already, at %s", known.By, known.At.UTC().Format(time.RFC3339))
	case len([]rune(reason)) < approval.MinReason:
		return approval.Refuse(approval.RefusedReason, "a review needs a reason of at least %d characters", approval.MinReason)
	}
	v := store.Review{Request: requestID, By: by.ID, Reason: reason, At: c.now().UTC()}
	if err := c.append(ctx, ledger.KindReview, by.ID, requestID, v); err != nil {
		return err
	}
	if err := c.store.SaveReview(ctx, v); err != nil {
		return err
	}
	text := fmt.Sprintf("Reviewed that %s broke the glass: %s", r.Decision.By.ID, reason)
	if err := c.store.AddEntry(ctx, r.Incident, incident.Entry{At: v.At, Actor: by.ID, Source: by.Via, Kind: "review", Text: text, Ref: requestID}); err != nil {
		return err
	}
	c.hub.Changed("request", requestID)
	return nil
}

// reviewed refuses while somebody's broken glass in an incident waits for a review.
func (c *control) reviewed(ctx context.Context, incidentID string) error {
	requests, err := c.store.IncidentRequests(ctx, incidentID)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if r.Decision == nil || !r.Decision.BreakGlass {
			continue
		}
		review, err := c.store.ReviewOf(ctx, r.ID)
		if err != nil {
			return err
		}
		if review == nil {
			return approval.Refuse(approval.RefusedWaiting, "%s broke the glass for %s: another lead must review that before the incident is closed", r.Decision.By.ID, r.ID)
		}
	}
	return nil
}

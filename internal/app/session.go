package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/workflows"
)

// Bounds of one reading of a session. What is over them is counted as unread: a session of any size must not hold up a response.
const (
	maxRead  = 512 << 20 // bytes of the log
	readTime = 20 * time.Second
)

// sessionReader reads a session's events back from the log.
type sessionReader struct {
	log interface {
		Read(ctx context.Context, sequence uint64) (stream.Message, error)
	}
	codec *event.Codec
}

// SessionEvents implements workflows.SessionReader. It reads the messages that findings point at twice: an event can belong to the
// session by its trace alone, and which traces do is known only after all of them were seen. The latest are looked at first,
// because the events that caused a finding are among them.
func (s *sessionReader) SessionEvents(ctx context.Context, raised []pipeline.Raised, take func(*event.Event) error) (workflows.Unread, error) {
	of := membersOf(raised)
	sequences := sequencesOf(raised)
	slices.Reverse(sequences)
	readable, unread, err := s.read(ctx, sequences, func(e *event.Event) error { of.note(e); return nil })
	if err != nil {
		return unread, err
	}
	slices.Reverse(readable)
	seen := make(nameSet)
	_, lost, err := s.read(ctx, readable, func(e *event.Event) error {
		// Senders choose their ids, so an id counts within a sender.
		if !of.has(e) || !seen.add(e.Tenant, e.Agent.Class, e.Source.Authn, e.ID) {
			return nil
		}
		return take(e)
	})
	return workflows.Unread{Gone: unread.Gone + lost.Gone, Damaged: unread.Damaged + lost.Damaged, Skipped: unread.Skipped + lost.Skipped}, err
}

// sequencesOf returns the places of the findings' sessions in the log, once each, in its order.
func sequencesOf(raised []pipeline.Raised) []uint64 {
	var all []uint64
	for _, r := range raised {
		for _, at := range r.Positions {
			all = append(all, at.Sequence)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// read calls fn with the events of messages, and returns the sequences of those that could be read.
func (s *sessionReader) read(ctx context.Context, sequences []uint64, fn func(*event.Event) error) (done []uint64, unread workflows.Unread, err error) {
	timed, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	size := 0
	for i, sequence := range sequences {
		if size > maxRead || timed.Err() != nil {
			unread.Skipped += len(sequences) - i
			return done, unread, ctx.Err()
		}
		events, n, err := s.message(timed, sequence)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			unread.Gone++
		case err != nil && timed.Err() != nil:
			unread.Skipped++
		case away(err):
			return done, unread, err
		case err != nil:
			unread.Damaged++
		default:
			done = append(done, sequence)
		}
		size += n
		for i := range events {
			if err := fn(&events[i]); err != nil {
				return done, unread, err
			}
		}
	}
	return done, unread, ctx.Err()
}

func (s *sessionReader) message(ctx context.Context, sequence uint64) (events []event.Event, size int, err error) {
	m, err := s.log.Read(ctx, sequence)
	if err != nil {
		return nil, 0, err
	}
	events, err = stream.DecodeBatch(s.codec, m.Data)
	return events, len(m.Data), err
}

// away reports whether an error says that the log can't be reached now, and nothing of what it holds.
func away(err error) bool {
	return slices.ContainsFunc([]error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting,
		jetstream.ErrNoStreamResponse,
	}, func(known error) bool { return errors.Is(err, known) })
}

// nameSet is a set of names by their hash, so that its size does not depend on what agents name themselves.
type nameSet map[[16]byte]bool

func keyOf(parts ...string) [16]byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return [16]byte(sum[:16])
}

// add reports whether the name is new.
func (s nameSet) add(parts ...string) bool {
	key := keyOf(parts...)
	if s[key] {
		return false
	}
	s[key] = true
	return true
}

// members tells which events belong to the findings' sessions: by the session's id, because a finding names them, or because they
// share a trace with an event that does. A batch holds events of several classes, so ids count within a tenant and class.
type members struct{ sessions, causes, traces nameSet }

func membersOf(raised []pipeline.Raised) *members {
	m := &members{make(nameSet), make(nameSet), make(nameSet)}
	for _, r := range raised {
		f := r.Finding
		for _, session := range append([]string{f.Session}, f.Sessions...) {
			m.sessions.add(f.Tenant, f.Agent.Class, f.Sender, session)
		}
		for _, id := range f.Events {
			m.causes.add(f.Tenant, f.Agent.Class, id)
		}
	}
	return m
}

func (m *members) direct(e *event.Event) bool {
	return m.sessions[keyOf(e.Tenant, e.Agent.Class, e.Source.Authn, e.Session.ID)] || m.causes[keyOf(e.Tenant, e.Agent.Class, e.ID)]
}

// note remembers the trace of an event that belongs to a session.
func (m *members) note(e *event.Event) {
	if e.Trace.TraceID != "" && m.direct(e) {
		m.traces.add(e.Tenant, e.Agent.Class, e.Source.Authn, e.Trace.TraceID)
	}
}

func (m *members) has(e *event.Event) bool {
	return m.direct(e) || e.Trace.TraceID != "" && m.traces[keyOf(e.Tenant, e.Agent.Class, e.Source.Authn, e.Trace.TraceID)]
}

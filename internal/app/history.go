package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/stream"
)

// errEnd ends the reading of a partition at its end.
var errEnd = errors.New("end of the partition")

// ReadLog hands over every event that the event log of a configuration holds, partition by partition, each in the log's order. The
// embedded log can be read while no other Tocsin has it open.
func ReadLog(ctx context.Context, cfg Config, fn func(*event.Event) error) (err error) {
	a := &App{cfg: cfg, logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := a.lock(ctx); err != nil && cfg.NATS.URL == "" {
		return fmt.Errorf("%w (stop the Tocsin that runs on it, or name an external event log)", err)
	}
	if err := a.openLog(ctx); err != nil {
		return err
	}
	for p := range cfg.NATS.Partitions {
		if err := readPartition(ctx, a.log, a.codec, p, math.MaxUint64, fn); err != nil {
			return err
		}
	}
	return nil
}

// readPartition hands over the events of a partition up to its end, or up to a message of the log.
func readPartition(ctx context.Context, log *stream.Log, codec *event.Codec, partition int, last uint64, fn func(*event.Event) error) error {
	err := log.Follow(ctx, partition, 0, func(m stream.Message) error {
		if m.Sequence > last {
			return errEnd
		}
		events, err := stream.DecodeBatch(codec, m.Data)
		if err != nil {
			return fmt.Errorf("read event log at %d: %w", m.Sequence, err)
		}
		for i := range events {
			if err := fn(&events[i]); err != nil {
				return err
			}
		}
		if m.Pending == 0 {
			return errEnd
		}
		return nil
	}, func() error { return errEnd })
	if errors.Is(err, errEnd) {
		return nil
	}
	return err
}

// logReader reads the event log of a running Tocsin for people, one at a time: what it reads is read from the disk that ingest writes
// to. It implements api.Events.
type logReader struct {
	log        *stream.Log
	codec      *event.Codec
	store      *store.Store
	partitions int
	now        func() time.Time
	busy       chan struct{} // holds one
}

// ReadEvents implements api.Events. Events that are older than the time are left out.
func (l *logReader) ReadEvents(ctx context.Context, by approval.Principal, since time.Time, fn func(*event.Event) error) error {
	select {
	case l.busy <- struct{}{}:
		defer func() { <-l.busy }()
	default:
		return approval.Refuse(approval.RefusedBusy, "somebody else is reading the event log; try again later")
	}
	last, err := l.log.Last(ctx)
	if err != nil {
		return err
	}
	if err := l.store.Record(ctx, l.now(), ledger.KindEvidence, by.ID, "event log", "", map[string]any{"opened": "events", "since": since, "via": by.Via}); err != nil {
		return err
	}
	for p := range l.partitions {
		err := readPartition(ctx, l.log, l.codec, p, last, func(e *event.Event) error {
			if e.Time.Before(since) {
				return nil
			}
			return fn(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

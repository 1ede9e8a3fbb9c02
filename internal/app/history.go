package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tocsin-dr/tocsin/internal/event"
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
		if err := a.readPartition(ctx, p, fn); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) readPartition(ctx context.Context, partition int, fn func(*event.Event) error) error {
	err := a.log.Follow(ctx, partition, 0, func(m stream.Message) error {
		events, err := stream.DecodeBatch(a.codec, m.Data)
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

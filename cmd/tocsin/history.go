package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// history names where past events come from: recorded files, or the event log of an installation.
type history struct {
	address
	Files  []string      `arg:"" optional:"" type:"existingfile" help:"Captures (recorded OTLP requests) or canonical events in JSON lines, in the order in which they happened."`
	Config string        `type:"existingfile" help:"Read the event log of this configuration instead of files."`
	Data   string        `type:"existingdir" help:"Read the event log in this data directory instead of files, while no Tocsin runs on it."`
	Live   bool          `help:"Read the event log of the running Tocsin instead of files; needs a signed-in lead."`
	Spread time.Duration `help:"Lay the sessions of captures out in time, one after the other at this distance, so that baselines learn."`
}

// named reports whether any events are named.
func (h *history) named() bool { return len(h.Files) > 0 || h.Data != "" || h.Config != "" || h.Live }

// read hands over the events in order.
func (h *history) read(ctx context.Context, std *stdio, set *detect.Set, fn func(*event.Event) error) error {
	if h.Live {
		return h.events(ctx, fn)
	}
	if h.Config != "" || h.Data != "" {
		cfg, err := app.ReadConfig(h.Config, h.Data)
		if err != nil {
			return err
		}
		return app.ReadLog(ctx, cfg, fn)
	}
	if len(h.Files) == 0 {
		return errors.New("name files to read, or the event log with --live, --data or --config")
	}
	requests, err := readFiles(h.Files, h.Spread)
	if err != nil {
		return err
	}
	r, err := app.NewReplay(set, pipeline.Options{})
	if err != nil {
		return err
	}
	r.OnRejected = func(item, reason string) { fmt.Fprintf(std.err, "tocsin: rejected %s: %s\n", item, visible(reason)) }
	r.OnProgress = progress(std.err)
	return r.Decode(ctx, requests, fn)
}

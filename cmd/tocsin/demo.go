package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/tocsin-dr/tocsin/internal/app"
)

type demoCmd struct {
	Auto bool   `help:"Answer as a scripted on-call through the same API, print a summary in JSON on one line, and end."`
	Data string `help:"Keep the data in this directory; without it a new one is used and removed at the end."`
	Port int    `help:"First of the three ports to listen on; 0 takes free ones." default:"0"`
}

// Run implements the command.
func (c *demoCmd) Run(ctx context.Context, std *stdio) error {
	dir := c.Data
	if dir == "" {
		fresh, err := os.MkdirTemp("", "tocsin-demo-")
		if err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
		dir = filepath.Join(fresh, "data")
		defer tidy(fresh, dir)
	}
	demo, err := app.NewDemo(ctx, app.DemoOptions{Data: dir, Port: c.Port, Out: std.err, Logger: slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		return err
	}
	if !c.Auto {
		return errors.Join(demo.Watch(ctx), demo.Close())
	}
	summary, err := demo.Auto(ctx)
	if err = errors.Join(err, demo.Close()); err != nil {
		return err
	}
	return json.NewEncoder(std.out).Encode(summary)
}

// tidy removes the data, and the directory around it unless a draft was left there.
func tidy(around, data string) {
	_ = os.RemoveAll(data) // a temporary directory that stays is a nuisance, and no reason to fail
	_ = os.Remove(around)  // fails where there is a draft
}

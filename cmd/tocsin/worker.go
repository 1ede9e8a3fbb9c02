package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/app"
)

type workerCmd struct {
	Config string `short:"c" required:"" type:"existingfile" help:"YAML configuration: temporal, store, grant_key, actions."`
	JSON   bool   `name:"log-json" help:"Log in JSON."`
}

// Run implements the command.
func (c *workerCmd) Run(ctx context.Context, std *stdio) error {
	cfg, err := app.ReadWorkerConfig(c.Config)
	if err != nil {
		return err
	}
	w, err := app.NewWorker(ctx, cfg, logger(std, c.JSON))
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "Tocsin %s, worker of %s\n", app.Version, strings.Join(w.Actions, ", "))
	fmt.Fprintf(std.out, "  grants     verified by the key %s\n", w.GrantKey)
	fmt.Fprintf(std.out, "  metrics    http://%s/metrics\n", w.Address)
	fmt.Fprintln(std.out, "Ready.")
	return errors.Join(w.Run(ctx), w.Close())
}

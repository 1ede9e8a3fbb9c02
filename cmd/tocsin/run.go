package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/tocsin-dr/tocsin/internal/app"
)

type runCmd struct {
	Config string `short:"c" type:"existingfile" help:"YAML configuration; without one everything is embedded, on loopback."`
	Data   string `help:"Data directory; overrides the configuration's."`
	JSON   bool   `name:"log-json" help:"Log in JSON."`
}

// Run implements the command.
func (c *runCmd) Run(ctx context.Context, std *stdio) error {
	cfg, err := app.ReadConfig(c.Config, c.Data)
	if err != nil {
		return err
	}
	log := logger(std, c.JSON)
	if err := app.UseMemory(); err != nil {
		log.Warn("the garbage collector runs as often as is usual in Go", "error", err)
	}
	a, err := app.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	announce(std, a)
	go reloadOnHangup(ctx, a)
	return errors.Join(a.Run(ctx), a.Close())
}

// reloadOnHangup reads the rules again on each SIGHUP, as services do.
func reloadOnHangup(ctx context.Context, a *app.App) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			a.ReloadRules(ctx)
		}
	}
}

func announce(std *stdio, a *app.App) {
	fmt.Fprintf(std.out, "Tocsin %s\n", app.Version)
	fmt.Fprintf(std.out, "  telemetry  OTLP/HTTP http://%s  OTLP/gRPC %s  JSON events http://%s/v1/events\n", a.Addresses.OTLPHTTP, a.Addresses.OTLPGRPC, a.Addresses.OTLPHTTP)
	fmt.Fprintf(std.out, "  gate       http://%s/v1/gate/check\n", a.Addresses.OTLPHTTP)
	fmt.Fprintf(std.out, "  console    http://%s\n", a.Addresses.Console)
	if a.AdminPassword != "" {
		fmt.Fprintf(std.out, "  sign in    user admin, password %s (no users are configured)\n", a.AdminPassword)
	}
	fmt.Fprintln(std.out, "Ready.")
}

func logger(std *stdio, json bool) *slog.Logger {
	if json {
		return slog.New(slog.NewJSONHandler(std.err, nil))
	}
	return slog.New(slog.NewTextHandler(std.err, nil))
}

type versionCmd struct{}

// Run implements the command.
func (versionCmd) Run(std *stdio) error {
	fmt.Fprintln(std.out, "tocsin", app.Version)
	return nil
}

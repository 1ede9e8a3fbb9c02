package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

type rulesBacktestCmd struct {
	history
	ruleSource
	Since   time.Duration `default:"720h" help:"How far back from the newest event findings count. What is older teaches baselines."`
	Against string        `type:"existingdir" help:"Directory with the rules in force. Without it the shipped rules alone are."`
	Only    string        `help:"Show this rule alone."`
}

// Run implements the command.
func (c *rulesBacktestCmd) Run(ctx context.Context, std *stdio) error {
	candidate, err := c.ruleSource.read()
	if err != nil {
		return err
	}
	running, err := (&ruleSource{Dir: c.Against}).read()
	if err != nil {
		return err
	}
	// The newest event decides where the time begins, so the events are read before they are judged.
	var events []event.Event
	var newest time.Time
	err = c.history.read(ctx, std, candidate, func(e *event.Event) error {
		events = append(events, *e)
		if e.Time.After(newest) {
			newest = e.Time
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := pipeline.NewBacktest(candidate, running, event.NewHasher(nil), pipeline.Options{}, newest.Add(-c.Since))
	for i := range events {
		b.Event(&events[i])
	}
	report := b.Report()
	if c.JSON {
		return printJSON(std.out, report)
	}
	return c.print(std.out, report)
}

func (c *rulesBacktestCmd) print(w io.Writer, r pipeline.BacktestReport) error {
	fmt.Fprintf(w, "%d events from %s to %s\n\n", r.Events, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	var rows []pipeline.RuleBacktest
	for _, rule := range r.Rules {
		if c.Only == "" || c.Only == rule.Rule {
			rows = append(rows, rule)
		}
	}
	err := table(w, "RULE\tLANE\tFINDINGS\tIN FORCE\tADDED\tLOST", len(rows), "no findings", func(w io.Writer, n int) {
		x := rows[n]
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\n", x.Rule, x.Lane, x.Findings, x.Running, x.Added, x.Lost)
	})
	if err != nil {
		return err
	}
	for _, rule := range rows {
		for _, d := range rule.Days {
			fmt.Fprintf(w, "  %s  %s  %s: %d\n", d.Day, rule.Rule, visible(d.Agent), d.N)
		}
	}
	fmt.Fprintf(w, "\n%d containments would have been proposed\n", len(r.Proposals))
	for _, p := range r.Proposals {
		also := "new"
		if p.Running {
			also = "as in force"
		}
		fmt.Fprintf(w, "  %s  %s, session %s: %s (%s)\n", p.At.Format(time.RFC3339), visible(p.Agent), visible(p.Session), strings.Join(p.Rules, ", "), also)
	}
	return nil
}

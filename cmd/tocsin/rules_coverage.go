package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

type rulesCoverageCmd struct {
	history
	ruleSource
}

// Run implements the command. Without events it shows the techniques alone.
func (c *rulesCoverageCmd) Run(ctx context.Context, std *stdio) error {
	set, err := c.rulesFor(ctx, &c.ruleSource)
	if err != nil {
		return err
	}
	techniques := set.Techniques(detect.DefaultCatalogue())
	blind := []detect.Blind{}
	if c.named() {
		coverage := detect.NewCoverage(set)
		if err := c.history.read(ctx, std, set, func(e *event.Event) error { coverage.Event(e); return nil }); err != nil {
			return err
		}
		blind = append(blind, coverage.Blind()...)
	}
	if c.JSON {
		return printJSON(std.out, struct {
			Techniques []detect.Technique `json:"techniques"`
			Blind      []detect.Blind     `json:"blind"`
		}{techniques, blind})
	}
	covered := 0
	err = table(std.out, "TECHNIQUE\tRULES\tTITLE", len(techniques), "no techniques", func(w io.Writer, n int) {
		t := techniques[n]
		if len(t.Rules) > 0 {
			covered++
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", t.ID, len(t.Rules), t.Title)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "\n%d of %d techniques have a rule\n", covered, len(techniques))
	for _, b := range blind {
		if b.Events == 0 {
			fmt.Fprintf(std.out, "blind  %s in %s: no event of its kinds came\n", b.Rule, visible(b.Source))
			continue
		}
		fmt.Fprintf(std.out, "blind  %s in %s: %s held nothing in %d events\n", b.Rule, visible(b.Source), strings.Join(b.Fields, ", "), b.Events)
	}
	return nil
}

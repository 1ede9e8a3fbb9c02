package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/app"
)

type policiesCmd struct {
	Check policiesCheckCmd `cmd:"" default:"withargs" help:"Check policies, playbooks and schedules. Exit code 1: something is wrong, or nobody is on call by a schedule."`
}

type policiesCheckCmd struct {
	Config string `short:"c" required:"" type:"existingfile" help:"YAML configuration that names them."`
	JSON   bool   `help:"Print JSON."`
}

// Run implements the command.
func (c *policiesCheckCmd) Run(ctx context.Context, std *stdio) error {
	cfg, err := app.ReadConfig(c.Config, "")
	if err != nil {
		return err
	}
	found, err := app.CheckPolicies(ctx, cfg, time.Now)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(std.out, found)
	} else {
		err = policiesFound(std.out, found)
	}
	for _, s := range found.Schedules {
		if s.Problem != "" && err == nil {
			return exitError{1}
		}
	}
	return err
}

func policiesFound(out io.Writer, found app.PoliciesChecked) error {
	fmt.Fprintf(out, "%d policies and %d playbooks can be followed\n", found.Policies, found.Playbooks)
	if len(found.Schedules) == 0 {
		return nil
	}
	return table(out, "SCHEDULE\tON CALL\tUNTIL\tBY\tPROBLEM", len(found.Schedules), "", func(w io.Writer, n int) {
		s := found.Schedules[n]
		var until, by []string
		for _, shift := range s.Shifts {
			until, by = append(until, shift.End.Format(time.RFC3339)), append(by, fmt.Sprintf("event %s of feed %.12s", shift.Event, shift.Feed))
		}
		who := strings.Join(s.People, ", ")
		if who == "" {
			who = "nobody"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", visible(s.Schedule), visible(who), visible(strings.Join(until, ", ")), visible(strings.Join(by, ", ")), visible(s.Problem))
	})
}

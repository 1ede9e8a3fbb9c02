package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

type baselinesCmd struct {
	List     baselinesListCmd     `cmd:"" default:"1" help:"List the stage of each agent's baseline, with the reason and the way out."`
	Show     agentsShowCmd        `cmd:"" help:"Show what an agent taught: tools, destinations, origins, hours, amounts and drift."`
	Freeze   baselinesFreezeCmd   `cmd:"" help:"Stop an agent from teaching its baseline."`
	Unfreeze baselinesUnfreezeCmd `cmd:"" help:"Let it teach again. For a privileged agent this, rebase, rollback and expected need two people."`
	Rebase   baselinesRebaseCmd   `cmd:"" help:"Begin a baseline anew: the agent is judged by its peers until it has a history."`
	Rollback baselinesRollbackCmd `cmd:"" help:"Go back to what was learned up to the day before, or to what was there before a rebase."`
	Expected baselinesExpectedCmd `cmd:"" help:"Close an incident as expected: its sessions teach what was held back."`
}

type baselinesListCmd struct{ agentsPage }

// Run implements the command.
func (c *baselinesListCmd) Run(ctx context.Context, std *stdio) error {
	list, err := c.agents(ctx, std)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, list)
	}
	return table(std.out, "AGENT\tSTAGE\tSESSIONS\tCOPY\tWHY\tWAY OUT", len(list), "no agent was seen yet", func(w io.Writer, n int) {
		l, day := list[n], "-"
		if !l.Copy.IsZero() {
			day = l.Copy.Format(time.DateOnly)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", visible(l.Agent), l.Life, l.Sessions, day, visible(l.Why), visible(l.WayOut))
	})
}

// baselineChange is what every change asks for.
type baselineChange struct {
	address
	Agent  string `arg:"" help:"Agent, as baselines list names it."`
	Reason string `required:"" help:"Why."`
}

func (c *baselineChange) change(ctx context.Context, std *stdio, kind string) error {
	body := api.BaselineBody{Agent: c.Agent, Change: kind, Reason: c.Reason}
	var done api.Waiting
	if err := c.call(ctx, http.MethodPost, "/api/v1/agents/baseline", body, &done); err != nil || waits(std, done.Waits) {
		return err
	}
	fmt.Fprintf(std.out, "%s of %s is in the event log; its detector does it there.\n", kind, visible(c.Agent))
	return nil
}

type baselinesFreezeCmd struct{ baselineChange }

// Run implements the command.
func (c *baselinesFreezeCmd) Run(ctx context.Context, std *stdio) error {
	return c.change(ctx, std, baselines.Freeze)
}

type baselinesUnfreezeCmd struct{ baselineChange }

// Run implements the command.
func (c *baselinesUnfreezeCmd) Run(ctx context.Context, std *stdio) error {
	return c.change(ctx, std, baselines.Unfreeze)
}

type baselinesRebaseCmd struct{ baselineChange }

// Run implements the command.
func (c *baselinesRebaseCmd) Run(ctx context.Context, std *stdio) error {
	return c.change(ctx, std, baselines.Rebase)
}

type baselinesRollbackCmd struct{ baselineChange }

// Run implements the command.
func (c *baselinesRollbackCmd) Run(ctx context.Context, std *stdio) error {
	return c.change(ctx, std, baselines.Rollback)
}

type baselinesExpectedCmd struct {
	server
	Incident string `arg:"" help:"Incident, or as much of its id as tells it from others. One that is closed as expected is told to the detectors again."`
	Reason   string `required:"" help:"Why."`
}

// Run implements the command.
func (c *baselinesExpectedCmd) Run(ctx context.Context, std *stdio) error {
	end := incidentsEndCmd{server: c.server, ID: c.Incident, Verdict: string(incident.Expected), Reason: c.Reason}
	return end.Run(ctx, std)
}

// waits says that a change is signed and not made, if it is so.
func waits(std *stdio, r *approval.Request) bool {
	if r == nil {
		return false
	}
	fmt.Fprintf(std.out, "Signed: %d of %d. %s waits until %s for another's signature; they give the same command, or: tocsin approvals approve %s --digest %s --reason …\n",
		len(r.Votes), len(r.Votes)+r.Missing(), visible(r.ID), r.Deadline.Format(time.RFC3339), visible(r.ID), brief(r.Digest))
	return true
}

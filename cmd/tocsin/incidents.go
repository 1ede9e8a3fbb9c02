package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

type incidentsCmd struct {
	List  incidentsListCmd `cmd:"" default:"1" help:"List the latest incidents."`
	Show  incidentsShowCmd `cmd:"" help:"Show one incident: why, timeline, evidence, requests."`
	Close incidentsEndCmd  `cmd:"" help:"Close an incident with a verdict and a reason."`
}

type incidentsListCmd struct{ server }

// Run implements the command.
func (c *incidentsListCmd) Run(ctx context.Context, std *stdio) error {
	var list []incident.Incident
	if err := c.call(ctx, http.MethodGet, "/api/v1/incidents", nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, list)
	}
	return table(std.out, "INCIDENT\tSEVERITY\tSTATUS\tFIRST BAD EVENT\tNOTICED BY\tWHAT", len(list), "no incidents", func(w io.Writer, n int) {
		i := list[n]
		noticed := i.NoticedBy
		if noticed == "" {
			noticed = "nobody"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, i.Severity, i.Status, i.Times.FirstBad.Format(time.RFC3339), visible(noticed), visible(i.Title))
	})
}

type incidentsShowCmd struct {
	server
	ID string `arg:"" help:"Incident, as incidents list names it."`
}

// Run implements the command. Showing an incident to a person who may act on it is their notice of it; a viewer's look is none.
func (c *incidentsShowCmd) Run(ctx context.Context, std *stdio) error {
	path := "/api/v1/incidents/" + url.PathEscape(c.ID)
	var file api.Case
	if err := c.call(ctx, http.MethodGet, path, nil, &file); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, file)
	}
	showCase(std.out, file)
	if file.Incident.Status == incident.Closed {
		return nil
	}
	err := c.call(ctx, http.MethodPost, path+"/notice", struct{}{}, nil)
	if viewer := (*forbidden)(nil); errors.As(err, &viewer) {
		return nil
	}
	return err
}

func showCase(w io.Writer, c api.Case) {
	i, status := c.Incident, string(c.Incident.Status)
	if c.Contained && i.Status != incident.Contained {
		status += ", contained"
	}
	fmt.Fprintf(w, "%s  %s, %s\n%s\nagent %s, session %s, playbook %s\n", i.ID, i.Severity, status, visible(i.Title), visible(i.Agent.ID), visible(i.Session), i.Playbook)
	fmt.Fprintln(w, "\nWhy")
	for _, a := range c.Alerts {
		fmt.Fprintf(w, "  %s %s (%s): %s\n", a.Finding.Source, a.Finding.Rule, a.Finding.Severity, visible(a.Finding.Reason))
		if ch := a.Finding.Chain; ch != nil {
			fmt.Fprintf(w, "    argument %s = %s came from the output of event %s\n", visible(ch.Arg), visible(ch.Value), ch.Origin)
		}
		if a.Disposition != nil {
			fmt.Fprintf(w, "    first pass: %s, %s confidence. %s\n", a.Disposition.Verdict, a.Disposition.Confidence, visible(a.Disposition.Reasoning))
		}
	}
	fmt.Fprintln(w, "\nTimeline")
	for _, e := range c.Timeline {
		fmt.Fprintf(w, "  %s  %-11s %s: %s\n", e.At.UTC().Format("15:04:05.000"), e.Kind, visible(e.Actor), visible(e.Text))
		if e.Quote != "" {
			fmt.Fprintf(w, "      | %s\n", incident.Visible(e.Quote, 160))
		}
	}
	fmt.Fprintln(w, "\nEvidence")
	for _, e := range c.Evidence {
		fmt.Fprintf(w, "  %s  %s, %d bytes\n", e.SHA256, visible(e.Name), e.Size)
	}
	for _, r := range c.Requests {
		fmt.Fprintf(w, "\nRequest %s: %s\n  %s; digest %s; decide by %s\n", r.ID, visible(r.Question), r.State, r.Digest[:12], r.Deadline.Format(time.RFC3339))
	}
}

type incidentsEndCmd struct {
	server
	ID      string `arg:"" help:"Incident."`
	Verdict string `required:"" enum:"true_positive,false_positive,expected,unclear" help:"true_positive, false_positive, expected or unclear."`
	Reason  string `required:"" help:"Why."`
}

// Run implements the command.
func (c *incidentsEndCmd) Run(ctx context.Context, std *stdio) error {
	body := api.CloseBody{Verdict: incident.Verdict(c.Verdict), Reason: c.Reason}
	if err := c.call(ctx, http.MethodPost, "/api/v1/incidents/"+url.PathEscape(c.ID)+"/close", body, nil); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "Closed %s.\n", c.ID)
	return nil
}

type approvalsCmd struct {
	List    approvalsListCmd `cmd:"" default:"1" help:"List requests that wait for a decision."`
	Approve approveCmd       `cmd:"" help:"Approve a request."`
	Deny    denyCmd          `cmd:"" help:"Deny a request."`
}

type approvalsListCmd struct {
	server
	All bool `help:"Also those that were decided or expired."`
}

// Run implements the command.
func (c *approvalsListCmd) Run(ctx context.Context, std *stdio) error {
	path := "/api/v1/approvals?state=pending"
	if c.All {
		path = "/api/v1/approvals"
	}
	var list []approval.Request
	if err := c.call(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, list)
	}
	return table(std.out, "REQUEST\tSTATE\tDECIDE BY\tASKED BY\tDIGEST\tQUESTION", len(list), "nothing waits for a decision", func(w io.Writer, n int) {
		r := list[n]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.State, r.Deadline.Format(time.RFC3339), visible(r.Requester), r.Digest[:12], visible(r.Question))
	})
}

// decision is what approve and deny share.
type decision struct {
	server
	ID     string `arg:"" help:"Request, as approvals list names it."`
	Reason string `required:"" help:"What you saw. It is recorded."`
	Digest string `help:"The digest of the plan that you looked at, or its first 8 digits or more; a changed plan is then refused. Without it the plan is shown and taken as it is now."`
}

func (d *decision) send(ctx context.Context, std *stdio, verb approval.Verb) error {
	var list []approval.Request
	if err := d.call(ctx, http.MethodGet, "/api/v1/approvals", nil, &list); err != nil {
		return err
	}
	digest := d.Digest
	for _, r := range list {
		if r.ID != d.ID {
			continue
		}
		if digest == "" || len(digest) >= 8 && len(digest) < len(r.Digest) && r.Digest[:len(digest)] == digest {
			digest = r.Digest
		}
		fmt.Fprintf(std.err, "%s\n  effect: %s\n  undo: %s\n  does not stop: %s\n", visible(r.Question), visible(r.Effect), visible(r.Undo), visible(r.DoesNotStop))
	}
	var decided approval.Request
	err := d.call(ctx, http.MethodPost, "/api/v1/approvals/"+url.PathEscape(d.ID)+"/decide", api.DecideBody{Verb: verb, Digest: digest, Reason: d.Reason}, &decided)
	if err != nil {
		return err
	}
	if d.JSON {
		return printJSON(std.out, decided)
	}
	fmt.Fprintf(std.out, "Recorded: %s %s.\n", verb, d.ID)
	return nil
}

type approveCmd struct{ decision }

// Run implements the command.
func (c *approveCmd) Run(ctx context.Context, std *stdio) error {
	return c.send(ctx, std, approval.Approve)
}

type denyCmd struct{ decision }

// Run implements the command.
func (c *denyCmd) Run(ctx context.Context, std *stdio) error { return c.send(ctx, std, approval.Deny) }

type agentsCmd struct {
	List agentsListCmd `cmd:"" default:"1" help:"List agents and the stage of their baselines."`
	Show agentsShowCmd `cmd:"" help:"Show what an agent taught."`
}

type agentsListCmd struct{ server }

// Run implements the command.
func (c *agentsListCmd) Run(ctx context.Context, std *stdio) error {
	var list []baselines.Learned
	if err := c.call(ctx, http.MethodGet, "/api/v1/agents", nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, list)
	}
	return table(std.out, "AGENT\tCLASS\tBASELINE\tWHY\tTOOLS\tEVENTS", len(list), "no agent was seen yet", func(w io.Writer, n int) {
		l := list[n]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\n", visible(l.Agent), visible(l.Class), l.Life, l.Why, len(l.Tools), l.Events)
	})
}

type agentsShowCmd struct {
	server
	ID string `arg:"" help:"Agent, as agents list names it."`
}

// Run implements the command.
func (c *agentsShowCmd) Run(ctx context.Context, std *stdio) error {
	var list []baselines.Learned
	if err := c.call(ctx, http.MethodGet, "/api/v1/agents", nil, &list); err != nil {
		return err
	}
	for _, l := range list {
		if l.Agent != c.ID {
			continue
		}
		if c.JSON {
			return printJSON(std.out, l)
		}
		showLearned(std.out, l)
		return nil
	}
	return fmt.Errorf("there is no agent %q; tocsin agents list names them", c.ID)
}

func showLearned(w io.Writer, l baselines.Learned) {
	fmt.Fprintf(w, "%s of class %s: %s, %s; %d peers\n", visible(l.Agent), visible(l.Class), l.Life, l.Why, l.Peers)
	section := func(title string, counts []baselines.Count) {
		fmt.Fprintln(w, title)
		for _, c := range counts {
			fmt.Fprintf(w, "  %6d  %s\n", c.N, visible(c.Text))
		}
	}
	section("tools", l.Tools)
	section("destinations", l.Destinations)
	for _, name := range slices.Sorted(maps.Keys(l.Provenance)) {
		section("origin of "+visible(name), l.Provenance[name])
	}
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// table prints rows under a header, or a sentence where there are none.
func table(w io.Writer, header string, n int, none string, row func(w io.Writer, n int)) error {
	if n == 0 {
		fmt.Fprintln(w, none)
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, header)
	for i := range n {
		row(t, i)
	}
	return t.Flush()
}

// visible makes text that an agent may have written fit for a terminal: no escape sequence, no hidden character, one line.
func visible(text string) string { return incident.Visible(text, 300) }

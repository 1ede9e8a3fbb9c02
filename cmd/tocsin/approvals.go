package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
)

type approvalsCmd struct {
	List    approvalsListCmd `cmd:"" default:"1" help:"List requests that wait for a decision."`
	Show    approvalsShowCmd `cmd:"" help:"Show a request's plan and its digest."`
	Approve approveCmd       `cmd:"" help:"Approve a request."`
	Deny    denyCmd          `cmd:"" help:"Deny a request."`
	Review  reviewCmd        `cmd:"" help:"Record a lead's review of an approval that broke the glass."`
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
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", visible(r.ID), r.State, r.Deadline.Format(time.RFC3339), visible(r.Requester), brief(r.Digest), visible(r.Question))
	})
}

// brief is as much of a digest as people compare.
func brief(digest string) string { return visible(digest[:min(12, len(digest))]) }

type approvalsShowCmd struct {
	server
	ID string `arg:"" help:"Request, as approvals list names it, or as much of its id as tells it from others."`
}

// Run implements the command.
func (c *approvalsShowCmd) Run(ctx context.Context, std *stdio) error {
	r, err := c.request(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, r)
	}
	return showPlan(std.out, r)
}

// request finds a request by its id, or by the beginning of its incident's.
func (s *server) request(ctx context.Context, id string) (r approval.Request, err error) {
	var list []approval.Request
	if err := s.call(ctx, http.MethodGet, "/api/v1/approvals", nil, &list); err != nil {
		return r, err
	}
	found := slices.DeleteFunc(list, func(r approval.Request) bool { return r.ID != id && !abbreviates(id, r.ID) })
	switch len(found) {
	case 0:
		return r, fmt.Errorf("there is no request %q; tocsin approvals list names them", id)
	case 1: // read by itself, so that Tocsin knows since when the person has it open
		return r, s.call(ctx, http.MethodGet, "/api/v1/approvals/"+url.PathEscape(found[0].ID), nil, &r)
	}
	return r, fmt.Errorf("%q begins several requests; give more of it", id)
}

// showPlan prints all that a decision is bound to. A request whose question or digest is not its plan's is shown to nobody.
func showPlan(w io.Writer, r approval.Request) error {
	if !r.Sound() {
		return fmt.Errorf("the question and the digest of %s are not its plan's: somebody changed the record", r.ID)
	}
	p := r.Plan
	fmt.Fprintf(w, "Request %s, %s, decide by %s\n%s\n", visible(r.ID), r.State, r.Deadline.Format(time.RFC3339), visible(r.Question))
	if d := r.Decision; d != nil && d.BreakGlass {
		fmt.Fprintf(w, "%s broke the glass: approved alone. Another lead reviews it: tocsin approvals review %s --reason …\n", visible(d.By.ID), visible(r.ID))
	}
	rows := [][2]string{
		{"action", p.Action + " (" + string(p.Class) + ")"},
		{"target", p.Target.String()},
		{"for", p.Lease.String()},
		{"asked by", r.Requester},
		{"playbook", p.Playbook},
		{"evidence", fmt.Sprintf("%d sealed artefacts", len(p.Evidence))},
		{"effect", r.Effect},
		{"undo", r.Undo},
		{"does not stop", r.DoesNotStop},
	}
	for _, k := range slices.Sorted(maps.Keys(p.Params)) {
		rows = append(rows, [2]string{k, p.Params[k]})
	}
	for _, row := range append(rows, [2]string{"digest", r.Digest}) {
		fmt.Fprintf(w, "  %-13s  %s\n", visible(row[0]), visible(row[1]))
	}
	return nil
}

// decision is what approve and deny share.
type decision struct {
	server
	ID     string `arg:"" help:"Request, as approvals list names it, or as much of its id as tells it from others."`
	Reason string `required:"" help:"What you saw. It is recorded."`
	Digest string `help:"The digest of the plan that you looked at, or its first 8 digits or more; approvals show prints it. Without it a person at a terminal is asked."`
}

// minDigest is how many digits of a digest name a plan.
const minDigest = 8

func (d *decision) send(ctx context.Context, std *stdio, verb approval.Verb, breakGlass bool) error {
	r, err := d.request(ctx, d.ID)
	if err != nil {
		return err
	}
	if err := showPlan(std.err, r); err != nil {
		return err
	}
	digest, err := d.looked(std, r, verb)
	if err != nil {
		return err
	}
	var decided approval.Request
	err = d.call(ctx, http.MethodPost, "/api/v1/approvals/"+url.PathEscape(r.ID)+"/decide", api.DecideBody{Verb: verb, Digest: digest, Reason: d.Reason, BreakGlass: breakGlass}, &decided)
	if err != nil {
		return err
	}
	if d.JSON {
		return printJSON(std.out, decided)
	}
	fmt.Fprintf(std.out, "Recorded: %s %s.\n", verb, visible(r.ID))
	return nil
}

// looked returns the digest of the plan that the person looked at: the one they name, or the one that they confirm at a terminal. A
// script that names none looked at nothing.
func (d *decision) looked(std *stdio, r approval.Request, verb approval.Verb) (string, error) {
	switch {
	case len(d.Digest) >= minDigest && strings.HasPrefix(r.Digest, d.Digest):
		return r.Digest, nil
	case d.Digest != "":
		return d.Digest, nil // another plan; the refusal is recorded
	case !std.interactive:
		return "", fmt.Errorf("say which plan you looked at: --digest, as tocsin approvals show %s prints it", visible(r.ID))
	}
	fmt.Fprintf(std.err, "%s this plan? Type yes: ", strings.ToUpper(string(verb)[:1])+string(verb)[1:])
	line, err := readLine(std.in)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(line) != "yes" {
		return "", errors.New("nothing was decided")
	}
	return r.Digest, nil
}

// terminal reports whether a person sits at an input.
func terminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

type approveCmd struct {
	decision
	BreakGlass bool `help:"Approve alone what needs more people, where the policy lets you; another lead reviews it before the incident is closed."`
}

// Run implements the command.
func (c *approveCmd) Run(ctx context.Context, std *stdio) error {
	return c.send(ctx, std, approval.Approve, c.BreakGlass)
}

type reviewCmd struct {
	server
	ID     string `arg:"" name:"request" help:"Request, as approvals list names it, or as much of its id as tells it from others."`
	Reason string `required:"" help:"What you make of it. It is recorded."`
}

// Run implements the command.
func (c *reviewCmd) Run(ctx context.Context, std *stdio) error {
	r, err := c.request(ctx, c.ID)
	if err != nil {
		return err
	}
	if err := c.call(ctx, http.MethodPost, "/api/v1/approvals/"+url.PathEscape(r.ID)+"/review", api.ReasonBody{Reason: c.Reason}, nil); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "Recorded: reviewed %s.\n", visible(r.ID))
	return nil
}

type denyCmd struct{ decision }

// Run implements the command.
func (c *denyCmd) Run(ctx context.Context, std *stdio) error {
	return c.send(ctx, std, approval.Deny, false)
}

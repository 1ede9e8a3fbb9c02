package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

type rulesExplainCmd struct {
	Rule string `arg:"" help:"Rule to explain."`
	history
	ruleSource
	Event   string `xor:"what" help:"Event to explain it on, by its id."`
	Finding string `xor:"what" help:"Finding to explain, by its id: the rule's look at the last of its events."`
}

// Run implements the command. It replays everything before the event, through the code that runs live.
func (c *rulesExplainCmd) Run(ctx context.Context, std *stdio) error {
	set, err := c.ruleSource.read()
	if err != nil {
		return err
	}
	var events []event.Event
	err = c.history.read(ctx, std, set, func(e *event.Event) error { events = append(events, *e); return nil })
	if err != nil {
		return err
	}
	id := c.Event
	if c.Finding != "" {
		if id, err = c.lastEvent(set, events); err != nil {
			return err
		}
	}
	if id == "" {
		return errors.New("name the event with --event or the finding with --finding")
	}
	x, err := explain(set, c.Rule, id, events)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, x)
	}
	printExplanation(std.out, x)
	return nil
}

// lastEvent finds the event that completed a finding.
func (c *rulesExplainCmd) lastEvent(set *detect.Set, events []event.Event) (string, error) {
	shard := pipeline.New(set, event.NewHasher(nil), pipeline.Options{})
	for i := range events {
		e := events[i].Clone()
		for _, r := range shard.Process(&e, pipeline.Position{}) {
			if r.Finding.ID == c.Finding {
				return r.Finding.Events[len(r.Finding.Events)-1], nil
			}
		}
	}
	return "", fmt.Errorf("explain: no finding %q is raised on these events", c.Finding)
}

func explain(set *detect.Set, rule, id string, events []event.Event) (out detect.Explanation, err error) {
	found := false
	shard := pipeline.New(set, event.NewHasher(nil), pipeline.Options{Explain: &pipeline.Explain{
		Rule: rule, Event: id,
		Done: func(x detect.Explanation, e error) { out, err, found = x, e, true },
	}})
	for i := range events {
		e := events[i].Clone()
		shard.Process(&e, pipeline.Position{})
	}
	if !found {
		return out, fmt.Errorf("explain: there is no event %q", id)
	}
	return out, err
}

func printExplanation(w io.Writer, x detect.Explanation) {
	verdict := "does not fire"
	if x.Fired {
		verdict = "fires"
	}
	fmt.Fprintf(w, "%s (%s) %s on event %s\n", x.Rule, x.Operator, verdict, visible(x.Event))
	if !x.Looks && len(x.State) == 0 {
		fmt.Fprintln(w, "  it does not look at events of this kind")
	}
	for _, p := range x.Parts {
		printPart(w, p, 1)
	}
	for _, line := range x.State {
		fmt.Fprintf(w, "  state: %s\n", line)
	}
}

func printPart(w io.Writer, p detect.Part, depth int) {
	indent := strings.Repeat("  ", depth)
	name := ""
	if p.Name != "" {
		name = p.Name + ": "
	}
	mark := map[string]string{"true": "+", "false": "-"}[p.Value]
	if mark == "" {
		mark = "="
	}
	fmt.Fprintf(w, "%s%s %s%s\n", indent, mark, name, visible(p.Text))
	if mark == "=" {
		fmt.Fprintf(w, "%s    %s\n", indent, visible(p.Value))
	}
	for _, o := range p.Operands {
		fmt.Fprintf(w, "%s    %s\n", indent, visible(o))
	}
	for _, child := range p.Parts {
		printPart(w, child, depth+1)
	}
}

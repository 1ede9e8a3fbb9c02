package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

type rulesNewCmd struct {
	ID string `arg:"" help:"Id of the new rule."`
	history
	Dir     string `type:"existingdir" help:"Directory with rules beside the shipped ones, for their findings, macros and tables."`
	Event   string `xor:"what" help:"Event that the rule is for, by its id; the last tool call of the events without it."`
	Finding string `xor:"what" help:"Finding of another rule that this one is for, by its id: the last of its events."`
}

// Run implements the command. The draft loads and its tests pass, or it says which does not.
func (c *rulesNewCmd) Run(ctx context.Context, std *stdio) error {
	set, err := (&ruleSource{Dir: c.Dir}).read()
	if err != nil {
		return err
	}
	shard := pipeline.New(set, event.NewHasher(nil), pipeline.Options{})
	var events []event.Event
	err = c.history.read(ctx, std, set, func(e *event.Event) error {
		for _, r := range shard.Process(e, pipeline.Position{}) { // names the agent too, and says where arguments came from
			if r.Finding.ID == c.Finding {
				c.Event = r.Finding.Events[len(r.Finding.Events)-1]
			}
		}
		events = append(events, *e)
		return nil
	})
	if err != nil {
		return err
	}
	on := c.find(events)
	if on == nil || c.Finding != "" && c.Event == "" {
		return errors.New("new rule: there is no such event or finding")
	}
	session := slices.DeleteFunc(slices.Clone(events), func(e event.Event) bool { return e.Session.ID != on.Session.ID })
	text, err := detect.Draft(c.ID, session, on)
	if err != nil {
		return err
	}
	if err := tryDraft(text); err != nil {
		fmt.Fprintf(std.err, "tocsin: the draft needs work: %s\n", visible(err.Error()))
	}
	_, err = std.out.Write(text)
	return err
}

func (c *rulesNewCmd) find(events []event.Event) *event.Event {
	for i := len(events) - 1; i >= 0; i-- {
		if e := &events[i]; e.ID == c.Event || c.Event == "" && e.Kind == event.KindToolResult {
			return e
		}
	}
	return nil
}

// tryDraft loads a draft and runs its tests.
func tryDraft(text []byte) error {
	library, err := detect.ReadLibrary()
	if err != nil {
		return err
	}
	r, err := detect.ParseRule("draft.yaml", text, library)
	if err != nil {
		return err
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		return err
	}
	for _, res := range pipeline.TestRule(set, r) {
		if !res.OK {
			return fmt.Errorf("test %q: fired %d times, want %d %s", res.Test, res.Got, res.Want, res.Err)
		}
	}
	return nil
}

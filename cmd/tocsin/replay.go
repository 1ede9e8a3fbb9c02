package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

type replayCmd struct {
	Files  []string      `arg:"" type:"existingfile" help:"Captures (recorded OTLP requests) or canonical events in JSON lines, in the order in which they happened."`
	Rules  string        `type:"existingdir" help:"Directory with rules beside the shipped ones."`
	JSON   bool          `help:"Print each finding as one line of JSON."`
	Events bool          `help:"Print each canonical event as one line of JSON, and no findings."`
	Spread time.Duration `help:"Lay the sessions of captures out in time, one after the other at this distance, so that baselines learn from a recording that was made in seconds."`
}

// Run implements the command.
func (c *replayCmd) Run(ctx context.Context, std *stdio) error {
	set, err := (&ruleSource{Dir: c.Rules}).read()
	if err != nil {
		return err
	}
	r, err := app.NewReplay(set, pipeline.Options{})
	if err != nil {
		return err
	}
	requests, err := c.read(std, r)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(std.out)
	r.OnProgress = progress(std.err)
	err = r.Requests(ctx, requests, func(raised []pipeline.Raised) error { return c.findings(out, raised) })
	if err := errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if !c.JSON && !c.Events {
		fmt.Fprintf(std.out, "events %d, agents %d, findings %d\n", r.Events, r.Agents(), r.Findings())
	}
	if unread := r.Unread(); len(unread) > 0 {
		return fmt.Errorf("replay %s: not one item can be read", strings.Join(unread, ", "))
	}
	return nil
}

func (c *replayCmd) read(std *stdio, r *app.Replay) ([]ingest.Request, error) {
	r.OnEvent = nil
	if c.Events {
		r.OnEvent = func(line []byte) error { _, err := fmt.Fprintf(std.out, "%s\n", line); return err }
	}
	r.OnRejected = func(item, reason string) {
		fmt.Fprintf(std.err, "tocsin: rejected %s: %s\n", visible(item), visible(reason))
	}
	return readFiles(c.Files, c.Spread)
}

// readFiles reads captures and files of events, and lays captures' sessions out in time at a distance, if there is one.
func readFiles(files []string, spread time.Duration) ([]ingest.Request, error) {
	var all []ingest.Request
	for _, name := range files {
		requests, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("replay %s: %w", name, err)
		}
		all = append(all, requests...)
	}
	if spread > 0 {
		return app.Spread(all, time.Time{}, spread)
	}
	return all, nil
}

// readFile reads a capture, or a file of canonical events as one request to POST /v1/events.
func readFile(name string) ([]ingest.Request, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 1<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if !looksLikeCapture(head[:n]) {
		body, err := io.ReadAll(f)
		return []ingest.Request{{Path: "/v1/events", ContentType: "application/x-ndjson", Body: body, File: name}}, err
	}
	var out []ingest.Request
	err = ingest.ReadCapture(f, func(r ingest.Request) error { r.File = name; out = append(out, r); return nil })
	return out, err
}

// looksLikeCapture tells recorded requests, which begin with their headers or body, from events.
func looksLikeCapture(head []byte) bool {
	text := string(head)
	first := slices.Min([]int{index(text, `"headers"`), index(text, `"otlp"`)})
	return first < index(text, `"kind"`) && first < len(text)
}

func index(text, part string) int {
	for i := 0; i+len(part) <= len(text); i++ {
		if text[i:i+len(part)] == part {
			return i
		}
	}
	return len(text)
}

func (c *replayCmd) findings(out *bufio.Writer, raised []pipeline.Raised) error {
	for _, r := range raised {
		switch {
		case c.Events:
		case c.JSON:
			line, err := json.Marshal(r.Finding)
			if err != nil {
				return fmt.Errorf("encode finding: %w", err)
			}
			fmt.Fprintf(out, "%s\n", line)
		default:
			f := r.Finding
			fmt.Fprintf(out, "%s  %-8s %-9s %s  %s\n    %s\n", f.Time.Format(time.RFC3339), f.Severity, f.Source, f.Rule,
				incident.Visible(f.Agent.ID, 60), incident.Visible(f.Reason, 300))
		}
	}
	return nil
}

// progress says every two seconds how far a long replay is.
func progress(w io.Writer) func(done, all int) {
	last := time.Now()
	return func(done, all int) {
		if time.Since(last) >= 2*time.Second {
			last = time.Now()
			fmt.Fprintf(w, "tocsin: replayed %d of %d requests\n", done, all)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/eval"
)

type evalCmd struct {
	Agentdojo evalAgentDojoCmd `cmd:"" name:"agentdojo" help:"Measure on transcripts of AgentDojo, with the pipeline or the task left out of learning."`
}

// rig reads the rules and returns the pipeline to measure.
func (s *ruleSource) rig() (*eval.Rig, error) {
	set, err := s.read()
	if err != nil {
		return nil, err
	}
	return eval.NewRig(set), nil
}

type evalAgentDojoCmd struct {
	ruleSource
	File string `arg:"" type:"existingfile" help:"Transcripts, one JSON object a line; may be packed by gzip."`
	Seed uint64 `default:"1" help:"Decides the order of the sessions in time, and the bootstrap."`
}

// Run implements the command.
func (c *evalAgentDojoCmd) Run(ctx context.Context, std *stdio) error {
	rig, err := c.rig()
	if err != nil {
		return err
	}
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := rig.ReadAgentDojo(f, c.Seed)
	if err != nil {
		return fmt.Errorf("eval %s: %w", c.File, err)
	}
	got, err := data.Run(ctx, modelsDone(std.err))
	if err != nil {
		return fmt.Errorf("eval %s: %w", c.File, err)
	}
	if c.JSON {
		return printJSON(std.out, got)
	}
	return printAgentDojo(std.out, got)
}

// modelsDone says every five seconds how far a measurement is.
func modelsDone(w io.Writer) func(done, all int) {
	last := time.Now()
	return func(done, all int) {
		if time.Since(last) >= 5*time.Second {
			last = time.Now()
			fmt.Fprintf(w, "tocsin: %d of %d models taught and tested\n", done, all)
		}
	}
}

func printAgentDojo(w io.Writer, r eval.AgentDojoReport) error {
	protocols := []struct {
		name, left string
		eval.Protocol
	}{{"warm", "pipeline", r.Warm}, {"cold", "task", r.Cold}}
	fmt.Fprintf(w, "%d benign sessions, %d with a successful attack, %d with one that was tried and failed; thresholds set for %s false positives, on other sessions than those tested; in brackets 95 %% by bootstrap over tasks and pipelines; seed %d\n\n",
		r.Warm.Benign, r.Warm.Succeeded, r.Warm.Attempted, percent(eval.Number(r.Alpha)), r.Seed)
	measures := []struct{ name, key string }{
		{"found, pooled", "pooled_tpr"},
		{"found, mean of suites", "macro_tpr"},
		{"false positives", "fpr"},
		{"in time", "in_time"},
		{"AUC", "auc"},
		{"AUC, mean of suites", "macro_auc"},
	}
	err := table(w, "\tWARM (pipeline left out)\tCOLD (task left out)", len(measures)+5, "", func(w io.Writer, n int) {
		cell := func(p eval.Protocol) string {
			if n < len(measures) {
				key := measures[n].key
				return withInterval(p.Values()[key], p.Intervals[key], strings.Contains(key, "auc"))
			}
			return percent([]eval.Number{p.AttemptedTPR, p.RawTPR, p.RawFPR, p.ShippedTPR, p.ShippedFPR}[n-len(measures)])
		}
		name := ""
		if n < len(measures) {
			name = measures[n].name
		} else {
			name = []string{"found of attempted", "own p <= alpha: found", "own p <= alpha: false positives", "as shipped: found", "as shipped: false positives"}[n-len(measures)]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, cell(r.Warm), cell(r.Cold))
	})
	if err != nil {
		return err
	}
	for _, p := range protocols {
		fmt.Fprintf(w, "\n%s (%s left out), by suite\n", p.name, p.left)
		err := table(w, "SUITE\tBENIGN\tFALSE POSITIVES\tATTACKS\tFOUND\tIN TIME\tAUC", len(p.Suites), "no suites", func(w io.Writer, n int) {
			s := p.Suites[n]
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%s\t%s\n", visible(s.Suite), s.Benign, percent(s.FPR), s.Succeeded, percent(s.TPR), percent(s.InTime), decimal(s.AUC))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func withInterval(v eval.Number, i eval.Interval, decimals bool) string {
	show := percent
	if decimals {
		show = decimal
	}
	return fmt.Sprintf("%s  [%s, %s]", show(v), show(i[0]), show(i[1]))
}

func percent(n eval.Number) string {
	if !n.Defined() {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*n)
}

func decimal(n eval.Number) string {
	if !n.Defined() {
		return "-"
	}
	return fmt.Sprintf("%.3f", n)
}

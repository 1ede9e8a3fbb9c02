package pipeline_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// A set without the rule that proposes loses its findings, and its containment.
func TestBacktest(t *testing.T) {
	full := shippedSet(t)
	var fewer []detect.Rule
	for _, r := range full.Rules() {
		if r.ID != "untrusted-value-egress" {
			fewer = append(fewer, r)
		}
	}
	less, err := detect.Compile(fewer)
	if err != nil {
		t.Fatal(err)
	}
	events := recorded(t, "billing-bot-control", "billing-bot-hijacked")
	run := func(candidate, running *detect.Set) pipeline.BacktestReport {
		b := pipeline.NewBacktest(candidate, running, event.NewHasher(nil), pipeline.Options{}, detect.StreamStart)
		for i := range events {
			b.Event(&events[i])
		}
		return b.Report()
	}
	summary := func(r pipeline.BacktestReport) (out []string) {
		for _, x := range r.Rules {
			if x.Rule == "untrusted-value-egress" {
				out = append(out, fmt.Sprintf("%d found, %d in force, %d added, %d lost", x.Findings, x.Running, x.Added, x.Lost))
			}
		}
		for _, p := range r.Proposals {
			out = append(out, fmt.Sprintf("%s by %v, in force: %v", p.Agent, p.Rules, p.Running))
		}
		return out
	}
	if diff := cmp.Diff([]string{"1 found, 1 in force, 0 added, 0 lost", "billing/billing-bot by [untrusted-value-egress], in force: true"}, summary(run(full, full))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1 found, 0 in force, 1 added, 0 lost", "billing/billing-bot by [untrusted-value-egress], in force: false"}, summary(run(full, less))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"0 found, 1 in force, 0 added, 1 lost"}, summary(run(less, full))); diff != "" {
		t.Error(diff)
	}
}

// What is drafted from a recorded attack loads, fires on the attack, and not on the session without it.
func TestDraft(t *testing.T) {
	events := recorded(t, "billing-bot-hijacked")
	shard := pipeline.New(shippedSet(t), event.NewHasher(nil), pipeline.Options{})
	var on *event.Event
	for i := range events {
		shard.Process(&events[i], pipeline.Position{})
		if events[i].Tool != nil && events[i].Tool.Effect == event.EffectEgress {
			on = &events[i]
		}
	}
	text, err := detect.Draft("new-rule", events, on)
	if err != nil {
		t.Fatal(err)
	}
	r, err := detect.ParseRule("new-rule.yaml", text, library(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, res := range pipeline.TestRule(set, r) {
		if !res.OK {
			t.Errorf("%s: fired %d times, want %d %s\n%s", res.Test, res.Got, res.Want, res.Err, text)
		}
	}
}

// A source that sends no results leaves the rules on results blind, and is named.
func TestCoverageNamesBlindSpots(t *testing.T) {
	set := shippedSet(t)
	coverage := detect.NewCoverage(set)
	for _, e := range recorded(t, "billing-bot-hijacked") {
		if e.Tool != nil {
			e.Tool.Result = event.Content{}
		}
		coverage.Event(&e)
	}
	var got []string
	for _, b := range coverage.Blind() {
		if b.Rule == "instruction-file-poisoned" || b.Rule == "trace-removal" {
			got = append(got, fmt.Sprintf("%s in %s: %v", b.Rule, b.Source, b.Fields))
		}
	}
	t.Log(got)
	if len(got) == 0 {
		t.Error("no blind spot was found")
	}
}

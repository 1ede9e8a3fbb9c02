package pipeline_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

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
		b := pipeline.NewBacktest(candidate, running, event.NewHasher(nil), pipeline.Options{}, 0)
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

// A backtest that keeps no event and judges in batches says what two shards find that see one event after the other, since any time.
func TestBacktestIsTwoShards(t *testing.T) {
	full := shippedSet(t)
	less, err := detect.Compile(slices.DeleteFunc(full.Rules(), func(r detect.Rule) bool { return r.ID == "untrusted-value-egress" || r.ID == "retrieval-source-new" }))
	if err != nil {
		t.Fatal(err)
	}
	events := recorded(t, "billing-bot", "billing-bot-control", "billing-bot-hijacked")
	newest := slices.MaxFunc(events, func(a, b event.Event) int { return a.Time.Compare(b.Time) }).Time
	plain := [2]map[string]detect.Finding{{}, {}}
	for i, set := range []*detect.Set{full, less} {
		shard := pipeline.New(set, event.NewHasher(nil), pipeline.Options{})
		for j := range events {
			e := events[j].Clone()
			for _, r := range shard.Process(&e, pipeline.Position{}) {
				plain[i][r.Finding.ID] = r.Finding
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		since := time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "since"))
		start := time.Time{}
		if since > 0 {
			start = newest.Add(-since).Truncate(time.Minute)
		}
		counts := func(ids map[string]detect.Finding, but map[string]detect.Finding) map[string]int {
			out := make(map[string]int)
			for id, f := range ids {
				if _, ok := but[id]; !ok && !f.Time.Before(start) && f.Source != detect.SourceHealth {
					out[f.Rule]++
				}
			}
			return out
		}
		b := pipeline.NewBacktest(full, less, event.NewHasher(nil), pipeline.Options{}, since)
		for i := range events {
			b.Event(&events[i])
		}
		report := b.Report()
		got := [4]map[string]int{{}, {}, {}, {}}
		for _, r := range report.Rules {
			days := 0
			for _, d := range r.Days {
				days += d.N
			}
			if days != r.Findings {
				t.Fatalf("%s: %d findings, %d by day", r.Rule, r.Findings, days)
			}
			for i, n := range []int{r.Findings, r.Running, r.Added, r.Lost} {
				if n > 0 {
					got[i][r.Rule] = n
				}
			}
		}
		want := [4]map[string]int{counts(plain[0], nil), counts(plain[1], nil), counts(plain[0], plain[1]), counts(plain[1], plain[0])}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		in := 0
		for _, e := range events {
			if !e.Time.Before(start) {
				in++
			}
		}
		if report.Events != in || !report.To.Equal(newest) {
			t.Fatalf("%d events to %s, want %d to %s", report.Events, report.To, in, newest)
		}
	})
}

// What a backtest keeps is bounded whatever a rule finds, and it says what it left out.
func TestBacktestIsBounded(t *testing.T) {
	r, err := detect.ParseRule("every-call.yaml", []byte("id: every-call\nversion: 1.0.0\ntitle: Any call\nseverity: low\nlane: hunt\non: [tool.result]\nwhen: tool.name != \"\"\ntags: {asi: [ASI02]}\ntriage: None.\n"), library(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	none, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		keep      int
		found     int
		everyFits bool
	}{{"room for the time asked for", 60, 51, true}, {"too little room", 20, 20, false}} {
		t.Run(tt.name, func(t *testing.T) {
			b := pipeline.NewBacktest(set, none, event.NewHasher(nil), pipeline.Options{}, 50*time.Minute)
			b.Keep(tt.keep)
			const others, all = 10_200, 10_500 // one a minute
			for i := range all {
				e := event.Event{ID: fmt.Sprint(i), Kind: event.KindOther, Time: detect.StreamStart.Add(time.Duration(i) * time.Minute), Agent: event.Agent{ID: "a", Class: "c"}, Session: event.Session{ID: "s"}}
				if i >= others {
					e.Kind, e.Tool = event.KindToolResult, &event.Tool{Name: "t"}
				}
				b.Event(&e)
				if n := b.Minutes(); n > 10_050+128 {
					t.Fatalf("%d minutes are kept after %d events", n, i)
				}
			}
			r := b.Report().Rules[0]
			if r.Rule != "every-call" || r.Findings != tt.found || r.Added != tt.found || (r.Cut == 0) != tt.everyFits {
				t.Errorf("with room for %d: %+v", tt.keep, r)
			}
		})
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

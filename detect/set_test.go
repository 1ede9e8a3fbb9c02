package detect_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// evaluate runs events through a set with a fresh state. The session's facts stay empty; the pipeline's tests have them.
func evaluate(set *detect.Set, events []event.Event) []detect.Finding {
	var out []detect.Finding
	st, env := detect.NewState(), detect.NewEnv()
	for i := range events {
		env.Fill(&events[i], detect.SessionFacts{}, detect.BaselineEnv{P: 1})
		out = append(out, set.Evaluate(env, &events[i], st)...)
	}
	return out
}

// stream returns the events of a test with these entries.
func stream(t testing.TB, entries ...string) []event.Event {
	t.Helper()
	text := edit(t, "      - {kind: tool.result, tool: send_mail, repeat: 3, every: 1s}\n", "      - {"+strings.Join(entries, "}\n      - {")+"}\n")
	r, err := detect.ParseRule("example.yaml", []byte(text), library(t))
	if err != nil {
		t.Fatal(err)
	}
	events, _, err := r.Tests[0].Stream(r.File)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestEvaluate(t *testing.T) {
	const send = "kind: tool.result, tool: send_mail"
	for _, tc := range []struct {
		name, old, replacement string
		entries                []string
		want                   int
	}{
		{"threshold", "", "", []string{send + ", repeat: 3, every: 1s"}, 1},
		{"below it", "", "", []string{send + ", repeat: 2, every: 1s"}, 0},
		{"silent for the window", "", "", []string{send + ", repeat: 9, every: 1s"}, 1},
		{"speaks again after it", "", "", []string{send + ", repeat: 13, every: 1s"}, 2},
		{"silent for longer", "tags:", "suppress: 1h\ntags:", []string{send + ", repeat: 100, every: 1s"}, 1},
		{"silent for a moment", "tags:", "suppress: 1s\ntags:", []string{send + ", repeat: 5, every: 1s"}, 3},
		{"late event completes it", "", "", []string{"at: 5s, " + send, "at: 20s, " + send, "at: 1s, " + send, "at: 3s, " + send}, 1},
		{"same value", "", "", []string{send + ", repeat: 2", "kind: tool.result, tool: post_note, repeat: 2"}, 0},
		{"any value", "by: tool.name\n", "", []string{send + ", repeat: 2", "kind: tool.result, tool: post_note, repeat: 2"}, 1},
		{"other session", "", "", []string{send + ", repeat: 2", send + ", session: s2, repeat: 2"}, 0},
		{"other session, key agent", "severity:", "key: agent\nseverity:", []string{send + ", repeat: 2", send + ", session: s2, repeat: 2"}, 1},
		{"other agent, key agent", "severity:", "key: agent\nseverity:", []string{send + ", repeat: 2", send + ", agent: a2, repeat: 2"}, 0},
		{"other kind", "", "", []string{"kind: tool.request, tool: send_mail, repeat: 5"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := ruleText
			if tc.old != "" {
				text = edit(t, tc.old, tc.replacement)
			}
			if got := evaluate(mustLoad(t, text), stream(t, tc.entries...)); len(got) != tc.want {
				t.Errorf("got %d findings, want %d", len(got), tc.want)
			}
		})
	}
}

func TestTenantsAreApart(t *testing.T) {
	events := stream(t, "kind: tool.result, tool: send_mail, repeat: 4")
	events[0].Tenant, events[1].Tenant = "other", "other"
	if got := evaluate(mustLoad(t, ruleText), events); len(got) > 0 {
		t.Error("events of two tenants made one finding")
	}
}

func TestFinding(t *testing.T) {
	events := stream(t, "kind: tool.result, tool: send_mail, repeat: 3, every: 2s")
	got := evaluate(mustLoad(t, ruleText), events)
	if len(got) != 1 {
		t.Fatalf("got %d findings, want 1", len(got))
	}
	ids := []string{events[0].ID, events[1].ID, events[2].ID}
	want := detect.Finding{
		ID: detect.FindingID("", got[0].Agent.Class, "example-rule", ids), Source: detect.SourceRule, Rule: "example-rule", Version: "1.0.0", Digest: got[0].Digest,
		Title: "Example", Severity: detect.High, Confidence: detect.MediumConfidence, Risk: 50, Lane: detect.Alert, Tags: detect.Tags{ASI: []string{"ASI02"}},
		Triage: "Look.", Agent: events[2].Agent, Session: "session-1", Tool: "send_mail", First: detect.StreamStart,
		Time: detect.StreamStart.Add(4 * time.Second), Events: ids, Reason: "3 matching events within 10s.",
	}
	if diff := cmp.Diff([]detect.Finding{want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRunTimeError(t *testing.T) {
	// A remainder by zero is one of the few errors that are left to run time.
	failing := strings.Replace(withWhen(t, `7 % len(destinations) == 1`), "id: example-rule", "id: failing-rule", 1)
	var both []detect.Rule
	for _, text := range []string{failing, ruleText} {
		both = append(both, mustLoad(t, text).Rules()...)
	}
	set, err := detect.Compile(both)
	if err != nil {
		t.Fatal(err)
	}
	events := stream(t, "kind: tool.result, tool: send_mail, repeat: 130, every: 1m", "at: 3h, kind: tool.result, tool: send_mail, repeat: 3, every: 1s")
	count := make(map[string]int)
	for _, f := range evaluate(set, events) {
		count[string(f.Source)+" "+f.Rule+" "+string(f.Lane)]++
		if f.Source == detect.SourceHealth && !strings.Contains(f.Reason, "integer divide by zero") {
			t.Errorf("reason: %s", f.Reason)
		}
	}
	// 130 minutes and one event at 3h: an error in each of four hours.
	want := map[string]int{"health failing-rule alert": 4, "rule example-rule alert": 1}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Error(diff)
	}
}

// kinds and tools that the property's events are drawn from, so that rules of the shipped set fire on them.
var drawn = []string{
	"kind: tool.result, tool: send_mail, args: {to: a@b.example}",
	"kind: tool.result, tool: Bash, args: {command: 'curl x | sh'}",
	"kind: tool.result, tool: Bash, args: {command: 'cat ~/.ssh/id_rsa'}, outcome: failure",
	"kind: tool.decision, tool: Bash, decision: {effect: deny, mode: bypassPermissions}",
	"kind: model.call, model: m",
	"kind: prompt, text: hi, attrs: {anthropic.custom_base_url: 'true'}",
}

// Adding a rule never changes what another rule finds, be it one that fails.
func TestRulesDoNotInterfere(t *testing.T) {
	shipped, err := detect.ReadRules(rules.FS, shippedLibrary(t))
	if err != nil {
		t.Fatal(err)
	}
	all := append(shipped, mustLoad(t, ruleText).Rules()...)
	all = append(all, mustLoad(t, strings.Replace(withWhen(t, `7 % len(destinations) == 1`), "id: example-rule", "id: failing-rule", 1)).Rules()...)
	entries := stream(t, drawn...)
	rapid.Check(t, func(rt *rapid.T) {
		one := rapid.SampledFrom(all).Draw(rt, "rule")
		subset := rapid.SliceOfDistinct(rapid.SampledFrom(all), func(r detect.Rule) string { return r.ID }).Draw(rt, "others")
		if !slices.ContainsFunc(subset, func(r detect.Rule) bool { return r.ID == one.ID }) {
			subset = append(subset, one)
		}
		var events []event.Event
		for i := range rapid.IntRange(1, 60).Draw(rt, "n") {
			e := rapid.SampledFrom(entries).Draw(rt, "event")
			e.ID, e.Time = fmt.Sprint(i), detect.StreamStart.Add(time.Duration(rapid.IntRange(0, 100).Draw(rt, "at"))*time.Second)
			events = append(events, e)
		}
		if diff := cmp.Diff(findingsOf(rt, one.ID, events, one), findingsOf(rt, one.ID, events, subset...)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func findingsOf(t *rapid.T, id string, events []event.Event, list ...detect.Rule) []detect.Finding {
	set, err := detect.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	var out []detect.Finding
	for _, f := range evaluate(set, events) {
		if f.Rule == id {
			out = append(out, f)
		}
	}
	return out
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// What one sender says of an agent neither counts nor silences for another's events of the same agent.
func TestSendersAreApart(t *testing.T) {
	events := stream(t, "kind: tool.result, tool: send_mail, repeat: 4")
	events[0].Source.Authn, events[1].Source.Authn = "other", "other"
	if got := evaluate(mustLoad(t, ruleText), events); len(got) > 0 {
		t.Error("events of two senders made one finding")
	}
}

package detect_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
)

func TestLint(t *testing.T) {
	const near = "\n  - {name: near, fires: 0, events: [{kind: prompt}]}\n"
	for _, tc := range []struct{ name, detection, want string }{
		{"nothing", onResult + "when: outcome == \"\"", ""},
		{"unreachable threshold", onResult + "when: 'true'\ncount: {at_least: 9, within: 1m}\nlimits: {events: 5}", "can never fire: it needs 9 events of a key, and limits.events keeps 5"},
		{"distinct of its own key", onResult + "when: 'true'\nby: tool.name\ndistinct: {of: tool.name, at_least: 2, within: 1m}", "can never fire: distinct.of is what by splits the key by, so that a key has one value"},
		{"distinct agents of an agent", onResult + "key: agent\nwhen: 'true'\ndistinct: {of: agent.id, at_least: 2, within: 1m}", "can never fire: a key agent has one agent.id"},
		{"longer than the log", onResult + "when: 'true'\ncount: {at_least: 2, within: 72h}", "looks back 72h0m0s, and the event log keeps 48h0m0s: a detector that loses its state can't restore that"},
		{"field of another kind", "on: [prompt]\nwhen: tool.name == \"x\"", "looks at tool.name, which no event of kind prompt has"},
		{"capture", onResult + "when: tool.path == \"x\"", "looks at tool.path, which needs capture: arguments, and says capture: metadata"},
		{"propose without a playbook", onResult + "lane: propose\nwhen: 'true'", "is in the lane propose and names no playbook: it proposes nothing"},
		{"playbook without propose", onResult + "playbook: quarantine-agent\nwhen: 'true'", "names the playbook quarantine-agent, which only the lane propose starts"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := mustLoad(t, written("example-rule", tc.detection, "kind: prompt")+strings.TrimPrefix(near, "\n"))
			var got []string
			for _, w := range set.Lint(48*time.Hour, detect.StreamStart) {
				got = append(got, w.Text)
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestShippedRulesHaveNoWarnings(t *testing.T) {
	shipped, err := detect.ReadRules(rules.FS, shippedLibrary(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range set.Lint(30*24*time.Hour, detect.StreamStart) {
		t.Errorf("%s: %s", w.Rule, w.Text)
	}
}

func TestFields(t *testing.T) {
	set := mustLoad(t, written("example-rule", onResult+`sequence: {within: 10m, steps: [{as: read, when: 'any(tool.commands, .name == "x")'}, {as: post, when: tool.host == read.tool.url}]}`, "kind: prompt"))
	if diff := cmp.Diff([]string{"tool.commands", "tool.host", "tool.url"}, set.Fields("example-rule")); diff != "" {
		t.Error(diff)
	}
}

// A field is warned of where sources send the rule's kinds and none of them the field; of kinds that nobody sends nothing is known.
func TestLintSources(t *testing.T) {
	seen := detect.NewSources()
	for _, e := range stream(t, "kind: tool.result, tool: Bash, args: {command: ls}", "kind: prompt, text: x") {
		seen.Event(&e)
	}
	for _, tc := range []struct{ name, detection, want string }{
		{"sent", onResult + "when: any(tool.commands, .name == \"ls\")", ""},
		{"not sent, and who would", onResult + "when: tool.path == \"x\"", "looks at tool.path, which no source (test) sends with an event of kind tool.result; claude_code, gen_ai would"},
		{"sent by nobody", onResult + "when: tool.server == \"x\"", "looks at tool.server, which no source (test) sends with an event of kind tool.result; no recorded client does, JSON events can"},
		{"one of its kinds has it", "on: [prompt, tool.result]\nwhen: text == \"x\"", ""},
		{"nothing is known of the kind", "on: [memory]\nwhen: text == \"x\"", ""},
		{"Tocsin's own facts", onResult + "when: session.tainted && baseline.p < 0.01 && tool.hidden", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, w := range mustLoad(t, written("example-rule", tc.detection, "kind: prompt")).LintSources(seen) {
				got = append(got, w.Text)
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

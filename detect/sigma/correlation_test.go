package sigma_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
)

// base are the rules that the correlations of the tests refer to.
const base = `---
title: Denied
name: denied
logsource: {product: ai, service: tool.result}
detection:
  s: {outcome: denied}
  condition: s
---
title: Read
name: read
logsource: {category: file_access}
detection:
  s: {TargetFilename|contains: /.ssh/}
  condition: s
---
title: Fetch
name: fetch
logsource: {category: proxy}
detection:
  s: {c-uri|contains: upload}
  condition: s
---
title: Call
name: call
logsource: {product: ai, service: model.call}
detection:
  s: {gen_ai.request.model|exists: true}
  condition: s
---
title: Process
name: process
logsource: {category: process_creation}
detection:
  s: {CommandLine|contains: curl}
  condition: s
`

func correlation(body string) string {
	return "title: Correlation\nid: ffffffff-0000-4000-8000-000000000000\nstatus: test\nlevel: high\ncorrelation:\n  " +
		strings.ReplaceAll(strings.TrimSpace(body), "\n", "\n  ") + "\n" + base
}

// solo removes the base rules that no correlation keeps from standing alone.
func correlated(t *testing.T, text string) detect.Rule {
	t.Helper()
	r := imported(t, text)
	for _, p := range r.Problems {
		t.Fatal(p)
	}
	for _, made := range r.Rules {
		if strings.HasPrefix(made.ID, "sigma-correlation-") {
			parsed, err := detect.ParseRule("made.yaml", []byte(made.Text), library(t))
			if err != nil {
				t.Fatalf("%v\n%s", err, made.Text)
			}
			return parsed
		}
	}
	t.Fatal("no rule of the correlation")
	return detect.Rule{}
}

// findings runs a stream through the correlation's rule.
func findings(t *testing.T, text string, events ...string) int {
	t.Helper()
	r := correlated(t, text)
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	return len(evaluate(set, stream(t, strings.Join(events, "\n"))))
}

func TestEventCount(t *testing.T) {
	const body = "type: event_count\nrules: [denied]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {gte: 3}"
	for _, tc := range []struct {
		name, body string
		events     []string
		want       int
	}{
		{"enough", body, []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 3, every: 1m}"}, 1},
		{"too few", body, []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}"}, 0},
		{"too slow", body, []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 3, every: 6m}"}, 0},
		{"over sessions", body, []string{"- {at: 0s, session: a, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}", "- {at: 3m, session: b, kind: tool.result, tool: x, outcome: denied}"}, 1},
		{"of other agents", body, []string{"- {at: 0s, agent: a, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}", "- {at: 3m, agent: b, kind: tool.result, tool: x, outcome: denied}"}, 0},
		{"within a session", strings.Replace(body, "agent.id", "gen_ai.conversation.id", 1), []string{"- {at: 0s, session: a, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}", "- {at: 3m, session: b, kind: tool.result, tool: x, outcome: denied}"}, 0},
		{"more than", strings.Replace(body, "gte: 3", "gt: 3", 1), []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 3, every: 1m}"}, 0},
		{"each event", strings.Replace(body, "gte: 3", "gte: 1", 1), []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied}"}, 1},
		{"of several rules", strings.Replace(body, "[denied]", "[denied, call]", 1), []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}", "- {at: 3m, kind: model.call, model: m}"}, 1},
		{"of several rules, each of its kind", strings.Replace(body, "[denied]", "[denied, call]", 1), []string{"- {at: 0s, kind: tool.result, tool: x, outcome: denied, repeat: 2, every: 1m}", "- {at: 3m, kind: model.call, model: m, outcome: denied}", "- {at: 3m, kind: tool.result, tool: x}"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := findings(t, correlation(tc.body), tc.events...); got != tc.want {
				t.Errorf("got %d findings, want %d", got, tc.want)
			}
		})
	}
}

// The rules that a correlation refers to are no rules of their own, unless it says so.
func TestGenerate(t *testing.T) {
	text := correlation("type: event_count\nrules: [denied]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {gte: 3}")
	titles := func(text string) (out []string) {
		for _, r := range imported(t, text).Rules {
			out = append(out, r.Title)
		}
		return out
	}
	if diff := cmp.Diff([]string{"Correlation", "Read", "Fetch", "Call", "Process"}, titles(text)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Correlation", "Denied", "Read", "Fetch", "Call", "Process"}, titles("generate: true\n"+text)); diff != "" {
		t.Error(diff)
	}
}

func TestCorrelationProblems(t *testing.T) {
	const good = "type: event_count\nrules: [denied]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {gte: 3}"
	for _, tc := range []struct{ name, old, replacement, want string }{
		{"a rule alone in any order", "event_count", "temporal", "example.yml:7: correlation.rules: names one rule, and a sequence has two at least\nexample.yml:10: correlation.condition: asks for 3 of 1 rules, and a sequence has all of its steps"},
		{"average", "event_count", "value_avg", `example.yml:6: correlation.type: is value_avg, and no operator keeps more of the values than their number and sum`},
		{"upper bound", "gte: 3", "lt: 3", `example.yml:10: correlation.condition: has lt: an operator fires when enough was seen, and can't know that no more will come`},
		{"exactly", "gte: 3", "eq: 3", `example.yml:10: correlation.condition: has eq: an operator fires when enough was seen, and can't know that no more will come`},
		{"range", "gte: 3", "gte: 3, lte: 5", `example.yml:10: correlation.condition: has lte: an operator fires when enough was seen, and can't know that no more will come`},
		{"too many", "gte: 3", "gte: 3000", `example.yml:10: correlation.condition: has 1 bounds and asks for 3000, want one bound of 2 to 1000`},
		{"no group", "[agent.id]", "[]", `example.yml:8: correlation.group-by: has none of agent.class, agent.id, session.id: without one it groups over all agents, and the widest key is the class`},
		{"field of no source", "[agent.id]", "[agent.id, User]", `example.yml:8: correlation.group-by: has User, of which denied knows nothing: no source of agents sends it`},
		{"field of an element", "denied]\ngroup-by: [agent.id]", "process]\ngroup-by: [agent.id, CommandLine]", `example.yml:8: correlation.group-by: has CommandLine, of which process has several in one event, and a key is one text`},
		{"window", "10m", "30d", `example.yml:9: correlation.timespan: "30d": a window has at most 7d`},
		{"unit", "10m", "10M", `example.yml:9: correlation.timespan: "10M": want a number and s, m, h or d`},
		{
			"more than a sum of fractions", "event_count\nrules: [denied]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {gte: 3}", "value_sum\nrules: [denied]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {field: tool.args.amount, gt: 3}",
			`example.yml:10: correlation.condition: has gt over values that may be fractions, and a sum has a bound that it reaches: write gte`,
		},
		{"unknown rule", "[denied]", "[denyed]", `example.yml:7: correlation.rules: names "denyed", which is neither id nor name of a rule among the files`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(good, tc.old) {
				t.Fatalf("no %q", tc.old)
			}
			r := imported(t, correlation(strings.Replace(good, tc.old, tc.replacement, 1)))
			var got []string
			for _, p := range r.Problems {
				got = append(got, p.Error())
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOperators(t *testing.T) {
	const (
		distinct = "type: value_count\nrules: [fetch]\ngroup-by: [agent.id]\ntimespan: 10m\ncondition: {field: cs-host, gte: 3}"
		sum      = "type: value_sum\nrules: [call]\ngroup-by: [session.id]\ntimespan: 10m\ncondition: {field: gen_ai.usage.input_tokens, gt: 100}"
		ordered  = "type: temporal_ordered\nrules: [read, fetch]\ngroup-by: [session.id]\ntimespan: 10m"
		anyOrder = "type: temporal\nrules: [read, fetch]\ngroup-by: [session.id]\ntimespan: 10m"
		byTool   = "type: event_count\nrules: [denied]\ngroup-by: [agent.class, tool.name]\ntimespan: 10m\ncondition: {gte: 3}"
		aliased  = "type: temporal_ordered\nrules: [read, fetch]\ngroup-by: [session.id, where]\ntimespan: 10m\naliases:\n  where: {read: TargetFilename, fetch: c-uri-path}"
		joined   = "type: temporal_ordered\nrules: [denied, fetch]\ngroup-by: [session.id, where]\ntimespan: 10m\naliases:\n  where: {denied: tool.host, fetch: cs-host}"
	)
	fetch := func(at, url string) string {
		return "- {at: " + at + ", kind: tool.result, tool: fetch, args: {url: \"" + url + "\"}}"
	}
	read := func(at string) string {
		return "- {at: " + at + ", kind: tool.result, tool: read_file, args: {path: /root/.ssh/id}}"
	}
	denied := func(at, tool, agent string) string {
		return "- {at: " + at + ", agent: " + agent + ", kind: tool.result, tool: " + tool + ", outcome: denied, args: {url: \"https://a/\"}}"
	}
	for _, tc := range []struct {
		name, body string
		events     []string
		want       int
	}{
		{"different hosts", distinct, []string{fetch("0s", "https://a/upload"), fetch("1m", "https://b/upload"), fetch("2m", "https://c/upload")}, 1},
		{"the same hosts", distinct, []string{fetch("0s", "https://a/upload"), fetch("1m", "https://b/upload"), fetch("2m", "https://b/upload?x")}, 0},
		{"sum", sum, []string{"- {at: 0s, kind: model.call, model: m, tokens: 60}", "- {at: 1m, kind: model.call, model: m, tokens: 41}"}, 1},
		{"sum that is just reached", sum, []string{"- {at: 0s, kind: model.call, model: m, tokens: 60}", "- {at: 1m, kind: model.call, model: m, tokens: 40}"}, 0},
		{"in order", ordered, []string{read("0s"), fetch("1m", "https://a/upload")}, 1},
		{"out of order", ordered, []string{fetch("0s", "https://a/upload"), read("1m")}, 0},
		{"too far apart", ordered, []string{read("0s"), fetch("11m", "https://a/upload")}, 0},
		{"any order, the first one first", anyOrder, []string{read("0s"), fetch("1m", "https://a/upload")}, 1},
		{"any order, the first one last", anyOrder, []string{fetch("0s", "https://a/upload"), read("1m")}, 1},
		{"any order, one alone", anyOrder, []string{fetch("0s", "https://a/upload"), fetch("1m", "https://a/upload")}, 0},
		{"any order, too far apart", anyOrder, []string{fetch("0s", "https://a/upload"), read("10m")}, 0},
		{"by tool over the class", byTool, []string{denied("0s", "x", "a"), denied("1m", "x", "b"), denied("2m", "x", "c")}, 1},
		{"by tool, of different tools", byTool, []string{denied("0s", "x", "a"), denied("1m", "y", "a"), denied("2m", "z", "a")}, 0},
		{"alias", joined, []string{denied("0s", "get_page", "a"), strings.Replace(fetch("1m", "https://a/upload"), "tool: fetch", "agent: a, tool: fetch", 1)}, 1},
		{"alias of another value", joined, []string{denied("0s", "get_page", "a"), strings.Replace(fetch("1m", "https://b/upload"), "tool: fetch", "agent: a, tool: fetch", 1)}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := findings(t, correlation(tc.body), tc.events...); got != tc.want {
				t.Errorf("got %d findings, want %d", got, tc.want)
			}
		})
	}
	got := imported(t, correlation(aliased)).Problems
	if len(got) != 1 || !strings.HasPrefix(got[0].Why, "has where, of which fetch knows nothing: no source of agents sends it") {
		t.Errorf("an alias of an unknown field gives %v", got)
	}
}

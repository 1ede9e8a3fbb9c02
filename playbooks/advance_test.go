package playbooks

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// anySteps draws steps that need not compile: Advance must be safe with each.
func anySteps(t *rapid.T, ids *int, depth int) (steps []Step) {
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		s := Step{ID: fmt.Sprint("s", *ids), Do: "x", Class: rapid.SampledFrom([]approval.Class{approval.Observe, approval.Record, approval.Contain, approval.Destroy, approval.Speak, ""}).Draw(t, "class")}
		*ids++
		s.After = rapid.SliceOfN(rapid.SampledFrom([]string{"s0", "s1", "s2", "s3", "s7", "none"}), 0, 2).Draw(t, "after")
		s.If = rapid.SampledFrom([]string{"", "", "", "false", "no such name"}).Draw(t, "if")
		s.Timeout = rapid.SampledFrom([]time.Duration{0, 0, time.Minute}).Draw(t, "timeout")
		kind := rapid.IntRange(0, 7).Draw(t, "kind")
		if depth > 2 {
			kind = 7
		}
		switch kind {
		case 0:
			s.Parallel = &Parallel{Mode: rapid.SampledFrom([]string{Settled, FailFast}).Draw(t, "mode"), Timeout: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "branch timeout")}
			for n := range rapid.IntRange(1, 3).Draw(t, "branches") {
				s.Parallel.Branches = append(s.Parallel.Branches, Branch{fmt.Sprint("b", n), anySteps(t, ids, depth+1)})
			}
		case 1:
			s.Foreach = &Foreach{In: "incident.agents", Max: rapid.IntRange(1, 3).Draw(t, "max"), Steps: anySteps(t, ids, depth+1)}
		case 2:
			s.Fallback = anySteps(t, ids, depth+1)
		case 3:
			s.Retry = &Retry{Attempts: rapid.IntRange(2, 3).Draw(t, "attempts"), Every: time.Second, Jitter: 0.5, When: rapid.SampledFrom([]string{"", `error == "again"`}).Draw(t, "when")}
		}
		if s.Parallel != nil || s.Foreach != nil {
			s.Do, s.Class = "", ""
		}
		steps = append(steps, s)
	}
	return steps
}

// TestAdvance is the invariants of a run, whatever the playbook is and whatever becomes of its commands.
func TestAdvance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := 0
		p := Playbook{Name: "p", Steps: anySteps(t, &n, 0)}
		env := Env{Incident: IncidentEnv{Agents: []string{"a", "b"}}}
		state, now := make(State), noon()
		approved, done := make(map[string]bool), make(map[string]bool)
		for turn := 0; ; turn++ {
			if turn > 2000 {
				t.Fatalf("no end after %d turns: %v", turn, state)
			}
			next := p.Advance(now, env, state)
			if again := p.Advance(now, env, copied(t, state)); !cmp.Equal(next.Commands, again.Commands, cmpopts.EquateEmpty()) || next.Finished != again.Finished {
				t.Fatalf("the same state gives other commands: %v, then %v", next, again)
			}
			if next.Finished {
				break
			}
			if len(next.Commands) == 0 {
				if !next.Wake.After(now) {
					t.Fatalf("nothing to do, and no time to wait for: %v", state)
				}
				now = next.Wake
				continue
			}
			c := rapid.SampledFrom(next.Commands).Draw(t, "command")
			for _, needed := range c.Step.After {
				if !wasDone(state, needed, c.Path) {
					t.Fatalf("%s is under way and needs %s, which is not done: %v", c.Path, needed, state[needed])
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "waits") == 0 && !next.Wake.IsZero() {
				now = next.Wake
				continue
			}
			result := rapid.SampledFrom([]Result{Done, Done, Failed}).Draw(t, "result")
			if c.Verb == Ask {
				result = rapid.SampledFrom([]Result{Approved, Refused}).Draw(t, "answer")
				approved[c.Path] = result == Approved
			} else if c.Step.Class.Gated() && !approved[c.Path] {
				t.Fatalf("%s of class %q is done and nobody approved it", c.Path, c.Step.Class)
			}
			done[c.Path] = c.Verb == Do
			p.Report(now, env, state, c, result, rapid.SampledFrom([]string{"again", "never"}).Draw(t, "why"))
		}
		for path := range approved {
			if approved[path] && !done[path] {
				t.Fatalf("%s was approved, and what became of its effect is not known: %v", path, *state[path])
			}
		}
	})
}

// wasDone reports whether a step was done, as the step at a path sees it: within the same items of the loops around both.
func wasDone(s State, id, path string) bool {
	_, items, _ := strings.Cut(path, "#")
	for parts := strings.Split(items, "#"); ; parts = parts[:len(parts)-1] {
		suffix := strings.Join(append([]string{""}, parts...), "#")
		if len(parts) == 0 || items == "" {
			suffix = ""
		}
		if st := s[id+suffix]; st != nil || suffix == "" {
			return st != nil && st.Result == Done
		}
	}
}

func copied(t *rapid.T, s State) (out State) {
	text, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// story runs a playbook with scripted results and returns what it did, in order.
func story(t *testing.T, steps string, env Env, results map[string][]Result) (did []string, state State) {
	t.Helper()
	text := "name: p\nversion: 1.0.0\ntitle: P\nsteps:\n" + steps
	p, err := Compile("p.yaml", []byte(text), actions())
	if err != nil {
		t.Fatal(err)
	}
	state, now := make(State), noon()
	for range 100 {
		next := p.Advance(now, env, state)
		if next.Finished {
			return did, state
		}
		var c *Command
		for i := range next.Commands {
			if script, ok := results[next.Commands[i].Path]; !ok || len(script) > 0 {
				c = &next.Commands[i]
				break
			}
		}
		if c == nil { // what is left never ends by itself
			now = next.Wake
			continue
		}
		result := Done
		if script := results[c.Path]; len(script) > 0 {
			result, results[c.Path] = script[0], slices.Clone(script[1:])
			if len(script) == 1 && result != Approved {
				delete(results, c.Path)
			}
		}
		if result == Approved {
			delete(results, c.Path)
		}
		line := fmt.Sprintf("%s %s", c.Verb, c.Path)
		if c.Item != "" {
			line += " of " + c.Item
		}
		for k, v := range c.Params {
			line += fmt.Sprintf(" %s=%s", k, v)
		}
		did = append(did, line)
		p.Report(now, env, state, *c, result, "timeout")
	}
	t.Fatalf("no end: %v", did)
	return nil, nil
}

func TestStories(t *testing.T) {
	env := Env{Incident: IncidentEnv{Severity: "high", Agents: []string{"a", "b"}}, Finding: FindingEnv{Rule: "r"}}
	gate := "{id: %s, do: quarantine, class: contain, after: [seal], target: agent, lease: 1h, ask: {deadline: 15m, on_expiry: deny}}"
	tests := []struct {
		name    string
		steps   string
		results map[string][]Result
		want    []string
		ends    map[string]Result
	}{
		{"a condition", "  - {id: a, do: triage, class: record, if: 'incident.severity == \"low\"'}\n  - {id: b, do: draft, class: record}", nil, []string{"do b"}, map[string]Result{"a": Skipped}},
		{
			"a gate in a branch while the other runs", "  - {id: seal, do: seal, class: record}\n  - id: both\n    parallel:\n      mode: settled\n      branches:\n        - {name: x, steps: [" + fmt.Sprintf(gate, "stop") + "]}\n        - {name: y, steps: [{id: look, do: triage, class: record}]}\n  - {id: write, do: draft, class: record}",
			map[string][]Result{"stop": {Approved}},
			[]string{"do seal", "ask stop", "do stop", "do look", "do write"},
			map[string]Result{"both": Done},
		},
		{
			"settled keeps the slow branch", "  - id: both\n    parallel:\n      mode: settled\n      branches:\n        - {name: x, steps: [{id: a, do: triage, class: record}]}\n        - {name: y, steps: [{id: b, do: triage, class: record}, {id: c, do: triage, class: record}]}",
			map[string][]Result{"a": {Failed}},
			[]string{"do a", "do b", "do c"},
			map[string]Result{"both": Done, "a": Failed, "c": Done},
		},
		{
			"fail-fast ends the others", "  - id: both\n    parallel:\n      mode: fail-fast\n      branches:\n        - {name: x, steps: [{id: a, do: triage, class: record}]}\n        - {name: y, steps: [{id: b, do: triage, class: record}, {id: c, do: triage, class: record}]}",
			map[string][]Result{"a": {Failed}},
			[]string{"do a"},
			map[string]Result{"both": Failed, "b": Skipped, "c": Skipped},
		},
		{
			"a branch that hangs", "  - id: both\n    parallel:\n      mode: settled\n      timeout: 10m\n      branches:\n        - {name: x, steps: [{id: a, do: triage, class: record}]}\n        - {name: y, steps: [{id: b, do: triage, class: record}]}\n  - {id: c, do: draft, class: record}",
			map[string][]Result{"a": {}},
			[]string{"do b", "do c"},
			map[string]Result{"a": TimedOut, "both": Done},
		},
		{
			"foreach", "  - id: all\n    foreach:\n      in: incident.agents\n      max: 5\n      steps: [{id: look, do: lookup, class: observe, target: agent, with: {what: '=item + \"/\" + finding.rule'}}]", nil,
			[]string{"do look#0 of a what=a/r", "do look#1 of b what=b/r"},
			map[string]Result{"all": Done},
		},
		{"foreach of too many", "  - id: all\n    foreach: {in: incident.agents, max: 1, steps: [{id: look, do: triage, class: record}]}", nil, nil, map[string]Result{"all": Failed}},
		{"retry", "  - {id: a, do: triage, class: record, retry: {attempts: 3, every: 1s, jitter: 0.2, when: 'error == \"timeout\"'}}", map[string][]Result{"a": {Failed, Failed, Done}}, []string{"do a", "do a", "do a"}, map[string]Result{"a": Done}},
		{"retry ends", "  - {id: a, do: triage, class: record, retry: {attempts: 2, every: 1s}}", map[string][]Result{"a": {Failed, Failed, Done}}, []string{"do a", "do a"}, map[string]Result{"a": Failed}},
		{"no retry of another error", "  - {id: a, do: triage, class: record, retry: {attempts: 3, every: 1s, when: 'error == \"busy\"'}}", map[string][]Result{"a": {Failed, Done}}, []string{"do a"}, map[string]Result{"a": Failed}},
		{"fallback", "  - {id: a, do: triage, class: record, fallback: [{id: f, do: draft, class: record}]}\n  - {id: b, do: draft, class: record, after: [a]}", map[string][]Result{"a": {Failed}}, []string{"do a", "do f", "do b"}, map[string]Result{"a": Done}},
		{"fallback after the time is over", "  - {id: a, do: triage, class: record, timeout: 1m, fallback: [{id: f, do: draft, class: record}]}", map[string][]Result{"a": {}}, []string{"do f"}, map[string]Result{"a": Done}},
		{"refused", "  - {id: seal, do: seal, class: record}\n  - " + fmt.Sprintf(gate, "stop") + "\n  - {id: told, do: triage, class: record, after: [stop]}", map[string][]Result{"stop": {Refused}}, []string{"do seal", "ask stop"}, map[string]Result{"stop": Refused, "told": Skipped}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			did, state := story(t, tt.steps, env, tt.results)
			if diff := cmp.Diff(tt.want, did); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for path, want := range tt.ends {
				if state[path] == nil || state[path].Result != want {
					t.Errorf("%s ended as %+v, want %s", path, state[path], want)
				}
			}
		})
	}
}

// A run has an end though nothing of it ends.
func TestRunEnds(t *testing.T) {
	p, err := Compile("p.yaml", []byte(strings.Replace(good, "title: Stop", "title: Stop\ntimeout: 1h", 1)), actions())
	if err != nil {
		t.Fatal(err)
	}
	state := make(State)
	if next := p.Advance(noon(), Env{}, state); len(next.Commands) != 1 || !next.Wake.Equal(noon().Add(time.Hour)) {
		t.Fatalf("%+v", next)
	}
	if next := p.Advance(noon().Add(time.Hour), Env{}, state); !next.Finished || state["seal"].Result != TimedOut {
		t.Fatalf("%+v %+v", next, state["seal"])
	}
}

// What was approved in a fallback is carried out, though the time of all that is around it is over.
func TestApprovedInAFallback(t *testing.T) {
	steps := "  - {id: seal, do: seal, class: record}\n  - id: both\n    timeout: 10m\n    parallel:\n      mode: settled\n      branches:\n        - name: x\n          steps:\n" +
		"            - {id: look, do: triage, class: record, fallback: [{id: stop, do: quarantine, class: contain, after: [seal], target: agent, lease: 1h, ask: {deadline: 9m, on_expiry: deny}}]}\n"
	p, err := Compile("p.yaml", []byte("name: p\nversion: 1.0.0\ntitle: P\nsteps:\n"+steps), actions())
	if err != nil {
		t.Fatal(err)
	}
	state := make(State)
	for _, want := range []struct {
		command string
		result  Result
	}{{"do seal", Done}, {"do look", Failed}, {"ask stop", Approved}} {
		next := p.Advance(noon(), Env{}, state)
		if len(next.Commands) != 1 || next.Commands[0].key() != want.command {
			t.Fatalf("it does %+v, want %s", next.Commands, want.command)
		}
		p.Report(noon(), Env{}, state, next.Commands[0], want.result, "")
	}
	next := p.Advance(noon().Add(10*time.Minute), Env{}, state)
	if next.Finished || len(next.Commands) != 1 || next.Commands[0].key() != "do stop" {
		t.Fatalf("what was approved is forgotten: %+v", next)
	}
	p.Report(noon().Add(11*time.Minute), Env{}, state, next.Commands[0], Done, "")
	if next := p.Advance(noon().Add(11*time.Minute), Env{}, state); !next.Finished || state["stop"].Result != Done || state["both"].Result != TimedOut {
		t.Errorf("%+v, %+v, %+v", next, state["stop"], state["both"])
	}
}

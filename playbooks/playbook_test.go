package playbooks

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

var actions = map[string]approval.Class{"quarantine": approval.Contain, "notify": approval.Speak, "erase": approval.Destroy, "lookup": approval.Observe}

const good = `name: stop
version: 1.0.0
title: Stop
steps:
  - {id: seal, do: seal, class: record}
  - id: cut
    do: quarantine
    class: contain
    after: [seal]
    target: agent
    lease: 60m
    ask: {deadline: 15m, on_expiry: deny}
`

func TestCompileRefuses(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"no question", "    ask: {deadline: 15m, on_expiry: deny}\n", "", `p.yaml: step "cut": ask: is missing: a step of class contain asks a human first`},
		{"no evidence first", "    after: [seal]\n", "", `p.yaml: step "cut": after: must name the seal step: evidence is secured before anything is changed`},
		{"silence approves", "on_expiry: deny", "on_expiry: approve", `p.yaml: step "cut": ask.on_expiry: "approve": silence denies or escalates, it never approves`},
		{"silence is open", ", on_expiry: deny", "", `p.yaml: step "cut": ask.on_expiry: "": silence denies or escalates, it never approves`},
		{"no deadline", "deadline: 15m, ", "", `p.yaml: step "cut": ask.deadline: want more than 0 and at most 24h0m0s`},
		{"long deadline", "15m", "25h", `p.yaml: step "cut": ask.deadline: want more than 0 and at most 24h0m0s`},
		{"no lease", "    lease: 60m\n", "", `p.yaml: step "cut": lease: want more than 0 and at most 168h0m0s: a containment ends by itself`},
		{"long lease", "60m", "169h", `p.yaml: step "cut": lease: want more than 0 and at most 168h0m0s: a containment ends by itself`},
		{"no duration", "60m", "soon", `p.yaml:11: want a duration such as 90s, 10m or 24h, got text (soon)`},
		{"negative lease", "60m", "-1m", `p.yaml: step "cut": lease: want more than 0`},
		{"unknown target", "target: agent", "target: host", `p.yaml: step "cut": target: "host" is not one of agent, session, tool`},
		{"class of another", "class: contain", "class: observe", `p.yaml: step "cut": class: "observe", but quarantine is of class contain`},
		{"no class", "    class: contain\n", "", `p.yaml: step "cut": class: "", but quarantine is of class contain`},
		{"unknown action", "do: quarantine", "do: quarantin", `p.yaml: step "cut": do: "quarantin" is neither a step of Tocsin's own nor an action`},
		{"unknown key", "target: agent", "targets: agent", "targets"},
		{"unknown track", "do: seal, class: record", "do: investigate, class: observe, tracks: [weather]", `p.yaml: step "seal": tracks: "weather" is not one of identity, data, peers`},
		{"later step", "do: seal, class", "after: [cut], do: seal, class", `p.yaml: step "seal": after: there is no earlier step "cut"`},
		{"id twice", "id: cut", "id: seal", `p.yaml: step "seal": id: is empty or used twice`},
		{"no id", "id: cut", `id: ""`, `p.yaml: step "": id: is empty or used twice`},
		{"lease of bookkeeping", "do: seal, class", "lease: 1m, do: seal, class", `p.yaml: step "seal": ask, lease and target belong to gated steps, and seal is not one`},
		{"no name", "name: stop\n", "", "p.yaml: want name, version, title and 1 to 64 steps"},
		{"too large", "title: Stop", "title: " + strings.Repeat("x", maxBytes), "a playbook has at most 65536"},
	}
	if _, err := Compile("p.yaml", []byte(good), actions); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(good, tt.old) {
				t.Fatalf("%q is not in the playbook", tt.old)
			}
			_, err := Compile("p.yaml", []byte(strings.Replace(good, tt.old, tt.new, 1)), actions)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "p.yaml") {
				t.Errorf("Compile = %v, want %s", err, tt.want)
			}
		})
	}
	many := strings.Replace(good, "  - {id: seal", strings.Repeat("  - {id: x, do: seal, class: record}\n", maxSteps)+"  - {id: seal", 1)
	if _, err := Compile("p.yaml", []byte(many), actions); err == nil {
		t.Error("a playbook of 66 steps compiles")
	}
	if _, err := Compile("p.yaml", []byte(good+"---\nname: other\n"), actions); err == nil {
		t.Error("a file of two documents compiles, and the second is lost")
	}
	// All mistakes are told at once.
	_, err := Compile("p.yaml", []byte(strings.NewReplacer("    lease: 60m\n", "", "do: seal", "do: sael").Replace(good)), actions)
	if err == nil || !strings.Contains(err.Error(), `"sael"`) || !strings.Contains(err.Error(), `step "cut"`) {
		t.Errorf("Compile = %v, want both mistakes", err)
	}
}

func TestLibrary(t *testing.T) {
	got, err := Read(Library, actions)
	if err != nil || len(got) == 0 {
		t.Fatal(err)
	}
	for name, p := range got {
		if p.Name != name || len(p.Digest) != 64 || p.Ref() != name+"@"+p.Digest[:12] {
			t.Errorf("%s: %+v", name, p)
		}
	}
	stop := got["quarantine-agent"].Steps[3]
	if !stop.Class.Gated() || time.Duration(stop.Lease) != time.Hour || time.Duration(stop.Ask.Deadline) != 15*time.Minute {
		t.Errorf("%+v", stop)
	}
	if _, err := Read(Library, nil); err == nil {
		t.Error("a library compiles whose actions do not exist")
	}
	twice := fstest.MapFS{"a.yaml": {Data: []byte(good)}, "b.yaml": {Data: []byte(good)}, "notes.txt": {}}
	if _, err := Read(twice, actions); err == nil || err.Error() != `b.yaml: name "stop" is taken` {
		t.Errorf("Read = %v", err)
	}
}

// anyPlaybook draws playbooks that need not compile: Next must be safe with each.
func anyPlaybook() *rapid.Generator[Playbook] {
	return rapid.Custom(func(t *rapid.T) Playbook {
		var p Playbook
		for i := range rapid.IntRange(0, 8).Draw(t, "steps") {
			s := Step{ID: fmt.Sprint("s", i), Class: rapid.SampledFrom([]approval.Class{approval.Observe, approval.Record, approval.Contain, approval.Destroy, approval.Speak, ""}).Draw(t, "class")}
			s.After = rapid.SliceOfN(rapid.SampledFrom([]string{"s0", "s1", "s2", "s3", "s7", "none"}), 0, 2).Draw(t, "after")
			p.Steps = append(p.Steps, s)
		}
		return p
	})
}

func TestNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlaybook().Draw(t, "playbook")
		state, approved := make(map[string]Result), make(map[string]bool)
		for n := 0; ; n++ {
			c := p.Next(state)
			if !cmp.Equal(c, p.Next(state)) {
				t.Fatal("the same state gives another command")
			}
			if c.Verb == Finish {
				if len(state) != len(p.Steps) {
					t.Fatalf("finished with %d of %d steps settled", len(state), len(p.Steps))
				}
				return
			}
			if n >= 2*len(p.Steps) {
				t.Fatalf("%d commands for %d steps", n+1, len(p.Steps))
			}
			switch c.Verb {
			case Do:
				if c.Step.Class.Gated() && !approved[c.Step.ID] {
					t.Fatalf("step %s of class %q is done and nobody approved it", c.Step.ID, c.Step.Class)
				}
				for _, needed := range c.Step.After {
					if state[needed] != Done {
						t.Fatalf("step %s is done before %s", c.Step.ID, needed)
					}
				}
				state[c.Step.ID] = rapid.SampledFrom([]Result{Done, Failed}).Draw(t, "result")
			case Ask:
				state[c.Step.ID] = rapid.SampledFrom([]Result{Approved, Refused}).Draw(t, "answer")
				approved[c.Step.ID] = state[c.Step.ID] == Approved
			case Skip:
				state[c.Step.ID] = Skipped
			}
		}
	})
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("name: &a [*a]\nsteps: [{id: x, do: seal, class: record}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Compile("p.yaml", text, actions)
		if err != nil {
			if !strings.Contains(err.Error(), "p.yaml") {
				t.Fatalf("an error without the file: %v", err)
			}
			return
		}
		for _, s := range p.Steps {
			if s.Class.Gated() && (s.Ask == nil || s.Ask.Deadline <= 0 || s.Lease <= 0 || len(s.After) == 0 || s.Ask.OnExpiry == "approve") {
				t.Fatalf("compiled: %+v", s)
			}
		}
	})
}

package approval

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const policies = `groups:
  leads: [bob, lea]
owners:
  - {agents: ["billing/*"], people: [carl]}
policies:
  - classes: [contain]
    from: ["slack:S0ONCALL"]
    fallback: ["file:leads"]
    deadline: 10m
  - actions: [quarantine]
    agents: ["billing/prod*"]
    need: 2
    from: ["file:leads"]
    break_glass: ["role:admin"]
    on_expiry: deny
release: {from: ["role:lead"], not: [owner]}
privileged: {agents: ["billing/prod*"], deadline: 1h}
`

func TestReadPolicies(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"nobody can answer", `    fallback: ["file:leads"]` + "\n", "", "p.yaml:6: policies.0: from: slack:S0ONCALL can be nobody, because it is looked up elsewhere: add a last resort, fallback: [\"file:x\"], or role:x beside it"},
		{"a schedule alone", `from: ["slack:S0ONCALL"]` + "\n    fallback: [\"file:leads\"]", `from: ["schedule:payments"]`, `p.yaml:6: policies.0: from: schedule:payments can be nobody, because it is looked up elsewhere: add a last resort, fallback: ["file:x"], or role:x beside it`},
		{"a schedule alone for a privileged agent", "deadline: 1h", `from: ["schedule:payments"]`, "privileged: from: schedule:payments can be nobody"},
		{"an empty group", "leads: [bob, lea]", "leads: []", `group "file:leads" has nobody: name people under groups.leads`},
		{"too few people", "need: 2", "need: 3", "p.yaml:10: policies.1: need: 3 people, but only bob, lea can answer"},
		{"too few people besides those who may not", `    from: ["file:leads"]` + "\n    break", `    from: ["file:leads"]` + "\n    not: [bob]\n    break", "need: 2 people, but only lea can answer"},
		{"unknown kind of group", "role:admin", "team:admin", `group "team:admin": "team" is not one of role, file, oidc, slack, schedule`},
		{"a role that decides nothing", "role:admin", "role:viewer", "the roles that decide are responder, lead and admin"},
		{"silence approves", "on_expiry: deny", "on_expiry: approve", `on_expiry: "approve": silence denies or escalates, it never approves`},
		{"unknown class", "[contain]", "[observe]", `classes: "observe" is not one of contain, destroy, speak`},
		{"unknown key", "need: 2", "needs: 2", `p.yaml:12:5: unknown key "needs"`},
		{"one person for a privileged agent", "deadline: 1h", "need: 1", "privileged: need: 1, want 2 or more"},
		{"too few people for a privileged agent", "deadline: 1h", `from: ["file:leads"], not: [bob]`, "privileged: need: 2 people, but only lea can answer"},
		{"privileged without agents", `{agents: ["billing/prod*"], deadline: 1h}`, "{deadline: 1h}", "privileged: agents: name them"},
		{"glass of a privileged agent", "deadline: 1h", `break_glass: ["role:admin"]`, "privileged: it takes agents, need"},
		{"no pattern of privileged agents", `privileged: {agents: ["billing/prod*"]`, `privileged: {agents: ["billing/["]`, `privileged: agents: "billing/[" is no pattern`},
		{"no pattern of owned agents", `owners:
  - {agents: ["billing/*"]`, `owners:
  - {agents: ["billing/["]`, `p.yaml:4: owners.0: agents: "billing/[" is no pattern`},
		{"an owner of nothing", `  - {agents: ["billing/*"], people`, "  - {people", "owners.0: name the agents"},
		{"agents of nobody", ", people: [carl]", "", "owners.0: name the agents"},
		{"a group of no kind", "slack:S0ONCALL", "oncall", `group "oncall": want role:`},
		{"an approver made at run time", "slack:S0ONCALL", "slack:${group}", `group "slack:${group}": want role:`},
		{"more people than anybody has", "need: 2", "need: 11", "need: 11, want at most 10"},
		{"fewer people than nobody", "need: 2", "need: -1", "need: -1, want at most 10"},
		{"a long deadline", "deadline: 10m", "deadline: 25h", "deadline: 25h0m0s, want at most 24h"},
		{"a rung after the end", "on_expiry: deny", "escalate: [{at: 100, tell: [role:lead]}]", "escalate.at: 100, want 1 to 99 percent"},
		{"a rung before the question", "on_expiry: deny", "escalate: [{at: 0, tell: [role:lead]}]", "escalate.at: 0, want 1 to 99 percent"},
		{"a rung that tells nobody known", "on_expiry: deny", `escalate: [{at: 50, tell: ["file:sec"]}]`, `group "file:sec" has nobody`},
		{"a group of everybody who may not", `    from: ["file:leads"]` + "\n    break", `    from: ["file:leads"]` + "\n    not: [bob, lea]\n    break", "from: file:leads can be nobody"},
		{"a key for a glass that is none", `break_glass: ["role:admin"]`, "break_glass: {require_key: true}", "break_glass: require_key without from"},
		{"an unknown key of the glass", `break_glass: ["role:admin"]`, `break_glass: {from: ["role:admin"], key: true}`, `unknown key "key"`},
		{"no pattern", "billing/prod*", "billing/[", `agents: "billing/[" is no pattern`},
	}
	if _, err := ReadPolicies("p.yaml", []byte(policies)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPolicies("p.yaml", nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(policies, tt.old) {
				t.Fatalf("%q is not in the policies", tt.old)
			}
			_, err := ReadPolicies("p.yaml", []byte(strings.Replace(policies, tt.old, tt.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadPolicies = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestAsk(t *testing.T) {
	p, err := ReadPolicies("p.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	asked := Policy{Deadline: 15 * time.Minute, OnExpiry: "escalate"}
	rungs := []Rung{{After: 150 * time.Second}, {After: 5 * time.Minute, Tell: []string{"file:leads"}}, {After: 8 * time.Minute, Tell: []string{"role:lead"}}}
	type answer struct {
		Terms    Terms
		Deadline time.Duration
		OnExpiry string
	}
	tests := []struct {
		name string
		plan Plan
		want answer
	}{
		{"contain", Plan{Action: "quarantine", Class: Contain, Target: Target{Agent: "ops/x"}}, answer{
			Terms{Need: 1, From: []Approvers{{Groups: []string{"slack:S0ONCALL"}, Later: rungs}}, Ladder: rungs}, 10 * time.Minute, "escalate",
		}},
		{"the strictest of two", Plan{Action: "quarantine", Class: Contain, Target: Target{Agent: "billing/prod-1"}}, answer{
			Terms{Need: 2, From: []Approvers{{Groups: []string{"slack:S0ONCALL"}, Later: rungs}, {Groups: []string{"file:leads"}}}, Ladder: rungs}, 10 * time.Minute, "deny",
		}},
		{"destroy without a policy", Plan{Action: "erase", Class: Destroy, Target: Target{Agent: "ops/x"}}, answer{
			Terms{Need: 2, From: []Approvers{{Groups: []string{"role:lead"}}}, StepUp: true, Ladder: []Rung{{After: 225 * time.Second}, {After: 450 * time.Second}, {After: 12 * time.Minute, Tell: []string{"role:lead"}}}}, 15 * time.Minute, "escalate",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got answer
			got.Terms, got.Deadline, got.OnExpiry = p.Ask(tt.plan, asked)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What a policy says of escalation stands in the place of a quarter, half and four fifths of the time, and a playbook's own number of
// people is not lowered by one.
func TestAskAsPoliciesSay(t *testing.T) {
	text := strings.NewReplacer(`fallback: ["file:leads"]`, `fallback: ["file:leads"]`+"\n    escalate: [{at: 30, tell: [\"file:leads\"]}, {at: 90, tell: [\"role:admin\"]}]\n    not: [owner, eve]").Replace(policies)
	p, err := ReadPolicies("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got, deadline, onExpiry := p.Ask(Plan{Action: "read-only", Class: Contain, Target: Target{Agent: "billing/bot"}}, Policy{Deadline: time.Hour, OnExpiry: "deny", Need: 3, From: []string{"role:lead"}})
	rungs := []Rung{{After: 3 * time.Minute, Tell: []string{"file:leads"}}, {After: 9 * time.Minute, Tell: []string{"role:admin"}}}
	want := Terms{Need: 3, From: []Approvers{{Groups: []string{"role:lead"}}, {Groups: []string{"slack:S0ONCALL"}, Later: rungs}}, Not: []string{"carl", "eve"}, Ladder: rungs}
	if diff := cmp.Diff(want, got); diff != "" || deadline != 10*time.Minute || onExpiry != "deny" {
		t.Errorf("deadline %s, %s (-want +got):\n%s", deadline, onExpiry, diff)
	}
	r := Request{Asked: clock(), Terms: got}
	for after, want := range map[time.Duration]int{0: 0, 3*time.Minute - 1: 0, 3 * time.Minute: 1, 9*time.Minute - 1: 1, 9 * time.Minute: 2, time.Hour: 2} {
		if level := r.Level(clock().Add(after)); level != want {
			t.Errorf("after %s the level is %d, want %d", after, level, want)
		}
	}
}

// Whatever policies there are, a question is no easier and lasts no longer than its playbook and its class ask, and silence does not begin
// to mean more.
func TestPoliciesOnlyTighten(t *testing.T) {
	group := rapid.SampledFrom([]string{"role:responder", "role:lead", "slack:S1", "oidc:sec"})
	policy := rapid.Custom(func(t *rapid.T) Policy {
		return Policy{
			Classes: rapid.SliceOfN(rapid.SampledFrom([]Class{Contain, Destroy, Speak}), 0, 1).Draw(t, "classes"), Agents: rapid.SliceOfN(rapid.SampledFrom([]string{"a*", "b"}), 0, 1).Draw(t, "agents"),
			Need: rapid.IntRange(0, 4).Draw(t, "need"), From: rapid.SliceOfN(group, 0, 2).Draw(t, "from"), Fallback: rapid.SliceOfN(group, 0, 1).Draw(t, "fallback"),
			Not: rapid.SliceOfN(rapid.SampledFrom([]string{"owner", "eve"}), 0, 1).Draw(t, "not"), Deadline: time.Duration(rapid.IntRange(0, 90).Draw(t, "deadline")) * time.Minute,
			OnExpiry: rapid.SampledFrom([]string{"", "deny", "escalate"}).Draw(t, "on expiry"), StepUp: rapid.Bool().Draw(t, "step up"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		p := Policies{Owners: []Owner{{Agents: []string{"*"}, People: []string{"carl"}}}, Policies: rapid.SliceOfN(policy, 0, 4).Draw(t, "policies")}
		plan := Plan{Action: "x", Class: rapid.SampledFrom([]Class{Contain, Destroy, Speak}).Draw(t, "class"), Target: Target{Agent: "ab"}}
		asked := Policy{Deadline: time.Hour, OnExpiry: rapid.SampledFrom([]string{"deny", "escalate"}).Draw(t, "silence"), Need: rapid.IntRange(0, 3).Draw(t, "asked"), From: rapid.SliceOfN(group, 0, 2).Draw(t, "of")}
		terms, deadline, onExpiry := p.Ask(plan, asked)
		if terms.Need < asked.Need || terms.Need < plan.Class.Least() || deadline > time.Hour || deadline <= 0 {
			t.Fatalf("%+v within %s", terms, deadline)
		}
		if onExpiry != "deny" && (onExpiry != "escalate" || asked.OnExpiry == "deny") {
			t.Fatalf("silence means %q, and the playbook says %q", onExpiry, asked.OnExpiry)
		}
		if plan.Class != Contain && !terms.StepUp {
			t.Fatalf("%s without a second factor: %+v", plan.Class, terms)
		}
		for _, one := range append(p.Policies, asked) {
			if one.applies(plan) && (one.StepUp && !terms.StepUp || one.Need > terms.Need || one.Deadline > 0 && deadline > one.Deadline) {
				t.Fatalf("%+v is easier than %+v", terms, one)
			}
		}
		if !slices.IsSortedFunc(terms.Ladder, func(a, b Rung) int { return int(a.After - b.After) }) || len(terms.Ladder) == 0 || terms.Ladder[len(terms.Ladder)-1].After >= deadline {
			t.Fatalf("the ladder of %s is %+v", deadline, terms.Ladder)
		}
	})
}

// The glass is a list of who may, or says too that they need a key.
func TestGlass(t *testing.T) {
	for text, want := range map[string]Terms{
		`break_glass: ["role:admin"]`:                             {BreakGlass: []string{"role:admin"}},
		`break_glass: {from: ["role:admin"], require_key: true}`:  {BreakGlass: []string{"role:admin"}, GlassKey: true},
		`break_glass: {from: ["role:admin"], require_key: false}`: {BreakGlass: []string{"role:admin"}},
	} {
		p, err := ReadPolicies("p.yaml", []byte("policies:\n  - need: 2\n    "+text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		got, _, _ := p.Ask(Plan{Class: Contain}, Policy{Deadline: time.Hour})
		if diff := cmp.Diff(want, Terms{BreakGlass: got.BreakGlass, GlassKey: got.GlassKey}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// The owner of an agent may contain it, and may not release it.
func TestOwner(t *testing.T) {
	p, err := ReadPolicies("p.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	carl := Principal{ID: "carl", Role: Lead, Groups: append(p.GroupsOf("carl"), "slack:S0ONCALL")}
	r, d := asked(t)
	r.Asked, d.By = clock(), carl
	if r.Terms, _, _ = p.Ask(r.Plan, Policy{Deadline: time.Hour}); Check(&r, d, clock()) != nil {
		t.Errorf("the owner may not contain: %v", Check(&r, d, clock()))
	}
	if err := p.Releases("billing/bot").Lets(carl); Kind(err) != RefusedExcluded {
		t.Errorf("the owner may release: %v", err)
	}
	if err := p.Releases("billing/bot").Lets(Principal{ID: "lea", Role: Lead}); err != nil {
		t.Errorf("another lead may not release: %v", err)
	}
	if err := (Policies{}).Releases("billing/bot").Lets(Principal{ID: "ana", Role: Responder}); Kind(err) != RefusedRole {
		t.Errorf("a responder may release: %v", err)
	}
	if diff := cmp.Diff([]string{"file:leads"}, p.GroupsOf("bob")); diff != "" {
		t.Error(diff)
	}
}

// Where it is known that a schedule is empty, those of the fallback may answer at once, and nobody else.
func TestAskVacant(t *testing.T) {
	text := strings.ReplaceAll(policies, "slack:S0ONCALL", "schedule:payments")
	p, err := ReadPolicies("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"payments"}, p.Schedules()); diff != "" {
		t.Error(diff)
	}
	tests := []struct {
		name   string
		vacant func(string) bool
		want   []string
	}{
		{"nothing is known", nil, []string{"schedule:payments"}},
		{"somebody is on call", func(string) bool { return false }, []string{"schedule:payments"}},
		{"nobody is on call", func(g string) bool { return g == "schedule:payments" }, []string{"schedule:payments", "file:leads"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p.Vacant = tt.vacant
			terms, _, _ := p.Ask(Plan{Action: "quarantine", Class: Contain, Target: Target{Agent: "ops/x"}}, Policy{Deadline: time.Hour})
			if diff := cmp.Diff(tt.want, terms.From[0].Groups); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzReadPolicies(f *testing.F) {
	f.Add([]byte(policies))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ReadPolicies("p.yaml", text)
		if err != nil {
			return
		}
		terms, _, onExpiry := p.Ask(Plan{Action: "erase", Class: Destroy}, Policy{Deadline: time.Hour, OnExpiry: "deny"})
		if terms.Need < 2 || !terms.StepUp || onExpiry != "deny" {
			t.Fatalf("a policy weakened a playbook: %+v", terms)
		}
	})
}

func TestLoosens(t *testing.T) {
	p, err := ReadPolicies("p.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := p.Loosens("billing/test"); ok {
		t.Error("an agent that the policy does not name is privileged")
	}
	terms, deadline, ok := p.Loosens("billing/prod-1")
	want := Terms{Need: 2, Not: []string{"carl"}, From: []Approvers{{Groups: []string{"role:lead"}}}}
	if diff := cmp.Diff(want, terms); diff != "" || deadline != time.Hour || !ok {
		t.Errorf("privileged %t, deadline %s\n%s", ok, deadline, diff)
	}
}

// Whoever signs in whatever order, a change is approved only by as many different leads as it needs, none of whom owns the agent.
func TestLoosenNeedsDifferentPeople(t *testing.T) {
	p, err := ReadPolicies("p.yaml", []byte(policies))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		terms, _, _ := p.Loosens("billing/prod-1")
		terms.Need = rapid.IntRange(2, 3).Draw(t, "need")
		now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		r := Request{ID: "R", State: Pending, Requester: "baseline:rebase", Agents: []string{"billing/prod-1"}, Deadline: now.Add(time.Hour), Terms: terms}
		r.Plan = Plan{Action: "rebase", Class: Record, Target: Target{Agent: "billing/prod-1"}, Need: terms.Need}
		r.Question = r.Plan.Question()
		r.Digest, _ = DigestOf(r.Plan)
		signed := make(map[string]bool)
		for _, who := range rapid.SliceOfN(rapid.SampledFrom([]string{"bob", "lea", "max", "carl", "ana", "billing/prod-1"}), 1, 12).Draw(t, "who") {
			role := Lead
			if who == "ana" {
				role = Responder
			}
			d := Decision{Request: "R", Verb: Approve, Digest: r.Digest, By: Principal{ID: who, Role: role}, Reason: "looked", At: now}
			err := Check(&r, d, now)
			if may := r.State == Pending && !signed[who] && (who == "bob" || who == "lea" || who == "max"); may != (err == nil) {
				t.Fatalf("%s with %v signed: %v", who, signed, err)
			}
			if err == nil {
				r.Answer(d)
				signed[who] = true
			}
			if (r.State == Approved) != (len(signed) >= terms.Need) {
				t.Fatalf("%s with %d of %d", r.State, len(signed), terms.Need)
			}
		}
	})
}

package approval

import (
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
		{"nobody can answer", `    fallback: ["file:leads"]` + "\n", "", "p.yaml:6: policies.0: from: all of these groups are looked up elsewhere and can be empty: name a fallback, role:x or file:x"},
		{"an empty group", "leads: [bob, lea]", "leads: []", `group "file:leads" has nobody: name people under groups.leads`},
		{"too few people", "need: 2", "need: 3", "p.yaml:10: policies.1: need: 3 people, but only bob, lea can answer"},
		{"too few people besides those who may not", `    from: ["file:leads"]` + "\n    break", `    from: ["file:leads"]` + "\n    not: [bob]\n    break", "need: 2 people, but only lea can answer"},
		{"unknown kind of group", "role:admin", "team:admin", `group "team:admin": "team" is not one of role, file, oidc, slack`},
		{"a role that decides nothing", "role:admin", "role:viewer", "the roles that decide are responder, lead and admin"},
		{"silence approves", "on_expiry: deny", "on_expiry: approve", `on_expiry: "approve": silence denies or escalates, it never approves`},
		{"unknown class", "[contain]", "[observe]", `classes: "observe" is not one of contain, destroy, speak`},
		{"unknown key", "need: 2", "needs: 2", `p.yaml:12:5: unknown key "needs"`},
		{"one person for a privileged agent", "deadline: 1h", "need: 1", "privileged: need: 1, want 2 or more"},
		{"too few people for a privileged agent", "deadline: 1h", `from: ["file:leads"], not: [bob]`, "privileged: need: 2 people, but only lea can answer"},
		{"privileged without agents", `{agents: ["billing/prod*"], deadline: 1h}`, "{deadline: 1h}", "privileged: agents: name them"},
		{"glass of a privileged agent", "deadline: 1h", `break_glass: ["role:admin"]`, "privileged: it takes agents, need"},
		{"no pattern of privileged agents", `privileged: {agents: ["billing/prod*"]`, `privileged: {agents: ["billing/["]`, `privileged: agents: "billing/[" is no pattern`},
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

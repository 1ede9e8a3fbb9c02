package approval

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTerms(t *testing.T) {
	person := func(id string, role Role, groups ...string) Principal {
		return Principal{ID: id, Role: role, Groups: groups}
	}
	approve := func(by Principal) Decision { return Decision{Verb: Approve, By: by, Reason: "it leaks"} }
	one, _ := asked(t)
	digest := one.Digest
	tests := []struct {
		name  string
		terms Terms
		votes []string
		d     Decision
		after time.Duration
		want  string
	}{
		{"any responder", Terms{}, nil, approve(person("ada", Responder)), 0, ""},
		{"of the group", Terms{From: []Approvers{{Groups: []string{"slack:S1"}}}}, nil, approve(person("ada", Responder, "slack:S1")), 0, ""},
		{"not of the group", Terms{From: []Approvers{{Groups: []string{"slack:S1"}}}}, nil, approve(person("ada", Admin, "slack:S2")), 0, RefusedRole},
		{"of one set of two", Terms{From: []Approvers{{Groups: []string{"slack:S1"}}, {Groups: []string{"oidc:sec"}}}}, nil, approve(person("ada", Lead, "slack:S1")), 0, RefusedRole},
		{"of both sets", Terms{From: []Approvers{{Groups: []string{"slack:S1"}}, {Groups: []string{"oidc:sec"}}}}, nil, approve(person("ada", Lead, "slack:S1", "oidc:sec")), 0, ""},
		{"by a higher role", Terms{From: []Approvers{{Groups: []string{"role:lead"}}}}, nil, approve(person("ada", Admin)), 0, ""},
		{"by a lower role", Terms{From: []Approvers{{Groups: []string{"role:lead"}}}}, nil, approve(person("ada", Responder)), 0, RefusedRole},
		{"before the rung", Terms{From: []Approvers{{[]string{"slack:S1"}, []Rung{{5 * time.Minute, []string{"role:lead"}}}}}}, nil, approve(person("ada", Lead)), 4 * time.Minute, RefusedRole},
		{"on the rung", Terms{From: []Approvers{{[]string{"slack:S1"}, []Rung{{5 * time.Minute, []string{"role:lead"}}}}}}, nil, approve(person("ada", Lead)), 5 * time.Minute, ""},
		{"excluded", Terms{Not: []string{"ada"}}, nil, approve(person("ada", Admin)), 0, RefusedExcluded},
		{"twice", Terms{Need: 2}, []string{"ada"}, approve(person("ada", Lead)), 0, RefusedDecided},
		{"changes their mind", Terms{Need: 2}, []string{"ada"}, Decision{Verb: Deny, By: person("ada", Lead), Reason: "no, wait"}, 0, ""},
		{"the second", Terms{Need: 2}, []string{"ada"}, approve(person("bob", Lead)), 0, ""},
		{"no second factor", Terms{StepUp: true}, nil, approve(person("ada", Lead)), 0, RefusedStepUp},
		{"an old second factor", Terms{StepUp: true}, nil, approve(Principal{ID: "ada", Role: Lead, Proved: clock(), ProvedFor: digest}), 6 * time.Minute, RefusedStepUp},
		{"a second factor", Terms{StepUp: true}, nil, approve(Principal{ID: "ada", Role: Lead, Proved: clock(), ProvedFor: digest}), time.Minute, ""},
		{"a second factor for something else", Terms{StepUp: true}, nil, approve(Principal{ID: "ada", Role: Lead, Proved: clock(), ProvedFor: "keys"}), time.Minute, RefusedStepUp},
		{"a denial needs no second factor", Terms{StepUp: true}, nil, Decision{Verb: Deny, By: person("ada", Lead), Reason: "no need"}, 0, ""},
		{"breaks the glass", Terms{Need: 2, BreakGlass: []string{"role:lead"}}, nil, Decision{Verb: Approve, BreakGlass: true, By: person("ada", Lead), Reason: "nobody else answers the pager"}, 0, ""},
		{"has a key and breaks the glass without it", Terms{Need: 2, BreakGlass: []string{"role:lead"}}, nil, Decision{Verb: Approve, BreakGlass: true, By: Principal{ID: "ada", Role: Lead, Keyed: true}, Reason: "nobody else answers the pager"}, 0, RefusedStepUp},
		{"has a key and breaks the glass with it", Terms{Need: 2, BreakGlass: []string{"role:lead"}}, nil, Decision{Verb: Approve, BreakGlass: true, By: Principal{ID: "ada", Role: Lead, Keyed: true, Proved: clock(), ProvedFor: digest}, Reason: "nobody else answers the pager"}, time.Minute, ""},
		{"has a key and breaks the glass with an old proof", Terms{Need: 2, BreakGlass: []string{"role:lead"}}, nil, Decision{Verb: Approve, BreakGlass: true, By: Principal{ID: "ada", Role: Lead, Keyed: true, Proved: clock(), ProvedFor: digest}, Reason: "nobody else answers the pager"}, 6 * time.Minute, RefusedStepUp},
		{"has no key where the glass needs one", Terms{Need: 2, BreakGlass: []string{"role:lead"}, GlassKey: true}, nil, Decision{Verb: Approve, BreakGlass: true, By: person("ada", Lead), Reason: "nobody else answers the pager"}, 0, RefusedStepUp},
		{"breaks the glass with few words", Terms{Need: 2, BreakGlass: []string{"role:lead"}}, nil, Decision{Verb: Approve, BreakGlass: true, By: person("ada", Lead), Reason: "urgent"}, 0, RefusedReason},
		{"may not break the glass", Terms{Need: 2}, nil, Decision{Verb: Approve, BreakGlass: true, By: person("ada", Admin), Reason: "nobody else answers the pager"}, 0, RefusedRole},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := asked(t)
			r.Asked, r.Terms = clock(), tt.terms
			for _, v := range tt.votes {
				r.Answer(approve(person(v, Lead)))
			}
			tt.d.Request, tt.d.Digest = r.ID, r.Digest
			if err := Check(&r, tt.d, clock().Add(tt.after)); Kind(err) != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("Check = %v (%q), want %q", err, Kind(err), tt.want)
			}
		})
	}
}

// However people answer, a request is approved only by as many different people as it needs, and by nobody who denied it.
func TestQuorum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, _ := asked(t)
		r.Terms.Need = rapid.IntRange(0, 3).Draw(rt, "need")
		denied := false
		for n := range rapid.IntRange(0, 8).Draw(rt, "answers") {
			who := fmt.Sprintf("p%d", rapid.IntRange(0, 3).Draw(rt, "who"))
			d := Decision{Request: r.ID, Digest: r.Digest, Verb: rapid.SampledFrom([]Verb{Approve, Approve, Approve, Deny}).Draw(rt, "verb"), By: Principal{ID: who, Role: Responder}, Reason: "it leaks", At: clock().Add(time.Duration(n))}
			if Check(&r, d, d.At) == nil {
				r.Answer(d)
				denied = denied || d.Verb == Deny
			}
		}
		people := make(map[string]bool)
		for _, v := range r.Votes {
			people[v.By.ID] = true
		}
		if len(people) != len(r.Votes) || denied == (r.State == Approved && len(people) > 0) && denied {
			rt.Fatalf("%+v", r)
		}
		if want := len(people) >= max(1, r.Terms.Need) && !denied; (r.State == Approved) != want {
			rt.Fatalf("state %s of %d approvals of %d, denied %v", r.State, len(people), r.Terms.Need, denied)
		}
	})
}

// What merges is as strict as each part: whom the merged terms let answer, each part does.
func TestMergeIsStrictest(t *testing.T) {
	group := rapid.SampledFrom([]string{"role:responder", "role:lead", "slack:S1", "oidc:sec"})
	terms := rapid.Custom(func(t *rapid.T) Terms {
		out := Terms{
			Need: rapid.IntRange(0, 3).Draw(t, "need"), StepUp: rapid.Bool().Draw(t, "step up"),
			Not: rapid.SliceOfN(rapid.SampledFrom([]string{"ada", "bob"}), 0, 2).Draw(t, "not"), BreakGlass: rapid.SliceOfN(group, 0, 2).Draw(t, "break glass"),
			GlassKey: rapid.Bool().Draw(t, "glass key"),
		}
		for range rapid.IntRange(0, 2).Draw(t, "sets") {
			out.From = append(out.From, Approvers{rapid.SliceOfN(group, 1, 2).Draw(t, "set"), []Rung{{time.Minute, rapid.SliceOfN(group, 0, 1).Draw(t, "later")}}})
		}
		return out
	})
	rapid.Check(t, func(rt *rapid.T) {
		a, b := terms.Draw(rt, "a"), terms.Draw(rt, "b")
		r, d := asked(t)
		d.By = Principal{ID: rapid.SampledFrom([]string{"ada", "bob", "eve"}).Draw(rt, "who"), Role: rapid.SampledFrom([]Role{Responder, Lead}).Draw(rt, "role"), Groups: rapid.SliceOfN(group, 0, 3).Draw(rt, "groups")}
		if d.BreakGlass = rapid.Bool().Draw(rt, "breaks"); d.BreakGlass {
			d.Reason = "nobody else answers the pager"
		}
		r.Asked, r.Terms = clock(), a.Merge(b)
		at := clock().Add(time.Duration(rapid.IntRange(0, 2).Draw(rt, "minutes")) * time.Minute)
		if Check(&r, d, at) != nil {
			return
		}
		for _, part := range []Terms{a, b} {
			if r.Terms = part; Check(&r, d, at) != nil {
				rt.Fatalf("%+v and %+v let %+v answer, and %+v alone does not", a, b, d.By, part)
			}
		}
		if merged := a.Merge(b); merged.Need < max(a.Need, b.Need) {
			rt.Fatalf("%+v needs fewer than its parts", merged)
		}
	})
}

func TestSays(t *testing.T) {
	got := Terms{Need: 2, From: []Approvers{{Groups: []string{"slack:S1", "role:lead"}}, {Groups: []string{"oidc:sec"}}}, StepUp: true}.Says()
	if diff := cmp.Diff("2 of slack:S1 or role:lead, and of oidc:sec, with a second factor", got); diff != "" {
		t.Error(diff)
	}
	if got := (Terms{}).Says(); got != "1 of responder" {
		t.Error(got)
	}
}

func TestEnough(t *testing.T) {
	p := plan()
	p.Need = 2
	digest, err := DigestOf(p)
	if err != nil {
		t.Fatal(err)
	}
	grant := func(who string, broken bool) Grant {
		r := Request{ID: "r", Plan: p, Digest: digest, Deadline: clock(), Terms: Terms{Need: 2}}
		g, err := signer().Sign(r, Decision{Request: "r", Verb: Approve, Digest: digest, By: Principal{ID: who}, At: clock(), BreakGlass: broken})
		if err != nil {
			t.Fatal(err)
		}
		return *g
	}
	tests := []struct {
		name   string
		grants []Grant
		want   string
	}{
		{"two people", []Grant{grant("ada", false), grant("bob", false)}, ""},
		{"one person twice", []Grant{grant("ada", false), grant("ada", false)}, "1 of 2 different people"},
		{"nobody", nil, "0 of 2"},
		{"one who broke the glass", []Grant{grant("ada", true)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Enough(tt.grants, signer().Public(), "r", p, clock())
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Enough = %v, want %q", err, tt.want)
			}
		})
	}
	if err := Enough(slices.Clone(tests[0].grants), signer().Public(), "other", p, clock()); err == nil {
		t.Error("grants of another request are enough")
	}
}

package ui

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// withKeys puts security keys into the bench.
func (b *bench) withKeys(t *testing.T) {
	t.Helper()
	for i, k := range []store.SecurityKey{
		{ID: "k1", Person: "ana", Name: "blue", First: true, Added: b.at("09:00:00.000"), Used: b.at("13:00:00.000")},
		{ID: "k2", Person: "max", Name: "<script>", First: true, Added: b.at("10:00:00.000")},
	} {
		if err := b.store.AddSecurityKey(t.Context(), k, 0); err != nil {
			t.Fatal(i, err)
		}
	}
}

func TestKeysPage(t *testing.T) {
	tests := []struct {
		name      string
		role      approval.Role
		provedFor string
		ago       time.Duration
		want      []string
		not       []string
	}{
		{"a lead", approval.Lead, "", 0, []string{"blue", "the sign-in alone", `data-prove="keys"`}, []string{">max<", "/remove", "data-register"}},
		{"with a proof", approval.Lead, "keys", time.Minute, []string{"/keys/k1/remove", "data-register"}, []string{">max<", "data-prove"}},
		{"with an old proof", approval.Lead, "keys", time.Hour, []string{"data-prove"}, []string{"/remove", "data-register"}},
		{"with a proof for a plan", approval.Lead, "x", time.Minute, []string{"data-prove"}, []string{"/remove"}},
		{"an admin", approval.Admin, "", 0, []string{">max<", "/keys/k2/remove", "&lt;script&gt;"}, []string{"/keys/k1/remove", "<script>"}},
		{"a viewer", approval.Viewer, "", 0, []string{"responder or above"}, []string{"blue"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.withKeys(t)
			b.role, b.provedFor, b.proved = tt.role, tt.provedFor, b.now.Add(-tt.ago)
			_, page := b.get("/keys")
			for _, w := range tt.want {
				if !strings.Contains(page, w) {
					t.Errorf("the page lacks %q", w)
				}
			}
			for _, w := range tt.not {
				if strings.Contains(page, w) {
					t.Errorf("the page has %q", w)
				}
			}
		})
	}
}

// Whoever is shown a question has it open; nobody has one open that is settled.
func TestLooking(t *testing.T) {
	b := newBench(t, nil)
	b.get("/approvals/" + reqID)
	b.get("/incidents/" + incID)
	b.get("/approvals/REQ-past")
	b.get("/approvals")
	if diff := cmp.Diff([]string{"ana " + reqID, "ana " + reqID}, b.actor.looked); diff != "" {
		t.Error(diff)
	}
}

// A broken glass is shown to the lead who may review it, and not to whoever broke it.
func TestReview(t *testing.T) {
	for _, tt := range []struct {
		name, id string
		reviewed bool
		want     string
		form     bool
	}{
		{"another lead", "ana", false, "One person approved alone", true},
		{"who broke it", "max", false, "Another lead than max", false},
		{"reviewed", "ana", true, "it was right", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.id = tt.id
			b.breakGlass(t)
			if tt.reviewed {
				if err := b.store.SaveReview(t.Context(), store.Review{Request: "REQ-glass", By: "eva", Reason: "it was right", At: b.now}); err != nil {
					t.Fatal(err)
				}
			}
			_, page := b.get("/approvals/REQ-glass")
			if !strings.Contains(page, tt.want) || strings.Contains(page, "/approvals/REQ-glass/review") != tt.form {
				t.Errorf("want %q and a form %v: %s", tt.want, tt.form, page)
			}
			if _, list := b.get("/approvals?outcome=break_glass"); !strings.Contains(list, "REQ-glass") || strings.Contains(list, "REQ-past") {
				t.Error("the list of broken glasses has not just the one")
			}
		})
	}
}

// TestGlass: who may break the glass is offered it where it is in their way, and nobody else.
func TestGlass(t *testing.T) {
	for _, tt := range []struct {
		name  string
		terms approval.Terms
		role  approval.Role
		want  bool
	}{
		{"two are needed", approval.Terms{Need: 2, BreakGlass: []string{"role:lead"}}, approval.Lead, true},
		{"a second factor is needed", approval.Terms{StepUp: true, BreakGlass: []string{"role:lead"}}, approval.Lead, true},
		{"others are asked", approval.Terms{From: []approval.Approvers{{Groups: []string{"file:sec"}}}, BreakGlass: []string{"role:lead"}}, approval.Lead, true},
		{"one is enough", approval.Terms{BreakGlass: []string{"role:lead"}}, approval.Lead, false},
		{"it is for others", approval.Terms{Need: 2, BreakGlass: []string{"role:admin"}}, approval.Lead, false},
		{"nobody may", approval.Terms{Need: 2}, approval.Lead, false},
		{"a viewer", approval.Terms{Need: 2, BreakGlass: []string{"role:viewer"}}, approval.Viewer, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			r := b.request(t, func(s string) string { return s })
			r.Terms = tt.terms
			if err := b.store.SaveRequest(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			b.role = tt.role
			if _, page := b.get("/approvals/" + reqID); strings.Contains(page, `name="glass"`) != tt.want {
				t.Errorf("the form is there: %v, want %v", !tt.want, tt.want)
			}
		})
	}
}

// Whoever has a key must give it before they break the glass, and whoever has none only where the policy asks for one.
func TestGlassNeedsKey(t *testing.T) {
	for _, tt := range []struct {
		name       string
		require    bool
		keyed      bool
		form       bool
		want, none string
	}{
		{"with a key", false, true, false, "Prove with a security key", "because you have none"},
		{"without one", false, false, true, "without a security key, because you have none", "Prove with a security key"},
		{"without one where it is required", true, false, false, "you have none", "because you have none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			r := b.request(t, func(s string) string { return s })
			r.Terms = approval.Terms{Need: 2, BreakGlass: []string{"role:lead"}, GlassKey: tt.require}
			if err := b.store.SaveRequest(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			b.role = approval.Lead
			if tt.keyed {
				b.withKeys(t)
			}
			if _, page := b.get("/approvals/" + reqID); strings.Contains(page, `name="glass"`) != tt.form || !strings.Contains(page, tt.want) || strings.Contains(page, tt.none) {
				t.Errorf("form %v: %s", strings.Contains(page, `name="glass"`), page)
			}
		})
	}
}

func (b *bench) breakGlass(t *testing.T) {
	t.Helper()
	r := b.request(t, func(s string) string { return s })
	r.ID, r.Incident, r.State = "REQ-glass", "INC-139bbbbb", approval.Approved
	r.Decision = &approval.Decision{
		Request: r.ID, Verb: approval.Approve, BreakGlass: true, By: approval.Principal{ID: "max", Role: approval.Lead, Via: "console"},
		Reason: "Nobody else answers the pager tonight.", At: b.at("14:03:00.000"), Looked: 41 * time.Second,
	}
	if err := b.store.SaveRequest(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// stepUp makes the open request one that needs a second factor.
func (b *bench) stepUp(t *testing.T) {
	t.Helper()
	r := b.request(t, func(s string) string { return s })
	r.Terms = approval.Terms{Need: 2, From: []approval.Approvers{{Groups: []string{"role:lead"}}}, StepUp: true, BreakGlass: []string{"role:lead"}}
	if err := b.store.SaveRequest(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

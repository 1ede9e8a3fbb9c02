package ui

import (
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// A decision in advance says where it stands, what it covers and how often it was used, and offers each person what they may do with it.
func TestStanding(t *testing.T) {
	type offer struct{ sign, revoke bool }
	none := offer{}
	for _, tt := range []struct {
		state  string
		change func(b *bench, d *approval.Standing)
		lead   offer // ana's, who did not propose it
		own    offer // max's, who did
		viewer offer
	}{
		{"Proposed", func(_ *bench, d *approval.Standing) { d.Signer = nil }, offer{true, true}, offer{false, true}, none},
		{"In force", func(*bench, *approval.Standing) {}, offer{false, true}, offer{false, true}, none},
		{"Revoked", func(b *bench, d *approval.Standing) { d.Revoked, d.RevokedBy = b.now, "eva" }, none, none, none},
		{"Ended", func(b *bench, d *approval.Standing) { d.Until = b.now }, none, none, none},
	} {
		t.Run(tt.state, func(t *testing.T) {
			b := newBench(t, nil)
			d := approval.Standing{
				ID: "SD-1", Rules: []string{"leak-<b>"}, Agents: []string{"billing/*"}, Action: "quarantine", Lease: time.Hour, PerHour: 3, Until: b.now.Add(time.Hour), Reason: "faster than <i>we</i> are",
				Proposer: approval.Principal{ID: "max"}, Proposed: b.now, Signer: &approval.Principal{ID: "lea"}, Signed: b.now,
			}
			tt.change(b, &d)
			if err := b.store.SaveStanding(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			for _, who := range []struct {
				id   string
				role approval.Role
				want offer
			}{{"ana", approval.Lead, tt.lead}, {"max", approval.Lead, tt.own}, {"vera", approval.Viewer, tt.viewer}} {
				b.id, b.role = who.id, who.role
				_, page := b.get("/approvals")
				for _, want := range []string{`data-column="State">` + tt.state + "<", "billing/*", "leak-&lt;b&gt;", "faster than &lt;i&gt;we&lt;/i&gt; are", "3 an hour"} {
					if !strings.Contains(page, want) {
						t.Errorf("%s is not shown %q", who.id, want)
					}
				}
				if got := (offer{strings.Contains(page, "/standing/SD-1/sign"), strings.Contains(page, "/standing/SD-1/revoke")}); got != who.want {
					t.Errorf("%s is offered %+v, want %+v", who.id, got, who.want)
				}
			}
		})
	}
}

// Whoever looks at any page sees that responses are halted, and by whom.
func TestHalted(t *testing.T) {
	b := newBench(t, nil)
	b.facts.halted = "ana halted them: <b>look</b>"
	for _, path := range []string{"/", "/approvals", "/incidents/" + incID, "/health"} {
		if _, page := b.get(path); !strings.Contains(page, "Responses are halted.") || !strings.Contains(page, "ana halted them: &lt;b&gt;look&lt;/b&gt;") {
			t.Errorf("%s does not say that responses are halted", path)
		}
	}
	b.facts.halted = ""
	if _, page := b.get("/"); strings.Contains(page, "Responses are halted.") {
		t.Error("the page says that responses are halted")
	}
}

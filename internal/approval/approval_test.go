package approval

import (
	"testing"
	"time"
)

func clock() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func plan() Plan {
	return Plan{
		Action: "quarantine", Class: Contain, Target: Target{Agent: "support/helper", Session: "s1", Tool: "send_mail"},
		Params: map[string]string{"scope": "session"}, Lease: time.Hour, Playbook: "contain@0123", Evidence: []string{"aa", "bb"},
		Need: 1, Change: []string{"deny every call"}, Blast: 1,
	}
}

// asked returns an open request and a decision that counts.
func asked(t *testing.T) (Request, Decision) {
	t.Helper()
	digest, err := DigestOf(plan())
	if err != nil {
		t.Fatal(err)
	}
	r := Request{
		ID: "INC-1/quarantine/1", Incident: "INC-1", Plan: plan(), Digest: digest, Requester: "playbook:contain", Question: plan().Question(),
		Agents: []string{"support/helper", "helper"}, Deadline: clock().Add(time.Hour), State: Pending,
	}
	d := Decision{Request: r.ID, Verb: Approve, Digest: digest, By: Principal{ID: "ada", Role: Responder, Via: "console"}, Reason: "it leaks", At: clock()}
	return r, d
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *Request, d *Decision)
		want   string
	}{
		{"counts", func(*Request, *Decision) {}, ""},
		{"denial counts", func(_ *Request, d *Decision) { d.Verb = Deny }, ""},
		{"at the deadline", func(r *Request, _ *Decision) { r.Deadline = clock() }, ""},
		{"admin", func(_ *Request, d *Decision) { d.By.Role = Admin }, ""},
		{"another request", func(_ *Request, d *Decision) { d.Request = "INC-2/quarantine/1" }, RefusedUnknown},
		{"no answer", func(_ *Request, d *Decision) { d.Verb = "maybe" }, RefusedUnknown},
		{"after the deadline", func(r *Request, _ *Decision) { r.Deadline = clock().Add(-1) }, RefusedLate},
		{"expired early", func(r *Request, _ *Decision) { r.State = Expired }, RefusedLate},
		{"replaced", func(r *Request, _ *Decision) { r.State = Superseded }, RefusedDigest},
		{"another plan", func(_ *Request, d *Decision) { d.Digest = "0123456789" }, RefusedDigest},
		{"shown another plan than the digest's", func(r *Request, _ *Decision) { r.Plan.Target.Agent = "support/other"; r.Question = r.Plan.Question() }, RefusedDigest},
		{"asked about another plan", func(r *Request, _ *Decision) { r.Question = "Quarantine agent support/other for 60 minutes?" }, RefusedDigest},
		{"no plan", func(_ *Request, d *Decision) { d.Digest = "" }, RefusedDigest},
		{"decided by another", func(r *Request, _ *Decision) {
			r.State, r.Decision = Approved, &Decision{By: Principal{ID: "bob"}}
		}, RefusedDecided},
		{"decided and past the deadline", func(r *Request, _ *Decision) {
			r.State, r.Deadline = Denied, clock().Add(-time.Hour)
		}, RefusedDecided},
		{"viewer", func(_ *Request, d *Decision) { d.By.Role = Viewer }, RefusedRole},
		{"unknown role", func(_ *Request, d *Decision) { d.By.Role = "root" }, RefusedRole},
		{"nobody", func(_ *Request, d *Decision) { d.By.ID = "" }, RefusedRole},
		{"requester", func(r *Request, _ *Decision) { r.Requester = "ada" }, RefusedRequester},
		{"agent's name", func(_ *Request, d *Decision) { d.By = Principal{ID: "helper", Role: Admin} }, RefusedAgent},
		{"no reason", func(_ *Request, d *Decision) { d.Reason = "" }, RefusedReason},
		{"blank reason", func(_ *Request, d *Decision) { d.Reason = " \t\n " }, RefusedReason},
		{"short reason", func(_ *Request, d *Decision) { d.Reason = "ok" }, RefusedReason},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, d := asked(t)
			tt.change(&r, &d)
			if err := Check(&r, d, clock()); (err == nil) != (tt.want == "") || Kind(err) != tt.want {
				t.Errorf("Check = %v (%q), want %q", err, Kind(err), tt.want)
			}
		})
	}
	_, d := asked(t)
	if err := Check(nil, d, clock()); Kind(err) != RefusedUnknown {
		t.Errorf("Check without a request = %v, want %q", err, RefusedUnknown)
	}
}

func TestAtLeast(t *testing.T) {
	roles := []Role{Viewer, Responder, Lead, Admin}
	for i, mine := range roles {
		for j, needed := range roles {
			if got := mine.AtLeast(needed); got != (i >= j) {
				t.Errorf("%s at least %s = %v", mine, needed, got)
			}
		}
		if Role("").AtLeast(mine) || mine.AtLeast("") || Role("").AtLeast("") {
			t.Errorf("an unknown role has rights beside %s", mine)
		}
	}
}

func TestGated(t *testing.T) {
	for class, want := range map[Class]bool{Observe: false, Record: false, Contain: true, Destroy: true, Speak: true, "": true, "new": true} {
		if got := class.Gated(); got != want {
			t.Errorf("%q gated = %v, want %v", class, got, want)
		}
	}
}

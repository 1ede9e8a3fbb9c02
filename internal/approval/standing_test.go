package approval

import (
	"reflect"
	"testing"
	"time"
)

func proposed(t *testing.T) Standing {
	t.Helper()
	d, err := Standing{
		Rules: []string{"injected-*"}, Agents: []string{"support/*"}, Action: "quarantine", Lease: time.Hour, PerHour: 3, Until: clock().Add(24 * time.Hour), Reason: "it goes faster than we do",
	}.Propose(Principal{ID: "ada", Role: Responder}, clock())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func signedByLea(t *testing.T) Standing {
	t.Helper()
	d, err := signer().SignStanding(proposed(t), Principal{ID: "lea", Role: Lead}, clock())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPropose(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Standing)
		want   string
	}{
		{"as it is", func(*Standing) {}, ""},
		{"every rule", func(d *Standing) { d.Rules = []string{"*"} }, RefusedUnknown},
		{"every agent", func(d *Standing) { d.Agents = []string{"a", "**"} }, RefusedUnknown},
		{"nearly every agent", func(d *Standing) { d.Agents = []string{"*/*"} }, RefusedUnknown},
		{"nearly every rule", func(d *Standing) { d.Rules = []string{"*-*"} }, RefusedUnknown},
		{"a letter here and there", func(d *Standing) { d.Rules = []string{"*a*e*i*"} }, RefusedUnknown},
		{"every letter", func(d *Standing) { d.Agents = []string{"[abc-z]*"} }, RefusedUnknown},
		{"an empty name", func(d *Standing) { d.Agents = []string{""} }, RefusedUnknown},
		{"a pattern that fits nothing", func(d *Standing) { d.Agents = []string{"support/["} }, RefusedUnknown},
		{"a short name", func(d *Standing) { d.Agents = []string{"a/b"} }, ""},
		{"a few of many", func(d *Standing) { d.Agents = []string{"support/[ab]?"} }, ""},
		{"no agent", func(d *Standing) { d.Agents = nil }, RefusedUnknown},
		{"no action", func(d *Standing) { d.Action = "" }, RefusedUnknown},
		{"long lease", func(d *Standing) { d.Lease = 25 * time.Hour }, RefusedUnknown},
		{"without a bound", func(d *Standing) { d.PerHour = 0 }, RefusedUnknown},
		{"for ever", func(d *Standing) { d.Until = clock().Add(91 * 24 * time.Hour) }, RefusedUnknown},
		{"over already", func(d *Standing) { d.Until = clock() }, RefusedUnknown},
		{"no reason", func(d *Standing) { d.Reason = " " }, RefusedReason},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := proposed(t)
			tt.change(&d)
			if _, err := d.Propose(Principal{ID: "ada", Role: Responder}, clock()); Kind(err) != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("Propose = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := proposed(t).Propose(Principal{ID: "eve", Role: Viewer}, clock()); Kind(err) != RefusedRole {
		t.Errorf("a viewer proposes: %v", err)
	}
}

func TestSignStanding(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Standing)
		by     Principal
		want   string
	}{
		{"a lead", func(*Standing) {}, Principal{ID: "lea", Role: Lead}, ""},
		{"who proposed it", func(*Standing) {}, Principal{ID: "ada", Role: Admin}, RefusedRequester},
		{"a responder", func(*Standing) {}, Principal{ID: "bob", Role: Responder}, RefusedRole},
		{"signed already", func(d *Standing) { d.Signer = &Principal{ID: "bob"} }, Principal{ID: "lea", Role: Lead}, RefusedDecided},
		{"revoked", func(d *Standing) { d.Revoked = clock() }, Principal{ID: "lea", Role: Lead}, RefusedLate},
		{"over", func(d *Standing) { d.Until = clock() }, Principal{ID: "lea", Role: Lead}, RefusedLate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := proposed(t)
			tt.change(&d)
			if _, err := signer().SignStanding(d, tt.by, clock()); Kind(err) != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("SignStanding = %v, want %q", err, tt.want)
			}
		})
	}
}

// Whoever changes a record of a standing decision, its uses and its end apart, ends it.
func TestStandingIsTamperEvident(t *testing.T) {
	for _, field := range []string{"Rules", "Agents", "Action", "Lease", "PerHour", "Until", "Reason", "Proposed"} {
		d := signedByLea(t)
		if err := d.InForce(signer().Public(), clock()); err != nil {
			t.Fatal(err)
		}
		v := reflect.ValueOf(&d).Elem().FieldByName(field)
		switch v.Kind() {
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"other"}))
		case reflect.String:
			v.SetString("other")
		case reflect.Struct:
			v.Set(reflect.ValueOf(clock().Add(48 * time.Hour)))
		default:
			v.SetInt(v.Int() + 1)
		}
		if d.InForce(signer().Public(), clock()) == nil {
			t.Errorf("it is in force with another %s", field)
		}
	}
	d := signedByLea(t)
	d.Signer = &Principal{ID: "bob", Role: Lead}
	if d.InForce(signer().Public(), clock()) == nil {
		t.Error("it is in force by another signer")
	}
	d = signedByLea(t)
	if d.Uses = 5; d.InForce(signer().Public(), clock()) != nil || d.InForce(signer().Public(), d.Until) == nil {
		t.Error("uses end it, or its end does not")
	}
	if d.Revoked = clock(); d.InForce(signer().Public(), clock()) == nil {
		t.Error("it is in force though it was revoked")
	}
}

func TestFits(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Request)
		rule   string
		want   bool
	}{
		{"as signed", func(*Request) {}, "injected-payment", true},
		{"another rule", func(*Request) {}, "loop", false},
		{"another agent", func(r *Request) { r.Plan.Target.Agent = "billing/helper" }, "injected-payment", false},
		{"another action", func(r *Request) { r.Plan.Action = "revoke-token" }, "injected-payment", false},
		{"a longer lease", func(r *Request) { r.Plan.Lease = 2 * time.Hour }, "injected-payment", false},
		{"for good", func(r *Request) { r.Plan.Lease = 0 }, "injected-payment", false},
		{"what can't be undone", func(r *Request) { r.Plan.Class = Destroy }, "injected-payment", false},
		{"what two must approve", func(r *Request) { r.Terms.Need = 2 }, "injected-payment", false},
		{"what needs a second factor", func(r *Request) { r.Terms.StepUp = true }, "injected-payment", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := signedByLea(t)
			r, _ := asked(t)
			tt.change(&r)
			if got := d.Fits(&r, []string{"other", tt.rule}); got != tt.want {
				t.Errorf("Fits = %v", got)
			}
		})
	}
}

// The decision is its signer's: what they could not decide now, it does not.
func TestStandingDecides(t *testing.T) {
	d := signedByLea(t)
	r, _ := asked(t)
	got, err := signer().Decide(d, r, clock())
	if err != nil || got.By.ID != "lea" || got.By.Via != "standing" || got.Grant.Standing != d.ID || got.Grant.Verify(signer().Public(), r.Plan, clock()) != nil {
		t.Fatalf("%+v %v", got, err)
	}
	r.Terms.Not = []string{"lea"}
	if _, err := signer().Decide(d, r, clock()); Kind(err) != RefusedExcluded {
		t.Errorf("a person decided in advance what they may not decide: %v", err)
	}
}

// TestStates: a standing decision is in force from its signature to its end or its revocation, and says where it stands.
func TestStates(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Standing)
		after  time.Duration
		want   string
		force  bool
	}{
		{"signed", func(*Standing) {}, 0, "in force", true},
		{"to the last moment", func(*Standing) {}, 24*time.Hour - 1, "in force", true},
		{"at its end", func(*Standing) {}, 24 * time.Hour, "ended", false},
		{"proposed", func(d *Standing) { d.Signer, d.Signature = nil, nil }, 0, "proposed", false},
		{"revoked", func(d *Standing) { d.Revoked, d.RevokedBy = clock(), "bob" }, 0, "revoked", false},
		{"revoked before it was signed", func(d *Standing) { d.Signer, d.Signature, d.Revoked = nil, nil, clock() }, 0, "revoked", false},
		{"signed by nobody's key", func(d *Standing) { d.Signature = make([]byte, len(d.Signature)) }, 0, "in force", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := signedByLea(t)
			tt.change(&d)
			err := d.InForce(signer().Public(), clock().Add(tt.after))
			if got := d.State(clock().Add(tt.after)); got != tt.want || (err == nil) != tt.force {
				t.Errorf("it is %q, want %q; in force: %v", got, tt.want, err)
			}
		})
	}
}

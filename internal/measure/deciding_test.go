package measure

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// decided is a request that people answered, one after the other.
func decided(standing string, answers ...approval.Decision) approval.Request {
	r := approval.Request{Asked: clock(), State: approval.Pending, Standing: standing, Terms: approval.Terms{Need: len(answers)}}
	for _, a := range answers {
		r.Answer(a)
	}
	return r
}

func answered(who string, verb approval.Verb, looked time.Duration, after time.Duration) approval.Decision {
	return approval.Decision{Verb: verb, By: approval.Principal{ID: who}, Looked: looked, At: clock().Add(after)}
}

func TestDeciding(t *testing.T) {
	none := map[Outcome]int{ByApproval: 0, ByDenial: 0, ByExpiry: 0, ByStanding: 0, ByBreakGlass: 0}
	with := func(o Outcome, n int) map[Outcome]int {
		m := make(map[Outcome]int)
		for k := range none {
			m[k] = 0
		}
		m[o] = n
		return m
	}
	took := func(d time.Duration) *time.Duration { return &d }
	alone := answered("ada", approval.Approve, 0, time.Minute)
	alone.BreakGlass = true
	glass := approval.Request{Asked: clock(), State: approval.Pending, Terms: approval.Terms{Need: 3}}
	glass.Answer(alone)
	old := decided("", answered("ada", approval.Approve, time.Second, 0))
	old.Asked = clock().Add(-time.Second)
	tests := []struct {
		name     string
		requests []approval.Request
		want     Deciding
	}{
		{"nothing", nil, Deciding{Outcomes: none}},
		{"before the window", []approval.Request{old}, Deciding{Outcomes: none}},
		{"waits", []approval.Request{{Asked: clock(), State: approval.Pending}}, Deciding{Outcomes: none}},
		{"replaced", []approval.Request{{Asked: clock(), State: approval.Superseded}}, Deciding{Outcomes: none}},
		{"expired", []approval.Request{{Asked: clock(), State: approval.Expired}}, Deciding{Outcomes: with(ByExpiry, 1), N: 1}},
		{
			"two of two",
			[]approval.Request{decided("", answered("ada", approval.Approve, 4*time.Second, 0), answered("bob", approval.Approve, 10*time.Second, time.Minute))},
			Deciding{Outcomes: with(ByApproval, 1), N: 1, Decisions: 2, Approvals: 2, ApproveRate: 1, Known: true, Looked: 2, MedianLook: took(7 * time.Second), Quick: 1, QuickShare: .5, PerPersonDay: 1, Busiest: 1},
		},
		{
			"the second denies",
			[]approval.Request{decided("", answered("ada", approval.Approve, 0, 0), answered("bob", approval.Deny, 0, time.Minute))},
			Deciding{Outcomes: with(ByDenial, 1), N: 1, Decisions: 2, Approvals: 1, ApproveRate: .5, Known: true, PerPersonDay: 1, Busiest: 1},
		},
		{"in advance", []approval.Request{decided("SD-1", answered("ada", approval.Approve, 0, 0))}, Deciding{Outcomes: with(ByStanding, 1), N: 1}},
		{
			"breaks the glass",
			[]approval.Request{glass},
			Deciding{Outcomes: with(ByBreakGlass, 1), N: 1, Decisions: 1, Approvals: 1, ApproveRate: 1, Known: true, PerPersonDay: 1, Busiest: 1},
		},
		{
			"two days of one",
			[]approval.Request{
				decided("", answered("ada", approval.Approve, 5*time.Second, 0)), decided("", answered("ada", approval.Approve, time.Minute, time.Second)),
				decided("", answered("ada", approval.Approve, time.Hour, 24*time.Hour)),
			},
			Deciding{Outcomes: with(ByApproval, 3), N: 3, Decisions: 3, Approvals: 3, ApproveRate: 1, Known: true, Looked: 3, MedianLook: took(time.Minute), PerPersonDay: 1.5, Busiest: 2},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, DecidingOf(tt.requests, clock()), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever was decided, each settled request has one outcome, shares are shares, and the order doesn't matter.
func TestDecidingHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []approval.Request
		for range rapid.IntRange(0, 12).Draw(t, "requests") {
			var answers []approval.Decision
			for range rapid.IntRange(1, 3).Draw(t, "answers") {
				answers = append(answers, answered(
					rapid.SampledFrom([]string{"ada", "bob"}).Draw(t, "who"), rapid.SampledFrom([]approval.Verb{approval.Approve, approval.Deny}).Draw(t, "verb"),
					time.Duration(rapid.IntRange(0, 20).Draw(t, "looked"))*time.Second, time.Duration(rapid.IntRange(0, 60).Draw(t, "hours"))*time.Hour))
			}
			all = append(all, decided(rapid.SampledFrom([]string{"", "SD-1"}).Draw(t, "standing"), answers...))
		}
		d := DecidingOf(all, clock())
		sum := 0
		for _, n := range d.Outcomes {
			sum += n
		}
		if sum != d.N || d.N > len(all) || d.ApproveRate < 0 || d.ApproveRate > 1 || d.QuickShare < 0 || d.QuickShare > 1 || d.Quick > d.Looked || d.Looked > d.Decisions || d.PerPersonDay > float64(d.Busiest) {
			t.Fatalf("%+v", d)
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if diff := cmp.Diff(d, DecidingOf(all, clock())); diff != "" {
			t.Fatal(diff)
		}
	})
}

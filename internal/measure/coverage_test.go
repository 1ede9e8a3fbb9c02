package measure

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

const sla = time.Hour

func ago(minutes int) time.Time { return clock().Add(-time.Duration(minutes) * time.Minute) }

// groups are the alerts one by one.
func groups(alerts []Alerted) (out []Group) {
	for _, a := range alerts {
		repeated := slices.ContainsFunc(alerts, func(b Alerted) bool {
			return a.Incident != "" && b.Incident == a.Incident && b.Rule == a.Rule && (b.Raised.Before(a.Raised) || b.Raised.Equal(a.Raised) && b.ID < a.ID)
		})
		out = append(out, Group{Alerted: a, Repeated: repeated, N: 1})
	}
	return out
}

func TestCoverageOf(t *testing.T) {
	looked := []time.Time{ago(80)}
	alerts := []Alerted{
		{ID: "looked at", Rule: "a", Incident: "1", Raised: ago(90), Acts: looked, Disposed: true, Triaged: true},
		{ID: "again before the look", Rule: "a", Incident: "1", Raised: ago(85), Acts: looked, Triaged: true},
		{ID: "again after the look", Rule: "a", Incident: "1", Raised: ago(70), Acts: looked, Triaged: true},
		{ID: "another rule after the look", Rule: "b", Incident: "1", Raised: ago(70), Acts: looked, Triaged: true},
		{ID: "closed unopened", Rule: "a", Incident: "2", Raised: ago(90), Disposed: true, Triaged: true},
		{ID: "first pass alone", Rule: "a", Incident: "3", Raised: ago(65), Triaged: true},
		{ID: "first pass alone, again", Rule: "a", Incident: "3", Raised: ago(64), Triaged: true},
		{ID: "first pass, and there is time", Rule: "b", Incident: "3", Raised: ago(4), Triaged: true},
		{ID: "closed by a rule", Rule: "a", Raised: ago(90), ByRule: AutoClosed},
		{ID: "suppressed", Rule: "a", Raised: ago(90), ByRule: Suppressed},
		{ID: "new", Rule: "a", Raised: ago(60)},
		{ID: "old", Rule: "a", Raised: ago(61)},
		{ID: "hunt", Rule: "a", Raised: ago(90), Lane: detect.Hunt},
		{ID: "shadow", Rule: "a", Raised: ago(90), Lane: detect.Shadow, Acts: looked},
	}
	got := CoverageOf(groups(alerts), clock(), sla)
	want := Coverage{N: 12, Ratio: 0.3, Strict: 0.1, Known: true, Counts: map[Band]int{
		Investigated: 1, Dispositioned: 1, Machine: 3, AutoClosed: 1, Suppressed: 1, Duplicate: 2, Pending: 2, Untouched: 1,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("coverage (want -, got +):\n%s", diff)
	}
	if c := CoverageOf(groups([]Alerted{{ID: "new", Raised: clock()}}), clock(), sla); c.Known || c.Ratio != 0 {
		t.Errorf("with nothing but a pending alert coverage is %+v, want unknown", c)
	}
}

func drawAlerts(t *rapid.T) []Alerted {
	n := rapid.IntRange(0, 40).Draw(t, "n")
	alerts := make([]Alerted, n)
	acts := rapid.MapOf(rapid.SampledFrom([]string{"1", "2"}), rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 120), ago), 1, 3)).Draw(t, "acts")
	for i := range alerts {
		a := Alerted{
			ID: strconv.Itoa(i), Rule: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "rule"),
			Incident: rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "incident"),
			Lane:     rapid.SampledFrom([]detect.Lane{detect.Hunt, detect.Shadow, detect.Alert, detect.Propose}).Draw(t, "lane"),
			Raised:   ago(rapid.IntRange(0, 120).Draw(t, "raised")),
			Disposed: rapid.Bool().Draw(t, "disposed"), Triaged: rapid.Bool().Draw(t, "triaged"),
			ByRule: rapid.SampledFrom([]Band{"", AutoClosed, Suppressed}).Draw(t, "by rule"),
		}
		a.Acts = acts[a.Incident]
		alerts[i] = a
	}
	return alerts
}

func TestCoverageProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alerts := drawAlerts(t)
		c := CoverageOf(groups(alerts), clock(), sla)
		sum := 0
		for _, b := range Bands() {
			sum += c.Counts[b]
		}
		if sum != c.N || len(c.Counts) != len(Bands()) {
			t.Fatalf("bands sum to %d, want %d: %v", sum, c.N, c.Counts)
		}
		if c.Strict > c.Ratio || c.Ratio > 1 || c.Strict < 0 {
			t.Fatalf("strict %v, ratio %v", c.Strict, c.Ratio)
		}
		if diff := cmp.Diff(c, CoverageOf(groups(rapid.Permutation(alerts).Draw(t, "shuffled")), clock(), sla)); diff != "" {
			t.Fatalf("the order of the alerts matters:\n%s", diff)
		}
		later := CoverageOf(groups(alerts), clock().Add(time.Duration(rapid.IntRange(0, 180).Draw(t, "later"))*time.Minute), sla)
		want := Coverage{N: c.N, Counts: map[Band]int{}}
		for b, n := range c.Counts {
			want.Counts[b] = n
		}
		moved := c.Counts[Pending] - later.Counts[Pending]
		triaged := later.Counts[Machine] - c.Counts[Machine]
		want.Counts[Pending] -= moved
		want.Counts[Machine] += triaged
		want.Counts[Untouched] += moved - triaged
		if diff := cmp.Diff(want.Counts, later.Counts); diff != "" || moved < 0 || triaged < 0 || triaged > moved {
			t.Fatalf("time moved more than pending to machine or untouched:\n%s", diff)
		}
	})
}

// TestClosingCoversNothing closes everything in bulk: what nobody opened stays uncovered.
func TestClosingCoversNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alerts := drawAlerts(t)
		before := CoverageOf(groups(alerts), clock(), sla)
		for i := range alerts {
			alerts[i].Disposed = true
		}
		after := CoverageOf(groups(alerts), clock(), sla)
		if after.Counts[Investigated] != before.Counts[Investigated] || after.Counts[Duplicate] != before.Counts[Duplicate] || before.Known && after.Ratio > before.Ratio {
			t.Fatalf("closing moved coverage from %+v to %+v", before, after)
		}
	})
}

func TestSummarise(t *testing.T) {
	glass := func(id string, asked int) approval.Request {
		return approval.Request{ID: id, Asked: ago(asked), State: approval.Approved, Decision: &approval.Decision{Verb: approval.Approve, BreakGlass: true}}
	}
	f := Facts{
		Incidents: []incident.Incident{
			{ID: "old", Status: incident.Waiting, Times: incident.Times{FirstBad: ago(300)}},
			{ID: "new", Status: incident.Open, Times: incident.Times{FirstBad: ago(30)}},
			{ID: "seen", Status: incident.Open, Times: incident.Times{FirstBad: ago(40), Noticed: ago(35)}},
			{ID: "closed", Status: incident.Closed, Times: incident.Times{FirstBad: ago(50), Closed: ago(45)}},
		},
		Alerts:   groups([]Alerted{{ID: "in", Raised: ago(90)}}),
		Reviewed: map[string]bool{"seen": true},
		Requests: []approval.Request{{State: approval.Pending, Deadline: ago(-9)}, {State: approval.Pending, Deadline: ago(-5)}, {State: approval.Denied, Deadline: ago(-1)}, glass("seen", 5), glass("due", 5), glass("old", 300)},
		Leases:   []action.Lease{{Ends: ago(-5)}, {Ends: ago(5)}, {Ends: ago(-5), Lifted: ago(1)}},
	}
	got := Summarise(f, clock(), 2*time.Hour, sla)
	if got.Dwell.N != 3 || got.Coverage.N != 1 || got.Coverage.Counts[Untouched] != 1 {
		t.Errorf("cohorts of %d incidents and %d alerts, want 3 and 1", got.Dwell.N, got.Coverage.N)
	}
	if got.Deciding.N != 2 || got.Deciding.Outcomes[ByBreakGlass] != 2 || got.ReviewsDue != 1 {
		t.Errorf("deciding %+v, %d reviews due", got.Deciding, got.ReviewsDue)
	}
	got.Dwell, got.Coverage, got.Deciding, got.ReviewsDue = Dwell{}, Coverage{}, Deciding{}, 0
	want := Summary{
		At: clock(), Window: 2 * time.Hour, Unnoticed: 2, OldestUnnoticed: 300 * time.Minute, OldestIncident: "old",
		ApprovalsPending: 2, NextDeadline: ago(-5), Contained: 1,
		Incidents: map[incident.Status]int{incident.Waiting: 1, incident.Open: 2, incident.Closed: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summary (want -, got +):\n%s", diff)
	}
}

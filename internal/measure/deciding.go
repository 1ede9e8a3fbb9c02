package measure

import (
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Outcome is how a request was settled. Each settled request has exactly one.
type Outcome string

// The outcomes, in the order in which they are shown.
const (
	ByApproval   Outcome = "approved"
	ByDenial     Outcome = "denied"
	ByExpiry     Outcome = "expired"     // nobody answered in time
	ByStanding   Outcome = "standing"    // by a decision that somebody took in advance
	ByBreakGlass Outcome = "break_glass" // by one person alone, to a review afterwards
)

// Outcomes lists the outcomes in order.
func Outcomes() []Outcome {
	return []Outcome{ByApproval, ByDenial, ByExpiry, ByStanding, ByBreakGlass}
}

// OutcomeOf is how a request was settled; empty while it waits, and where a newer one took its place.
func OutcomeOf(r approval.Request) Outcome {
	switch {
	case r.State == approval.Denied:
		return ByDenial
	case r.State == approval.Expired:
		return ByExpiry
	case r.State != approval.Approved:
		return ""
	case r.Standing != "":
		return ByStanding
	case r.Decision != nil && r.Decision.BreakGlass:
		return ByBreakGlass
	}
	return ByApproval
}

// QuickLook is how short a look is that can't have read the question.
const QuickLook = 5 * time.Second

// Deciding is how people decided the requests of a window.
type Deciding struct {
	// Outcomes of the settled requests; N is their sum.
	Outcomes map[Outcome]int `json:"outcomes"`
	N        int             `json:"n"`
	// Decisions are people's own answers that counted, approvals that others had to join too. What was decided in advance is none.
	Decisions int `json:"decisions"`
	Approvals int `json:"approvals"`
	// ApproveRate is the share of decisions that approve. Known says that there are any; it is 0 otherwise.
	ApproveRate float64 `json:"approve_rate"`
	Known       bool    `json:"known"`
	// Looked are the decisions whose look is known: from when the person first opened the request to their answer.
	Looked     int            `json:"looked"`
	MedianLook *time.Duration `json:"median_look_ns"` // nil without any
	Quick      int            `json:"quick"`          // looked at for less than QuickLook
	QuickShare float64        `json:"quick_share"`    // of Looked
	// PerPersonDay is the mean number of decisions on the days (UTC) of people who decided; Busiest is the most of one.
	PerPersonDay float64 `json:"per_person_day"`
	Busiest      int     `json:"busiest"`
}

// DecisionsOf are the answers that people gave to a request and that counted.
func DecisionsOf(r approval.Request) []approval.Decision {
	if r.Standing != "" {
		return nil
	}
	out := slices.Clone(r.Votes)
	if d := r.Decision; d != nil && !slices.ContainsFunc(out, func(v approval.Decision) bool { return v.By.ID == d.By.ID && v.At.Equal(d.At) && v.Verb == d.Verb }) {
		out = append(out, *d)
	}
	return out
}

// Quick reports whether somebody decided a request without the time to read it.
func Quick(r approval.Request) bool {
	return slices.ContainsFunc(DecisionsOf(r), func(d approval.Decision) bool { return d.Looked > 0 && d.Looked < QuickLook })
}

// DecidingOf computes the measures over the requests that were asked since a time. The order of the requests doesn't matter.
func DecidingOf(requests []approval.Request, since time.Time) Deciding {
	d := Deciding{Outcomes: make(map[Outcome]int)}
	for _, o := range Outcomes() {
		d.Outcomes[o] = 0
	}
	type personDay struct{ person, day string }
	days := make(map[personDay]int)
	var looks []time.Duration
	for _, r := range requests {
		if r.Asked.Before(since) {
			continue
		}
		if o := OutcomeOf(r); o != "" {
			d.Outcomes[o]++
			d.N++
		}
		for _, a := range DecisionsOf(r) {
			d.Decisions++
			if a.Verb == approval.Approve {
				d.Approvals++
			}
			if a.Looked > 0 {
				looks = append(looks, a.Looked)
			}
			day := personDay{a.By.ID, a.At.UTC().Format(time.DateOnly)}
			days[day]++
			d.Busiest = max(d.Busiest, days[day])
		}
	}
	if d.Decisions > 0 {
		d.Known, d.ApproveRate = true, float64(d.Approvals)/float64(d.Decisions)
		d.PerPersonDay = float64(d.Decisions) / float64(len(days))
	}
	d.looks(looks)
	return d
}

func (d *Deciding) looks(looks []time.Duration) {
	d.Looked = len(looks)
	if len(looks) == 0 {
		return
	}
	slices.Sort(looks)
	middle := looks[(len(looks)-1)/2]
	if len(looks)%2 == 0 {
		middle += (looks[len(looks)/2] - middle) / 2
	}
	d.MedianLook = &middle
	for _, l := range looks {
		if l < QuickLook {
			d.Quick++
		}
	}
	d.QuickShare = float64(d.Quick) / float64(d.Looked)
}

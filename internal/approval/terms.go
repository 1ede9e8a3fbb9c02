package approval

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Terms are what a request is asked under: how many must approve, who may answer, and when more people are told. They are frozen when
// the request is asked, so that a policy that is edited meanwhile changes no open question. The zero value is one responder.
type Terms struct {
	// Need is how many different people must approve; 0 means 1. One denial is enough to deny.
	Need int `json:"need,omitempty"`
	// From are the sets of approvers of the policies that apply. Whoever answers belongs to each. Without any, every responder may.
	From []Approvers `json:"from,omitempty"`
	// Not are people who may not answer, besides the requester and the agent's own identities.
	Not []string `json:"not,omitempty"`
	// Ladder is who is told as time passes, in the order of time.
	Ladder []Rung `json:"ladder,omitempty"`
	// StepUp demands a second factor, given a moment ago. Only the console can ask for one.
	StepUp bool `json:"step_up,omitempty"`
	// BreakGlass are groups of which one person may approve alone, with a long reason, and to a review afterwards.
	BreakGlass []string `json:"break_glass,omitempty"`
	// GlassKey lets nobody do so without a security key.
	GlassKey bool `json:"glass_key,omitempty"`
}

// Approvers are groups of which one is enough, and those that are too once time has passed.
type Approvers struct {
	Groups []string `json:"groups"`
	Later  []Rung   `json:"later,omitempty"`
}

// at are the groups of which one is enough some time after the request was asked.
func (a Approvers) at(since time.Duration) []string {
	groups := slices.Clone(a.Groups)
	for _, r := range a.Later {
		if since >= r.After {
			groups = append(groups, r.Tell...)
		}
	}
	return groups
}

// Rung is one step of an escalation.
type Rung struct {
	After time.Duration `json:"after_ns"` // since the request was asked
	Tell  []string      `json:"tell"`     // groups; empty tells again those who were told
}

// MinBreakGlass is the least number of characters of a reason to break the glass.
const MinBreakGlass = 20

// StepUpLife is how old a second factor may be.
const StepUpLife = 5 * time.Minute

// Level is the number of rungs that a request has reached at a time.
func (r *Request) Level(now time.Time) int {
	n := 0
	for n < len(r.Terms.Ladder) && !now.Before(r.Asked.Add(r.Terms.Ladder[n].After)) {
		n++
	}
	return n
}

// needs is how many different people must approve.
func (t Terms) needs() int { return max(1, t.Need) }

// Answer adds a decision that Check lets pass: a denial settles the request, an approval does when enough people gave one.
func (r *Request) Answer(d Decision) {
	if d.Verb == Deny {
		r.State, r.Decision = Denied, &d
		return
	}
	r.Votes = append(r.Votes, d)
	if len(r.Votes) >= r.Terms.needs() || d.BreakGlass {
		r.State, r.Decision = Approved, &d
	}
}

// Missing is how many approvals a request still needs.
func (r *Request) Missing() int {
	if r.State != Pending {
		return 0
	}
	return r.Terms.needs() - len(r.Votes)
}

// Grants are what the approvals of a request carry.
func (r *Request) Grants() []Grant {
	var out []Grant
	for _, v := range r.Votes {
		if v.Grant != nil {
			out = append(out, *v.Grant)
		}
	}
	return out
}

// admits returns the refusal of a person whom the terms do not let answer.
func (r *Request) admits(d Decision, now time.Time) error {
	t := r.Terms
	if slices.ContainsFunc(r.Votes, func(v Decision) bool { return v.By.ID == d.By.ID }) && d.Verb == Approve {
		return Refuse(RefusedDecided, "%s approved already; %d more must be another's", d.By.ID, r.Missing())
	}
	if slices.Contains(t.Not, d.By.ID) {
		return Refuse(RefusedExcluded, "the policy lets everybody but %s answer this: they own the agent or have a part in it", d.By.ID)
	}
	if d.BreakGlass {
		return r.breaksGlass(d, now)
	}
	if groups := r.unmet(d.By, now); groups != nil {
		return Refuse(RefusedRole, "%s belongs to none of %s, who may answer this", d.By.ID, strings.Join(groups, ", "))
	}
	if t.StepUp && d.Verb == Approve && !r.proved(d.By, now) {
		return Refuse(RefusedStepUp, "this approval needs a second factor for this plan, of the last %s: open the request in the console", StepUpLife)
	}
	return nil
}

// proved reports whether a person gave a second factor for the request's plan a moment ago.
func (r *Request) proved(by Principal, now time.Time) bool {
	return by.ProvedFor == r.Digest && !by.Proved.IsZero() && now.Sub(by.Proved) <= StepUpLife
}

// Lets returns the refusal of a person whom the terms do not let do something that is no answer to a request.
func (t Terms) Lets(by Principal) error {
	r := Request{Terms: t}
	if slices.Contains(t.Not, by.ID) {
		return Refuse(RefusedExcluded, "%s owns the agent or has a part in it: somebody else must do this", by.ID)
	}
	if groups := r.unmet(by, time.Time{}); groups != nil {
		return Refuse(RefusedRole, "%s belongs to none of %s, who may do this", by.ID, strings.Join(groups, ", "))
	}
	return nil
}

// unmet are the groups of the first set of approvers that a person does not belong to.
func (r *Request) unmet(p Principal, now time.Time) []string {
	for _, set := range r.Terms.From {
		if groups := set.at(now.Sub(r.Asked)); !slices.ContainsFunc(groups, p.In) {
			return groups
		}
	}
	return nil
}

func (r *Request) breaksGlass(d Decision, now time.Time) error {
	t := r.Terms
	switch {
	case d.Verb == Approve && !t.imposes(): // there is no glass
	case d.Verb != Approve || !slices.ContainsFunc(t.BreakGlass, d.By.In):
		return Refuse(RefusedRole, "%s may not break the glass here", d.By.ID)
	case len([]rune(strings.TrimSpace(d.Reason))) < MinBreakGlass:
		return Refuse(RefusedReason, "breaking the glass needs a reason of at least %d characters, which others will review", MinBreakGlass)
	case (t.GlassKey || d.By.Keyed) && !r.proved(d.By, now):
		return Refuse(RefusedStepUp, "breaking the glass needs your security key for this plan, of the last %s: open the request in the console", StepUpLife)
	}
	return nil
}

// In reports whether a person belongs to a group: role:<role> by their role or a higher one, any other by name.
func (p Principal) In(group string) bool {
	if role, ok := strings.CutPrefix(group, "role:"); ok {
		return p.Role.AtLeast(Role(role))
	}
	return slices.Contains(p.Groups, group)
}

// Merge returns the strictest of two terms: the larger number, both sets of groups, everybody who may not, the shorter times, and the
// second factor if either asks for it. The glass breaks who may in both, as far as each asks for more than one responder.
func (t Terms) Merge(o Terms) Terms {
	out := Terms{Need: max(t.Need, o.Need), StepUp: t.StepUp || o.StepUp, GlassKey: t.GlassKey || o.GlassKey}
	out.From = append(slices.Clone(t.From), o.From...)
	out.Not = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(t.Not), o.Not...))))
	out.Ladder = append(slices.Clone(t.Ladder), o.Ladder...)
	slices.SortStableFunc(out.Ladder, func(a, b Rung) int { return cmp.Compare(a.After, b.After) })
	switch {
	case !o.imposes():
		out.BreakGlass = t.BreakGlass
	case !t.imposes():
		out.BreakGlass = o.BreakGlass
	default:
		for _, g := range t.BreakGlass {
			if slices.Contains(o.BreakGlass, g) {
				out.BreakGlass = append(out.BreakGlass, g)
			}
		}
	}
	return out
}

// imposes reports whether the terms ask for more than one responder.
func (t Terms) imposes() bool { return t.needs() > 1 || len(t.From) > 0 || t.StepUp }

// Says is the terms in words, for the people who are asked.
func (t Terms) Says() string {
	var sets []string
	for _, set := range t.From {
		sets = append(sets, strings.Join(set.Groups, " or "))
	}
	if len(sets) == 0 {
		sets = []string{"responder"}
	}
	text := fmt.Sprintf("%d of %s", t.needs(), strings.Join(sets, ", and of "))
	if t.StepUp {
		text += ", with a second factor"
	}
	return text
}

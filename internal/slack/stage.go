package slack

import (
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// stage is where a question stands, from asking to the end of its effect. A card says exactly one of each of its questions.
type stage string

const (
	waiting    stage = "waiting"    // nobody answered
	partial    stage = "partial"    // some of those needed approved
	approved   stage = "approved"   // nothing is known of the effect yet
	applied    stage = "applied"    // the action acted, and nothing proves it yet
	contained  stage = "contained"  // the effect was proved
	made       stage = "made"       // a change of Tocsin's own was approved and made
	done       stage = "done"       // the effect was proved or declared, and can't be undone
	failed     stage = "failed"     // it was approved and is not in force
	reverted   stage = "reverted"   // the effect ended
	overdue    stage = "overdue"    // the effect should have ended and was not undone
	denied     stage = "denied"     // a person said no
	expired    stage = "expired"    // nobody answered in time
	superseded stage = "superseded" // it is no longer asked, perhaps because another question took its place
	cancelled  stage = "cancelled"  // the incident was closed meanwhile
)

// open reports whether people can still answer.
func (s stage) open() bool { return s == waiting || s == partial }

// question is a request with what became of it.
type question struct {
	approval.Request
	lease  *action.Lease
	failed string // why it is not in force although it was approved; hostile text may be in it
	stage  stage
	level  int
}

// undoGrace is how long the undo of an effect may take after its end.
const undoGrace = 2 * time.Minute

// judge finds the stage of a question. Only what the store holds decides.
func judge(q *question, i incident.Incident, now time.Time) {
	q.level = max(q.Level(now), min(q.Rung, len(q.Terms.Ladder)))
	l := q.lease
	switch {
	case q.State == approval.Superseded:
		q.stage = superseded
	case q.State == approval.Denied:
		q.stage = denied
	case q.State == approval.Expired, q.State == approval.Pending && now.After(q.Deadline):
		q.stage = expired
	case q.State == approval.Pending && i.Status == incident.Closed:
		q.stage = cancelled
	case q.State == approval.Pending && len(q.Votes) > 0:
		q.stage = partial
	case q.State == approval.Pending:
		q.stage = waiting
	case q.Plan.Class == approval.Record && !q.Due:
		q.stage = made
	case l == nil && q.failed != "":
		q.stage = failed
	case l == nil:
		q.stage = approved
	case l.Plan.Lease == 0 && !l.Applied.IsZero() && (q.failed == "" || !l.Verified.IsZero()):
		q.stage = done
	case l.Plan.Lease == 0 && q.failed != "":
		q.stage = failed
	case !l.Lifted.IsZero():
		q.stage = reverted
	case !now.Before(l.Ends.Add(undoGrace)):
		q.stage = overdue
	case !l.Verified.IsZero():
		q.stage = contained
	case q.failed != "":
		q.stage = failed
	case !l.Applied.IsZero():
		q.stage = applied
	default:
		q.stage = approved
	}
}

// heading says the stage in two or three words; it leads the card.
func heading(q question) string {
	switch q.stage {
	case waiting, partial:
		switch q.Plan.Class {
		case approval.Destroy:
			return "Approve what can't be undone?"
		case approval.Speak:
			return "Approve a message to others?"
		case approval.Record:
			return "Loosen a baseline?"
		}
		return "Approve a containment?"
	case approved, applied:
		return "Approved, being carried out"
	case contained:
		return "Contained"
	case made:
		return "Baseline changed"
	case done:
		return "Done"
	case failed:
		return "Approved, but NOT in force"
	case reverted:
		return "Containment ended"
	case overdue:
		return "Containment ended, NOT undone"
	case denied:
		return "Denied"
	case expired:
		return "Nobody answered"
	case superseded:
		return "No longer asked"
	case cancelled:
		return "Incident closed"
	}
	return string(q.stage)
}

// status is the sentence in the place of the buttons, or above them.
func status(q question, noticedBy string) quoted {
	switch q.stage {
	case waiting:
		if noticedBy != "" {
			return say("%s is looking. %d of %d approvals.", noticedBy, 0, needs(q.Request))
		}
		return say("Nobody has answered. %d of %d approvals.", 0, needs(q.Request))
	case partial:
		return say("%d of %d approvals: %s.", len(q.Votes), needs(q.Request), voters(q.Request))
	case approved:
		return say("%s It is being carried out.", answer(q))
	case applied:
		return say("%s Applied at %s; the effect is not proved yet.", answer(q), clock(q.lease.Applied))
	case made:
		return say("%s The change is made.", answer(q))
	case contained:
		return say("%s In force since %s: %s until %s.%s", answer(q), clock(q.lease.Verified), proof(q), clock(q.lease.Ends), lag(q.lease))
	case done:
		seen := "nothing can prove its effect"
		if !q.lease.Verified.IsZero() {
			seen = "a probe saw the effect"
		}
		return say("%s Done at %s: %s.%s It can't be undone.", answer(q), clock(q.lease.Applied), seen, lag(q.lease))
	case failed:
		return say("%s It is not in force: %s", answer(q), q.failed)
	case reverted:
		return say("%s It ended at %s, by %s.", answer(q), clock(q.lease.Lifted), q.lease.LiftedBy)
	case overdue:
		return say("%s It should have ended at %s and was not undone. Look at the console.", answer(q), clock(q.lease.Ends))
	case denied:
		return answer(q)
	case expired:
		if q.Plan.Class == approval.Record {
			return say("%d of %d people signed by %s. Nothing was changed. Whoever still wants it asks anew in the console.", len(q.Votes), needs(q.Request), clock(q.Deadline))
		}
		return say("Nobody answered by %s. Nothing was done. To ask again, ask for the containment on the incident's page in the console.", clock(q.Deadline))
	case superseded:
		return "No longer asked: the facts changed, or the playbook gave it up. Nothing was done."
	case cancelled:
		return "The incident was closed before anybody answered. Nothing was done."
	}
	return quoted(q.stage)
}

// proof says how the effect is known, in numbers.
func proof(q question) quoted {
	if at := q.lease.Decided(); !at.IsZero() {
		return say("a probe saw the effect %s after the decision;", span(q.lease.Verified.Sub(at)))
	}
	return "a probe saw the effect;"
}

// lag says until when the effect is not whole.
func lag(l *action.Lease) quoted {
	if l.Effective.IsZero() {
		return ""
	}
	return say(" What it had is still effective until %s: %s", clock(l.Effective), l.Lag)
}

// answer says who decided, when, how long after the question, and why.
func answer(q question) quoted {
	d := q.Decision
	if d == nil {
		return say("%s.", strings.ToUpper(string(q.State[:1]))+string(q.State[1:]))
	}
	how := ""
	switch {
	case q.Standing != "":
		how = " in advance, by the standing decision " + q.Standing
	case d.BreakGlass:
		how = " alone, breaking the glass; others will review it"
	}
	who := d.By.ID
	if d.Verb == approval.Approve && len(q.Votes) > 1 {
		who = string(voters(q.Request))
	}
	return say("%s by %s%s at %s, %s after the question: “%s”.", map[approval.Verb]string{approval.Approve: "Approved", approval.Deny: "Denied"}[d.Verb],
		who, how, clock(d.At), span(d.At.Sub(q.Asked)), quote(d.Reason, 200))
}

func needs(r approval.Request) int { return max(1, r.Terms.Need) }

func voters(r approval.Request) quoted {
	names := make([]string, 0, len(r.Votes))
	for _, v := range r.Votes {
		names = append(names, string(quote(v.By.ID, 60)))
	}
	return quoted(strings.Join(names, ", "))
}

// note is one line in a card's thread: a transition that people are told of once.
type note struct {
	key  string
	text quoted
	tell []string // the groups that are to be notified
}

// askedKey ends the key of the note that a question came after the card: an edit notifies nobody.
const askedKey = "/asked"

// notes are the transitions that a question has made, in order. A card that is brought up to date after an outage has several.
func notes(q question, i incident.Incident) []note {
	var out []note
	add := func(what string, text quoted, tell ...string) {
		out = append(out, note{q.ID + "/" + what, text, tell})
	}
	name := say("Revision %d: ", q.Revision)
	if q.stage.open() {
		add(askedKey[1:], say("%sa question came: %s Decide by %s.", name, quote(q.Question, 300), clock(q.Deadline)), first(q.Terms)...)
	}
	for n, v := range q.Votes {
		if n+1 < needs(q.Request) {
			add(fmt.Sprintf("vote/%d", n+1), say("%s%s approved, %d of %d: “%s”", name, v.By.ID, n+1, needs(q.Request), quote(v.Reason, 200)))
		}
	}
	for n := range q.level {
		if q.stage.open() {
			add(fmt.Sprintf("level/%d", n+1), say("%snobody has settled this. Decide by %s.", name, clock(q.Deadline)), told(q.Request, n, !i.Times.Noticed.IsZero())...)
		}
	}
	if !q.stage.open() {
		add(string(q.stage), say("%s%s", name, status(q, "")))
	}
	return out
}

// told are the groups that a rung notifies. One that names none tells those again who were told, unless somebody is looking.
func told(r approval.Request, rung int, noticed bool) []string {
	tell := r.Terms.Ladder[rung].Tell
	if len(tell) == 0 && noticed {
		return nil
	}
	for n := rung; len(tell) == 0 && n > 0; n-- {
		tell = r.Terms.Ladder[n-1].Tell
	}
	if len(tell) == 0 {
		tell = first(r.Terms)
	}
	return tell
}

// first are the groups that are asked at first.
func first(t approval.Terms) (groups []string) {
	for _, set := range t.From {
		groups = append(groups, set.Groups...)
	}
	return groups
}

package app

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// TestDecide is people deciding over HTTP on a whole Tocsin: what counts, what is refused and recorded, and that the console's forms
// and the API are two equal ways.
func TestDecide(t *testing.T) {
	h, _ := start(t, configured(t))
	for n := range 2 {
		requests, _ := hijacked(t, n)
		h.send(requests...)
	}
	_, first := hijacked(t, 0)
	_, second := hijacked(t, 1)
	h.send(quick("quick-1", "wire_now"))

	r := h.asked(first)
	h.sub("the agent", func(h *running) { h.refused("billing-bot", r, r.Digest, approval.RefusedAgent, http.StatusForbidden) })
	h.sub("another plan", func(h *running) {
		h.refused("ana", r, strings.Repeat("0", 64), approval.RefusedDigest, http.StatusConflict)
	})
	h.sub("a viewer", func(h *running) { h.refused("eve", r, r.Digest, approval.RefusedRole, http.StatusForbidden) })
	h.sub("approved", func(h *running) { h.approved(r) })
	h.sub("a second decision", func(h *running) { h.refused("bob", r, r.Digest, approval.RefusedDecided, http.StatusConflict) })
	h.sub("lifted", func(h *running) { h.lifted(r) })
	h.sub("by forms", func(h *running) { h.byForms(h.asked(second)) })
	h.sub("asked by a person", func(h *running) { h.askedByPerson(second) })
	h.sub("late", func(h *running) {
		var late approval.Request
		h.until("a request to expire", func() bool {
			expired := h.requests(approval.Expired)
			if len(expired) > 0 {
				late = expired[0]
			}
			return len(expired) > 0
		})
		h.refused("ana", late, late.Digest, approval.RefusedLate, http.StatusConflict)
	})
	h.sub("closed", func(h *running) { h.closeAll() })
	h.record()
}

// sub runs a part of the test on the same Tocsin. Parts build on each other, so that the first that fails ends the test.
func (h *running) sub(name string, fn func(*running)) {
	h.Helper()
	if !h.T.Run(name, func(t *testing.T) { fn(&running{T: t, App: h.App, tokens: h.tokens, keys: h.keys}) }) {
		h.FailNow()
	}
}

func (h *running) decide(person string, r approval.Request, digest string) (int, []byte) {
	h.Helper()
	body := api.DecideBody{Verb: approval.Approve, Digest: digest, Reason: "not what the user asked for"}
	return h.call(person, http.MethodPost, "/api/v1/approvals/"+r.ID+"/decide", body)
}

// refused is a decision that must not count: the person learns why, the ledger and the timeline have it, and nothing else changed.
func (h *running) refused(person string, r approval.Request, digest, kind string, status int) {
	h.Helper()
	before := h.request(r.ID)
	rows, entries := len(h.refusals(person, r, kind)), len(h.refusalEntries(person, r, kind))
	got, answer := h.decide(person, r, digest)
	var failure api.Failure
	if err := json.Unmarshal(answer, &failure); err != nil || got != status || failure.Kind != kind {
		h.Errorf("the answer is %d %s, want %d and kind %s: %v", got, answer, status, kind, err)
	}
	if diff := cmp.Diff(before, h.request(r.ID)); diff != "" {
		h.Errorf("the refused decision changed the request (-before +after):\n%s", diff)
	}
	if n := len(h.refusals(person, r, kind)); n != rows+1 {
		h.Errorf("the ledger has %d refusals of %s for %s, want %d", n, person, kind, rows+1)
	}
	if n := len(h.refusalEntries(person, r, kind)); n != entries+1 {
		h.Errorf("the timeline has %d refusals of %s for %s, want %d", n, person, kind, entries+1)
	}
	h.verify()
}

// refusals are the ledger's rows of a person's refused decisions on a request.
func (h *running) refusals(person string, r approval.Request, kind string) []ledger.Record {
	h.Helper()
	all := h.ledger(r.ID)
	return slices.DeleteFunc(all, func(x ledger.Record) bool {
		return x.Kind != ledger.KindRefusal || x.Actor != person || !strings.Contains(string(x.Body), `"refused":"`+kind+`"`)
	})
}

func (h *running) refusalEntries(person string, r approval.Request, kind string) []incident.Entry {
	h.Helper()
	all, err := h.store.Timeline(h.Context(), r.Incident)
	if err != nil {
		h.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e incident.Entry) bool {
		return e.Kind != "refusal" || e.Actor != person || e.Ref != r.ID || !strings.Contains(e.Text, "("+kind+")")
	})
}

func (h *running) ledger(subject string) []ledger.Record {
	h.Helper()
	all, err := h.store.Ledger(h.Context(), subject, 1000)
	if err != nil {
		h.Fatal(err)
	}
	return all
}

func (h *running) verify() {
	h.Helper()
	if n, err := h.store.VerifyLedger(h.Context()); err != nil || n == 0 {
		h.Errorf("the ledger has %d rows: %v", n, err)
	}
}

func (h *running) denies(r approval.Request) bool {
	return !h.gate.Check(gate.Query{Agent: r.Plan.Target.Agent, Tool: "send_money"}).Allow
}

// contained waits until a request's lease was proved, and checks that it is one.
func (h *running) contained(r approval.Request) {
	h.Helper()
	h.until("the containment", func() bool {
		i, err := h.store.Incident(h.Context(), r.Incident)
		return err == nil && i.Status == incident.Contained
	})
	leases, err := h.store.IncidentLeases(h.Context(), r.Incident)
	if err != nil || len(slices.DeleteFunc(leases, func(l action.Lease) bool { return l.ID != r.ID || !l.Lifted.IsZero() })) != 1 {
		h.Errorf("the leases are %+v: %v", leases, err)
	}
	decisions := slices.DeleteFunc(h.ledger(r.ID), func(x ledger.Record) bool { return x.Kind != ledger.KindDecision })
	if len(decisions) != 1 || !h.denies(r) {
		h.Errorf("the ledger has %d decisions, the gate denies: %v", len(decisions), h.denies(r))
	}
	h.verify()
}

func (h *running) approved(r approval.Request) {
	if status, answer := h.decide("ana", r, r.Digest); status != http.StatusOK || !strings.Contains(string(answer), r.ID) {
		h.Fatalf("the approval was answered with %d %s", status, answer)
	}
	h.contained(r)
}

func (h *running) lifted(r approval.Request) {
	path, body := "/api/v1/leases/"+r.ID+"/lift", api.LiftBody{Reason: "it was stopped for good"}
	if status, answer := h.call("ana", http.MethodPost, path, body); status != http.StatusForbidden {
		h.Errorf("a responder lifted a lease: %d %s", status, answer)
	}
	h.ok("bob", http.MethodPost, path, body)
	h.until("the lease to be lifted", func() bool { return !h.denies(r) })
	h.until("the incident to be resolved", func() bool {
		i, err := h.store.Incident(h.Context(), r.Incident)
		return err == nil && i.Status == incident.Resolved
	})
	if status, _ := h.call("bob", http.MethodPost, path, body); status != http.StatusNotFound {
		h.Errorf("lifting it twice was answered with %d", status)
	}
}

// browser is a person's, signed in by the form.
func (h *running) browser(person string) *http.Client {
	h.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		h.Fatal(err)
	}
	b := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if status, _ := h.submit(b, "/sign-in", url.Values{"user": {person}, "password": {password}}); status != http.StatusSeeOther {
		h.Fatalf("sign in as %s: %d", person, status)
	}
	return b
}

func (h *running) submit(b *http.Client, path string, form url.Values) (int, string) {
	h.Helper()
	response, err := b.PostForm(h.console(path), form)
	if err != nil {
		h.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		h.Fatal(err)
	}
	return response.StatusCode, string(page)
}

func form(r approval.Request, verb approval.Verb, digest string) url.Values {
	return url.Values{"verb": {string(verb)}, "digest": {digest}, "reason": {"seen in the console"}}
}

// byForms does in the console what the other parts do over the API.
func (h *running) byForms(r approval.Request) {
	path := "/approvals/" + r.ID + "/decide"
	if status, page := h.submit(h.browser("billing-bot"), path, form(r, approval.Deny, r.Digest)); status != http.StatusForbidden || !strings.Contains(page, "own identity") {
		h.Errorf("the agent's decision was answered with %d", status)
	}
	ana := h.browser("ana")
	if status, page := h.submit(ana, path, form(r, approval.Approve, strings.Repeat("0", 64))); status != http.StatusConflict || !strings.Contains(page, "00000000") {
		h.Errorf("a decision on another plan was answered with %d", status)
	}
	if len(h.refusals("billing-bot", r, approval.RefusedAgent)) != 1 || len(h.refusals("ana", r, approval.RefusedDigest)) != 1 {
		h.Error("the ledger does not have the refusals of the forms")
	}
	if status, _ := h.submit(ana, path, form(r, approval.Deny, r.Digest)); status != http.StatusSeeOther {
		h.Errorf("the denial was answered with %d", status)
	}
	h.until("the denial to be written", func() bool { return h.request(r.ID).State == approval.Denied })
	if now := h.request(r.ID); !cmp.Equal(now.Decision.By, approval.Principal{ID: "ana", Role: approval.Responder, Via: "console"}) {
		h.Errorf("the denial is %+v", now.Decision)
	}
}

// askedByPerson is a containment that ana asks for: bob may approve it and ana may not.
func (h *running) askedByPerson(session string) {
	var about incident.Incident
	for _, i := range h.incidents() {
		if i.Session == session {
			about = i
		}
	}
	h.until("the denied incident to be resolved", func() bool {
		i, err := h.store.Incident(h.Context(), about.ID)
		return err == nil && i.Status == incident.Resolved
	})
	h.ok("ana", http.MethodPost, "/api/v1/incidents/"+about.ID+"/ask", api.AskBody{Target: approval.Target{Agent: about.Agent.ID}, Minutes: 5, Reason: "it goes on"})
	r := h.asked(session)
	h.refused("ana", r, r.Digest, approval.RefusedRequester, http.StatusForbidden)
	if status, page := h.submit(h.browser("ana"), "/approvals/"+r.ID+"/decide", form(r, approval.Approve, r.Digest)); status != http.StatusForbidden {
		h.Errorf("ana approved by a form what she asked for: %d %s", status, page)
	}
	if status, _ := h.submit(h.browser("bob"), "/approvals/"+r.ID+"/decide", form(r, approval.Approve, r.Digest)); status != http.StatusSeeOther {
		h.Errorf("bob's approval was answered with %d", status)
	}
	h.contained(r)
	h.lifted(r)
}

// closeAll closes every incident, which only a lead may.
func (h *running) closeAll() {
	body := api.CloseBody{Verdict: incident.TruePositive, Reason: "seen and settled"}
	for _, i := range h.incidents() {
		path := "/api/v1/incidents/" + i.ID + "/close"
		if status, _ := h.call("ana", http.MethodPost, path, body); status != http.StatusForbidden {
			h.Errorf("a responder's closing was answered with %d", status)
		}
		h.until("the incident to rest", func() bool {
			status, _ := h.call("bob", http.MethodPost, path, body)
			return status == http.StatusOK
		})
		if now, err := h.store.Incident(h.Context(), i.ID); err != nil || now.Status != incident.Closed {
			h.Errorf("the closed incident is %s: %v", now.Status, err)
		}
		for act, body := range map[string]any{"close": body, "ask": api.AskBody{Target: approval.Target{Agent: i.Agent.ID}, Minutes: 5, Reason: "it goes on"}} {
			status, answer := h.call("bob", http.MethodPost, "/api/v1/incidents/"+i.ID+"/"+act, body)
			if status != http.StatusConflict || !strings.Contains(string(answer), "the incident is closed") {
				h.Errorf("%s on the closed incident was answered with %d %s", act, status, answer)
			}
		}
	}
	h.verify()
}

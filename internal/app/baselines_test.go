package app

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// A person changes a baseline: the ledger says who and why, the detector comes to it in the log, and a restart keeps it.
func TestChangeBaseline(t *testing.T) {
	cfg := configured(t)
	h, stop := start(t, cfg)
	const agent = "billing/billing-bot"
	began := time.Now().Add(-96 * time.Hour)
	at := func(hours int, session, tool string) ingest.Request {
		body := fmt.Sprintf(`{"kind":"tool.result","time":%q,"agent":{"name":"billing-bot","service":"billing","class":"payments"},"session":{"id":%q},"tool":{"name":%q}}`,
			began.Add(time.Duration(hours)*time.Hour).UTC().Format(time.RFC3339Nano), session, tool)
		return ingest.Request{Path: "/v1/events", ContentType: "application/json", Body: []byte(body)}
	}
	learned := func() baselines.Learned {
		l, _ := h.control.learned(agent)
		return l
	}
	calls := func(tool string) int {
		l := learned()
		i := slices.IndexFunc(l.Tools, func(c baselines.Count) bool { return c.Text == tool })
		if i < 0 {
			return 0
		}
		return l.Tools[i].N
	}
	change := func(person, kind, reason string) int {
		status, _ := h.call(person, http.MethodPost, "/api/v1/agents/baseline", api.BaselineBody{Agent: agent, Change: kind, Reason: reason})
		return status
	}
	if status := change("bob", baselines.Freeze, "to look at it"); status != http.StatusNotFound {
		t.Errorf("freezing an agent that taught nothing: %d", status)
	}
	for i := range 30 {
		h.send(at(2*i, fmt.Sprint("s", i), "read_bill"))
	}
	h.until("a history", func() bool { return learned().Sessions >= 28 && !learned().Copy.IsZero() })

	h.send(at(61, "odd", "wire_now"), at(63, "later", "read_bill"))
	h.until("an incident", func() bool { return len(h.incidents()) == 1 })
	if n := calls("wire_now"); n != 0 {
		t.Errorf("a session of an open incident taught %d calls", n)
	}
	h.ok("bob", http.MethodPost, "/api/v1/incidents/"+h.incidents()[0].ID+"/close", api.CloseBody{Verdict: incident.Expected, Reason: "it pays by wire now"})
	h.until("what was expected", func() bool { return calls("wire_now") == 1 })
	h.ok("bob", http.MethodPost, "/api/v1/incidents/"+h.incidents()[0].ID+"/close", api.CloseBody{Verdict: incident.Expected, Reason: "it pays by wire now"})

	got := []int{
		change("eve", baselines.Freeze, "to look at it"), change("ana", baselines.Freeze, "to look at it"), change("bob", baselines.Freeze, ""),
		change("bob", "forget", "to look at it"), change("bob", baselines.Freeze, "to look at it"),
	}
	if diff := cmp.Diff([]int{http.StatusForbidden, http.StatusForbidden, http.StatusConflict, http.StatusNotFound, http.StatusOK}, got); diff != "" {
		t.Error(diff)
	}
	h.until("a frozen baseline", func() bool { return learned().Life == baselines.Frozen })
	stop()
	h, _ = start(t, cfg)
	h.until("the frozen baseline after a restart", func() bool { return learned().Life == baselines.Frozen && learned().WayOut != "" })
	if n := calls("wire_now"); n != 1 {
		t.Errorf("closed as expected twice, the session taught %d calls", n)
	}
	before := learned().Sessions
	for _, kind := range []string{baselines.Unfreeze, baselines.Rollback} {
		if status := change("bob", kind, "looked at it"); status != http.StatusOK {
			t.Errorf("%s: %d", kind, status)
		}
	}
	h.until("yesterday's baseline", func() bool { l := learned(); return l.Life != baselines.Frozen && l.Sessions < before })
	var rows []string
	for _, r := range h.ledger(agent) {
		if r.Kind == ledger.KindBaseline {
			rows = append(rows, r.Actor)
		}
	}
	if len(rows) != 5 || slices.ContainsFunc(rows, func(by string) bool { return by != "bob" }) {
		t.Errorf("the ledger has changes by %v, want five of bob", rows)
	}
}

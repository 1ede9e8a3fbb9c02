package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

const privilegedAgent = "billing/billing-bot"

// loosener is a running Tocsin with a privileged agent that has a history.
type loosener struct{ *running }

func newLoosener(t *testing.T) *loosener {
	t.Helper()
	cfg := configured(t)
	cfg.Policies.File = filepath.Join(t.TempDir(), "policies.yaml")
	text := "owners:\n  - {agents: [\"billing/*\"], people: [carl]}\nprivileged: {agents: [\"billing/*\"]}\n"
	if err := os.WriteFile(cfg.Policies.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, cfg)
	l := &loosener{h}
	for i := range 30 {
		l.work(2*i, fmt.Sprint("s", i), "read_bill")
	}
	l.until("a history", func() bool { b := l.learned(); return b.Sessions >= 28 && !b.Copy.IsZero() })
	return l
}

func (l *loosener) work(hours int, session, tool string) {
	at := time.Now().Add(time.Duration(hours)*time.Hour - 96*time.Hour).UTC().Format(time.RFC3339Nano)
	body := fmt.Sprintf(`{"kind":"tool.result","time":%q,"agent":{"name":"billing-bot","service":"billing","class":"payments"},"session":{"id":%q},"tool":{"name":%q}}`, at, session, tool)
	l.send(ingest.Request{Path: "/v1/events", ContentType: "application/json", Body: []byte(body)})
}

func (l *loosener) learned() baselines.Learned {
	got, _ := l.control.learned(privilegedAgent)
	return got
}

// change asks for a change in a person's name and returns the status, and the request that waits.
func (l *loosener) change(person, kind string) (int, *approval.Request) {
	l.Helper()
	status, body := l.call(person, http.MethodPost, "/api/v1/agents/baseline", api.BaselineBody{Agent: privilegedAgent, Change: kind, Reason: "looked at it"})
	var done api.Waiting
	if status == http.StatusOK {
		if err := json.Unmarshal(body, &done); err != nil {
			l.Fatal(err)
		}
	}
	return status, done.Waits
}

// One person does not loosen the baseline of a privileged agent: the first signature waits for another's, and whose does not count is
// refused and recorded.
func TestLoosenNeedsTwoPeople(t *testing.T) {
	l := newLoosener(t)
	before := l.learned().Sessions
	status, waits := l.change("bob", baselines.Rebase)
	if status != http.StatusOK || waits == nil || waits.Missing() != 1 || waits.Question != "Rebase the baseline of agent "+privilegedAgent+"?" {
		t.Fatalf("the first signature: %d, %+v", status, waits)
	}
	if d := waits.Deadline.Sub(waits.Asked); d != 4*time.Hour {
		t.Errorf("it waits for %s", d)
	}
	got := make(map[string]int)
	for _, person := range []string{"bob", "carl", "ana", "eve"} {
		got[person], _ = l.change(person, baselines.Rebase)
	}
	want := map[string]int{"bob": http.StatusConflict, "carl": http.StatusForbidden, "ana": http.StatusForbidden, "eve": http.StatusForbidden}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if pending := l.requests(approval.Pending); len(pending) != 1 || len(pending[0].Votes) != 1 {
		t.Fatalf("%+v waits, want one request with one signature", pending)
	}
	if n := l.learned().Sessions; n < before { // one that ended meanwhile may have taught
		t.Fatalf("one signature changed the baseline: %d sessions, before %d", n, before)
	}
	l.ok("nora", http.MethodPost, "/api/v1/approvals/"+waits.ID+"/decide", api.DecideBody{Verb: approval.Approve, Digest: waits.Digest, Reason: "it has another job"})
	l.until("the rebased baseline", func() bool { return l.learned().Sessions < before })

	kinds := make(map[string]int)
	for _, r := range l.ledger(waits.ID) {
		kinds[r.Kind+" "+r.Actor]++
	}
	if diff := cmp.Diff(map[string]int{"decision bob": 1, "decision nora": 1, "refusal bob": 1, "refusal carl": 1}, kinds); diff != "" {
		t.Error(diff)
	}
	rows := l.ledger(privilegedAgent)
	if i := slices.IndexFunc(rows, func(r ledger.Record) bool { return r.Kind == ledger.KindBaseline && r.Actor == "nora" }); i < 0 {
		t.Errorf("the ledger has no row of the change: %+v", rows)
	} else if n := len(votesOf(t, rows[i].Body)); n != 2 {
		t.Errorf("the row of the change names %d signatures, want 2", n)
	}
}

func votesOf(t *testing.T, body []byte) []approval.Decision {
	t.Helper()
	var row struct {
		Votes []approval.Decision `json:"votes"`
	}
	if err := json.Unmarshal(body, &row); err != nil {
		t.Fatal(err)
	}
	return row.Votes
}

// Freezing is for one person. What nobody signs in time is not done, a denial ends it, and a signature that was written into the store is none.
func TestLoosenThatIsNotSigned(t *testing.T) {
	l := newLoosener(t)
	if status, waits := l.change("bob", baselines.Freeze); status != http.StatusOK || waits != nil {
		t.Fatalf("a freeze: %d, %+v", status, waits)
	}
	l.until("a frozen baseline", func() bool { return l.learned().Life == baselines.Frozen })

	_, waits := l.change("bob", baselines.Unfreeze)
	late := *waits
	late.Deadline = time.Now().Add(-time.Second)
	if err := l.store.SaveRequest(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if status, _ := l.call("nora", http.MethodPost, "/api/v1/approvals/"+late.ID+"/decide", api.DecideBody{Verb: approval.Approve, Digest: late.Digest, Reason: "late"}); status != http.StatusConflict {
		t.Errorf("a late signature: %d", status)
	}
	if err := l.control.expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := l.App.control; got == nil || l.request(late.ID).State != approval.Expired {
		t.Errorf("the late request is %s", l.request(late.ID).State)
	}

	_, waits = l.change("nora", baselines.Unfreeze)
	if waits == nil || waits.ID == late.ID || len(waits.Votes) != 1 {
		t.Fatalf("a new request has %+v", waits)
	}
	l.ok("bob", http.MethodPost, "/api/v1/approvals/"+waits.ID+"/decide", api.DecideBody{Verb: approval.Deny, Digest: waits.Digest, Reason: "not yet"})
	if s := l.request(waits.ID).State; s != approval.Denied {
		t.Errorf("after a denial it is %s", s)
	}

	_, waits = l.change("bob", baselines.Unfreeze)
	forged := *waits
	forged.Votes = slices.Clone(forged.Votes)
	forged.Votes[0].By.ID, forged.Votes[0].Grant = "max", nil
	if err := l.store.SaveRequest(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	if status, _ := l.change("nora", baselines.Unfreeze); status == http.StatusOK {
		t.Error("a signature that nobody gave counted")
	}
	if life := l.learned().Life; life != baselines.Frozen {
		t.Errorf("the baseline is %s, want frozen still", life)
	}
	if s := l.request(waits.ID).State; s != approval.Pending {
		t.Errorf("the request is %s, want it to wait", s)
	}
}

// An incident of a privileged agent is not closed as expected by one person.
func TestExpectedNeedsTwoPeople(t *testing.T) {
	l := newLoosener(t)
	l.work(61, "odd", "wire_now")
	l.work(63, "later", "read_bill")
	l.until("an incident", func() bool { return len(l.incidents()) == 1 })
	id := l.incidents()[0].ID
	asked := l.asked("odd")
	l.call("bob", http.MethodPost, "/api/v1/approvals/"+asked.ID+"/decide", api.DecideBody{Verb: approval.Deny, Digest: asked.Digest, Reason: "it pays by wire now"})
	l.until("the question's answer, or its end", func() bool { return len(l.requests(approval.Pending)) == 0 })
	expect := api.CloseBody{Verdict: incident.Expected, Reason: "it pays by wire now"}
	taught := func() bool {
		return slices.ContainsFunc(l.learned().Tools, func(c baselines.Count) bool { return c.Text == "wire_now" })
	}
	l.ok("bob", http.MethodPost, "/api/v1/incidents/"+id+"/close", expect)
	if got := l.incidents()[0].Status; got == incident.Closed {
		t.Fatal("one person closed it as expected")
	}
	if status, _ := l.call("bob", http.MethodPost, "/api/v1/incidents/"+id+"/close", expect); status != http.StatusConflict {
		t.Errorf("the same person again: %d", status)
	}
	if taught() {
		t.Fatal("one person taught it")
	}
	l.ok("nora", http.MethodPost, "/api/v1/incidents/"+id+"/close", expect)
	l.until("what was expected", taught)
	if d := l.incidents()[0].Disposition; d == nil || d.By != "bob and nora" {
		t.Errorf("the disposition is %+v, want both names", d)
	}
}

// Whatever ends the process between the last signature and the change: the change is made at the next start, once, and asks nobody again.
func TestLoosenSurvivesACrash(t *testing.T) {
	for _, tt := range []struct {
		name string
		made bool // the change was made, and only the note that it was is missing
	}{{"before the change", false}, {"after the change", true}} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoosener(t)
			before := l.learned().Sessions
			_, waits := l.change("bob", baselines.Rebase)
			nora := approval.Decision{Request: waits.ID, Verb: approval.Approve, Digest: waits.Digest, By: approval.Principal{ID: "nora", Role: approval.Lead}, Reason: "it has another job", At: time.Now().UTC()}
			r := l.request(waits.ID)
			var err error
			if nora.Grant, err = l.signer.Sign(r, nora); err != nil {
				t.Fatal(err)
			}
			r.Answer(nora)
			r.Due = true
			// What count writes before it makes the change is all that a crash leaves behind.
			if err := l.store.SaveRequest(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if tt.made {
				if err := l.control.loosen(t.Context(), &r); err != nil {
					t.Fatal(err)
				}
				l.until("the rebased baseline", func() bool { return l.learned().Sessions < before })
				for i := range 3 {
					l.work(70+2*i, fmt.Sprint("after", i), "read_bill")
				}
				l.until("what it learned since", func() bool { return l.learned().Sessions > 0 })
			}
			since := l.learned().Sessions
			if err := l.control.repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := l.request(r.ID); got.State != approval.Approved || got.Due || len(got.Votes) != 2 {
				t.Errorf("the request is %s, due %t, with %d signatures", got.State, got.Due, len(got.Votes))
			}
			if !tt.made {
				l.until("the rebased baseline", func() bool { return l.learned().Sessions < before })
			}
			l.work(90, "last", "read_bill") // what comes after the change in the log
			l.work(94, "later", "read_bill")
			l.until("a session after the repair", func() bool { return tt.made || l.learned().Sessions > 0 })
			if got := l.learned().Sessions; tt.made && got < since {
				t.Errorf("the change was made twice: %d sessions, before the repair %d", got, since)
			}
			rows := slices.DeleteFunc(l.ledger(privilegedAgent), func(r ledger.Record) bool { return r.Kind != ledger.KindBaseline })
			if len(rows) != 1 {
				t.Errorf("the ledger has %d rows of the change, want 1", len(rows))
			}
		})
	}
}

// A request that somebody wrote into the store as approved is not made: its signatures are checked again.
func TestRepairChecksSignatures(t *testing.T) {
	l := newLoosener(t)
	before := l.learned().Sessions
	_, waits := l.change("bob", baselines.Rebase)
	forged := *waits
	forged.Votes = append(slices.Clone(forged.Votes), approval.Decision{Request: forged.ID, Verb: approval.Approve, Digest: forged.Digest, By: approval.Principal{ID: "max"}})
	forged.State, forged.Due, forged.Decision = approval.Approved, true, &forged.Votes[1]
	if err := l.store.SaveRequest(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	if err := l.control.repair(t.Context()); approval.Kind(err) != approval.RefusedGrant {
		t.Errorf("repair = %v", err)
	}
	if got := l.request(forged.ID); got.State != approval.Pending || len(got.Votes) != 1 || l.learned().Sessions < before {
		t.Errorf("the request is %s with %d signatures", got.State, len(got.Votes))
	}
}

package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/descope/virtualwebauthn"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// keyed is a person at a browser with a security key.
type keyed struct {
	*running
	http   *http.Client
	rp     virtualwebauthn.RelyingParty
	device virtualwebauthn.Authenticator
	key    virtualwebauthn.Credential
}

func (h *running) keyed(person string) *keyed {
	h.Helper()
	return &keyed{
		running: h, http: h.browser(person), rp: virtualwebauthn.RelyingParty{ID: "localhost", Name: "Tocsin", Origin: h.site()},
		device: virtualwebauthn.NewAuthenticator(), key: freshKey(),
	}
}

// freshKey is a new key. The library writes a coordinate that begins with a zero too short, about once in 128 keys, and no such key can be
// registered: it makes another.
func freshKey() virtualwebauthn.Credential {
	const whole = 77 // bytes of a COSE key on P-256 with both coordinates of 32 (RFC 9053, section 7.1)
	for {
		if k := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(k.Key.AttestationData()) == whole {
			return k
		}
	}
}

// post sends what the page's module would.
func (k *keyed) post(path string, body any) string {
	k.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		k.Fatal(err)
	}
	response, err := k.http.Post(k.console(path), "application/json", bytes.NewReader(text))
	if err != nil {
		k.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		k.Fatalf("%s: %s %s: %v", path, response.Status, answer, err)
	}
	return string(answer)
}

func (k *keyed) register() {
	k.Helper()
	asked, err := virtualwebauthn.ParseAttestationOptions(k.post("/keys/register/begin", map[string]string{"name": "blue"}))
	if err != nil {
		k.Fatal(err)
	}
	k.post("/keys/register/finish", map[string]any{"credential": json.RawMessage(virtualwebauthn.CreateAttestationResponse(k.rp, k.device, k.key, *asked))})
}

func (k *keyed) prove(digest string) {
	k.Helper()
	asked, err := virtualwebauthn.ParseAssertionOptions(k.post("/keys/prove/begin", map[string]string{"for": digest}))
	if err != nil {
		k.Fatal(err)
	}
	k.key.Counter++
	k.post("/keys/prove/finish", map[string]any{"for": digest, "credential": json.RawMessage(virtualwebauthn.CreateAssertionResponse(k.rp, k.device, k.key, *asked))})
}

func (k *keyed) page(path string) string {
	k.Helper()
	response, err := k.http.Get(k.console(path))
	if err != nil {
		k.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		k.Fatal(err)
	}
	return string(page)
}

// TestStepUp is two leads who approve with their security keys on a whole Tocsin, and one who breaks the glass.
func TestStepUp(t *testing.T) {
	cfg := configured(t)
	cfg.Policies.File = filepath.Join(t.TempDir(), "policies.yaml")
	text := "policies:\n  - {classes: [contain], need: 2, from: [role:lead], step_up: true, break_glass: [role:lead]}\n"
	if err := os.WriteFile(cfg.Policies.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Users = append(cfg.Users, User{Name: "lea", PasswordHash: cfg.Users[0].PasswordHash, Role: approval.Lead})
	h, _ := start(t, cfg)
	requests, session := hijacked(t, 0)
	h.send(requests...)
	more, second := hijacked(t, 1)
	h.send(more...)
	r, other := h.asked(session), h.asked(second)

	h.refused("bob", r, r.Digest, approval.RefusedStepUp, http.StatusForbidden)
	browsers := make(map[string]*keyed)
	for i, name := range []string{"bob", "lea"} {
		k, path := h.keyed(name), "/approvals/"+r.ID
		browsers[name] = k
		if page := k.page(path); !strings.Contains(page, "register one") || strings.Contains(page, `>Approve quarantine<`) || !strings.Contains(page, `value="deny"`) {
			t.Errorf("%s without a key is shown %s", name, page)
		}
		k.register()
		if page := k.page(path); !strings.Contains(page, `data-prove="`+r.Digest+`"`) || strings.Contains(page, `>Approve quarantine<`) {
			t.Errorf("%s with a key is shown %s", name, page)
		}
		k.prove(r.Digest)
		if page := k.page(path); !strings.Contains(page, `>Approve quarantine<`) {
			t.Errorf("%s with a proof is shown %s", name, page)
		}
		if status, _ := h.submit(k.http, "/approvals/"+other.ID+"/decide", form(other, approval.Approve, other.Digest)); status != http.StatusForbidden {
			t.Errorf("the proof for one plan approved another: %d", status)
		}
		if status, page := h.submit(k.http, path+"/decide", form(r, approval.Approve, r.Digest)); status != http.StatusSeeOther {
			t.Fatalf("%s: %d %s", name, status, page)
		}
		h.until("the vote to be written", func() bool { return len(h.request(r.ID).Votes) == i+1 })
		if v := h.request(r.ID).Votes[i]; v.By.ID != name || v.By.ProvedFor != r.Digest || v.Looked <= 0 {
			t.Errorf("the vote is %+v", v)
		}
	}
	h.until("the containment", func() bool {
		i, err := h.store.Incident(t.Context(), r.Incident)
		return err == nil && i.Status == incident.Contained
	})
	if !h.denies(r) {
		t.Error("the gate lets the agent act")
	}
	h.lifted(r)
	h.sub("broken glass", func(h *running) { h.brokenGlass(other, browsers["bob"]) })
}

// brokenGlass is bob who approves alone, with the key that he has, and lea who must review that before the incident is closed.
func (h *running) brokenGlass(r approval.Request, bob *keyed) {
	decide := api.DecideBody{Verb: approval.Approve, Digest: r.Digest, Reason: "nobody else answers the pager tonight", BreakGlass: true}
	if status, _ := h.call("bob", http.MethodPost, "/api/v1/approvals/"+r.ID+"/review", api.ReasonBody{Reason: "nothing there"}); status != http.StatusNotFound {
		h.Errorf("a review of nothing was answered with %d", status)
	}
	if status, answer := h.call("bob", http.MethodPost, "/api/v1/approvals/"+r.ID+"/decide", decide); status != http.StatusForbidden || !strings.Contains(string(answer), "breaking the glass needs your security key") {
		h.Errorf("bob, who has a key, broke the glass without it: %d %s", status, answer)
	}
	alone := form(r, approval.Approve, r.Digest)
	alone.Set("glass", "broken")
	alone.Set("reason", decide.Reason)
	bob.prove(r.Digest)
	if status, page := h.submit(bob.http, "/approvals/"+r.ID+"/decide", alone); status != http.StatusSeeOther {
		h.Fatalf("bob, with his key: %d %s", status, page)
	}
	h.until("the containment", func() bool { l, ok := h.gate.Lease(r.ID); return ok && !l.Verified.IsZero() })
	h.lifted(r)
	closing, path := api.CloseBody{Verdict: incident.TruePositive, Reason: "seen and settled"}, "/api/v1/incidents/"+r.Incident+"/close"
	for _, person := range []string{"bob", "lea"} {
		if status, answer := h.call(person, http.MethodPost, path, closing); status != http.StatusConflict || !strings.Contains(string(answer), "broke the glass") {
			h.Errorf("%s closed what nobody reviewed: %d %s", person, status, answer)
		}
	}
	review := "/api/v1/approvals/" + r.ID + "/review"
	for person, want := range map[string]int{"bob": http.StatusForbidden, "ana": http.StatusForbidden} {
		if status, answer := h.call(person, http.MethodPost, review, api.ReasonBody{Reason: "it was right"}); status != want {
			h.Errorf("a review by %s was answered with %d %s", person, status, answer)
		}
	}
	if status, _ := h.call("lea", http.MethodPost, review, api.ReasonBody{Reason: " "}); status != http.StatusConflict {
		h.Errorf("a review without a reason was answered with %d", status)
	}
	summary, err := h.facts.Summary(h.Context(), window)
	if err != nil || summary.ReviewsDue != 1 || summary.Deciding.Outcomes["break_glass"] != 1 || summary.Deciding.Outcomes["approved"] != 1 || summary.Deciding.Decisions != 3 {
		h.Errorf("the summary says %+v, %d due: %v", summary.Deciding, summary.ReviewsDue, err)
	}
	h.ok("lea", http.MethodPost, review, api.ReasonBody{Reason: "it was right, and the rota has a gap"})
	if status, _ := h.call("lea", http.MethodPost, review, api.ReasonBody{Reason: "once more"}); status != http.StatusConflict {
		h.Errorf("a second review was answered with %d", status)
	}
	h.ok("bob", http.MethodPost, path, closing)
	if rows, err := h.store.LedgerOf(h.Context(), ledger.KindReview, 10); err != nil || len(rows) != 1 || rows[0].Actor != "lea" {
		h.Errorf("the ledger has %+v: %v", rows, err)
	}
	h.verify()
}

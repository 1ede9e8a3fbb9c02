package action

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// receiver takes SETs by push. It fetches the transmitter's keys and verifies with a library that knows nothing of ours.
type receiver struct {
	*httptest.Server
	claims []map[string]any
	seen   map[string]bool
	answer int
}

func newReceiver(t *testing.T, o *CAEPOptions) *receiver {
	t.Helper()
	r := &receiver{answer: http.StatusAccepted, seen: make(map[string]bool)}
	mux := http.NewServeMux()
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		text, err := o.JWKS()
		if err != nil {
			t.Error(err)
		}
		w.Write(text)
	})
	mux.HandleFunc("POST /events", func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		header := []string{q.Header.Get("Content-Type"), q.Header.Get("Accept"), q.Header.Get("Authorization")}
		if diff := cmp.Diff([]string{"application/secevent+jwt", "application/json", "Bearer push"}, header); diff != "" {
			t.Error(diff)
		}
		set, err := jose.ParseSigned(string(body), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil || set.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != "secevent+jwt" {
			t.Errorf("%v: want typ secevent+jwt (RFC 8417, section 2.3)", err)
		}
		payload, err := oidc.NewRemoteKeySet(q.Context(), r.URL+"/jwks").VerifySignature(q.Context(), string(body))
		if err != nil {
			t.Error(err)
		}
		var claims map[string]any
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Error(err)
		}
		if jti, _ := claims["jti"].(string); r.answer == http.StatusAccepted && !r.seen[jti] {
			r.seen[jti] = true
			r.claims = append(r.claims, claims)
		}
		w.WriteHeader(r.answer)
		if r.answer >= 400 {
			io.WriteString(w, `{"err":"invalid_audience","description":"<script>"}`)
		}
	})
	o.Endpoint = r.URL + "/events"
	return r
}

func pemKey(t *testing.T, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func caepOptions(t *testing.T) CAEPOptions {
	return CAEPOptions{
		Endpoint: "https://receiver.example/events", TokenFile: file(t, "push"), Issuer: "https://tocsin.example", Audience: "https://receiver.example", KeyFile: pemKey(t, elliptic.P256()),
		SubjectIssuer: "https://id.example", Subjects: map[string]string{"shop/bot": "svc-7"},
	}
}

func clock() time.Time { return noon }

func TestSessionRevoked(t *testing.T) {
	o := caepOptions(t)
	r := newReceiver(t, &o)
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	c, _, in := granted(t, NewSessionRevoked(o, clock), approval.Plan{Target: approval.Target{Agent: "shop/bot", Session: "s1"}})
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	var want []map[string]any
	const events = `[{"iss":"https://tocsin.example","aud":"https://receiver.example","iat":1772366400,"jti":"r1","txn":"r1",
		"sub_id":{"format":"complex","user":{"format":"iss_sub","iss":"https://id.example","sub":"svc-7"},"session":{"format":"opaque","id":"s1"}},
		"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1772366400,"initiating_entity":"admin","reason_admin":{"en":"Tocsin, incident INC-1"}}}}]`
	if err := json.Unmarshal([]byte(events), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.claims); diff != "" {
		t.Error(diff)
	}
	// A second delivery, after an outcome that was not known, is the same event for the receiver.
	if err := c.actions[NameSessionRevoked].Apply(t.Context(), Lease{ID: "r1", Incident: "INC-1", Plan: in.Plan}); err != nil || len(r.claims) != 1 {
		t.Errorf("%v, %d events", err, len(r.claims))
	}
	r.answer = http.StatusBadRequest
	if err := c.actions[NameSessionRevoked].Apply(t.Context(), Lease{ID: "r2", Plan: in.Plan}); err == nil || !strings.Contains(err.Error(), "status 400 (invalid_audience)") || strings.Contains(err.Error(), "script") {
		t.Errorf("refused: %v", err)
	}
	r.answer = http.StatusOK // RFC 8935, section 2.2: only 202 says that it was taken
	if err := c.actions[NameSessionRevoked].Apply(t.Context(), Lease{ID: "r2", Plan: in.Plan}); err == nil {
		t.Error("200 counts as taken")
	}
}

func TestRiskChange(t *testing.T) {
	o := caepOptions(t)
	r := newReceiver(t, &o)
	c, _, in := granted(t, NewRiskChange(o, clock), approval.Plan{Target: approval.Target{Agent: "shop/bot"}, Lease: time.Hour, Params: map[string]string{"level": "HIGH", "previous": "LOW"}})
	want := []string{strings.TrimPrefix(r.URL, "http://") + " is told that the risk level of shop/bot changed from LOW to HIGH", `the subject is {"format":"iss_sub","iss":"https://id.example","sub":"svc-7"}`}
	if diff := cmp.Diff(want, in.Plan.Change); diff != "" {
		t.Error(diff)
	}
	l, err := c.Apply(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Undo(t.Context(), l, "lea"); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, claims := range r.claims {
		e, _ := claims["events"].(map[string]any)[typeRiskChange].(map[string]any)
		got = append(got, claims["jti"].(string), e["previous_level"].(string), e["current_level"].(string), e["principal"].(string))
	}
	if diff := cmp.Diff([]string{"r1", "LOW", "HIGH", "USER", "r1/undo", "HIGH", "LOW", "USER"}, got); diff != "" {
		t.Error(diff)
	}
	for _, p := range []map[string]string{nil, {"level": "HIGH"}, {"level": "HIGH", "previous": "HIGH"}, {"level": "high", "previous": "LOW"}} {
		if _, err := NewRiskChange(o, clock).Plan(t.Context(), Input{Plan: approval.Plan{Target: in.Plan.Target, Params: p}}); err == nil {
			t.Errorf("%v is planned", p)
		}
	}
	for _, target := range []approval.Target{{Agent: "other"}, {Agent: "shop/bot", Tool: "t"}} {
		if _, err := NewSessionRevoked(o, clock).Plan(t.Context(), Input{Plan: approval.Plan{Target: target}}); err == nil {
			t.Errorf("%s is planned", target)
		}
	}
}

func TestCAEPOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*CAEPOptions)
		want   string
	}{
		{"good", func(*CAEPOptions) {}, ""},
		{"plain HTTP", func(o *CAEPOptions) { o.Endpoint = "http://receiver.example/" }, "endpoint: "},
		{"no audience", func(o *CAEPOptions) { o.Audience = "" }, "audience: is missing"},
		{"no agents", func(o *CAEPOptions) { o.Subjects = nil }, "subjects: is empty"},
		{"token that is not there", func(o *CAEPOptions) { o.TokenFile = "/nowhere" }, "token_file: read secret"},
		{"other curve", func(o *CAEPOptions) { o.KeyFile = pemKey(t, elliptic.P384()) }, "key_file: read key: it is not on the curve P-256"},
		{"no key", func(o *CAEPOptions) { o.KeyFile = file(t, "hello") }, "is no PEM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := caepOptions(t)
			tt.change(&o)
			if err := o.Check(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want %q", err, tt.want)
			}
		})
	}
}

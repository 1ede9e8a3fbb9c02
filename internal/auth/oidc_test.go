package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// idp is a small OpenID provider: discovery, keys, and a token endpoint that checks the secret and PKCE.
type idp struct {
	*httptest.Server
	key       *ecdsa.PrivateKey
	claims    map[string]any
	challenge string
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{key: key}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
			"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("/token", p.token)
	return p
}

func (p *idp) token(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	id, secret, _ := r.BasicAuth()
	if id != "tocsin" || secret != "s3cret" || r.FormValue("code") != "good" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.challenge {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	raw, err := jwt.Signed(signer).Claims(p.claims).Serialize()
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": raw})
}

func TestOIDC(t *testing.T) {
	tests := []struct {
		name     string
		claims   map[string]any     // over those of a good sign-in
		query    func(q url.Values) // changes the answer
		noCookie bool               // another browser
		want     string             // location
		who      string             // what the session then says
	}{
		{name: "lead by group", want: "/incidents", who: "ana@example.com lead console"},
		{name: "highest of two", claims: map[string]any{"groups": []string{"oncall", "leads"}}, want: "/incidents", who: "ana@example.com lead console"},
		{name: "one group as text", claims: map[string]any{"groups": "oncall"}, want: "/incidents", who: "ana@example.com responder console"},
		{name: "unknown group", claims: map[string]any{"groups": []string{"sales"}}, want: "/sign-in?refused=role"},
		{name: "no groups", claims: map[string]any{"groups": nil}, want: "/sign-in?refused=role"},
		{name: "email not verified", claims: map[string]any{"email_verified": false}, want: "/sign-in?refused=role"},
		{name: "name of a configured user", claims: map[string]any{"email": "vera"}, want: "/sign-in?refused=role"},
		{name: "another nonce", claims: map[string]any{"nonce": "x"}, want: "/sign-in?refused=oidc"},
		{name: "another audience", claims: map[string]any{"aud": "somebody"}, want: "/sign-in?refused=oidc"},
		{name: "expired id token", claims: map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, want: "/sign-in?refused=oidc"},
		{name: "another issuer", claims: map[string]any{"iss": "https://evil.example"}, want: "/sign-in?refused=oidc"},
		{name: "another state", query: func(q url.Values) { q.Set("state", "x") }, want: "/sign-in?refused=oidc"},
		{name: "no state", query: func(q url.Values) { q.Del("state") }, want: "/sign-in?refused=oidc"},
		{name: "bad code", query: func(q url.Values) { q.Set("code", "bad") }, want: "/sign-in?refused=oidc"},
		{name: "another browser", noCookie: true, want: "/sign-in?refused=oidc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newIDP(t)
			b := newBench(t, func(o *Options) {
				o.OIDC = &OIDC{
					Issuer: p.URL, ClientID: "tocsin", ClientSecret: "s3cret", RedirectURL: "http://tocsin.test/sign-in/callback",
					Roles: map[string]approval.Role{"leads": approval.Lead, "oncall": approval.Responder},
				}
			})
			start, _ := b.get("/sign-in/oidc?next=/incidents", nil)
			at, err := url.Parse(start.Header.Get("Location"))
			if err != nil || !strings.HasPrefix(at.String(), p.URL+"/authorize?") {
				t.Fatalf("sent to %q, %v", at, err)
			}
			asked := at.Query()
			if asked.Get("code_challenge_method") != "S256" {
				t.Errorf("PKCE method %q, want S256", asked.Get("code_challenge_method"))
			}
			p.challenge = asked.Get("code_challenge")
			p.claims = map[string]any{
				"iss": p.URL, "aud": "tocsin", "sub": "1", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
				"nonce": asked.Get("nonce"), "email": "ana@example.com", "email_verified": true, "groups": []string{"leads", "sales"},
			}
			for k, v := range tt.claims {
				p.claims[k] = v
			}
			q := url.Values{"state": {asked.Get("state")}, "code": {"good"}}
			if tt.query != nil {
				tt.query(q)
			}
			res, _ := b.get("/sign-in/callback?"+q.Encode(), func(r *http.Request) {
				if !tt.noCookie {
					r.AddCookie(start.Cookies()[0])
				}
			})
			if got := res.Header.Get("Location"); got != tt.want {
				t.Errorf("sent to %q, want %q; ledger %q", got, tt.want, b.recorded)
			}
			if len(b.recorded) != 1 {
				t.Errorf("ledger holds %q, want one record", b.recorded)
			}
			_, who := b.get("/x", func(r *http.Request) {
				for _, c := range res.Cookies() {
					if c.Name == "tocsin" {
						r.AddCookie(c)
					}
				}
			})
			if tt.who != "" && who != tt.who {
				t.Errorf("signed in as %q, want %q", who, tt.who)
			}
		})
	}
}

func TestOIDCProviderDown(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.OIDC = &OIDC{Issuer: "http://127.0.0.1:1", ClientID: "tocsin", RedirectURL: "http://tocsin.test/sign-in/callback"}
	})
	if res, _ := b.get("/sign-in/oidc", nil); res.Header.Get("Location") != "/sign-in?refused=oidc" {
		t.Errorf("sent to %q", res.Header.Get("Location"))
	}
	if got := b.form("ana", password, "/").Header.Get("Location"); got != "/" {
		t.Errorf("password sign-in: sent to %q", got)
	}
}

// roundTrip answers requests without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (fn roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return fn(r) }

// A provider that does not answer is asked once, however many people wait for it, and nobody waits who has left.
func TestOIDCProviderSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := 0, make(chan struct{})
		slow := roundTrip(func(*http.Request) (*http.Response, error) {
			asked++
			<-answer
			return nil, errors.New("it is down")
		})
		a := &Auth{o: Options{OIDC: &OIDC{Issuer: "https://idp.example"}, Client: &http.Client{Transport: slow}}}
		var people sync.WaitGroup
		for range 5 {
			people.Go(func() {
				if _, err := a.discover(t.Context()); err == nil {
					t.Error("found a provider that is down")
				}
			})
		}
		synctest.Wait()
		left, leave := context.WithCancel(t.Context())
		leave()
		if _, err := a.discover(left); !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		if asked != 1 {
			t.Errorf("the provider was asked %d times, want once", asked)
		}
		close(answer)
		people.Wait()
	})
}

package action

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// signing is the library's storage with a client whose access tokens are JWTs.
type signing struct {
	*storage.Storage
	jwt bool
}

type jwtClient struct{ op.Client }

func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (s signing) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if s.jwt && err == nil {
		c = jwtClient{c}
	}
	return c, err
}

// authorizationServer runs a real one on loopback and returns its address and an access token that a person's consent gave.
func authorizationServer(t *testing.T, jwt bool) (at, token string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	at = "http://" + strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	clients := storage.NewStorageWithClients(storage.NewUserStore(at), map[string]*storage.Client{"web": storage.WebClient("web", "hush", "http://localhost/cb")})
	old := slog.Default()
	server.Config.Handler = exampleop.SetupServer(at, signing{clients, jwt}, slog.New(slog.DiscardHandler), false, op.WithCrypto(op.NewAESCrypto(sha256.Sum256([]byte("test")))))
	slog.SetDefault(old)
	server.Start()
	t.Cleanup(server.Close)

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	next := func(r *http.Response, err error) *url.URL {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		to, err := r.Location()
		if err != nil {
			text, _ := io.ReadAll(r.Body)
			t.Fatal(r.Request.URL, r.Status, string(text))
		}
		return to
	}
	login := next(browser.Get(at + "/auth?client_id=web&redirect_uri=http://localhost/cb&response_type=code&state=x&scope=openid"))
	back := next(browser.PostForm(at+"/login/username", url.Values{"id": {login.Query().Get("authRequestID")}, "username": {"test-user@localhost"}, "password": {"verysecure"}}))
	code := next(browser.Get(back.String())).Query().Get("code")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at+"/oauth/token", strings.NewReader(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"http://localhost/cb"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("web", "hush")
	answer, err := browser.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var tokens struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&tokens); err != nil || tokens.AccessToken == "" {
		t.Fatal("no token", err)
	}
	return at, tokens.AccessToken
}

// file writes a secret and returns where it is.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func tokenOptions(t *testing.T, at, token string) RevokeTokenOptions {
	o := RevokeTokenOptions{
		RevocationURL: at + "/revoke", IntrospectionURL: at + "/oauth/introspect", ClientID: "web", ClientSecretFile: file(t, "hush\n"),
		Tokens: map[string]TokenOptions{"billing": {Agent: "a", File: file(t, token+"\n"), Hint: "access_token"}},
	}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	return o
}

// granted is a catalogue of one action, and an approved input for it.
func granted(t *testing.T, a Action, p approval.Plan) (*Catalogue, *door, Input) {
	t.Helper()
	c, d, in, signer := fixture(t)
	c.actions[a.Describe().Name] = a
	p.Action, p.Class, p.Need = a.Describe().Name, a.Describe().Class, a.Describe().Class.Least()
	in.Plan = p
	var err error
	if in.Plan, err = c.Plan(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	in.Grants = sign(t, signer, in.Request, in.Plan, noon, []string{"ada", "bob"}[:p.Need]...)
	return c, d, in
}

// accepted reports whether the server itself takes the token.
func accepted(t *testing.T, at, token string) bool {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/userinfo", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func TestRevokeToken(t *testing.T) {
	for name, jwt := range map[string]bool{"opaque": false, "JWT": true} {
		t.Run(name, func(t *testing.T) {
			at, token := authorizationServer(t, jwt)
			c, d, in := granted(t, NewRevokeToken(tokenOptions(t, at, token)), approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"token": "billing"}})
			if !accepted(t, at, token) {
				t.Fatal("the server does not take its own token")
			}
			if holds, err := c.actions[NameRevokeToken].Verify(t.Context(), Lease{Plan: in.Plan, Snapshot: mustSnapshot(t, c, in)}); err != nil || holds {
				t.Fatalf("proved before it was applied: %v", err)
			}
			l, err := c.Apply(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if accepted(t, at, token) {
				t.Error("the server takes a token that was revoked")
			}
			if l, err = c.Verify(t.Context(), l); err != nil || l.Verified.IsZero() {
				t.Errorf("%+v %v", l, err)
			}
			if jwt == l.Effective.IsZero() || jwt && time.Until(l.Effective) <= 0 {
				t.Errorf("still effective until %s (%s)", l.Effective, l.Lag)
			}
			if _, err := NewRevokeToken(tokenOptions(t, at, token)).Plan(t.Context(), in); err == nil || !strings.Contains(err.Error(), "nothing to revoke") {
				t.Errorf("planned again: %v", err)
			}
			if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), token) || strings.Contains(string(text), "hush") {
				t.Error("the lease holds the token or the client's secret", err)
			}
			if err := c.Undo(t.Context(), l, "lea"); !errors.Is(err, errIrreversible) {
				t.Errorf("undone: %v", err)
			}
		})
	}
}

func mustSnapshot(t *testing.T, c *Catalogue, in Input) json.RawMessage {
	t.Helper()
	s, err := c.actions[in.Plan.Action].Snapshot(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRevokeTokenRefuses(t *testing.T) {
	at, token := authorizationServer(t, false)
	plan := func(agent, name string) approval.Plan {
		return approval.Plan{Target: approval.Target{Agent: agent}, Params: map[string]string{"token": name}}
	}
	for _, tt := range []struct {
		name   string
		change func(*RevokeTokenOptions)
		plan   approval.Plan
		want   string
	}{
		{"another agent's token", func(*RevokeTokenOptions) {}, plan("b", "billing"), `token: "billing" is of agent a, not of agent b`},
		{"no such token", func(*RevokeTokenOptions) {}, plan("a", "../etc/passwd"), `actions.revoke_token.tokens has no "../etc/passwd"`},
		{"wrong secret", func(o *RevokeTokenOptions) { o.ClientSecretFile = file(t, "guess") }, plan("a", "billing"), "introspect at localhost"},
		{"no server", func(o *RevokeTokenOptions) { o.IntrospectionURL = "http://127.0.0.1:1/" }, plan("a", "billing"), "call 127.0.0.1:1"},
		{"no answer to the question", func(o *RevokeTokenOptions) { o.IntrospectionURL = at + "/.well-known/openid-configuration" }, plan("a", "billing"), "introspect at"},
		{"empty file", func(o *RevokeTokenOptions) { o.Tokens["billing"] = TokenOptions{Agent: "a", File: file(t, " \n")} }, plan("a", "billing"), "is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := tokenOptions(t, at, token)
			tt.change(&o)
			_, err := NewRevokeToken(o).Plan(t.Context(), Input{Plan: tt.plan})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), token) {
				t.Errorf("Plan = %v, want %s", err, tt.want)
			}
		})
	}
	// A token that took the place of the approved one is not revoked in its stead.
	o := tokenOptions(t, at, token)
	c, _, in := granted(t, NewRevokeToken(o), plan("a", "billing"))
	_, other := authorizationServer(t, false)
	if err := os.WriteFile(o.Tokens["billing"].File, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), in); err == nil || !accepted(t, at, token) {
		t.Errorf("applied to another token than was approved: %v", err)
	}
	for name, try := range map[string]func(context.Context, Lease) error{
		"applied": NewRevokeToken(o).Apply, "proved": func(ctx context.Context, l Lease) error { _, err := NewRevokeToken(o).Verify(ctx, l); return err },
	} {
		l := Lease{Plan: in.Plan, Snapshot: json.RawMessage(`{"fingerprint":"0011223344556677"}`)}
		if err := try(t.Context(), l); err == nil || !strings.Contains(err.Error(), "holds another token by now") {
			t.Errorf("%s to a token that took the place of the first: %v", name, err)
		}
	}
}

func TestRevokeTokenLag(t *testing.T) {
	o := RevokeTokenOptions{Tokens: map[string]TokenOptions{"r": {Life: time.Hour}}}
	l := Lease{Applied: noon, Plan: approval.Plan{Params: map[string]string{"token": "r"}}, Snapshot: json.RawMessage(`{"fingerprint":"00"}`)}
	if until, why := NewRevokeToken(o).Lag(l); !until.Equal(noon.Add(time.Hour)) || why == "" {
		t.Errorf("%s %s", until, why)
	}
}

func TestRevokeTokenOptions(t *testing.T) {
	good := func() RevokeTokenOptions {
		return RevokeTokenOptions{
			RevocationURL: "https://id.example/revoke", IntrospectionURL: "https://id.example/introspect", ClientID: "tocsin", ClientSecretFile: file(t, "x"),
			Tokens: map[string]TokenOptions{"t": {Agent: "a", File: "f", Hint: "access_token"}},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*RevokeTokenOptions)
		want   string
	}{
		{"good", func(*RevokeTokenOptions) {}, ""},
		{"plain HTTP", func(o *RevokeTokenOptions) { o.RevocationURL = "http://id.example/revoke" }, `revocation_url: "http://id.example/revoke": want https`},
		{"no URL", func(o *RevokeTokenOptions) { o.IntrospectionURL = "id.example" }, `introspection_url: "id.example" is no URL`},
		{"user in the URL", func(o *RevokeTokenOptions) { o.RevocationURL = "https://a:b@id.example/" }, "revocation_url: "},
		{"no secret", func(o *RevokeTokenOptions) { o.ClientSecretFile = "" }, "client_secret_file: is missing"},
		{"secret that is not there", func(o *RevokeTokenOptions) { o.ClientSecretFile = "/nowhere" }, "client_secret_file: read secret"},
		{"no client", func(o *RevokeTokenOptions) { o.ClientID = "" }, "client_id: want"},
		{"hint", func(o *RevokeTokenOptions) { o.Tokens["t"] = TokenOptions{Agent: "a", File: "f"} }, `tokens.t.hint: "" is neither`},
		{"nobody's", func(o *RevokeTokenOptions) { o.Tokens["t"] = TokenOptions{File: "f"} }, "tokens.t: want agent and file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := good()
			tt.change(&o)
			got := ""
			if err := o.Check(); err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("Check = %q, want %q", got, tt.want)
			}
		})
	}
}

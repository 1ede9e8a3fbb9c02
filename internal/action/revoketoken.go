package action

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameRevokeToken is the name in playbooks and plans.
const NameRevokeToken = "revoke-token"

// RevokeTokenOptions are the authorization server and the tokens that may be revoked there.
type RevokeTokenOptions struct {
	RevocationURL    string `yaml:"revocation_url"`
	IntrospectionURL string `yaml:"introspection_url"`
	ClientID         string `yaml:"client_id"`
	ClientSecretFile string `yaml:"client_secret_file"`
	// Tokens are named, so that no token is ever part of a plan.
	Tokens map[string]TokenOptions `yaml:"tokens"`
}

// TokenOptions are of one token.
type TokenOptions struct {
	Agent string `yaml:"agent"` // whose it is; it is revoked in no other agent's name
	File  string `yaml:"file"`  // holds the token
	Hint  string `yaml:"hint"`  // access_token or refresh_token
	// Life is how long what was issued with a refresh token is accepted after it was revoked; 0 where the server ends that too.
	Life time.Duration `yaml:"life"`
}

// Check names the first option that can't be right.
func (o *RevokeTokenOptions) Check() error {
	if err := errors.Join(checkURL("revocation_url", o.RevocationURL), checkURL("introspection_url", o.IntrospectionURL)); err != nil {
		return err
	}
	if o.ClientID == "" || len(o.Tokens) == 0 {
		return badOption("client_id", "want client_id and at least one of tokens")
	}
	if err := checkSecret("client_secret_file", o.ClientSecretFile); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Tokens)) {
		t := o.Tokens[name]
		switch {
		case t.Agent == "" || t.File == "":
			return badOption("tokens."+name, "want agent and file")
		case t.Hint != "access_token" && t.Hint != "refresh_token":
			return badOption("tokens."+name+".hint", "%q is neither access_token nor refresh_token", t.Hint)
		case t.Life < 0:
			return badOption("tokens."+name+".life", "%s, want 0 or more", t.Life)
		}
	}
	return nil
}

// RevokeToken revokes a token at its authorization server (RFC 7009) and proves it by introspection (RFC 7662).
type RevokeToken struct {
	irreversible
	options RevokeTokenOptions
	client  *http.Client
}

// NewRevokeToken returns the action.
func NewRevokeToken(o RevokeTokenOptions) *RevokeToken {
	return &RevokeToken{options: o, client: newClient(nil)}
}

// Describe implements Action.
func (r *RevokeToken) Describe() Description {
	return Description{
		Name: NameRevokeToken, Class: approval.Contain, Targets: []string{"agent"}, Idempotent: true, Irreversible: true,
		Effect:      "The authorization server revokes a token of the agent.",
		Undo:        "It can't be undone: the agent needs a new token.",
		DoesNotStop: "Servers that accept a signed token without asking, until it expires, and copies of the grant at other providers.",
		Params:      map[string]string{"token": "a name of actions.revoke_token.tokens"}, Required: []string{"token"},
	}
}

// revocation is what is kept of a token: no part of it, and nothing from which it can be guessed, because a token is long and random.
type revocation struct {
	Fingerprint string    `json:"fingerprint"` // the first 16 digits of its SHA-256
	Expires     time.Time `json:"expires,omitzero"`
}

// resolve reads the token that a plan names.
func (r *RevokeToken) resolve(p approval.Plan) (token string, t TokenOptions, known revocation, err error) {
	t, ok := r.options.Tokens[p.Params["token"]]
	if !ok {
		return "", t, known, fmt.Errorf("token: actions.revoke_token.tokens has no %q", p.Params["token"])
	}
	if t.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "" {
		return "", t, known, fmt.Errorf("token: %q is of agent %s, not of %s", p.Params["token"], t.Agent, p.Target)
	}
	if token, err = readSecret(t.File); err != nil {
		return "", t, known, err
	}
	sum := sha256.Sum256([]byte(token))
	return token, t, revocation{Fingerprint: hex.EncodeToString(sum[:8]), Expires: jwtExpiry(token)}, nil
}

// jwtExpiry is the exp of a JWT (RFC 7519, section 4.1.4); zero where the token is none or has none. Nothing is decided by it, so that
// its signature does not matter.
func jwtExpiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil || !(claims.Exp > 0 && claims.Exp < 1<<40) {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0).UTC()
}

// Plan implements Action. A token that is not active by the server's own word is refused: its later inactivity would prove nothing.
func (r *RevokeToken) Plan(ctx context.Context, in Input) (Change, error) {
	token, t, known, err := r.resolve(in.Plan)
	if err != nil {
		return Change{}, err
	}
	active, err := r.active(ctx, token, t)
	if err != nil {
		return Change{}, err
	}
	if !active {
		return Change{}, fmt.Errorf("token: %q is not active at %s: there is nothing to revoke, or the server does not tell", in.Plan.Params["token"], host(r.options.IntrospectionURL))
	}
	lines := []string{fmt.Sprintf("%s revokes the %s %q (fingerprint %s)", host(r.options.RevocationURL), strings.ReplaceAll(t.Hint, "_", " "), in.Plan.Params["token"], known.Fingerprint)}
	if !known.Expires.IsZero() {
		lines = append(lines, "servers that do not ask accept it until "+known.Expires.Format(time.RFC3339))
	}
	return Change{Lines: lines, Blast: 1}, nil
}

func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// Snapshot implements Action: which token it was, and until when a signed one is accepted.
func (r *RevokeToken) Snapshot(_ context.Context, in Input) (json.RawMessage, error) {
	_, _, known, err := r.resolve(in.Plan)
	if err != nil {
		return nil, err
	}
	return json.Marshal(known)
}

// still resolves the token of a lease and refuses another one that took its place in the file.
func (r *RevokeToken) still(l Lease) (string, TokenOptions, error) {
	token, t, known, err := r.resolve(l.Plan)
	if err != nil {
		return "", t, err
	}
	var was revocation
	if err := json.Unmarshal(l.Snapshot, &was); err != nil {
		return "", t, fmt.Errorf("decode snapshot: %w", err)
	}
	if was.Fingerprint != known.Fingerprint {
		return "", t, fmt.Errorf("the file of token %q holds another token by now (fingerprint %s, was %s)", l.Plan.Params["token"], known.Fingerprint, was.Fingerprint)
	}
	return token, t, nil
}

// Apply implements Action. The server answers 200 for a token that it revoked before, too (RFC 7009, section 2.2).
func (r *RevokeToken) Apply(ctx context.Context, l Lease) error {
	token, t, err := r.still(l)
	if err != nil {
		return err
	}
	status, body, err := r.post(ctx, r.options.RevocationURL, token, t)
	if err != nil || status == http.StatusOK {
		return err
	}
	return fmt.Errorf("%s answered the revocation with status %d %s", host(r.options.RevocationURL), status, errorCode(body))
}

// errorCode is the error code of RFC 6749, section 5.2, where a body has one of the expected shape.
func errorCode(body []byte) string {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil || len(e.Error) > 64 || strings.Trim(e.Error, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return e.Error
}

// Verify implements Action.
func (r *RevokeToken) Verify(ctx context.Context, l Lease) (bool, error) {
	token, t, err := r.still(l)
	if err != nil {
		return false, err
	}
	active, err := r.active(ctx, token, t)
	return err == nil && !active, err
}

// active asks the server. An answer without the word is none.
func (r *RevokeToken) active(ctx context.Context, token string, t TokenOptions) (bool, error) {
	status, body, err := r.post(ctx, r.options.IntrospectionURL, token, t)
	if err != nil {
		return false, err
	}
	var answer struct {
		Active *bool `json:"active"`
	}
	if err := decode(status, http.StatusOK, body, &answer); err != nil {
		return false, fmt.Errorf("introspect at %s: %w", host(r.options.IntrospectionURL), err)
	}
	if answer.Active == nil {
		return false, fmt.Errorf("introspect at %s: the answer does not say whether the token is active", host(r.options.IntrospectionURL))
	}
	return *answer.Active, nil
}

// post sends a token with the client's credentials (RFC 6749, section 2.3.1).
func (r *RevokeToken) post(ctx context.Context, to, token string, t TokenOptions) (int, []byte, error) {
	secret, err := readSecret(r.options.ClientSecretFile)
	if err != nil {
		return 0, nil, err
	}
	form := url.Values{"token": {token}, "token_type_hint": {t.Hint}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.SetBasicAuth(url.QueryEscape(r.options.ClientID), url.QueryEscape(secret))
	return call(r.client, request)
}

// Lag implements Action.
func (r *RevokeToken) Lag(l Lease) (time.Time, string) {
	var was revocation
	if json.Unmarshal(l.Snapshot, &was) == nil && !was.Expires.IsZero() {
		return was.Expires, "servers that check the token's signature alone accept it until it expires"
	}
	if life := r.options.Tokens[l.Plan.Params["token"]].Life; life > 0 {
		return l.Applied.Add(life), "access tokens that were issued with it live on"
	}
	return time.Time{}, ""
}

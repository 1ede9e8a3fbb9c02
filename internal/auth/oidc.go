package auth

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// OIDC is an OpenID provider that vouches for people. A person gets the highest role that one of their groups has in Roles;
// a person in none of them is refused.
type OIDC struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	RedirectURL  string // https://<console>/sign-in/callback
	// UserClaim names a person: "email" by default, which the provider must have verified.
	UserClaim   string
	GroupsClaim string // "groups" by default
	Scopes      []string
	Roles       map[string]approval.Role
}

func (o *OIDC) check() error {
	if o.Issuer == "" || o.ClientID == "" || o.RedirectURL == "" {
		return errors.New("OIDC needs an issuer, a client id and a redirect URL")
	}
	for group, role := range o.Roles {
		if !role.AtLeast(approval.Viewer) {
			return fmt.Errorf("OIDC group %q: there is no role %q", group, role)
		}
	}
	return nil
}

// provider is an OpenID provider whose configuration was read.
type provider struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
}

// discover finds the provider, once for all who wait for it. It goes on though one of them leaves, and ends with the client's patience.
func (a *Auth) discover(ctx context.Context) (*provider, error) {
	if p := a.provider.Load(); p != nil {
		return p, nil
	}
	found := a.finding.DoChan("", func() (any, error) {
		p, err := a.find(context.WithoutCancel(ctx))
		if err == nil {
			a.provider.Store(p)
		}
		return p, err
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case f := <-found:
		return f.Val.(*provider), f.Err
	}
}

func (a *Auth) find(ctx context.Context) (*provider, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, a.o.Client), a.o.OIDC.Issuer)
	if err != nil {
		return nil, fmt.Errorf("find OpenID provider: %w", err)
	}
	o := a.o.OIDC
	return &provider{
		oauth: oauth2.Config{
			ClientID: o.ClientID, ClientSecret: o.ClientSecret, RedirectURL: o.RedirectURL, Endpoint: found.Endpoint(),
			Scopes: append([]string{oidc.ScopeOpenID, "profile", "email"}, o.Scopes...),
		},
		verifier: found.Verifier(&oidc.Config{ClientID: o.ClientID, Now: a.o.Now}),
	}, nil
}

// flow is what a browser keeps while its person is at the provider.
type flow struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	Next     string `json:"next"`
}

const flowLife = 10 * time.Minute

// startOIDC is a GET, since form-action 'self' forbids a form to lead to the provider; it changes nothing here.
func (a *Auth) startOIDC(w http.ResponseWriter, r *http.Request) {
	p, err := a.discover(r.Context())
	if err != nil {
		http.Redirect(w, r, "/sign-in?refused="+refusedOIDC, http.StatusSeeOther)
		return
	}
	f := flow{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Next: LocalPath(r.URL.Query().Get("next"))}
	text, err := json.Marshal(f)
	if err != nil {
		http.Error(w, "Sign-in can't start.", http.StatusInternalServerError)
		return
	}
	http.SetCookie(w, a.cookie("tocsin-flow", base64.RawURLEncoding.EncodeToString(text), flowLife))
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, p.oauth.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), http.StatusSeeOther)
}

func (a *Auth) finishOIDC(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, a.cookie("tocsin-flow", "", 0))
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(who, why, shown string) {
		if err := a.refuse(r, who, why, viaOIDC); err != nil {
			shown = refusedError
		}
		http.Redirect(w, r, "/sign-in?refused="+shown, http.StatusSeeOther)
	}
	f, ok := a.flow(r)
	if !ok {
		refuse("", "the answer belongs to no sign-in of this browser", refusedOIDC)
		return
	}
	claims, err := a.claims(r, f)
	if err != nil {
		refuse("", shorten(err.Error()), refusedOIDC)
		return
	}
	who, err := a.person(claims)
	if err != nil {
		refuse("", err.Error(), refusedRole)
		return
	}
	role := a.role(claims)
	if role == "" {
		refuse(who, "none of the person's groups has a role", refusedRole)
		return
	}
	if err := a.openCookie(w, r, who, role, a.groups(claims), viaOIDC); err != nil {
		http.Redirect(w, r, "/sign-in?refused="+refusedError, http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, LocalPath(f.Next), http.StatusSeeOther)
}

// flow returns what the browser kept, if the answer is to it.
func (a *Auth) flow(r *http.Request) (flow, bool) {
	var f flow
	c, err := r.Cookie(a.cookieName("tocsin-flow"))
	if err != nil {
		return f, false
	}
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || json.Unmarshal(text, &f) != nil || f.State == "" || f.Nonce == "" {
		return f, false
	}
	return f, subtle.ConstantTimeCompare([]byte(f.State), []byte(r.URL.Query().Get("state"))) == 1
}

// claims exchanges the code and verifies what the provider says of the person.
func (a *Auth) claims(r *http.Request, f flow) (map[string]any, error) {
	ctx := oidc.ClientContext(r.Context(), a.o.Client)
	p, err := a.discover(ctx)
	if err != nil {
		return nil, err
	}
	token, err := p.oauth.Exchange(ctx, r.URL.Query().Get("code"), oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return nil, errors.New("the provider does not take the code")
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, errors.New("the provider sent no id token")
	}
	id, err := p.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, errors.New("the id token is not valid")
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Nonce)) != 1 {
		return nil, errors.New("the id token has another nonce")
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, errors.New("the id token's claims can't be read")
	}
	return claims, nil
}

// person names who the claims are about. A name of a configured user is refused: one name is one person.
func (a *Auth) person(claims map[string]any) (string, error) {
	claim := cmp.Or(a.o.OIDC.UserClaim, "email")
	who, _ := claims[claim].(string)
	if verified, _ := claims["email_verified"].(bool); claim == "email" && !verified {
		return "", errors.New("the provider did not verify the email address")
	}
	if who == "" || who != shorten(who) {
		return "", fmt.Errorf("claim %q does not name the person", claim)
	}
	if _, taken := a.users[who]; taken {
		return "", fmt.Errorf("%q is a configured user", who)
	}
	return who, nil
}

// maxGroups bounds the groups of a person that are kept.
const maxGroups = 200

// groups returns the person's groups as policies name them.
func (a *Auth) groups(claims map[string]any) (out []string) {
	claim := claims[cmp.Or(a.o.OIDC.GroupsClaim, "groups")]
	groups, ok := claim.([]any)
	if !ok {
		groups = []any{claim}
	}
	for _, g := range groups[:min(len(groups), maxGroups)] {
		if name, _ := g.(string); name != "" && name == shorten(name) {
			out = append(out, "oidc:"+name)
		}
	}
	return out
}

// role returns the highest role of the person's groups, or "".
func (a *Auth) role(claims map[string]any) approval.Role {
	var best approval.Role
	for _, g := range a.groups(claims) {
		name := strings.TrimPrefix(g, "oidc:")
		if role, known := a.o.OIDC.Roles[name]; known && (best == "" || role.AtLeast(best)) {
			best = role
		}
	}
	return best
}

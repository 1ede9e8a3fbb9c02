// Package auth says who a person is: it signs people in by password or OpenID Connect, keeps their sessions, and refuses requests
// that come from nobody or from another site. It doesn't say what a person may do beyond their role, and draws no page.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// SessionLife is how long a session lasts; it can't be extended.
const SessionLife = 12 * time.Hour

// Sessions stores sessions under the hashes of their tokens; *store.Store does. SignInOf returns an error that is
// store.ErrNotFound for an unknown hash, and may return an expired session.
type Sessions interface {
	SaveSignIn(ctx context.Context, tokenHash string, in store.SignIn) error
	SignInOf(ctx context.Context, tokenHash string) (store.SignIn, error)
	DropSignIn(ctx context.Context, tokenHash string) error
	ProveSignIn(ctx context.Context, tokenHash string, at time.Time, about string) error
}

// Options configure an Auth. Sessions, Keys, Record and Now are required; without Users and OIDC nobody can sign in.
type Options struct {
	Users    []User
	OIDC     *OIDC
	Sessions Sessions
	Keys     Keys
	// Site is how browsers reach the console, as https://tocsin.example.org: security keys sign for it alone. It can't be an IP address.
	Site string
	// Record writes a sign-in, a sign-out or a refusal to the ledger. Nobody is signed in whose sign-in wasn't recorded.
	Record func(ctx context.Context, kind, actor, subject string, body any) error
	Now    func() time.Time
	// Groups returns a person's groups besides those of the identity provider; nil is none.
	Groups func(user string) []string
	// TLS says that people reach the console by https, directly or through a proxy: the cookies are then bound to the host.
	TLS bool
	// Proxy says that every request comes through a proxy that adds to X-Forwarded-For whom it serves.
	Proxy bool
	// Client talks to the OpenID provider; nil is a client that gives up after ten seconds.
	Client *http.Client
}

// Auth authenticates people. Safe for concurrent use.
type Auth struct {
	o        Options
	users    map[string]User
	dummy    []byte // compared with where the user is unknown, so that the answer takes as long
	csrf     *http.CrossOriginProtection
	attempts window
	refusals tallies
	wait     func(context.Context, time.Duration) error
	ceremonies
	comparing chan struct{} // bounds the passwords compared at once, so that sign-ins leave processors to the gate and the detectors

	finding  singleflight.Group
	provider atomic.Pointer[provider] // found when it is first needed, so that the console starts while the provider is down
}

// New checks the options and returns an Auth.
func New(o Options) (*Auth, error) {
	if o.Sessions == nil || o.Keys == nil || o.Record == nil || o.Now == nil {
		return nil, errors.New("configure sign-in: Sessions, Keys, Record and Now are required")
	}
	if o.Groups == nil {
		o.Groups = func(string) []string { return nil }
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	a := &Auth{o: o, csrf: http.NewCrossOriginProtection(), wait: sleep, comparing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	var err error
	if a.users, a.dummy, err = checkUsers(o.Users); err != nil {
		return nil, fmt.Errorf("configure sign-in: %w", err)
	}
	if a.party, err = relyingParty(o.Site); err != nil {
		return nil, fmt.Errorf("configure sign-in: %w", err)
	}
	if o.OIDC != nil {
		if err := o.OIDC.check(); err != nil {
			return nil, fmt.Errorf("configure sign-in: %w", err)
		}
	}
	return a, nil
}

// Routes adds the paths that sign people in and out. The page with the form, GET /sign-in, is the console's.
func (a *Auth) Routes(mux *http.ServeMux) {
	mux.Handle("POST /sign-in", a.csrf.Handler(http.HandlerFunc(a.signInForm)))
	mux.Handle("POST /sign-out", a.csrf.Handler(http.HandlerFunc(a.signOutForm)))
	mux.Handle("POST /api/v1/sign-in", a.csrf.Handler(http.HandlerFunc(a.signInAPI)))
	mux.Handle("POST /api/v1/sign-out", a.csrf.Handler(http.HandlerFunc(a.signOutAPI)))
	a.keyRoutes(mux)
	if a.o.OIDC != nil {
		mux.HandleFunc("GET /sign-in/oidc", a.startOIDC)
		mux.HandleFunc("GET /sign-in/callback", a.finishOIDC)
	}
}

// Principal returns who sent a request, by its cookie or its bearer token. A request with both is from nobody.
func (a *Auth) Principal(r *http.Request) (approval.Principal, bool) {
	token, ok := a.token(r)
	if !ok {
		return approval.Principal{}, false
	}
	in, err := a.o.Sessions.SignInOf(r.Context(), hash(token))
	if err != nil || !a.o.Now().Before(in.Expires) {
		return approval.Principal{}, false
	}
	p := approval.Principal{ID: in.User, Role: approval.Role(in.Role), Via: in.Via, Groups: append(in.Groups, a.o.Groups(in.User)...), Proved: in.Proved, ProvedFor: in.ProvedFor}
	if in.Via == viaOIDC {
		p.Via = viaConsole
		return p, a.o.OIDC != nil && p.Role.AtLeast(approval.Viewer)
	}
	user, ok := a.users[in.User] // configuration may have changed since the sign-in
	p.Role = user.Role
	return p, ok
}

// Require lets a request through whose sender has at least a role, and says who that is. Others get a redirection to the sign-in page,
// or 401 or 403. A request from another site's page is refused, whoever sent it.
func (a *Auth) Require(role approval.Role, next func(w http.ResponseWriter, r *http.Request, by approval.Principal)) http.Handler {
	return a.csrf.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := a.Principal(r)
		switch {
		case ok && p.Role.AtLeast(role):
			next(w, r, p)
		case ok && wantsPage(r):
			http.Error(w, fmt.Sprintf("Role %q may not do this; %s or above may.", p.Role, role), http.StatusForbidden)
		case ok:
			answer(w, http.StatusForbidden, map[string]string{"error": fmt.Sprintf("role %q may not do this; %s or above may", p.Role, role)})
		case wantsPage(r):
			http.Redirect(w, r, signInURL(r, ""), http.StatusSeeOther)
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			answer(w, http.StatusUnauthorized, map[string]string{"error": "sign in first"})
		}
	}))
}

// wantsPage tells a browser that shows pages from a program.
func wantsPage(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/api/") && r.Header.Get("Authorization") == "" && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// signInURL is the sign-in page that leads back to where a reader was; a form's target can't be gone back to.
func signInURL(r *http.Request, refused string) string {
	q := url.Values{}
	if r.Method == http.MethodGet && r.URL.Path != "/" {
		q.Set("next", LocalPath(r.URL.RequestURI()))
	}
	if refused != "" {
		q.Set("refused", refused)
	}
	if len(q) == 0 {
		return "/sign-in"
	}
	return "/sign-in?" + q.Encode()
}

// LocalPath returns a path of this site, or "/" for anything that a browser could take for another site.
func LocalPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") {
		return "/"
	}
	// Browsers take a backslash for a slash and drop control characters.
	if strings.ContainsFunc(next, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7F }) {
		return "/"
	}
	return next
}

const (
	viaConsole = "console"
	viaCLI     = "cli"
	viaOIDC    = "oidc" // in the store only: the console, by a role that the provider's groups gave
)

func (a *Auth) cookieName(name string) string {
	if a.o.TLS {
		return "__Host-" + name
	}
	return name
}

func (a *Auth) cookie(name, value string, life time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: a.cookieName(name), Value: value, Path: "/", MaxAge: int(life.Seconds()), Secure: a.o.TLS,
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// token returns what a request claims its session to be.
func (a *Auth) token(r *http.Request) (string, bool) {
	bearer, hasBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	cookies := r.CookiesNamed(a.cookieName("tocsin"))
	switch {
	case hasBearer && len(cookies) == 0:
		return bearer, bearer != ""
	case !hasBearer && len(cookies) == 1:
		return cookies[0].Value, cookies[0].Value != ""
	}
	return "", false
}

// hash is under what a token is stored: who reads the store can't sign in with it.
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// random returns 256 bits as text that fits in cookies, headers and URLs.
func random() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// open starts a session. It is recorded before it is usable.
func (a *Auth) open(r *http.Request, user string, role approval.Role, groups []string, via string) (token string, in store.SignIn, err error) {
	now := a.o.Now().UTC()
	in = store.SignIn{User: user, Role: string(role), Groups: groups, Via: via, Created: now, Expires: now.Add(SessionLife)}
	if err := a.record(r, user, "signed in", via); err != nil {
		return "", in, err
	}
	token = random()
	return token, in, a.o.Sessions.SaveSignIn(r.Context(), hash(token), in)
}

// openCookie starts a session in place of the browser's former one.
func (a *Auth) openCookie(w http.ResponseWriter, r *http.Request, user string, role approval.Role, groups []string, via string) error {
	token, _, err := a.open(r, user, role, groups, via)
	if err != nil {
		return err
	}
	if old, ok := a.token(r); ok {
		if err := a.o.Sessions.DropSignIn(r.Context(), hash(old)); err != nil {
			return err
		}
	}
	http.SetCookie(w, a.cookie("tocsin", token, SessionLife))
	return nil
}

// record tells the ledger of a sign-in, a sign-out or a refusal.
func (a *Auth) record(r *http.Request, actor, outcome, via string) error {
	return a.recordFrom(r.Context(), a.address(r), actor, outcome, via)
}

func (a *Auth) recordFrom(ctx context.Context, address, actor, outcome, via string) error {
	if actor = shorten(actor); actor == "" {
		actor = "unknown"
	}
	if err := a.o.Record(ctx, ledger.KindSignIn, actor, actor, map[string]string{"outcome": outcome, "via": via, "address": address}); err != nil {
		return fmt.Errorf("record sign-in: %w", err)
	}
	return nil
}

func shorten(name string) string {
	return strings.ToValidUTF8(name[:min(64, len(name))], "\uFFFD")
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Keys stores security keys; *store.Store does.
type Keys interface {
	SecurityKeys(ctx context.Context, person string, limit int) ([]store.SecurityKey, error)
	SecurityKey(ctx context.Context, id string) (store.SecurityKey, error)
	AddSecurityKey(ctx context.Context, k store.SecurityKey, have int) error
	UseSecurityKey(ctx context.Context, k store.SecurityKey, before uint32) error
	DropSecurityKey(ctx context.Context, id string) error
}

const (
	challengeLife = 2 * time.Minute
	maxCeremonies = 10_000   // open challenges, of which a session has one
	maxKeyBody    = 64 << 10 // bytes
	maxKeyName    = 40       // characters
)

// ceremonies are the open challenges, by the hash of their session's token. A restart forgets them: people touch their key again.
type ceremonies struct {
	party   *webauthn.WebAuthn
	keyMu   sync.Mutex
	pending map[string]ceremony
}

// ceremony is a challenge that a security key is asked to sign, once.
type ceremony struct {
	registers bool
	about     string // what a proof is for, or the name of the key that is registered
	session   webauthn.SessionData
	until     time.Time
}

// CheckSite says what is wrong with the address of a console for whose people security keys are to sign. Browsers let them sign for
// names only, and only over TLS or on the machine itself (Web Authentication level 3, section 5.1.3).
func CheckSite(site string) error {
	u, err := url.Parse(site)
	switch {
	case err != nil:
		return fmt.Errorf("%.80q is no address: %w", site, err)
	case u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%.80q: want a scheme and a host alone, as https://tocsin.example.org", site)
	case net.ParseIP(u.Hostname()) != nil:
		return fmt.Errorf("%.80q: security keys can't sign for an IP address; give the console a name, or use http://localhost on this machine", site)
	case u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost"):
		return fmt.Errorf("%.80q: security keys sign for https, or for http://localhost", site)
	}
	return nil
}

func relyingParty(site string) (*webauthn.WebAuthn, error) {
	if err := CheckSite(site); err != nil {
		return nil, err
	}
	u, err := url.Parse(site)
	if err != nil {
		return nil, err
	}
	return webauthn.New(&webauthn.Config{
		RPID: u.Hostname(), RPDisplayName: "Tocsin", RPOrigins: []string{u.Scheme + "://" + u.Host},
		AttestationPreference:  protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{UserVerification: protocol.VerificationRequired, ResidentKey: protocol.ResidentKeyRequirementDiscouraged},
	})
}

// owner is a person as the WebAuthn library sees them.
type owner struct {
	name string
	keys []store.SecurityKey
	all  []webauthn.Credential
}

func (o owner) WebAuthnID() []byte                         { sum := sha256.Sum256([]byte(o.name)); return sum[:] }
func (o owner) WebAuthnName() string                       { return o.name }
func (o owner) WebAuthnDisplayName() string                { return o.name }
func (o owner) WebAuthnCredentials() []webauthn.Credential { return o.all }

func (a *Auth) owner(ctx context.Context, person string) (owner, error) {
	o := owner{name: person}
	var err error
	if o.keys, err = a.o.Keys.SecurityKeys(ctx, person, store.MaxKeys); err != nil {
		return o, err
	}
	for _, k := range o.keys {
		var c webauthn.Credential
		if err := json.Unmarshal(k.Record, &c); err != nil {
			return o, fmt.Errorf("read security key %s: %w", k.ID, err)
		}
		c.Authenticator.SignCount = k.SignCount
		o.all = append(o.all, c)
	}
	return o, nil
}

func (a *Auth) keyRoutes(mux *http.ServeMux) {
	for path, do := range map[string]deed{
		"POST /keys/register/begin": a.beginKey, "POST /keys/register/finish": a.finishKey,
		"POST /keys/prove/begin": a.beginProof, "POST /keys/prove/finish": a.finishProof,
	} {
		mux.Handle(path, a.asCaller(do, func(w http.ResponseWriter, _ *http.Request, v any, refused error) {
			if refused != nil {
				answer(w, http.StatusForbidden, map[string]string{"error": refused.Error(), "kind": approval.Kind(refused)})
				return
			}
			answer(w, http.StatusOK, v)
		}))
	}
	mux.Handle("POST /keys/{id}/remove", a.asCaller(a.removeKey, func(w http.ResponseWriter, r *http.Request, _ any, refused error) {
		to := "/keys"
		if refused != nil {
			to += "?refused=remove"
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
	}))
}

// caller is a person in a session of the console.
type caller struct {
	approval.Principal
	session string // the hash of its token
}

// deed is what a caller asks for; what it returns is the body of the answer.
type deed func(*http.Request, caller) (any, error)

// asCaller lets people of the console through, who may decide something, and tells them what became of it. A refusal is recorded before
// it is told.
func (a *Auth) asCaller(do deed, tell func(w http.ResponseWriter, r *http.Request, v any, refused error)) http.Handler {
	return a.csrf.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := a.Principal(r)
		token, _ := a.token(r)
		if !ok || p.Via != viaConsole || !p.Role.AtLeast(approval.Responder) {
			answer(w, http.StatusForbidden, map[string]string{"error": "security keys are for responders who signed in to the console"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxKeyBody)
		c := caller{p, hash(token)}
		v, err := do(r, c)
		var refused error
		if approval.Kind(err) != "" {
			refused, err = err, a.recordKey(r, c, "refused: "+err.Error(), "", "")
		}
		if err != nil {
			answer(w, http.StatusInternalServerError, map[string]string{"error": "the security key could not be read or written; try again"})
			return
		}
		tell(w, r, v, refused)
	}))
}

func (a *Auth) recordKey(r *http.Request, c caller, outcome, key, about string) error {
	body := map[string]string{"outcome": outcome, "key": key, "for": about, "via": c.Via, "address": a.address(r)}
	if err := a.o.Record(r.Context(), ledger.KindKey, shorten(c.ID), shorten(c.ID), body); err != nil {
		return fmt.Errorf("record security key: %w", err)
	}
	return nil
}

func refuseKey(format string, args ...any) error {
	return approval.Refuse(approval.RefusedStepUp, format, args...)
}

// keyBody is the body of a request about keys.
type keyBody struct {
	Name       string          `json:"name,omitempty"`
	For        string          `json:"for,omitempty"`
	Credential json.RawMessage `json:"credential,omitempty"`
}

func readKeyBody(r *http.Request) (b keyBody, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if d.Decode(&b) != nil {
		return b, refuseKey("the request can't be read")
	}
	return b, nil
}

// begins remembers a challenge in place of the session's former one.
func (a *Auth) begins(session string, c ceremony) {
	a.keyMu.Lock()
	defer a.keyMu.Unlock()
	if a.pending == nil {
		a.pending = make(map[string]ceremony)
	}
	now := a.o.Now()
	c.until = now.Add(challengeLife)
	if len(a.pending) >= maxCeremonies {
		for k, o := range a.pending {
			if now.After(o.until) {
				delete(a.pending, k)
			}
		}
	}
	for k := range a.pending {
		if len(a.pending) < maxCeremonies {
			break
		}
		delete(a.pending, k)
	}
	a.pending[session] = c
}

// takes returns the session's challenge, which is then used up, whatever becomes of it.
func (a *Auth) takes(session string, registers bool) (ceremony, error) {
	a.keyMu.Lock()
	defer a.keyMu.Unlock()
	c, ok := a.pending[session]
	delete(a.pending, session)
	if !ok || c.registers != registers {
		return c, refuseKey("this session has no open challenge: begin again")
	}
	if a.o.Now().After(c.until) {
		return c, refuseKey("the challenge is older than %s: begin again", challengeLife)
	}
	return c, nil
}

// mayAdd refuses a key too many, and one that no key before it vouches for.
func (a *Auth) mayAdd(o owner, c caller) error {
	switch {
	case len(o.keys) >= store.MaxKeys:
		return refuseKey("a person has at most %d security keys: remove one first", store.MaxKeys)
	case len(o.keys) > 0 && !a.proved(c):
		return refuseKey("a further security key needs a proof by one that you have")
	}
	return nil
}

// proved reports whether the person showed, a moment ago and for this, a key that they have.
func (a *Auth) proved(c caller) bool {
	return c.ProvedFor == store.AboutKeys && !c.Proved.IsZero() && a.o.Now().Sub(c.Proved) <= approval.StepUpLife
}

func (a *Auth) beginKey(r *http.Request, c caller) (any, error) {
	body, err := readKeyBody(r)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSpace(body.Name)
	if n := len([]rune(name)); n < 1 || n > maxKeyName {
		return nil, refuseKey("name the key in 1 to %d characters", maxKeyName)
	}
	o, err := a.owner(r.Context(), c.ID)
	if err != nil {
		return nil, err
	}
	if err := a.mayAdd(o, c); err != nil {
		return nil, err
	}
	options, session, err := a.party.BeginRegistration(o, webauthn.WithExclusions(webauthn.Credentials(o.all).CredentialDescriptors()))
	if err != nil {
		return nil, fmt.Errorf("begin registration: %w", err)
	}
	a.begins(c.session, ceremony{registers: true, about: name, session: *session})
	return options, nil
}

func (a *Auth) finishKey(r *http.Request, c caller) (any, error) {
	open, err := a.takes(c.session, true)
	if err != nil {
		return nil, err
	}
	body, err := readKeyBody(r)
	if err != nil {
		return nil, err
	}
	o, err := a.owner(r.Context(), c.ID)
	if err != nil {
		return nil, err
	}
	if err := a.mayAdd(o, c); err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(body.Credential)
	if err != nil {
		return nil, refuseKey("the security key's answer can't be read")
	}
	made, err := a.party.CreateCredential(o, open.session, parsed)
	if err != nil {
		return nil, refuseKey("the security key was not registered: %s", reason(err))
	}
	k := store.SecurityKey{
		ID: base64.RawURLEncoding.EncodeToString(made.ID), Person: c.ID, Name: open.about, Added: a.o.Now().UTC(),
		First: len(o.keys) == 0, SignCount: made.Authenticator.SignCount,
	}
	if k.Record, err = json.Marshal(made); err != nil {
		return nil, fmt.Errorf("encode security key: %w", err)
	}
	if _, err := a.o.Keys.SecurityKey(r.Context(), k.ID); err == nil {
		return nil, refuseKey("the security key is registered already")
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	outcome := "registered, proved by a key before it"
	if k.First {
		outcome = "registered, the first: on trust of the sign-in alone"
	}
	if err := a.recordKey(r, c, outcome, k.ID, k.Name); err != nil {
		return nil, err
	}
	if err := a.o.Keys.AddSecurityKey(r.Context(), k, len(o.keys)); errors.Is(err, store.ErrKeys) {
		return nil, refuseKey("your security keys changed meanwhile: look at them and begin again")
	} else if err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// reason is what the WebAuthn library says was wrong.
func reason(err error) string {
	var e *protocol.Error
	if errors.As(err, &e) && e.Details != "" {
		return strings.ToLower(strings.TrimSuffix(e.Details+": "+e.DevInfo, ": "))
	}
	return err.Error()
}

// about checks what a proof is to be for: one's own keys, or the digest of a plan.
func about(text string) error {
	if digest, err := hex.DecodeString(text); text != store.AboutKeys && (err != nil || len(digest) != sha256.Size) {
		return refuseKey("a proof is for a plan's digest, or for your keys")
	}
	return nil
}

func (a *Auth) beginProof(r *http.Request, c caller) (any, error) {
	body, err := readKeyBody(r)
	if err == nil {
		err = about(body.For)
	}
	if err != nil {
		return nil, err
	}
	o, err := a.owner(r.Context(), c.ID)
	if err != nil {
		return nil, err
	}
	if len(o.keys) == 0 {
		return nil, refuseKey("you have no security key: register one under Keys")
	}
	options, session, err := a.party.BeginLogin(o, webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return nil, fmt.Errorf("begin proof: %w", err)
	}
	a.begins(c.session, ceremony{about: body.For, session: *session})
	return options, nil
}

func (a *Auth) finishProof(r *http.Request, c caller) (any, error) {
	open, err := a.takes(c.session, false)
	if err != nil {
		return nil, err
	}
	body, err := readKeyBody(r)
	if err != nil {
		return nil, err
	}
	if body.For != open.about {
		return nil, refuseKey("the challenge was for something else: begin again")
	}
	o, err := a.owner(r.Context(), c.ID)
	if err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(body.Credential)
	if err != nil {
		return nil, refuseKey("the security key's answer can't be read")
	}
	shown, err := a.party.ValidateLogin(o, open.session, parsed)
	if err != nil {
		return nil, refuseKey("the security key proves nothing: %s", reason(err))
	}
	id, err := a.signed(r.Context(), o, shown)
	if err != nil {
		return nil, err
	}
	if err := a.recordKey(r, c, "proved", id, open.about); err != nil {
		return nil, err
	}
	return struct{}{}, a.o.Sessions.ProveSignIn(r.Context(), c.session, a.o.Now().UTC(), open.about)
}

// signed keeps the count of a key that has signed. A count that doesn't grow is a copy's, or a replay's (Web Authentication level 3,
// section 6.1.1); a key that always says 0 keeps none.
func (a *Auth) signed(ctx context.Context, o owner, shown *webauthn.Credential) (string, error) {
	id := base64.RawURLEncoding.EncodeToString(shown.ID)
	for _, k := range o.keys {
		if k.ID != id {
			continue
		}
		if shown.Authenticator.CloneWarning {
			return id, refuseKey("the counter of security key %q went back: somebody may have a copy of it; remove it", k.Name)
		}
		record, err := json.Marshal(shown)
		if err != nil {
			return id, fmt.Errorf("encode security key: %w", err)
		}
		before := k.SignCount
		k.SignCount, k.Used, k.Record = shown.Authenticator.SignCount, a.o.Now().UTC(), record
		if err = a.o.Keys.UseSecurityKey(ctx, k, before); errors.Is(err, store.ErrKeys) {
			err = refuseKey("security key %q signed something else at the same time, or is gone: begin again", k.Name)
		}
		return id, err
	}
	return id, refuseKey("the security key is none of yours")
}

// removeKey removes a person's own key with a proof, or somebody else's by an admin. An admin's own needs the proof as anybody's, or
// whoever has an admin's password would need no more.
func (a *Auth) removeKey(r *http.Request, c caller) (any, error) {
	k, err := a.o.Keys.SecurityKey(r.Context(), r.PathValue("id"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuseKey("there is no such security key")
	}
	if err != nil {
		return nil, err
	}
	switch {
	case k.Person == c.ID && !a.proved(c):
		return nil, refuseKey("removing your security key needs a proof by one that you have, or another admin")
	case k.Person != c.ID && !c.Role.AtLeast(approval.Admin):
		return nil, refuseKey("only an admin removes the security key of somebody else")
	}
	if err := a.recordKey(r, c, fmt.Sprintf("removed a key of %s", shorten(k.Person)), k.ID, k.Name); err != nil {
		return nil, err
	}
	return nil, a.o.Keys.DropSecurityKey(r.Context(), k.ID)
}

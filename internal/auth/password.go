package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/crypto/bcrypt"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// User is a person whose password is in the configuration.
type User struct {
	Name         string
	PasswordHash string // bcrypt
	Role         approval.Role
}

// HashPassword returns what belongs in a User's PasswordHash.
func HashPassword(password string) (string, error) {
	if len(password) < 12 {
		return "", errors.New("hash password: it needs at least 12 characters")
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), 12)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}

// checkUsers indexes the users and makes a hash that costs as much as the dearest of theirs.
func checkUsers(users []User) (map[string]User, []byte, error) {
	byName, cost := make(map[string]User), bcrypt.MinCost
	for _, u := range users {
		c, err := bcrypt.Cost([]byte(u.PasswordHash))
		_, twice := byName[u.Name]
		switch {
		case u.Name == "" || u.Name != shorten(u.Name):
			return nil, nil, fmt.Errorf("user %q: a name has 1 to 64 bytes of UTF-8", u.Name)
		case twice:
			return nil, nil, fmt.Errorf("user %q is there twice", u.Name)
		case err != nil:
			return nil, nil, fmt.Errorf("user %q: the password hash is not bcrypt", u.Name)
		case !u.Role.AtLeast(approval.Viewer):
			return nil, nil, fmt.Errorf("user %q: there is no role %q", u.Name, u.Role)
		}
		byName[u.Name], cost = u, max(cost, c)
	}
	dummy, err := bcrypt.GenerateFromPassword([]byte(random()), cost)
	return byName, dummy, err
}

// The outcomes of a password sign-in that the page names.
const (
	refusedWrong = "wrong"
	refusedBusy  = "busy"
	refusedError = "error"
	refusedOIDC  = "oidc"
	refusedRole  = "role"
)

// check compares a password, after a wait where there were wrong ones before. The refusal is "" if it fits.
func (a *Auth) check(r *http.Request, name, password, via string) (user User, refusal string) {
	key := shorten(name) + "\x00" + a.address(r) // a user's name is never longer
	wait, ok := a.attempts.enter(key, a.o.Now())
	if !ok {
		if err := a.refuse(r, name, "too many at once", via); err != nil {
			return User{}, refusedError
		}
		return User{}, refusedBusy
	}
	fits, err := false, a.wait(r.Context(), wait)
	if err == nil {
		user, fits, err = a.compare(r.Context(), name, password)
	}
	a.attempts.leave(key, !fits)
	switch {
	case fits:
		return user, ""
	case err != nil: // the client is gone
		return User{}, refusedBusy
	case a.refuse(r, name, "wrong name or password", via) != nil:
		return User{}, refusedError
	}
	return User{}, refusedWrong
}

// compare compares a password with a user's, or with a dummy's, so that it takes as long where there is no such user.
func (a *Auth) compare(ctx context.Context, name, password string) (User, bool, error) {
	user, known := a.users[name]
	against := a.dummy
	if known {
		against = []byte(user.PasswordHash)
	}
	select {
	case a.comparing <- struct{}{}:
	case <-ctx.Done():
		return User{}, false, ctx.Err()
	}
	err := bcrypt.CompareHashAndPassword(against, []byte(password))
	<-a.comparing
	return user, known && err == nil, nil
}

// maxForm is the most bytes that a sign-in sends.
const maxForm = 16 << 10

func (a *Auth) signInForm(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form can't be read.", http.StatusBadRequest)
		return
	}
	next := LocalPath(r.PostForm.Get("next"))
	user, refusal := a.check(r, r.PostForm.Get("user"), r.PostForm.Get("password"), viaConsole)
	if refusal == "" {
		if err := a.openCookie(w, r, user.Name, user.Role, nil, viaConsole); err != nil {
			refusal = refusedError
		}
	}
	if refusal != "" {
		http.Redirect(w, r, "/sign-in?"+url.Values{"refused": {refusal}, "next": {next}}.Encode(), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (a *Auth) signInAPI(w http.ResponseWriter, r *http.Request) {
	var in struct {
		User     string `json:"user"`
		Password string `json:"password"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": `want {"user": …, "password": …}`})
		return
	}
	user, refusal := a.check(r, in.User, in.Password, viaCLI)
	switch refusal {
	case "":
	case refusedBusy:
		w.Header().Set("Retry-After", fmt.Sprint(int(maxDelay.Seconds())))
		answer(w, http.StatusTooManyRequests, map[string]string{"error": "too many wrong passwords at once; try again in some seconds"})
		return
	case refusedWrong:
		answer(w, http.StatusUnauthorized, map[string]string{"error": "wrong name or password"})
		return
	default:
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "sign-in can't be recorded"})
		return
	}
	token, session, err := a.open(r, user.Name, user.Role, nil, viaCLI)
	if err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "sign-in can't be recorded"})
		return
	}
	answer(w, http.StatusOK, map[string]any{"token": token, "expires": session.Expires, "role": user.Role})
}

func (a *Auth) signOutForm(w http.ResponseWriter, r *http.Request) {
	if err := a.close(r); err != nil {
		http.Error(w, "The session can't be ended now; try again.", http.StatusServiceUnavailable)
		return
	}
	http.SetCookie(w, a.cookie("tocsin", "", 0))
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}

func (a *Auth) signOutAPI(w http.ResponseWriter, r *http.Request) {
	if err := a.close(r); err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the session can't be ended now"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// close ends the session of a request; one that has none is out already.
func (a *Auth) close(r *http.Request) error {
	p, ok := a.Principal(r)
	if !ok {
		return nil
	}
	token, _ := a.token(r)
	if err := a.o.Sessions.DropSignIn(r.Context(), hash(token)); err != nil {
		return err
	}
	return a.record(r, p.ID, "signed out", p.Via)
}

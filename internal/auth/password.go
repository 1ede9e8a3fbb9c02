package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

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

// Limits on wrong passwords, in a window of time.
const (
	limitWindow  = 15 * time.Minute
	maxFailures  = 5   // per user and address; then the password isn't even looked at
	maxRecorded  = 100 // per address; then the ledger, which can't be emptied, takes no more of them
	maxRemembers = 10_000
)

// The outcomes of a password sign-in that the page names.
const (
	refusedWrong = "wrong"
	refusedBusy  = "busy"
	refusedError = "error"
	refusedOIDC  = "oidc"
	refusedRole  = "role"
)

// check compares a password. The refusal is "" if it fits.
func (a *Auth) check(r *http.Request, name, password, via string) (user User, refusal string) {
	now, from := a.o.Now(), address(r)
	// Counted before the password is compared: guesses that come at once must not all pass the limit. A user's name is never longer.
	key := shorten(name) + "\x00" + from
	if a.attempts.add(key, now) > maxFailures {
		return User{}, refusedBusy
	}
	user, known := a.users[name]
	against := a.dummy
	if known {
		against = []byte(user.PasswordHash)
	}
	select {
	case a.comparing <- struct{}{}:
	case <-r.Context().Done():
		return User{}, refusedBusy
	}
	err := bcrypt.CompareHashAndPassword(against, []byte(password))
	<-a.comparing
	if known && err == nil {
		a.attempts.takeBack(key)
		return user, ""
	}
	if n := a.addresses.add(from, now); n > maxRecorded {
		return User{}, refusedWrong
	}
	if err := a.record(r, name, "refused: wrong name or password", via); err != nil {
		return User{}, refusedError
	}
	return User{}, refusedWrong
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
		if err := a.openCookie(w, r, user.Name, user.Role, viaConsole); err != nil {
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
		w.Header().Set("Retry-After", fmt.Sprint(int(limitWindow.Seconds())))
		answer(w, http.StatusTooManyRequests, map[string]string{"error": "too many wrong passwords; try again in 15 minutes"})
		return
	case refusedWrong:
		answer(w, http.StatusUnauthorized, map[string]string{"error": "wrong name or password"})
		return
	default:
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "sign-in can't be recorded"})
		return
	}
	token, session, err := a.open(r, user.Name, user.Role, viaCLI)
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

// address is where a connection comes from. Headers that claim another origin are the sender's word and are not heard.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// window counts failures by key in fixed windows of time. Its zero value is ready; it is safe for concurrent use.
type window struct {
	mu   sync.Mutex
	seen map[string]failures
}

type failures struct {
	n     int
	until time.Time
}

// takeBack uncounts one attempt that was no failure.
func (w *window) takeBack(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f, known := w.seen[key]; known && f.n > 0 {
		f.n--
		w.seen[key] = f
	}
}

func (w *window) add(key string, now time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = make(map[string]failures)
	}
	f, known := w.seen[key]
	if !now.Before(f.until) {
		f = failures{until: now.Add(limitWindow)}
	}
	if !known && len(w.seen) >= maxRemembers {
		w.forget(now)
	}
	f.n++
	w.seen[key] = f
	return f.n
}

// forget makes room: ended windows go, and if there are none, any one does.
func (w *window) forget(now time.Time) {
	for key, f := range w.seen {
		if !now.Before(f.until) {
			delete(w.seen, key)
		}
	}
	for key := range w.seen {
		if len(w.seen) < maxRemembers {
			return
		}
		delete(w.seen, key)
	}
}

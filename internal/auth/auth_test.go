package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/store"
)

var _ Sessions = (*store.Store)(nil)

const password = "correct horse battery"

// bench is an Auth on a real store, with a clock and a ledger that the test holds.
type bench struct {
	*Auth
	mux      *http.ServeMux
	now      time.Time
	recorded []string
	broken   bool // the ledger refuses
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "tocsin.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{now: time.Now().UTC(), mux: http.NewServeMux()}
	o := Options{
		Users:    []User{{"ana", string(h), approval.Lead}, {"vera", string(h), approval.Viewer}},
		Sessions: s, Keys: s, Site: "http://localhost:8700", Now: func() time.Time { return b.now },
		Record: func(_ context.Context, kind, actor, _ string, body any) error {
			if b.broken {
				return errors.New("the ledger is full")
			}
			b.recorded = append(b.recorded, kind+" "+actor+" "+body.(map[string]string)["outcome"])
			return nil
		},
	}
	if change != nil {
		change(&o)
	}
	if b.Auth, err = New(o); err != nil {
		t.Fatal(err)
	}
	b.Routes(b.mux)
	b.mux.Handle("/", b.Require(approval.Responder, func(w http.ResponseWriter, _ *http.Request, by approval.Principal) {
		w.Write([]byte(by.ID + " " + string(by.Role) + " " + by.Via))
	}))
	return b
}

func (b *bench) do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	b.mux.ServeHTTP(w, r)
	return w.Result()
}

func (b *bench) form(user, pass, next string) *http.Response {
	r := httptest.NewRequest("POST", "/sign-in", strings.NewReader(url.Values{"user": {user}, "password": {pass}, "next": {next}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (b *bench) get(path string, change func(*http.Request)) (*http.Response, string) {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", "text/html")
	if change != nil {
		change(r)
	}
	res := b.do(r)
	var body bytes.Buffer
	body.ReadFrom(res.Body)
	return res, body.String()
}

func TestPasswordSignIn(t *testing.T) {
	tests := []struct {
		name, user, password, next, location string
		cookie                               bool
	}{
		{"right", "ana", password, "/incidents/INC-1?x=1", "/incidents/INC-1?x=1", true},
		{"wrong password", "ana", "wrong", "/", "/sign-in?next=%2F&refused=wrong", false},
		{"unknown user", "bob", password, "/", "/sign-in?next=%2F&refused=wrong", false},
		{"empty", "", "", "", "/sign-in?next=%2F&refused=wrong", false},
		{"open redirect: scheme", "ana", password, "https://evil.example/", "/", true},
		{"open redirect: two slashes", "ana", password, "//evil.example/", "/", true},
		{"open redirect: backslash", "ana", password, `/\evil.example/`, "/", true},
		{"open redirect: control character", "ana", password, "/\t/evil.example", "/", true},
		{"open redirect: script", "ana", password, "javascript:alert(1)", "/", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			res := b.form(tt.user, tt.password, tt.next)
			if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != tt.location {
				t.Errorf("got %d to %q, want 303 to %q", res.StatusCode, res.Header.Get("Location"), tt.location)
			}
			if got := len(res.Cookies()) == 1; got != tt.cookie {
				t.Errorf("cookie set: %v, want %v", got, tt.cookie)
			}
			if len(b.recorded) != 1 {
				t.Errorf("ledger holds %q, want one record", b.recorded)
			}
		})
	}
}

func TestCookie(t *testing.T) {
	for _, tls := range []bool{false, true} {
		b := newBench(t, func(o *Options) { o.TLS = tls })
		c := b.form("ana", password, "/").Cookies()[0]
		name := map[bool]string{false: "tocsin", true: "__Host-tocsin"}[tls]
		if c.Name != name || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Secure != tls || c.Domain != "" || c.MaxAge != 12*3600 {
			t.Errorf("tls %v: got cookie %v", tls, c)
		}
		if len(c.Value) != 43 {
			t.Errorf("token has %d characters, want 43 for 256 bits", len(c.Value))
		}
	}
}

func TestSession(t *testing.T) {
	b := newBench(t, nil)
	c := b.form("ana", password, "/").Cookies()[0]
	withCookie := func(r *http.Request) { r.AddCookie(c) }
	if res, body := b.get("/x", withCookie); res.StatusCode != 200 || body != "ana lead console" {
		t.Errorf("signed in: got %d %q", res.StatusCode, body)
	}
	both := func(r *http.Request) { r.AddCookie(c); r.Header.Set("Authorization", "Bearer "+c.Value) }
	if res, _ := b.get("/x", both); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("cookie and bearer: got %d, want 401", res.StatusCode)
	}
	foreign := func(r *http.Request) { r.AddCookie(c); r.Method = "POST"; r.Header.Set("Sec-Fetch-Site", "cross-site") }
	if res, _ := b.get("/x", foreign); res.StatusCode != http.StatusForbidden {
		t.Errorf("request of another site: got %d, want 403", res.StatusCode)
	}
	b.now = b.now.Add(SessionLife)
	if res, _ := b.get("/x?a=b", withCookie); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/sign-in?next=%2Fx%3Fa%3Db" {
		t.Errorf("expired: got %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	b.now = b.now.Add(-time.Hour)
	out := httptest.NewRequest("POST", "/sign-out", nil)
	out.AddCookie(c)
	if res := b.do(out); res.StatusCode != http.StatusSeeOther || res.Cookies()[0].MaxAge >= 0 {
		t.Errorf("sign-out: got %d, cookie %v", res.StatusCode, res.Cookies())
	}
	if res, _ := b.get("/x", withCookie); res.StatusCode != http.StatusSeeOther {
		t.Errorf("signed out: got %d, want 303", res.StatusCode)
	}
}

func TestRequire(t *testing.T) {
	b := newBench(t, nil)
	c := b.form("vera", password, "/").Cookies()[0]
	tests := []struct {
		name, path string
		change     func(*http.Request)
		want       int
	}{
		{"viewer, page", "/x", func(r *http.Request) { r.AddCookie(c) }, 403},
		{"viewer, API", "/api/v1/x", func(r *http.Request) { r.AddCookie(c) }, 403},
		{"nobody, page", "/x", nil, 303},
		{"nobody, API", "/api/v1/x", nil, 401},
		{"made-up bearer", "/x", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401},
		{"made-up cookie", "/x", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "tocsin", Value: "x"}) }, 303},
		{"two cookies", "/x", func(r *http.Request) { r.AddCookie(c); r.AddCookie(c) }, 303},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if res, _ := b.get(tt.path, tt.change); res.StatusCode != tt.want {
				t.Errorf("got %d, want %d", res.StatusCode, tt.want)
			}
		})
	}
}

func TestBearer(t *testing.T) {
	b := newBench(t, nil)
	sign := func(body string) (*http.Response, map[string]string) {
		res := b.do(httptest.NewRequest("POST", "/api/v1/sign-in", strings.NewReader(body)))
		var out map[string]string
		json.NewDecoder(res.Body).Decode(&out)
		return res, out
	}
	if res, _ := sign(`{"user":"ana","password":"x"}`); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong password: got %d, want 401", res.StatusCode)
	}
	if res, _ := sign(`{"name":"ana"}`); res.StatusCode != http.StatusBadRequest {
		t.Errorf("unknown field: got %d, want 400", res.StatusCode)
	}
	res, out := sign(`{"user":"ana","password":"` + password + `"}`)
	if res.StatusCode != 200 || out["role"] != "lead" || out["expires"] == "" {
		t.Fatalf("got %d %v", res.StatusCode, out)
	}
	if res, body := b.get("/x", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+out["token"]) }); body != "ana lead cli" {
		t.Errorf("got %d %q, want ana lead cli", res.StatusCode, body)
	}
}

// Wrong passwords make the next ones wait, ever longer, and lock nobody out.
func TestWrongPasswordsDelay(t *testing.T) {
	b := newBench(t, nil)
	var waited []time.Duration
	b.wait = func(_ context.Context, d time.Duration) error { waited = append(waited, d); return nil }
	sign := func(user, pass string) string { return b.form(user, pass, "/").Header.Get("Location") }
	for range freeFailures + 6 {
		sign("ana", "wrong")
	}
	if got := sign("ana", password); got != "/" {
		t.Errorf("the right password after wrong ones: sent to %q", got)
	}
	sign("vera", "wrong")
	b.now = b.now.Add(limitWindow)
	sign("ana", "wrong")
	want := []time.Duration{0, 0, 0, 0, 0, 1, 2, 4, 8, 10, 10, 10, 0, 0}
	for i := range want {
		want[i] *= time.Second
	}
	if diff := cmp.Diff(want, waited); diff != "" {
		t.Error(diff)
	}
}

// Behind a proxy a guesser and the person guessed at come from two addresses, whatever the guesser writes into the header.
func TestAddress(t *testing.T) {
	tests := []struct {
		name  string
		proxy bool
		said  []string
		want  string
	}{
		{"no proxy", false, []string{"198.51.100.7"}, "192.0.2.1"},
		{"the proxy's client", true, []string{"198.51.100.7"}, "198.51.100.7"},
		{"what the client claimed", true, []string{"10.0.0.1, 203.0.113.9,198.51.100.7 "}, "198.51.100.7"},
		{"two headers", true, []string{"203.0.113.9", "198.51.100.7"}, "198.51.100.7"},
		{"with a port", true, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"no address", true, []string{"198.51.100.7, unknown"}, "192.0.2.1"},
		{"no header", true, nil, "192.0.2.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/sign-in", nil)
			r.Header["X-Forwarded-For"] = tt.said
			if got := (&Auth{o: Options{Proxy: tt.proxy}}).address(r); got != tt.want {
				t.Errorf("from %s, want %s", got, tt.want)
			}
		})
	}
}

// However many sign-ins are refused, the ledger ends up with their number in few rows.
func TestRefusalsAreCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all tallies
		now, refused, told, rows := time.Unix(1<<30, 0), make(map[string]int), make(map[string]int), 0
		add := func(address string) {
			refused[address]++
			for _, d := range all.add(address, now) {
				told[d.address] += d.n
				rows++
			}
		}
		for range rapid.IntRange(1, 5).Draw(t, "bursts") {
			address := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "address")
			for range rapid.IntRange(1, 2000).Draw(t, "refusals") {
				add(address)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "minutes")) * time.Minute)
		}
		for address, n := range refused {
			if told[address] > n || 2*told[address] < n {
				t.Fatalf("%s: told of %d refusals of %d", address, told[address], n)
			}
		}
		now = now.Add(limitWindow + time.Minute)
		add("c")
		if diff := cmp.Diff(refused, told); diff != "" || rows > 5*(maxRecorded+8)+1 {
			t.Fatalf("%d rows: %s", rows, diff)
		}
	})
}

// A refusal is recorded whether the password was looked at or not.
func TestEveryRefusalIsRecorded(t *testing.T) {
	b := newBench(t, nil)
	b.wait = func(context.Context, time.Duration) error { return nil }
	for range maxRecorded + maxRecorded/2 {
		b.form("ana", "wrong", "/")
	}
	b.now = b.now.Add(limitWindow + time.Minute)
	b.form("vera", "wrong", "/")
	if n := len(b.recorded); n != maxRecorded+2 || b.recorded[maxRecorded] != "sign_in unknown refused: 50 sign-ins" {
		t.Errorf("%d records, the last %q", n, b.recorded[maxRecorded:])
	}
}

func TestNoSessionWithoutRecord(t *testing.T) {
	b := newBench(t, nil)
	b.broken = true
	res := b.form("ana", password, "/")
	if len(res.Cookies()) != 0 || !strings.Contains(res.Header.Get("Location"), "refused=error") {
		t.Errorf("got cookies %v, location %q", res.Cookies(), res.Header.Get("Location"))
	}
}

func TestRoleFollowsConfiguration(t *testing.T) {
	b := newBench(t, nil)
	c := b.form("ana", password, "/").Cookies()[0]
	delete(b.users, "ana")
	if res, _ := b.get("/x", func(r *http.Request) { r.AddCookie(c) }); res.StatusCode != http.StatusSeeOther {
		t.Errorf("removed user: got %d, want 303", res.StatusCode)
	}
}

func TestWindowIsBounded(t *testing.T) {
	var w window
	now := time.Now()
	for i := range maxRemembers + 10 {
		w.enter(strings.Repeat("x", i%7)+string(rune(i)), now)
	}
	var all tallies
	told := 0
	for i := range maxRemembers + 10 {
		for _, d := range all.add(strconv.Itoa(i), now) {
			told += d.n
		}
	}
	if len(w.seen) > maxRemembers || len(all.seen) > maxRemembers || told != maxRemembers+10 {
		t.Errorf("remembers %d and %d keys, want at most %d; told of %d", len(w.seen), len(all.seen), maxRemembers, told)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Options{Sessions: &store.Store{}, Keys: &store.Store{}, Site: "https://tocsin.example.org", Now: time.Now, Record: func(context.Context, string, string, string, any) error { return nil }}
	h, err := HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Options)
	}{
		{"an IP address for a site", func(o *Options) { o.Site = "https://192.0.2.1" }},
		{"a site of this machine without its name", func(o *Options) { o.Site = "http://127.0.0.1:8700" }},
		{"a site without TLS", func(o *Options) { o.Site = "http://tocsin.example.org" }},
		{"a page for a site", func(o *Options) { o.Site = "https://tocsin.example.org/console" }},
		{"no keys", func(o *Options) { o.Keys = nil }},
		{"no store", func(o *Options) { o.Sessions = nil }},
		{"plain password", func(o *Options) { o.Users = []User{{"ana", password, approval.Lead}} }},
		{"unknown role", func(o *Options) { o.Users = []User{{"ana", h, "root"}} }},
		{"user twice", func(o *Options) { o.Users = []User{{"ana", h, approval.Lead}, {"ana", h, approval.Viewer}} }},
		{"OIDC without client", func(o *Options) { o.OIDC = &OIDC{Issuer: "https://id.example"} }},
		{"OIDC with unknown role", func(o *Options) {
			o.OIDC = &OIDC{Issuer: "https://id.example", ClientID: "x", RedirectURL: "y", Roles: map[string]approval.Role{"g": "root"}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good
			tt.change(&o)
			if _, err := New(o); err == nil {
				t.Error("New took it")
			}
		})
	}
}

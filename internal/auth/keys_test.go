package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// desk is a person at a browser with a security key.
type desk struct {
	*testing.T
	*bench
	cookie *http.Cookie
	rp     virtualwebauthn.RelyingParty
	device virtualwebauthn.Authenticator
	key    virtualwebauthn.Credential
}

var plan, otherPlan = strings.Repeat("ab", 32), strings.Repeat("cd", 32)

func (b *bench) desk(t *testing.T, user string) *desk {
	t.Helper()
	d := &desk{
		T: t, bench: b, cookie: b.form(user, password, "/").Cookies()[0],
		rp: virtualwebauthn.RelyingParty{ID: "localhost", Name: "Tocsin", Origin: "http://localhost:8700"}, device: virtualwebauthn.NewAuthenticator(),
	}
	d.newKey()
	return d
}

func (d *desk) newKey() { d.key = freshKey() }

// freshKey is a new key. The library writes a coordinate that begins with a zero too short, about once in 128 keys, and no such key can be
// registered: it makes another.
func freshKey() virtualwebauthn.Credential {
	const whole = 77 // bytes of a COSE key on P-256 with both coordinates of 32 (RFC 9053, section 7.1)
	for {
		if k := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(k.Key.AttestationData()) == whole {
			return k
		}
	}
}

// post returns the status and the body of an answer.
func (d *desk) post(path string, body any) (int, string) {
	d.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		d.Fatal(err)
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(string(text)))
	r.AddCookie(d.cookie)
	w := httptest.NewRecorder()
	d.mux.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (d *desk) register(name string) (int, string) {
	d.Helper()
	status, options := d.post("/keys/register/begin", keyBody{Name: name})
	if status != http.StatusOK {
		return status, options
	}
	asked, err := virtualwebauthn.ParseAttestationOptions(options)
	if err != nil {
		d.Fatal(err)
	}
	return d.post("/keys/register/finish", keyBody{Credential: json.RawMessage(virtualwebauthn.CreateAttestationResponse(d.rp, d.device, d.key, *asked))})
}

// challenge asks for a proof and returns the key's answer.
func (d *desk) challenge(about string) (answer json.RawMessage) {
	d.Helper()
	status, options := d.post("/keys/prove/begin", keyBody{For: about})
	if status != http.StatusOK {
		d.Fatalf("begin: %d %s", status, options)
	}
	asked, err := virtualwebauthn.ParseAssertionOptions(options)
	if err != nil {
		d.Fatal(err)
	}
	d.key.Counter++
	return json.RawMessage(virtualwebauthn.CreateAssertionResponse(d.rp, d.device, d.key, *asked))
}

func (d *desk) prove(about string) (int, string) {
	d.Helper()
	return d.post("/keys/prove/finish", keyBody{For: about, Credential: d.challenge(about)})
}

// principal is who the session says that the person is.
func (d *desk) principal() approval.Principal {
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(d.cookie)
	p, _ := d.Principal(r)
	return p
}

func (d *desk) must(status int, body string) {
	d.Helper()
	if status != http.StatusOK {
		d.Fatalf("got %d %s", status, body)
	}
}

// recordedOf is the number of rows of the ledger that hold a text.
func (b *bench) recordedOf(text string) (n int) {
	for _, row := range b.recorded {
		if strings.Contains(row, text) {
			n++
		}
	}
	return n
}

func TestProof(t *testing.T) {
	d := newBench(t, nil).desk(t, "ana")
	d.must(d.register("blue"))
	if p := d.principal(); !p.Proved.IsZero() {
		t.Errorf("registering a key proved something: %+v", p)
	}
	d.must(d.prove(plan))
	if p := d.principal(); !p.Proved.Equal(d.now) || p.ProvedFor != plan {
		t.Errorf("the principal is %+v", p)
	}
	other := d.bench.desk(t, "ana")
	if p := other.principal(); !p.Proved.IsZero() {
		t.Errorf("another session of the person is proved: %+v", p)
	}
	for _, want := range []string{"security_key ana registered, the first: on trust", "security_key ana proved"} {
		if d.recordedOf(want) != 1 {
			t.Errorf("the ledger has no %q: %q", want, d.recorded)
		}
	}
}

// Whatever is wrong with a proof, it is refused and recorded, and the session is not proved.
func TestProofRefused(t *testing.T) {
	tests := []struct {
		name string
		do   func(d *desk) (int, string)
		want string
	}{
		{"wrong origin", func(d *desk) (int, string) { d.rp.Origin = "http://localhost:8701"; return d.prove(plan) }, "origin"},
		{"wrong relying party", func(d *desk) (int, string) { d.rp.ID = "example.org"; return d.prove(plan) }, "rp hash"},
		{"user verification missing", func(d *desk) (int, string) { d.device.Options.UserNotVerified = true; return d.prove(plan) }, "user verification"},
		{"nobody touched it", func(d *desk) (int, string) { d.device.Options.UserNotPresent = true; return d.prove(plan) }, "user pres"},
		{"a key that is not registered", func(d *desk) (int, string) { d.newKey(); return d.prove(plan) }, "not owned"},
		{"another key under the same id", func(d *desk) (int, string) {
			d.key.Key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2).Key
			return d.prove(plan)
		}, "proves nothing"},
		{"counter regression", func(d *desk) (int, string) {
			d.key.Counter = 10
			d.must(d.prove(store.AboutKeys))
			d.key.Counter = 4
			return d.prove(plan)
		}, "went back"},
		{"counter that stands still", func(d *desk) (int, string) {
			d.must(d.prove(store.AboutKeys))
			d.key.Counter--
			return d.prove(plan)
		}, "went back"},
		{"replayed answer", func(d *desk) (int, string) {
			answer := d.challenge(store.AboutKeys)
			d.must(d.post("/keys/prove/finish", keyBody{For: store.AboutKeys, Credential: answer}))
			return d.post("/keys/prove/finish", keyBody{For: store.AboutKeys, Credential: answer})
		}, "no open challenge"},
		{"answer to a challenge before", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			d.challenge(plan)
			return d.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "challenge"},
		{"another session's challenge", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			other := d.bench.desk(d.T, "ana")
			return other.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "no open challenge"},
		{"another session's answer", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			other := d.bench.desk(d.T, "ana")
			other.key = d.key
			other.challenge(plan)
			return other.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "challenge"},
		{"another request's", func(d *desk) (int, string) {
			return d.post("/keys/prove/finish", keyBody{For: otherPlan, Credential: d.challenge(plan)})
		}, "something else"},
		{"too late", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			d.now = d.now.Add(challengeLife + time.Second)
			return d.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "older than"},
		{"a registration's challenge", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			d.must(d.prove(store.AboutKeys))
			d.must(d.post("/keys/register/begin", keyBody{Name: "red"}))
			return d.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "no open challenge"},
		{"for nothing that there is", func(d *desk) (int, string) { return d.post("/keys/prove/begin", keyBody{For: "everything"}) }, "plan's digest"},
		{"no answer", func(d *desk) (int, string) {
			d.challenge(plan)
			return d.post("/keys/prove/finish", keyBody{For: plan})
		}, "can't be read"},
		{"a key that was removed meanwhile", func(d *desk) (int, string) {
			answer := d.challenge(plan)
			keys, err := d.o.Keys.SecurityKeys(d.Context(), "ana", store.MaxKeys)
			if err != nil {
				d.Fatal(err)
			}
			if err := d.o.Keys.DropSecurityKey(d.Context(), keys[0].ID); err != nil {
				d.Fatal(err)
			}
			return d.post("/keys/prove/finish", keyBody{For: plan, Credential: answer})
		}, "proves nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newBench(t, nil).desk(t, "ana")
			d.must(d.register("blue"))
			status, body := tt.do(d)
			if status != http.StatusForbidden || !strings.Contains(body, tt.want) {
				t.Errorf("got %d %s, want 403 and %q", status, body, tt.want)
			}
			if p := d.principal(); p.ProvedFor == plan || p.ProvedFor == otherPlan {
				t.Errorf("the session is proved: %+v", p)
			}
			if d.recordedOf("security_key ana refused: ") != 1 {
				t.Errorf("the ledger has %q", d.recorded)
			}
		})
	}
}

func TestWhoMayHaveKeys(t *testing.T) {
	b := newBench(t, nil)
	d := b.desk(t, "ana")
	if status, body := d.post("/keys/prove/begin", keyBody{For: plan}); status != http.StatusForbidden || !strings.Contains(body, "no security key") {
		t.Errorf("a proof without a key: %d %s", status, body)
	}
	if status, body := b.desk(t, "vera").register("v"); status != http.StatusForbidden {
		t.Errorf("a viewer registered a key: %d %s", status, body)
	}
	d.cookie.Value = "made up"
	if status, body := d.register("x"); status != http.StatusForbidden {
		t.Errorf("nobody registered a key: %d %s", status, body)
	}
	r := httptest.NewRequest("POST", "/keys/register/begin", strings.NewReader(`{"name":"x"}`))
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	r.AddCookie(b.desk(t, "ana").cookie)
	if res := b.do(r); res.StatusCode != http.StatusForbidden {
		t.Errorf("another site's page began a registration: %d", res.StatusCode)
	}
}

// A further key needs a proof by one before it, of a moment ago, and there are only so many.
func TestFurtherKeys(t *testing.T) {
	b := newBench(t, nil)
	d := b.desk(t, "ana")
	d.must(d.register("blue"))
	first := d.key
	d.newKey()
	if status, body := d.register("red"); status != http.StatusForbidden || !strings.Contains(body, "needs a proof") {
		t.Errorf("a further key without a proof: %d %s", status, body)
	}
	d.key = first
	d.must(d.prove(plan))
	if status, _ := d.post("/keys/register/begin", keyBody{Name: "red"}); status != http.StatusForbidden {
		t.Error("a proof for a plan let a further key in")
	}
	d.must(d.prove(store.AboutKeys))
	first = d.key
	for n := 1; n < store.MaxKeys; n++ {
		d.newKey()
		d.must(d.register("red"))
	}
	d.newKey()
	if status, body := d.register("one more"); status != http.StatusForbidden || !strings.Contains(body, "at most") {
		t.Errorf("a key too many: %d %s", status, body)
	}
	keys, err := b.o.Keys.SecurityKeys(t.Context(), "ana", 100)
	if err != nil || len(keys) != store.MaxKeys {
		t.Fatalf("%d keys: %v", len(keys), err)
	}
	trusted := 0
	for _, k := range keys {
		if k.First {
			trusted++
		}
	}
	if trusted != 1 {
		t.Errorf("%d keys are on trust, want 1", trusted)
	}
	d.now = d.now.Add(approval.StepUpLife + time.Second)
	if status := d.remove(keys[0].ID); status != "/keys?refused=remove" {
		t.Errorf("an old proof removed a key: %s", status)
	}
	d.key = first
	d.must(d.prove(store.AboutKeys))
	if status := d.remove(keys[0].ID); status != "/keys" || d.recordedOf("removed a key of ana") != 1 {
		t.Errorf("removed: %s %q", status, d.recorded)
	}
}

func (d *desk) remove(id string) string {
	r := httptest.NewRequest("POST", "/keys/"+id+"/remove", nil)
	r.AddCookie(d.cookie)
	return d.do(r).Header.Get("Location")
}

// Two sessions that begin while a person has no key don't both get a first one.
func TestOneFirstKey(t *testing.T) {
	b := newBench(t, nil)
	one, two := b.desk(t, "ana"), b.desk(t, "ana")
	status, options := two.post("/keys/register/begin", keyBody{Name: "two"})
	two.must(status, options)
	one.must(one.register("one"))
	asked, err := virtualwebauthn.ParseAttestationOptions(options)
	if err != nil {
		t.Fatal(err)
	}
	status, body := two.post("/keys/register/finish", keyBody{Credential: json.RawMessage(virtualwebauthn.CreateAttestationResponse(two.rp, two.device, two.key, *asked))})
	if status != http.StatusForbidden || !strings.Contains(body, "needs a proof") {
		t.Errorf("got %d %s", status, body)
	}
}

func TestRemovalByAdmin(t *testing.T) {
	b := newBench(t, func(o *Options) {
		for name, role := range map[string]approval.Role{"root": approval.Admin, "leo": approval.Lead} {
			o.Users = append(o.Users, User{name, o.Users[0].PasswordHash, role})
		}
	})
	ana, root, leo := b.desk(t, "ana"), b.desk(t, "root"), b.desk(t, "leo")
	ana.must(ana.register("blue"))
	root.must(root.register("green"))
	id := func(person string) string {
		keys, err := b.o.Keys.SecurityKeys(t.Context(), person, 1)
		if err != nil || len(keys) != 1 {
			t.Fatalf("%d keys: %v", len(keys), err)
		}
		return keys[0].ID
	}
	tests := []struct {
		name string
		by   *desk
		id   string
		want string
	}{
		{"a lead, somebody else's", leo, id("ana"), "/keys?refused=remove"},
		{"an admin, their own, without a proof", root, id("root"), "/keys?refused=remove"},
		{"a key that there is not", root, "none", "/keys?refused=remove"},
		{"an admin, somebody else's", root, id("ana"), "/keys"},
	}
	for _, tt := range tests {
		if got := tt.by.remove(tt.id); got != tt.want {
			t.Errorf("%s: sent to %s, want %s", tt.name, got, tt.want)
		}
	}
	if n := b.recordedOf("refused"); n != 3 {
		t.Errorf("the ledger holds %d refusals, want 3: %q", n, b.recorded)
	}
	if keys, err := b.o.Keys.SecurityKeys(t.Context(), "", 100); err != nil || len(keys) != 1 || keys[0].Person != "root" {
		t.Errorf("left: %+v %v", keys, err)
	}
}

func TestNoKeyWithoutRecord(t *testing.T) {
	b := newBench(t, nil)
	d := b.desk(t, "ana")
	b.broken = true
	if status, _ := d.register("blue"); status != http.StatusInternalServerError {
		t.Errorf("got %d", status)
	}
	if keys, err := b.o.Keys.SecurityKeys(t.Context(), "ana", 10); err != nil || len(keys) != 0 {
		t.Errorf("%d keys: %v", len(keys), err)
	}
}

func TestCeremoniesAreBounded(t *testing.T) {
	b := newBench(t, nil)
	for i := range maxCeremonies + 10 {
		b.begins(string(rune(i+1)), ceremony{})
	}
	if len(b.pending) > maxCeremonies {
		t.Errorf("%d open challenges", len(b.pending))
	}
}

// unreadable are security keys of which none can be looked up.
type unreadable struct{ Keys }

func (unreadable) SecurityKey(context.Context, string) (store.SecurityKey, error) {
	return store.SecurityKey{}, errors.New("the disk is full")
}

func TestUnreadableKeys(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Keys = unreadable{o.Keys} })
	status, body := b.desk(t, "ana").register("mine")
	if status != http.StatusInternalServerError || strings.Contains(body, "disk") {
		t.Errorf("got %d %s, want 500 without what is wrong inside", status, body)
	}
	if n := b.recordedOf("refused"); n != 0 {
		t.Errorf("the ledger holds %d refusals, want none: nobody refused anything", n)
	}
}

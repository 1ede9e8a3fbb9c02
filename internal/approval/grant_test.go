package approval

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func signer() *Signer { return NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))) }

func granted(t *testing.T) *Grant {
	t.Helper()
	r, d := asked(t)
	g, err := signer().Sign(r, d)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGrant(t *testing.T) {
	g := granted(t)
	if err := g.Verify(signer().Public(), plan(), clock().Add(grantLife)); err != nil {
		t.Errorf("a grant does not verify for its plan: %v", err)
	}
	if err := g.Verify(signer().Public(), plan(), clock().Add(grantLife+1)); err == nil {
		t.Error("a grant verifies after its end")
	}
	another := NewSigner(ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize))))
	for name, key := range map[string]ed25519.PublicKey{"another": another.Public(), "no": nil, "a short": signer().Public()[:31]} {
		if err := g.Verify(key, plan(), clock()); err == nil {
			t.Errorf("a grant verifies with %s key", name)
		}
	}
	var none *Grant
	if none.Verify(signer().Public(), plan(), clock()) == nil || (&Grant{}).Verify(signer().Public(), plan(), clock()) == nil {
		t.Error("no grant verifies")
	}
	r, d := asked(t)
	d.Verb = Deny
	if g, err := signer().Sign(r, d); err == nil {
		t.Errorf("a denial was granted: %v", g)
	}
	for name, change := range map[string]func(*Request, *Decision){
		"a plan that is not the digest's": func(r *Request, _ *Decision) { r.Plan.Target.Agent = "support/other" },
		"a digest of another plan":        func(r *Request, _ *Decision) { r.Digest = strings.Repeat("0", 64) },
		"a decision about another plan":   func(_ *Request, d *Decision) { d.Digest = strings.Repeat("0", 64) },
	} {
		r, d := asked(t)
		change(&r, &d)
		if g, err := signer().Sign(r, d); err == nil {
			t.Errorf("%s was granted: %v", name, g)
		}
	}
	g.Signature = ed25519.Sign(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), mustJSON(t, g))
	if err := g.Verify(signer().Public(), plan(), clock()); err == nil {
		t.Error("a signature of the key in another context verifies")
	}
}

func mustJSON(t *testing.T, g *Grant) []byte {
	t.Helper()
	unsigned := *g
	unsigned.Signature = nil
	text, err := json.Marshal(unsigned)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// changes lists, for every field within v, a function that changes it. A field of a kind that is not listed here fails the test,
// so that a new field can't be left out of the digest unseen.
func changes(v reflect.Value, path string) map[string]func() {
	out := make(map[string]func())
	switch v.Kind() {
	case reflect.String:
		out[path] = func() { v.SetString(v.String() + "x") }
		if v.String() != "" {
			out[path+" emptied"] = func() { v.SetString("") }
		}
	case reflect.Bool:
		out[path] = func() { v.SetBool(!v.Bool()) }
	case reflect.Int, reflect.Int64:
		out[path] = func() { v.SetInt(v.Int() + 1) }
	case reflect.Uint8:
		out[path] = func() { v.SetUint(v.Uint() ^ 1) }
	case reflect.Map:
		out[path+" added"] = func() { v.SetMapIndex(reflect.ValueOf("new"), reflect.ValueOf("")) }
		out[path+" changed"] = func() { v.SetMapIndex(v.MapKeys()[0], reflect.ValueOf("new")) }
		out[path+" dropped"] = func() { v.SetZero() }
	case reflect.Slice:
		out[path+" dropped"] = func() { v.SetZero() }
		out[path+" cut"] = func() { v.SetLen(v.Len() - 1) }
		out[path+" grown"] = func() { v.Set(reflect.Append(v, v.Index(0))) }
		for i := range v.Len() {
			for name, change := range changes(v.Index(i), fmt.Sprintf("%s[%d]", path, i)) {
				out[name] = change
			}
		}
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			out[path] = func() { v.Set(reflect.ValueOf(at.Add(1))) }
			break
		}
		for i := range v.NumField() {
			for name, change := range changes(v.Field(i), path+"."+v.Type().Field(i).Name) {
				out[name] = change
			}
		}
	default:
		panic("a field of kind " + v.Kind().String() + " at " + path)
	}
	return out
}

// names returns what can be changed, in a stable order.
func names(m map[string]func()) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func fresh() *Plan {
	p := plan()
	return &p
}

func TestGrantIsForExactlyItsPlan(t *testing.T) {
	g := granted(t)
	all := names(changes(reflect.ValueOf(fresh()).Elem(), "plan"))
	for _, name := range all {
		p := fresh()
		changes(reflect.ValueOf(p).Elem(), "plan")[name]()
		if err := g.Verify(signer().Public(), *p, clock()); err == nil {
			t.Errorf("the grant verifies with %s", name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := fresh()
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 4, rapid.ID).Draw(t, "changes") {
			if change, ok := changes(reflect.ValueOf(p).Elem(), "plan")[name]; ok {
				func() {
					defer func() { _ = recover() }() // an earlier change took away what this one changes
					change()
				}()
			}
		}
		if same := reflect.DeepEqual(*p, plan()); (g.Verify(signer().Public(), *p, clock()) == nil) != same {
			t.Fatalf("plan %+v: verifies although it differs, or the reverse", *p)
		}
	})
}

func TestGrantIsTamperEvident(t *testing.T) {
	for _, name := range names(changes(reflect.ValueOf(granted(t)).Elem(), "grant")) {
		g := granted(t)
		changes(reflect.ValueOf(g).Elem(), "grant")[name]()
		if err := g.Verify(signer().Public(), plan(), clock()); err == nil {
			t.Errorf("a grant verifies with %s changed", name)
		}
	}
}

func TestGrantSurvivesJSON(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, d := asked(t)
		text := rapid.String()
		d.By.ID, d.By.Via, r.ID, r.Incident = text.Draw(rt, "by"), text.Draw(rt, "via"), text.Draw(rt, "request"), text.Draw(rt, "incident")
		d.At = clock().Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "at"))).In(time.FixedZone("", 7200))
		g, err := signer().Sign(r, d)
		if err != nil {
			rt.Fatal(err)
		}
		for range 2 {
			data, err := json.Marshal(g)
			if err != nil {
				rt.Fatal(err)
			}
			g = &Grant{}
			if err := json.Unmarshal(data, g); err != nil {
				rt.Fatal(err)
			}
			if err := g.Verify(signer().Public(), plan(), d.At); err != nil {
				rt.Fatalf("after a round trip: %v", err)
			}
		}
	})
}

func TestDigestOf(t *testing.T) {
	for _, p := range []Plan{{Action: "\xff"}, {Target: Target{Agent: "a\xfe"}}, {Params: map[string]string{"\xff": ""}}, {Params: map[string]string{"": "\xff"}}, {Evidence: []string{"\xff"}}} {
		if d, err := DigestOf(p); err == nil {
			t.Errorf("DigestOf(%+v) = %s: text that JSON can't keep has a digest", p, d)
		}
	}
	a, err := DigestOf(Plan{Params: map[string]string{"a": "1", "b": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := DigestOf(Plan{Params: map[string]string{"b": "2", "a": "1"}})
	if err != nil || a != b {
		t.Errorf("the order of parameters matters: %s, %s, %v", a, b, err)
	}
}

package action

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// vault has the lease API as its documents describe it. No server with this API can be had as a library or a package where the tests
// run, so that this one is ours.
type vault struct {
	leases map[string]bool
	calls  []string
	lookup func(w http.ResponseWriter) bool // answers otherwise
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v.calls = append(v.calls, r.Method+" "+r.URL.Path+" "+string(body))
	if r.Header.Get("X-Vault-Token") != "hvs.hush" || r.Header.Get("X-Vault-Namespace") != "team" {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":["permission denied"]}`)
		return
	}
	if prefix, ok := strings.CutPrefix(r.URL.Path, "/v1/sys/leases/revoke-prefix/"); ok {
		if strings.HasSuffix(prefix, "/") { // as the real one
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"errors":["cannot write to a path ending in '/'"]}`)
			return
		}
		for id := range v.leases {
			if strings.HasPrefix(id, prefix+"/") {
				delete(v.leases, id)
			}
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	prefix, ok := strings.CutPrefix(r.URL.Path, "/v1/sys/leases/lookup/")
	if v.lookup != nil && v.lookup(w) {
		return
	}
	keys := []string{}
	for id := range v.leases {
		if key, under := strings.CutPrefix(id, prefix); under {
			keys = append(keys, key)
		}
	}
	if !ok || r.Method != "LIST" || len(keys) == 0 {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[]}`)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"keys": keys}})
}

func leasesOf(t *testing.T) (*vault, RevokeLeasesOptions) {
	t.Helper()
	v := &vault{leases: map[string]bool{"database/creds/billing/one": true, "database/creds/billing/two": true, "database/creds/billing-admin/three": true}}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	o := RevokeLeasesOptions{
		Address: server.URL, Namespace: "team", TokenFile: file(t, "hvs.hush\n"),
		Prefixes: map[string]PrefixOptions{"billing": {Agent: "a", Prefix: "database/creds/billing/"}},
	}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	return v, o
}

func billing() approval.Plan {
	return approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"leases": "billing"}}
}

func TestRevokeLeases(t *testing.T) {
	v, o := leasesOf(t)
	c, d, in := granted(t, NewRevokeLeases(o), billing())
	if holds, err := c.actions[NameRevokeLeases].Verify(t.Context(), Lease{Plan: in.Plan}); err != nil || holds {
		t.Fatalf("proved before it was applied: %v", err)
	}
	v.leases["database/creds/billing/four"] = true // between the approval and the effect
	v.calls = nil
	l, err := c.Apply(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = c.Verify(t.Context(), l); err != nil || l.Verified.IsZero() {
		t.Errorf("%+v %v", l, err)
	}
	if diff := cmp.Diff(map[string]bool{"database/creds/billing-admin/three": true}, v.leases); diff != "" {
		t.Error(diff)
	}
	want := []string{"LIST /v1/sys/leases/lookup/database/creds/billing/ ", `POST /v1/sys/leases/revoke-prefix/database/creds/billing {"sync":true}`, "LIST /v1/sys/leases/lookup/database/creds/billing/ "}
	if diff := cmp.Diff(want, v.calls); diff != "" {
		t.Error(diff)
	}
	if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), "hvs.") {
		t.Error("the lease holds the token", err)
	}
	if _, err := NewRevokeLeases(o).Plan(t.Context(), Input{Plan: billing()}); err == nil || !strings.Contains(err.Error(), "nothing to revoke") {
		t.Errorf("planned again: %v", err)
	}
	// What does not say that there are none is no proof.
	for name, answer := range map[string]func(w http.ResponseWriter) bool{
		"other path": func(w http.ResponseWriter) bool {
			w.WriteHeader(404)
			io.WriteString(w, `{"errors":["unsupported path"]}`)
			return true
		},
		"proxy": func(w http.ResponseWriter) bool {
			w.WriteHeader(404)
			io.WriteString(w, "<html>not found")
			return true
		},
		"sealed": func(w http.ResponseWriter) bool {
			w.WriteHeader(503)
			io.WriteString(w, `{"errors":["Vault is sealed"]}`)
			return true
		},
		"empty":    func(w http.ResponseWriter) bool { io.WriteString(w, `{}`); return true },
		"redirect": func(w http.ResponseWriter) bool { w.Header().Set("Location", "/"); w.WriteHeader(307); return true },
		"endless": func(w http.ResponseWriter) bool {
			io.WriteString(w, `{"data":{"keys":["`+strings.Repeat("x", maxAnswer)+`"]}}`)
			return true
		},
	} {
		v.lookup = answer
		if holds, err := c.actions[NameRevokeLeases].Verify(t.Context(), l); err == nil || holds {
			t.Errorf("%s: proved %v %v", name, holds, err)
		}
	}
}

func TestRevokeLeasesRefuses(t *testing.T) {
	_, o := leasesOf(t)
	other := billing()
	other.Target.Agent = "b"
	if _, err := NewRevokeLeases(o).Plan(t.Context(), Input{Plan: other}); err == nil {
		t.Error("another agent's leases are planned")
	}
	o.TokenFile = file(t, "guess")
	if err := NewRevokeLeases(o).Apply(t.Context(), Lease{Plan: billing()}); err == nil || !strings.Contains(err.Error(), "status 403") {
		t.Errorf("with another token: %v", err)
	}
	for _, prefix := range []string{"", "database/", "database/creds/billing", "../sys/", "database/../x/", "/database/creds/", "database//x/", "database/cr eds/x/", "database/creds/b?x=/"} {
		o.Prefixes = map[string]PrefixOptions{"p": {Agent: "a", Prefix: prefix}}
		if o.Check() == nil {
			t.Errorf("prefix %q passes", prefix)
		}
	}
}

package action

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// secrets is a real secrets server, at which the test is root.
type secrets struct {
	*testing.T
	url, root string
}

// startVault runs the program of testdata/vault, which TOCSIN_TEST_VAULT names, until the test ends.
func startVault(t *testing.T) *secrets {
	t.Helper()
	program := os.Getenv("TOCSIN_TEST_VAULT")
	if program == "" {
		t.Skip("TOCSIN_TEST_VAULT is not set: no Vault to test with; testdata/vault builds one")
	}
	var log bytes.Buffer
	server := exec.Command(program)
	server.Stderr = &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { server.Process.Kill() })
	defer stuck.Stop()
	t.Cleanup(func() { server.Process.Kill(); server.Wait() }) // says that it was killed
	line, err := bufio.NewReader(out).ReadString('\n')
	url, root, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		t.Fatalf("the server said %q: %v\n%s", line, err, log.String())
	}
	return &secrets{t, url, root}
}

// do sends a request with a token and returns the status; what the answer holds goes into into.
func (s *secrets) do(token, method, path string, body, into any) int {
	s.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.Fatal(err)
	}
	request, err := http.NewRequestWithContext(s.Context(), method, s.url+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", token)
	status, answer, err := call(newClient(nil), request)
	if err != nil {
		s.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			s.Fatalf("%s: %d %s: %v", path, status, answer, err)
		}
	}
	return status
}

// must is what root does, which must succeed.
func (s *secrets) must(method, path string, body, into any) {
	s.Helper()
	if status := s.do(s.root, method, path, body, into); status/100 != 2 {
		s.Fatalf("%s %s: status %d", method, path, status)
	}
}

// token makes one by a role, or for Tocsin by its policy alone.
func (s *secrets) token(role, policy string) string {
	s.Helper()
	var made struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	path := "auth/token/create"
	if role != "" {
		path += "/" + role
	}
	s.must(http.MethodPost, path, map[string]any{"policies": []string{policy}}, &made)
	return made.Auth.ClientToken
}

// TestVaultLeases: the credentials that an agent was given are dead after the revocation, and nobody else's are.
func TestVaultLeases(t *testing.T) {
	s := startVault(t)
	s.must(http.MethodPut, "sys/policy/tocsin", map[string]string{"policy": `
path "sys/leases/revoke-prefix/auth/token/create/billing" { capabilities = ["update", "sudo"] }
path "sys/leases/lookup/auth/token/create/billing/*" { capabilities = ["list", "sudo"] }
path "sys/leases/revoke-prefix/leased/billing" { capabilities = ["update", "sudo"] }
path "sys/leases/lookup/leased/billing/*" { capabilities = ["list", "sudo"] }`}, nil)
	s.must(http.MethodPut, "sys/policy/reads", map[string]string{"policy": `path "leased/*" { capabilities = ["read"] }`}, nil)
	for _, role := range []string{"billing", "refunds"} {
		s.must(http.MethodPost, "auth/token/roles/"+role, map[string]any{"allowed_policies": "reads"}, nil)
	}
	s.must(http.MethodPost, "sys/mounts/leased", map[string]string{"type": "kv"}, nil)
	for _, agent := range []string{"billing", "refunds"} {
		s.must(http.MethodPut, "leased/"+agent+"/db", map[string]string{"password": "x", "ttl": "1h"}, nil)
	}
	agent, other := s.token("billing", "reads"), s.token("refunds", "reads")
	lease := func(token, path string) string {
		t.Helper()
		var got struct {
			LeaseID string `json:"lease_id"`
		}
		if status := s.do(token, http.MethodGet, path, nil, &got); status != http.StatusOK || got.LeaseID == "" {
			t.Fatalf("%s: %d, lease %q", path, status, got.LeaseID)
		}
		return got.LeaseID
	}
	credential, kept := lease(other, "leased/billing/db"), lease(other, "leased/refunds/db")
	lives := func(id string) bool {
		return s.do(s.root, http.MethodPut, "sys/leases/lookup", map[string]string{"lease_id": id}, nil) == http.StatusOK
	}
	signedIn := func(token string) bool {
		return s.do(token, http.MethodGet, "auth/token/lookup-self", nil, nil) == http.StatusOK
	}
	if !lives(credential) || !lives(kept) || !signedIn(agent) || !signedIn(other) {
		t.Fatal("what was given out is dead before the revocation")
	}

	o := RevokeLeasesOptions{Address: s.url, TokenFile: file(t, s.token("", "tocsin")), Prefixes: map[string]PrefixOptions{
		"tokens": {Agent: "billing/bot", Prefix: "auth/token/create/billing/"}, "database": {Agent: "billing/bot", Prefix: "leased/billing/"}, "neighbour": {Agent: "billing/bot", Prefix: "leased/refunds/"},
	}}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	r := NewRevokeLeases(o)
	for _, name := range []string{"tokens", "database"} {
		p := approval.Plan{Action: NameRevokeLeases, Target: approval.Target{Agent: "billing/bot"}, Params: map[string]string{"leases": name}}
		if gone, err := r.Verify(t.Context(), Lease{Plan: p}); gone || err != nil {
			t.Fatalf("%s: the probe says that they are gone before the revocation: %v", name, err)
		}
		if _, err := r.Plan(t.Context(), Input{Plan: p}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := r.Apply(t.Context(), Lease{Plan: p}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if gone, err := r.Verify(t.Context(), Lease{Plan: p}); !gone || err != nil {
			t.Errorf("%s: the probe still sees them: %v", name, err)
		}
		if _, err := r.Plan(t.Context(), Input{Plan: p}); err == nil || !strings.Contains(err.Error(), "nothing to revoke") {
			t.Errorf("%s: a second plan: %v", name, err)
		}
	}
	if signedIn(agent) || lives(credential) {
		t.Errorf("after the revocation the token lives: %t, the credential: %t", signedIn(agent), lives(credential))
	}
	if !signedIn(other) || !lives(kept) {
		t.Errorf("what another agent holds is dead: token %t, credential %t", signedIn(other), lives(kept))
	}

	p := approval.Plan{Action: NameRevokeLeases, Target: approval.Target{Agent: "billing/bot"}, Params: map[string]string{"leases": "neighbour"}}
	if err := r.Apply(t.Context(), Lease{Plan: p}); err == nil || !strings.Contains(err.Error(), "status 403") || !lives(kept) {
		t.Errorf("a prefix that the token may not revoke: %v", err)
	}
}

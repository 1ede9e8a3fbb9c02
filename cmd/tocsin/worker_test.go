package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	saved "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// A containment that only a process with the key of security events can make.
const riskPlaybook = `name: %s
version: 1.0.0
title: Tell that it is risky
steps:
  - {id: seal, do: seal, class: record}
  - id: tell
    do: caep-risk-change
    class: contain
    after: [seal]
    target: agent
    lease: 1h
    unverified: true
    with: {level: HIGH, previous: LOW}
    ask: {deadline: 15m, on_expiry: deny}
`

var update = flag.Bool("update", false, "write the history of this run to testdata/histories")

// TestWorker is a Tocsin without any action's credentials, and a second process that has them: what the first can't do alone it tells and
// waits for, the second does once though it is killed on the way, halted it does nothing, and with another key it refuses.
func TestWorker(t *testing.T) {
	if testing.Short() {
		t.Skip("runs two programs, and waits until an absent one is told")
	}
	c := newCrash(t)
	r := newReceiver(t)
	w := c.withWorker(r)
	c.start()
	c.sendUntil(len(c.requests))
	var id string
	c.until("the incident", func() bool {
		all := get[[]incident.Incident](c, "/api/v1/incidents")
		if len(all) == 1 {
			id = all[0].ID
		}
		return id != ""
	})
	c.told(id, "the plan of caep-risk-change waits")
	if page := c.page("/health"); !strings.Contains(page, "action caep-risk-change") || !strings.Contains(page, "no worker asked for its work") {
		t.Errorf("the health page does not tell that the action has no worker:\n%s", page)
	}

	w.start("grant.pub")
	q := c.asked()
	if page := c.page("/health"); !strings.Contains(page, "1 at work elsewhere") {
		t.Errorf("the health page does not tell that the action has a worker:\n%s", page)
	}
	w.kill()
	c.approve(q)
	c.told(id, "what was approved of caep-risk-change waits")
	if got := r.events(); len(got) > 0 {
		t.Fatalf("without its worker the receiver got %q", got)
	}

	r.hold() // the answer to the first event
	w.start("grant.pub")
	c.until("the effect under way", func() bool { return len(r.events()) > 0 })
	w.kill()
	r.release()
	w.start("grant.pub")
	c.until("the effect", func() bool { return c.did(q.ID)["applied"] == 1 && c.did(q.ID)["verified"] == 1 })
	if got := slices.Compact(r.events()); !slices.Equal(got, []string{q.ID + " HIGH"}) {
		t.Errorf("the receiver got %q, want one event, perhaps twice", got)
	}
	c.checkCounts(w)

	if status := c.as("admin", "/api/v1/leases/"+q.ID+"/lift", api.LiftBody{Reason: "it was a drill"}); status != http.StatusOK {
		t.Fatalf("lifting the lease was answered with %d", status)
	}
	c.until("the undo", func() bool { return c.did(q.ID)["reverted"] == 1 })
	if got := slices.Compact(r.events()); !slices.Equal(got, []string{q.ID + " HIGH", q.ID + "/undo LOW"}) {
		t.Errorf("the receiver got %q", got)
	}

	if *update {
		w.save("unattended", q)
	}
	if c.histories("billing/billing-bot") != *update {
		t.Errorf("the workflow server holds the agent's name: %v; that its payloads are sealed: %v", *update, !*update)
	}

	halt := filepath.Join(c.dir, "data", "halt")
	if err := os.WriteFile(halt, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.until("the halt to bind the worker", func() bool { return len(c.rowsOf("responses", ledger.KindHalt)) == 1 })
	c.refusedEffect(id, "again", "responses are halted: the file")
	if err := os.Remove(halt); err != nil {
		t.Fatal(err)
	}
	c.until("the end of the halt", func() bool { return len(c.rowsOf("responses", ledger.KindHalt)) == 2 })

	w.kill()
	w.start("other.pub")
	c.refusedEffect(id, "once-more", "the grants do not allow it: verify grant: the signature is not the control plane")
	if page := c.page("/health"); !strings.Contains(page, "verifies grants by another key") {
		t.Errorf("the health page does not tell that the worker has another key:\n%s", page)
	}
	if got := slices.Compact(r.events()); len(got) != 2 {
		t.Errorf("the receiver got %q, nothing of it refused", got)
	}
	w.kill()
	c.stop()
}

// hand is the process that carries out actions.
type hand struct {
	*crash
	cmd     *exec.Cmd
	config  string
	metrics string
}

// withWorker configures a Tocsin whose one action is carried out elsewhere, and the process that does.
func (c *crash) withWorker(r *receiver) *hand {
	c.Helper()
	c.password = "correct horse battery staple"
	hash, err := auth.HashPassword(c.password)
	if err != nil {
		c.Fatal(err)
	}
	write := func(name, text string) string {
		at := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			c.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			c.Fatal(err)
		}
		return at
	}
	for _, name := range []string{"quarantine-agent", "again", "once-more"} {
		write("playbooks/"+name+".yaml", fmt.Sprintf(riskPlaybook, name))
	}
	workflows := freeAddress(c.T)
	sealed := ""
	if !*update { // histories that are kept can be read
		sealed = ", key_file: '" + write("payloads", "first "+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n") + "'"
	}
	write("tocsin.yaml", fmt.Sprintf(`listen: {otlp_http: '127.0.0.1:0', otlp_grpc: '127.0.0.1:0', console: '127.0.0.1:0'}
temporal: {listen: '%s'%s}
actions: {elsewhere: [caep-risk-change]}
playbooks: {dir: '%s'}
users:
  - {name: admin, role: admin, password_hash: '%s'}
  - {name: ana, role: responder, password_hash: '%[4]s'}
`, workflows, sealed, filepath.Join(c.dir, "playbooks"), hash))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		c.Fatal(err)
	}
	data := filepath.Join(c.dir, "data")
	return &hand{crash: c, config: fmt.Sprintf(`data: '%s'
listen: 127.0.0.1:0
grant_key: '%s/%%s'
temporal: {address: '%s', tls: {ca: '%[2]s/worker/ca.pem', cert: '%[2]s/worker/cert.pem', key: '%[2]s/worker/key.pem'}%[6]s}
store: {url: '%[2]s/store.db'}
actions:
  caep:
    endpoint: '%[4]s'
    issuer: https://tocsin.example.org
    audience: https://receiver.example.org
    key_file: '%[5]s'
    subject_issuer: https://id.example.org
    subjects: {billing/billing-bot: account-7}
`, filepath.Join(c.dir, "worker"), data, workflows, r.url, write("caep.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), sealed)}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the worker with a public key of the data directory, and returns once it says that it is ready.
func (h *hand) start(key string) {
	h.Helper()
	h.otherKey()
	config := filepath.Join(h.dir, "worker.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, h.config, key), 0o600); err != nil {
		h.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		h.Fatal(err)
	}
	h.cmd = exec.Command(self, "worker", "--config", config)
	h.cmd.Env = append(os.Environ(), childRun+"=1")
	h.cmd.Stderr = &h.stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		h.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(h.kill)
	stuck := time.AfterFunc(30*time.Second, func() { h.cmd.Process.Kill() })
	defer stuck.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ready") {
		if _, at, ok := strings.Cut(lines.Text(), "metrics    "); ok {
			h.metrics = at
		}
	}
	if !strings.HasPrefix(lines.Text(), "Ready") {
		h.Fatalf("the worker did not start: %v", h.cmd.Wait())
	}
}

func (h *hand) kill() {
	if h.cmd != nil {
		h.cmd.Process.Kill()
		h.cmd.Wait() // says that it was killed
		h.cmd = nil
	}
}

// otherKey writes the public key of another control plane.
func (h *hand) otherKey() {
	h.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "data", "grant.pub"))
	if err != nil {
		h.Fatal(err)
	}
	block, _ := pem.Decode(text)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if err := os.WriteFile(filepath.Join(h.dir, "data", "other.pub"), pem.EncodeToMemory(block), 0o600); err != nil {
		h.Fatal(err)
	}
}

// where names the machine and the process that recorded a history.
var where = regexp.MustCompile(`"(identity|buildId|binaryChecksum)": *"[^"]*"|"(name)": *"[^"]*:[0-9a-f-]{36}"`)

// save keeps what the workflow of a request's incident did, for workflows to replay, with what a worker connects by.
func (h *hand) save(name string, q approval.Request) {
	h.Helper()
	cfg, err := app.ReadWorkerConfig(filepath.Join(h.dir, "worker.yaml"))
	if err != nil {
		h.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cfg.Temporal.TLS.Cert, cfg.Temporal.TLS.Key)
	if err != nil {
		h.Fatal(err)
	}
	ca, err := os.ReadFile(cfg.Temporal.TLS.CA)
	if err != nil {
		h.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := client.Dial(client.Options{HostPort: cfg.Temporal.Address, Namespace: cfg.Temporal.Namespace, ConnectionOptions: client.ConnectionOptions{
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}})
	if err != nil {
		h.Fatal(err)
	}
	defer c.Close()
	var all saved.History
	events := c.GetWorkflowHistory(h.Context(), "incident/"+h.caseOf(q).Incident.Key, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			h.Fatal(err)
		}
		all.Events = append(all.Events, e)
	}
	readable := map[string]any{common.EnablePayloadShorthandMetadataKey: true}
	text, err := temporalproto.CustomJSONMarshalOptions{Indent: " ", Metadata: readable}.Marshal(&all)
	if err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("..", "..", "testdata", "histories", name+".json"), where.ReplaceAll(text, []byte(`"$1$2": "tocsin"`)), 0o644); err != nil {
		h.Fatal(err)
	}
}

// receiver takes security events, and says what they were: id and level.
type receiver struct {
	url string

	mu   sync.Mutex
	got  []string
	held bool
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(io.LimitReader(q.Body, 64<<10))
		if err != nil {
			return
		}
		set, err := jose.ParseSigned(string(body), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Errorf("the event %q: %v", body, err)
			return
		}
		var claims struct {
			JTI    string `json:"jti"`
			Events map[string]struct {
				Level string `json:"current_level"`
			} `json:"events"`
		}
		if err := json.Unmarshal(set.UnsafePayloadWithoutVerification(), &claims); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		for _, e := range claims.Events {
			r.got = append(r.got, claims.JTI+" "+e.Level)
		}
		held := r.held
		r.mu.Unlock()
		if held {
			<-q.Context().Done()
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

func (r *receiver) hold()    { r.set(true) }
func (r *receiver) release() { r.set(false) }

func (r *receiver) set(held bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = held
}

func (r *receiver) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// told waits until the timeline says something.
func (c *crash) told(id, what string) {
	c.Helper()
	c.until(fmt.Sprintf("the timeline to say %q", what), func() bool {
		return slices.ContainsFunc(get[api.Case](c, "/api/v1/incidents/"+id).Timeline, func(e incident.Entry) bool { return strings.Contains(e.Text, what) })
	})
}

// did counts what became of an effect by the ledger.
func (c *crash) did(request string) map[string]int {
	c.Helper()
	did := make(map[string]int)
	for _, row := range c.rowsOf(request, ledger.KindContainment) {
		what, _, _ := strings.Cut(row.Key, "/")
		did[what]++
	}
	return did
}

// as sends a request as a person, and returns the status of the answer.
func (c *crash) as(person, path string, body any) int {
	c.Helper()
	var session struct{ Token string }
	if status, err := c.call(c.client, http.MethodPost, "/api/v1/sign-in", map[string]string{"user": person, "password": c.password}, &session); err != nil || session.Token == "" {
		c.Fatalf("sign in as %s: %d %v", person, status, err)
	}
	before := c.token
	c.token = session.Token
	defer func() { c.token = before }()
	status, err := c.call(c.client, http.MethodPost, path, body, nil)
	if err != nil {
		c.Fatal(err)
	}
	return status
}

// page reads a page of the console, or the metrics of a process.
func (c *crash) page(at string) string {
	c.Helper()
	if strings.HasPrefix(at, "/") {
		at = "http://" + c.console + at
	}
	request, err := http.NewRequest(http.MethodGet, at, nil)
	if err != nil {
		c.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.client.Do(request)
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		c.Fatalf("GET %s: %s %v", at, response.Status, err)
	}
	return string(text)
}

// histories reports whether the files of the workflow server hold a text.
func (c *crash) histories(text string) bool {
	c.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, "data", "temporal.db*"))
	if err != nil || len(files) == 0 {
		c.Fatalf("the workflow server has the files %q: %v", files, err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		if err != nil {
			c.Fatal(err)
		}
		return bytes.Contains(data, []byte(text))
	})
}

// checkCounts: the metrics of the two processes say who acted.
func (c *crash) checkCounts(w *hand) {
	c.Helper()
	const applied = `tocsin_effects_total{action="caep-risk-change",outcome="done",what="apply"} 1`
	own, other := c.page("/metrics"), c.page(w.metrics)
	if strings.Contains(own, `tocsin_effects_total{action="caep-risk-change"`) || !strings.Contains(other, applied) {
		c.Errorf("the first process counts\n%s\nthe second\n%s", own, other)
	}
	if !strings.Contains(own, `tocsin_actions_unattended_total{action="caep-risk-change"} 2`) {
		c.Errorf("the first process does not count that nobody was there:\n%s", own)
	}
}

// refusedEffect starts a playbook, approves what it asks, and waits until the timeline says that nothing was done, and why.
func (c *crash) refusedEffect(id, playbook, why string) {
	c.Helper()
	if status := c.as("ana", "/api/v1/incidents/"+id+"/run", api.RunBody{Playbook: playbook, Reason: "it goes on"}); status != http.StatusOK {
		c.Fatalf("starting %s was answered with %d", playbook, status)
	}
	var q approval.Request
	c.until("the question of "+playbook, func() bool {
		all := get[[]approval.Request](c, "/api/v1/approvals")
		i := slices.IndexFunc(all, func(r approval.Request) bool {
			return r.State == approval.Pending && strings.HasPrefix(r.Plan.Playbook, playbook)
		})
		if i >= 0 {
			q = all[i]
		}
		return i >= 0
	})
	c.approve(q)
	c.told(id, why)
	if did := c.did(q.ID); did["uncontained"] != 1 || did["applied"] > 0 {
		c.Errorf("the ledger has %v of what was refused", did)
	}
}

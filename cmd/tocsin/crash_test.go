package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/stream"
	"github.com/tocsin-dr/tocsin/testdata"
)

var seed = flag.Uint64("seed", 0, "seed of the crash test's random points; 0 takes a new one")

// TestCrash kills a running Tocsin with SIGKILL while it ingests, detects, seals, waits, takes a decision and contains, starts it again
// on the same data each time, and checks in the end that nothing acknowledged is lost and nothing happened twice.
func TestCrash(t *testing.T) {
	c := newCrash(t)
	c.start()
	history := len(c.requests) - c.attack
	each := 3
	if testing.Short() {
		each = 1
	}
	c.ingest(history, each)
	c.after("the attack was acknowledged", 200*time.Millisecond, func() { c.sendUntil(len(c.requests)) })
	if !testing.Short() {
		c.after("the incident opened", 40*time.Millisecond, func() {
			c.until("an incident", func() bool { return len(get[[]incident.Incident](c, "/api/v1/incidents")) > 0 })
		})
		c.after("the request appeared", time.Millisecond, func() { c.asked() })
		c.decideAndKill()
	}
	c.after("the approval was acknowledged", 60*time.Millisecond, func() { c.approve(c.asked()) })
	c.until("the containment", func() bool {
		all := get[[]incident.Incident](c, "/api/v1/incidents")
		return len(all) == 1 && all[0].Status == incident.Contained
	})
	c.after("the agent was contained", time.Millisecond, func() {})
	if !c.denies() {
		t.Error("the gate does not deny after the last restart")
	}
	c.stop()
	c.checkLog()
	c.checkStore()
	t.Logf("%d kills", c.kills)
}

// crash is a child process that is killed and started again, and what was acknowledged by it.
type crash struct {
	*testing.T
	rnd      *rand.Rand
	dir      string
	requests []ingest.Request
	attack   int // how many requests at the end are the attack
	acked    int // requests that were acknowledged; they are sent in order
	kills    int
	token    string

	cmd           *exec.Cmd
	client        *http.Client
	otlp, console string
	password      string
	stderr        bytes.Buffer
}

func newCrash(t *testing.T) *crash {
	t.Helper()
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("go test ./cmd/tocsin -run TestCrash -seed %d", s)
	c := &crash{T: t, rnd: rand.New(rand.NewPCG(s, 1)), dir: t.TempDir()}
	now := time.Now()
	c.requests = append(recorded(t, "billing-bot", now.Add(-time.Hour)), recorded(t, "billing-bot-hijacked", now.Add(-time.Second))...)
	c.attack = len(recorded(t, "billing-bot-hijacked", now))
	config := "listen: {otlp_http: '127.0.0.1:0', otlp_grpc: '127.0.0.1:0', console: '127.0.0.1:0'}\n"
	if err := os.WriteFile(filepath.Join(c.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("standard error of the children:\n%s", c.stderr.String())
		}
	})
	return c
}

// recorded is a capture with its last session beginning at a time.
func recorded(t *testing.T, name string, end time.Time) []ingest.Request {
	t.Helper()
	file, err := testdata.Captures.Open("captures/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var requests []ingest.Request
	if err := ingest.ReadCapture(file, func(r ingest.Request) error { requests = append(requests, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if requests, err = app.Spread(requests, end, 20*time.Minute); err != nil {
		t.Fatal(err)
	}
	return requests
}

var (
	otlpLine     = regexp.MustCompile(`OTLP/HTTP http://(\S+)`)
	consoleLine  = regexp.MustCompile(`console +http://(\S+)`)
	passwordLine = regexp.MustCompile(`password (\w+)`)
)

// start runs the child and returns once it says that it is ready.
func (c *crash) start() {
	c.Helper()
	self, err := os.Executable()
	if err != nil {
		c.Fatal(err)
	}
	c.cmd = exec.Command(self, "run", "--config", filepath.Join(c.dir, "tocsin.yaml"), "--data", filepath.Join(c.dir, "data"))
	c.cmd.Env = append(os.Environ(), childRun+"=1")
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.Fatal(err)
	}
	stuck := time.AfterFunc(30*time.Second, func() { c.cmd.Process.Kill() })
	defer stuck.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ready") {
		for pattern, into := range map[*regexp.Regexp]*string{otlpLine: &c.otlp, consoleLine: &c.console, passwordLine: &c.password} {
			if m := pattern.FindStringSubmatch(lines.Text()); m != nil {
				*into = m[1]
			}
		}
	}
	if !strings.HasPrefix(lines.Text(), "Ready") {
		c.Fatalf("the child did not start: %v", c.cmd.Wait())
	}
	c.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
}

func (c *crash) kill() {
	if c.cmd == nil {
		return
	}
	c.cmd.Process.Kill()
	c.cmd.Wait() // says that it was killed
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.cmd = nil
}

// stop ends the child as an operator would.
func (c *crash) stop() {
	c.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.Fatal(err)
	}
	stuck := time.AfterFunc(30*time.Second, func() { c.cmd.Process.Kill() })
	defer stuck.Stop()
	if err := c.cmd.Wait(); err != nil {
		c.Errorf("the child ended with %v", err)
	}
	c.cmd = nil
}

// after does something, kills the child at a random time within a window after it, and starts the child again.
func (c *crash) after(what string, window time.Duration, do func()) {
	c.Helper()
	do()
	c.killWithin(what, window)
}

func (c *crash) killWithin(what string, window time.Duration) {
	c.Helper()
	offset := time.Duration(c.rnd.Int64N(int64(window)))
	<-time.After(offset) // the random point, not a wait for anything
	c.kill()
	c.kills++
	c.Logf("kill %d: %s after %s; %d requests are acknowledged", c.kills, offset.Round(time.Microsecond), what, c.acked)
	c.start()
}

// ingest sends the history and kills the child each times after a random request was acknowledged, and each times while one is
// under way.
func (c *crash) ingest(history, each int) {
	c.Helper()
	points := c.rnd.Perm(history - 1)[:2*each]
	slices.Sort(points)
	for i, k := range points {
		c.sendUntil(k + 1)
		if i%2 == 0 {
			c.killWithin("a request was acknowledged", time.Millisecond)
			continue
		}
		done := make(chan error, 1)
		client, request := c.client, c.requests[c.acked]
		go func() { done <- c.post(client, request) }()
		c.killWithin("a request was sent", 15*time.Millisecond)
		if <-done == nil {
			c.acked++
		}
	}
	c.sendUntil(history)
}

// sendUntil sends what was not acknowledged up to the k-th request.
func (c *crash) sendUntil(k int) {
	c.Helper()
	for ; c.acked < k; c.acked++ {
		if err := c.post(c.client, c.requests[c.acked]); err != nil {
			c.Fatalf("request %d: %v", c.acked, err)
		}
	}
}

func (c *crash) post(client *http.Client, r ingest.Request) error {
	response, err := client.Post("http://"+c.otlp+r.Path, r.ContentType, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", response.Status, err)
	}
	return nil
}

// call sends a request to the API as the user admin, whose session outlives every kill.
func (c *crash) call(client *http.Client, method, path string, body, v any) (int, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequest(method, "http://"+c.console+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if v == nil || response.StatusCode != http.StatusOK {
		_, err = io.Copy(io.Discard, response.Body)
		return response.StatusCode, err
	}
	return response.StatusCode, json.NewDecoder(response.Body).Decode(v)
}

func get[T any](c *crash, path string) (v T) {
	c.Helper()
	if c.token == "" {
		var session struct{ Token string }
		status, err := c.call(c.client, http.MethodPost, "/api/v1/sign-in", map[string]string{"user": "admin", "password": c.password}, &session)
		if err != nil || session.Token == "" {
			c.Fatalf("sign in: %d %v", status, err)
		}
		c.token = session.Token
	}
	if status, err := c.call(c.client, http.MethodGet, path, nil, &v); err != nil || status != http.StatusOK {
		c.Fatalf("GET %s: %d %v", path, status, err)
	}
	return v
}

// until polls until a condition holds. What a killed process had begun is taken up when its time is over, some seconds later.
func (c *crash) until(what string, holds func() bool) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 90*time.Second)
	defer cancel()
	start, ticker := time.Now(), time.NewTicker(5*time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			c.Fatalf("waited too long for %s", what)
		case <-ticker.C:
		}
	}
	c.Logf("waited %s for %s", time.Since(start).Round(time.Millisecond), what)
}

// asked waits for the request.
func (c *crash) asked() (r approval.Request) {
	c.Helper()
	c.until("the request", func() bool {
		all := get[[]approval.Request](c, "/api/v1/approvals")
		if len(all) > 0 {
			r = all[0]
		}
		return len(all) > 0
	})
	return r
}

var yes = api.DecideBody{Verb: approval.Approve, Reason: "not what the user asked for"}

// decideAndKill kills the child while it takes a decision.
func (c *crash) decideAndKill() {
	c.Helper()
	r, body := c.asked(), yes
	body.Digest = r.Digest
	done := make(chan int, 1)
	client := c.client
	go func() {
		status, _ := c.call(client, http.MethodPost, "/api/v1/approvals/"+r.ID+"/decide", body, nil)
		done <- status
	}()
	c.killWithin("a decision was sent", 60*time.Millisecond)
	c.Logf("the decision under way was answered with status %d", <-done)
}

// approve decides unless an earlier decision counts already.
func (c *crash) approve(r approval.Request) {
	c.Helper()
	body := yes
	body.Digest = r.Digest
	c.until("the decision", func() bool {
		status, err := c.call(c.client, http.MethodPost, "/api/v1/approvals/"+r.ID+"/decide", body, nil)
		if err != nil || status != http.StatusOK && status != http.StatusConflict && status != http.StatusInternalServerError {
			c.Fatalf("decide: %d %v", status, err)
		}
		return status != http.StatusInternalServerError // the workflows are not there yet; nobody knows whether it counts
	})
}

func (c *crash) denies() bool {
	c.Helper()
	response, err := c.client.Post("http://"+c.otlp+"/v1/gate/check", "application/json", strings.NewReader(`{"agent":"billing/billing-bot","tool":"send_money"}`))
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	var answer api.GateAnswer
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		c.Fatal(err)
	}
	return !answer.Allow
}

// checkLog looks for every event that was acknowledged in the event log.
func (c *crash) checkLog() {
	c.Helper()
	embedded, err := stream.StartEmbedded(filepath.Join(c.dir, "data", "nats"))
	if err != nil {
		c.Fatal(err)
	}
	defer embedded.Stop()
	nc, err := embedded.Connect()
	if err != nil {
		c.Fatal(err)
	}
	log, err := stream.Open(c.Context(), nc, stream.Options{Partitions: 8, Replicas: 1})
	if err != nil {
		c.Fatal(err)
	}
	defer log.Close()
	stored := c.stored(log)
	mapper := ingest.NewMapper(ingest.Options{})
	events, lost := 0, 0
	for _, r := range c.requests {
		mapped, _, err := mapper.Capture(r, ingest.Receipt{})
		if err != nil {
			c.Fatal(err)
		}
		for _, e := range mapped {
			events++
			if !stored[e.ID] {
				lost++
			}
		}
	}
	if lost > 0 || events < 300 {
		c.Errorf("%d of %d acknowledged events are not in the log", lost, events)
	}
}

// stored are the ids of all events in the log.
func (c *crash) stored(log *stream.Log) map[string]bool {
	c.Helper()
	codec, err := event.NewCodec()
	if err != nil {
		c.Fatal(err)
	}
	last, err := log.Last(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	ids := make(map[string]bool)
	for seq := uint64(1); seq <= last; seq++ {
		m, err := log.Read(c.Context(), seq)
		if err != nil {
			c.Fatal(err)
		}
		events, err := stream.DecodeBatch(codec, m.Data)
		if err != nil {
			c.Fatal(err)
		}
		for _, e := range events {
			ids[e.ID] = true
		}
	}
	return ids
}

// checkStore checks that everything happened once.
func (c *crash) checkStore() {
	c.Helper()
	ctx := c.Context()
	s, err := store.Open(ctx, filepath.Join(c.dir, "data", "store.db"))
	if err != nil {
		c.Fatal(err)
	}
	defer s.Close()
	if n, err := s.VerifyLedger(ctx); err != nil || n == 0 {
		c.Errorf("the ledger has %d rows: %v", n, err)
	}
	incidents, err := s.Incidents(ctx, 10)
	if err != nil || len(incidents) != 1 {
		c.Fatalf("there are %d incidents, want 1: %v", len(incidents), err)
	}
	leases, err := s.IncidentLeases(ctx, incidents[0].ID)
	if err != nil || len(leases) != 1 || leases[0].Verified.IsZero() {
		c.Errorf("there are the leases %+v, want one that was proved: %v", leases, err)
	}
	requests, err := s.IncidentRequests(ctx, incidents[0].ID)
	if err != nil || len(requests) != 1 || requests[0].State != approval.Approved {
		c.Errorf("there are the requests %+v, want one that was approved: %v", requests, err)
	}
	rows, err := s.Ledger(ctx, "", 1000)
	if err != nil {
		c.Fatal(err)
	}
	count := make(map[string]int)
	for _, r := range rows {
		count[r.Kind+" "+strings.SplitN(r.Key, "/", 2)[0]]++
	}
	for what, want := range map[string]int{"decision request": 1, "request request": 1, "containment applied": 1, "containment verified": 1, "containment reverted": 0, "containment uncontained": 0} {
		if count[what] != want {
			c.Errorf("the ledger has %d rows of %q, want %d: %v", count[what], what, want, count)
		}
	}
	c.checkTimeline(s, incidents[0].ID)
}

func (c *crash) checkTimeline(s *store.Store, id string) {
	c.Helper()
	entries, err := s.Timeline(c.Context(), id)
	if err != nil {
		c.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, e := range entries {
		key := e.Kind + " " + e.Ref + " " + e.Text
		// Two playbooks may have investigated, one after the other; a refused decision may have been refused again.
		if seen[key] && e.Kind != "refusal" && e.Kind != "track" {
			c.Errorf("the timeline says twice: %s", key)
		}
		seen[key] = true
	}
}

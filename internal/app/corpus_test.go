package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/workflows"
)

// scene is an incident whose playbook has one kind of step, or ends in one way.
type scene struct {
	name  string
	steps string // after the evidence was sealed
	play  func(h *running, s scene)
	want  []approval.State // of its requests; see asked
	told  string           // in the timeline
}

const (
	stops   = "do: quarantine, class: contain, after: [seal], target: agent, "
	asking  = "ask: {deadline: 1m, on_expiry: deny}"
	speaks  = "do: notify-webhook, class: speak, after: [seal], target: agent, irreversible: true, unverified: true, "
	sceneOf = `name: %[1]s
version: 1.0.0
title: %[1]s
steps:
  - {id: seal, do: seal, class: record}
%[2]s
`
)

// scenes are one for each kind of step and outcome that TestDecide has not.
var scenes = []scene{
	{
		name: "looked-into", told: "Track peers",
		steps: `  - {id: judge, do: triage, class: record}
  - id: each
    foreach: {in: incident.agents, max: 3, steps: [{id: write, do: draft, class: record}]}
  - {id: never, if: 'incident.severity == "low"', do: investigate, class: observe, tracks: [data]}
  - {id: again, include: included, with: {much: '2'}}
  - {id: look, do: investigate, class: observe, tracks: [identity, data, peers], retry: {attempts: 2, every: 1s, jitter: 0.2}}`,
	},
	{
		name: "asked-again", want: []approval.State{approval.Expired, approval.Expired},
		steps: "  - {id: stop, " + stops + "lease: 1m, ask: {deadline: 1s, on_expiry: escalate}}",
	},
	{
		name: "two-people", want: []approval.State{approval.Approved}, told: "Lifted",
		steps: "  - {id: stop, " + stops + "lease: 2s, " + asking + "}",
		play: func(h *running, s scene) {
			r := h.vote("ana", s, approval.Approve)
			h.until("the first vote to be written", func() bool { return len(h.request(r.ID).Votes) == 1 })
			h.vote("bob", s, approval.Approve)
		},
	},
	{
		name: "vetoed", want: []approval.State{approval.Denied},
		steps: "  - {id: stop, " + stops + "lease: 1m, " + asking + "}",
		play: func(h *running, s scene) {
			r := h.vote("ana", s, approval.Approve)
			h.until("the first vote to be written", func() bool { return len(h.request(r.ID).Votes) == 1 })
			h.vote("bob", s, approval.Deny)
		},
	},
	{
		name: "decided-in-advance", want: []approval.State{approval.Approved}, told: "Lifted",
		steps: "  - {id: stop, " + stops + "lease: 2s, " + asking + "}",
	},
	{
		name: "taken-back", want: []approval.State{approval.Superseded},
		steps: `  - id: both
    parallel:
      mode: settled
      timeout: 2s
      branches:
        - name: contain
          steps: [{id: stop, ` + stops + `lease: 1m, ` + asking + `}]
        - name: look
          steps: [{id: look, do: investigate, class: observe, tracks: [identity]}, {id: write, do: draft, class: record}]`,
	},
	{
		name: "failed-fast", want: []approval.State{approval.Superseded, approval.Expired}, told: "revoke-token",
		steps: `  - id: both
    parallel:
      mode: fail-fast
      branches:
        - name: session
          steps:
            - {id: session, do: read-only, class: contain, after: [seal], target: session, lease: 1m, ask: {deadline: 2s, on_expiry: deny}}
            - {id: unconfigured, do: revoke-token, class: contain, after: [seal], target: agent, irreversible: true, with: {token: none}, ` + asking + `}
        - name: agent
          steps: [{id: agent, ` + stops + `lease: 1m, ` + asking + `}]`,
	},
	{
		name: "throttled", want: []approval.State{approval.Approved}, told: "Lifted",
		steps: "  - {id: slow, do: throttle, class: contain, after: [seal], target: agent, with: {per_minute: '5'}, lease: 2s, " + asking + "}",
		play:  func(h *running, s scene) { h.vote("ana", s, approval.Approve) },
	},
	{
		name: "spoken", want: []approval.State{approval.Approved}, told: "notify-webhook",
		steps: "  - {id: tell, " + speaks + "with: {receiver: soc, text: look at it}, " + asking + "}",
		play:  (*running).byKeys,
	},
	{
		name: "outcome-unknown", want: []approval.State{approval.Approved}, told: "unknown",
		steps: "  - {id: tell, " + speaks + "with: {receiver: broken, text: look at it}, " + asking + ", fallback: [{id: write, do: draft, class: record}]}",
		play:  (*running).byKeys,
	},
	{
		name: "destroyed", want: []approval.State{approval.Approved}, told: "stop-process",
		steps: "  - {id: end, do: stop-process, class: destroy, after: [seal], target: agent, irreversible: true, with: {process: worker}, " + asking + "}",
		play:  (*running).byKeys,
	},
	{
		name: "started-by-a-person", want: []approval.State{approval.Approved}, told: "started the playbook",
		steps: "  - {id: judge, do: triage, class: record}",
		play: func(h *running, s scene) {
			i := s.incident(h)
			h.ok("ana", http.MethodPost, "/api/v1/incidents/"+i.ID+"/run", api.RunBody{Playbook: "two-people", Reason: "it goes on"})
			h.vote("bob", s, approval.Approve)
		},
	},
}

// TestCorpus plays each scene on a whole Tocsin. Its histories are those that every release replays.
func TestCorpus(t *testing.T) {
	cfg := configured(t)
	cfg.Users = append(cfg.Users, User{Name: "lea", PasswordHash: cfg.Users[0].PasswordHash, Role: approval.Lead})
	cfg.Policies.File = filepath.Join(t.TempDir(), "policies.yaml")
	stage(t, &cfg)
	h, _ := start(t, cfg)
	h.inAdvance()
	for _, s := range scenes {
		h.send(begins(s))
	}
	for _, s := range scenes {
		h.sub(s.name, func(h *running) {
			if s.play != nil {
				s.play(h, s)
			}
			h.ended(s)
		})
	}
	h.verify()
}

// stage writes the scenes' rules, playbooks and policies, and configures what their effects reach.
func stage(t *testing.T, cfg *Config) {
	t.Helper()
	files := map[string]string{
		cfg.Policies.File: "policies:\n  - {agents: [two-people/*, vetoed/*], classes: [contain], need: 2}\n",
		filepath.Join(cfg.Playbooks.Dir, "included.yaml"): "name: included\nversion: 1.0.0\ntitle: Included\ninputs: {much: {type: int, default: 1}}\nsteps:\n  - {id: more, if: inputs.much > 1, do: triage, class: record}\n",
	}
	for _, s := range scenes {
		rule := strings.NewReplacer("id: quick", "id: "+s.name, "wire_now", s.name, "playbook: quick", "playbook: "+s.name).Replace(quickRule)
		files[filepath.Join(cfg.Rules.Dir, s.name+".yaml")] = rule
		files[filepath.Join(cfg.Playbooks.Dir, s.name+".yaml")] = fmt.Sprintf(sceneOf, s.name, s.steps)
	}
	secret, pid := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "pid")
	files[secret] = strings.Repeat("k", 32)
	worker := exec.Command("sleep", "600")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = worker.Process.Kill() })
	go func() { _ = worker.Wait() }()
	files[pid] = strconv.Itoa(worker.Process.Pid)
	cfg.Actions.StopProcess = &action.StopProcessOptions{Processes: map[string]action.ProcessOptions{
		"worker": {Agent: "destroyed/bot", PIDFile: pid, Executable: worker.Path, Grace: time.Second},
	}}
	cfg.Actions.NotifyWebhook = &action.NotifyWebhookOptions{
		Receivers: make(map[string]action.WebhookOptions), Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	for name, status := range map[string]int{"soc": http.StatusOK, "broken": http.StatusInternalServerError} {
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(receiver.Close)
		cfg.Actions.NotifyWebhook.Receivers[name] = action.WebhookOptions{URL: receiver.URL, SecretFile: secret}
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// begins is the event that begins a scene.
func begins(s scene) ingest.Request {
	r := quick(s.name, s.name)
	r.Body = bytes.Replace(bytes.Replace(r.Body, []byte("billing-bot"), []byte("bot"), 1), []byte(`"billing"`), []byte(strconv.Quote(s.name)), 1)
	return r
}

// inAdvance decides one scene before it begins.
func (h *running) inAdvance() {
	h.Helper()
	status, answer := h.call("ana", http.MethodPost, "/api/v1/standing", approval.Standing{
		Rules: []string{"decided-in-advance"}, Agents: []string{"decided-in-advance/bot"}, Action: "quarantine", Lease: time.Hour, PerHour: 2,
		Until: time.Now().Add(time.Hour), Reason: "it is faster than we are",
	})
	var proposed approval.Standing
	if err := json.Unmarshal(answer, &proposed); err != nil || status != http.StatusOK {
		h.Fatalf("%d %s: %v", status, answer, err)
	}
	h.ok("bob", http.MethodPost, "/api/v1/standing/"+proposed.ID+"/sign", nil)
}

// incident waits for a scene's.
func (s scene) incident(h *running) (i incident.Incident) {
	h.Helper()
	h.until("the incident of "+s.name, func() bool {
		i = h.of(s.name)
		return i.ID != ""
	})
	return i
}

// asked are a scene's requests, by action and then by age: branches ask in any order.
func (s scene) asked(h *running) []approval.Request {
	h.Helper()
	all, err := h.store.IncidentRequests(h.Context(), s.incident(h).ID)
	if err != nil {
		h.Fatal(err)
	}
	slices.SortFunc(all, func(a, b approval.Request) int { return strings.Compare(a.Plan.Action+a.ID, b.Plan.Action+b.ID) })
	return all
}

// waiting is the scene's request that waits for people.
func (h *running) waiting(s scene) (r approval.Request) {
	h.Helper()
	h.until("the question of "+s.name, func() bool {
		all := slices.DeleteFunc(s.asked(h), func(r approval.Request) bool { return r.State != approval.Pending })
		if len(all) > 0 {
			r = all[0]
		}
		return len(all) > 0
	})
	return r
}

func (h *running) vote(person string, s scene, verb approval.Verb) approval.Request {
	h.Helper()
	r := h.waiting(s)
	h.ok(person, http.MethodPost, "/api/v1/approvals/"+r.ID+"/decide", api.DecideBody{Verb: verb, Digest: r.Digest, Reason: "it is right"})
	return r
}

// byKeys is two leads who approve with their security keys.
func (h *running) byKeys(s scene) {
	h.Helper()
	r := h.waiting(s)
	for i, name := range []string{"bob", "lea"} {
		k := h.keys[name]
		if k == nil {
			k = h.keyed(name)
			k.register()
			h.keys[name] = k
		}
		k.running = h
		k.prove(r.Digest)
		if status, page := h.submit(k.http, "/approvals/"+r.ID+"/decide", form(r, approval.Approve, r.Digest)); status != http.StatusSeeOther {
			h.Fatalf("%s: %d %s", name, status, page)
		}
		h.until("the vote to be written", func() bool { return len(h.request(r.ID).Votes) > i })
	}
}

// ended waits for the end of a scene, closes its incident, and checks and saves what it did.
func (h *running) ended(s scene) {
	h.Helper()
	i, body := s.incident(h), api.CloseBody{Verdict: incident.TruePositive, Reason: "seen and settled"}
	h.until("the timeline to have "+strconv.Quote(s.told), func() bool {
		entries, err := h.store.Timeline(h.Context(), i.ID)
		if err != nil {
			h.Fatal(err)
		}
		return slices.ContainsFunc(entries, func(e incident.Entry) bool { return strings.Contains(e.Text, s.told) })
	})
	h.until("what was asked to be settled", func() bool {
		return len(s.asked(h)) >= len(s.want) && !slices.ContainsFunc(s.asked(h), func(r approval.Request) bool { return r.State == approval.Pending })
	})
	h.until("the incident to rest", func() bool {
		status, _ := h.call("bob", http.MethodPost, "/api/v1/incidents/"+i.ID+"/close", body)
		return status == http.StatusOK
	})
	var got []approval.State
	for _, r := range s.asked(h) {
		got = append(got, r.State)
	}
	if diff := cmp.Diff(s.want, got); diff != "" {
		h.Errorf("requests (-want +got):\n%s", diff)
	}
	if *update {
		h.save(s.name, workflows.IncidentID(i.Key))
	}
}

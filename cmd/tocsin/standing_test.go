package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
)

// withPeople configures an admin and two responders.
func (c *crash) withPeople() {
	c.Helper()
	c.password = "correct horse battery staple"
	hash, err := auth.HashPassword(c.password)
	if err != nil {
		c.Fatal(err)
	}
	config := "listen: {otlp_http: '127.0.0.1:0', otlp_grpc: '127.0.0.1:0', console: '127.0.0.1:0'}\nusers:\n"
	for name, role := range map[string]approval.Role{"admin": approval.Admin, "ana": approval.Responder, "bob": approval.Responder} {
		config += fmt.Sprintf("  - {name: %s, role: %s, password_hash: '%s'}\n", name, role, hash)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		c.Fatal(err)
	}
}

// TestStandingFromTheCommandLine is the life of a decision in advance on a running program: proposed, signed by another, used, revoked.
// And it is the switch of Tocsin's own responses.
func TestStandingFromTheCommandLine(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole program")
	}
	c := newCrash(t)
	c.withPeople()
	c.start()
	as := func(person string) server {
		var session struct{ Token string }
		if status, err := c.call(c.client, http.MethodPost, "/api/v1/sign-in", map[string]string{"user": person, "password": c.password}, &session); err != nil || session.Token == "" {
			t.Fatalf("sign in as %s: %d %v", person, status, err)
		}
		return server{address: address{Server: "http://" + c.console, Token: session.Token}}
	}
	ana, bob, admin := as("ana"), as("bob"), as("admin")
	run := func(cmd interface {
		Run(ctx context.Context, std *stdio) error
	},
	) (out, said string, err error) {
		var o, s bytes.Buffer
		err = cmd.Run(t.Context(), &stdio{out: &o, err: &s})
		return o.String(), s.String(), err
	}
	listed := func(want ...string) {
		t.Helper()
		out, _, err := run(&standingListCmd{ana})
		for _, w := range want {
			if err != nil || !strings.Contains(out, w) {
				t.Errorf("the list lacks %q: %v\n%s", w, err, out)
			}
		}
	}

	listed("nobody decided anything in advance")
	asJSON := ana
	asJSON.JSON = true
	propose := standingProposeCmd{server: asJSON, Action: "quarantine", Rule: []string{"untrusted-value-*"}, Agent: []string{"billing/*"}, Lease: time.Hour, PerHour: 2, For: time.Hour, Reason: "payments do not wait for us"}
	out, _, err := run(&propose)
	var d approval.Standing
	if err != nil || json.Unmarshal([]byte(out), &d) != nil || d.ID == "" {
		t.Fatalf("propose: %v %s", err, out)
	}
	listed(d.ID, "proposed", "nobody; proposed by ana")
	everything := propose
	everything.Rule = []string{"*"}
	if _, _, err := run(&everything); err == nil {
		t.Error("a decision about every rule was proposed")
	}
	for name, who := range map[string]server{"who proposed it": ana, "a responder": bob} {
		if _, _, err := run(&standingSignCmd{who, d.ID}); err == nil {
			t.Errorf("%s signed it", name)
		}
	}
	if _, said, err := run(&standingSignCmd{admin, d.ID}); err != nil || !strings.Contains(said, "payments do not wait for us") || !strings.Contains(said, "at most      2 an hour") {
		t.Fatalf("sign: %v %q", err, said)
	}
	listed("in force", "0, at most 2 an hour", "admin")

	c.sendUntil(len(c.requests))
	c.until("the containment that nobody was asked about", c.denies)
	if all := get[[]approval.Request](c, "/api/v1/approvals"); len(all) == 0 || all[0].Standing != d.ID || all[0].Decision == nil || all[0].Decision.By.ID != "admin" {
		t.Errorf("the requests are %+v", all)
	}
	listed("1, at most 2 an hour")

	if out, _, err := run(&standingRevokeCmd{bob, d.ID, "it was enough"}); err != nil || !strings.Contains(out, "answers no request any more") {
		t.Errorf("revoke: %v %s", err, out)
	}
	listed("revoked")
	if _, _, err := run(&standingRevokeCmd{ana, d.ID, "once more"}); err == nil {
		t.Error("it was revoked twice")
	}
	if _, _, err := run(&standingSignCmd{admin, d.ID}); err == nil {
		t.Error("what was revoked was signed")
	}

	if _, _, err := run(&haltCmd{server: bob, Reason: "we look first"}); err != nil {
		t.Errorf("halt: %v", err)
	}
	if _, _, err := run(&resumeCmd{server: bob, Reason: "go on"}); err == nil {
		t.Error("a responder resumed")
	}
	if status, err := c.call(c.client, http.MethodPost, "/api/v1/halt", api.ReasonBody{}, nil); err != nil || status == http.StatusOK {
		t.Errorf("halting without a reason was answered with %d %v", status, err)
	}
	if _, _, err := run(&resumeCmd{server: admin, Reason: "we looked"}); err != nil {
		t.Errorf("resume: %v", err)
	}
	c.stop()
}

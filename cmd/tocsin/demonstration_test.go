package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// A quarantine that two people approve, and that is over while one watches.
const shortQuarantine = `name: quarantine-agent
version: 1.0.0
title: Stop for a moment
steps:
  - {id: seal, do: seal, class: record}
  - {id: look, do: investigate, class: observe, tracks: [identity, data, peers]}
  - {id: triage, do: triage, class: record}
  - {id: stop, do: quarantine, class: contain, after: [seal], target: agent, lease: 30s, ask: {deadline: 15m, on_expiry: deny, need: 2}}
  - {id: write, do: draft, class: record}
`

// TestDemonstration is the whole of a response in Slack, with a process that dies twice on the way: three tracks, hashed evidence, a click
// that may not count, the first approver, a kill, the second approver, a kill, one effect, its proof, its end by itself, and a draft that
// rests on the record.
func TestDemonstration(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole program, and waits for a lease to end")
	}
	fake := slackfake.New(t)
	for _, u := range []sdk.User{{ID: "U0ANA"}, {ID: "U0BOB"}, {ID: "U0GUEST", IsUltraRestricted: true}} {
		fake.AddUser(u)
	}
	c := newCrash(t)
	c.withSlack(fake)
	c.start()
	c.sendUntil(len(c.requests))
	r := c.asked()
	before := c.caseOf(r)
	if len(before.Tracks) != 3 || len(r.Plan.Evidence) < 4 || len(before.Evidence) < len(r.Plan.Evidence) || r.Terms.Need != 2 {
		t.Fatalf("%d tracks, %d of %d artefacts in the plan, %d people needed", len(before.Tracks), len(r.Plan.Evidence), len(before.Evidence), r.Terms.Need)
	}

	c.window(fake, r, "U0GUEST")
	c.until("the refusal of a guest's click", func() bool { return len(c.rowsOf(r.ID, ledger.KindRefusal)) == 1 })
	c.submit(fake, r, "U0ANA")
	c.until("the first approval", func() bool { return len(c.asked().Votes) == 1 })
	if c.denies() {
		t.Fatal("one of two approvals contained the agent")
	}
	c.kill()
	c.start()
	c.submit(fake, r, "U0BOB") // Slack was answered, so the click is on disk
	c.kill()
	c.start()
	c.until("the containment", func() bool { return c.caseOf(r).Contained && c.denies() })

	c.until("the end of the lease", func() bool { return !c.denies() })
	c.until("the draft", func() bool { return c.caseOf(r).Incident.Status == incident.Resolved })
	c.checkOnce(r)
	c.checkEvidence(before)
	c.checkDraft(r)
	c.stop()
}

// withSlack configures two people, what they need to approve, and their workspace.
func (c *crash) withSlack(fake *slackfake.Fake) {
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
	var users strings.Builder
	for name, role := range map[string]approval.Role{"admin": approval.Admin, "ana": approval.Responder, "bob": approval.Responder} {
		fmt.Fprintf(&users, "  - {name: %s, role: %s, password_hash: '%s'}\n", name, role, hash)
	}
	write("playbooks/quarantine-agent.yaml", shortQuarantine)
	write("tocsin.yaml", "listen: {otlp_http: '127.0.0.1:0', otlp_grpc: '127.0.0.1:0', console: '127.0.0.1:0'}\nplaybooks: {dir: '"+filepath.Join(c.dir, "playbooks")+"'}\nusers:\n"+users.String()+
		"slack:\n  mode: socket\n  bot_token_file: '"+write("bot", slackfake.BotToken)+"'\n  app_token_file: '"+write("app", slackfake.AppToken)+"'\n"+
		"  team: "+slackfake.Team+"\n  channel: "+slackfake.Channel+"\n  api_url: '"+fake.API()+"'\n  people: {U0ANA: ana, U0BOB: bob}\n")
}

// window opens the window of the incident's card for a person.
func (c *crash) window(fake *slackfake.Fake, r approval.Request, user string) (v slackfake.View) {
	c.Helper()
	var card slackfake.Message
	c.until("the card", func() bool {
		all := fake.Messages()
		i := slices.IndexFunc(all, func(m slackfake.Message) bool {
			return bytes.Contains(m.Blocks, []byte(r.ID)) && slackfake.HasButton(m, "review")
		})
		if i >= 0 {
			card = all[i]
		}
		return i >= 0 && fake.Sockets() > 0
	})
	c.until("the click to be taken", func() bool { return fake.Click(card, "review", user) == nil })
	c.until("the window", func() bool {
		var ok bool
		v, ok = fake.View(user)
		return ok && !bytes.Contains(v.Body, []byte("Reading the facts"))
	})
	return v
}

func (c *crash) submit(fake *slackfake.Fake, r approval.Request, user string) {
	c.Helper()
	if err := fake.Submit(c.window(fake, r, user), map[string]string{"decision": "approve", "reason": "not what the user asked for"}); err != nil {
		c.Fatal(err)
	}
}

func (c *crash) caseOf(r approval.Request) api.Case {
	c.Helper()
	return get[api.Case](c, "/api/v1/incidents/"+r.Incident)
}

// rowsOf are the ledger's rows about a subject of a kind.
func (c *crash) rowsOf(subject, kind string) []ledger.Record {
	c.Helper()
	return slices.DeleteFunc(get[[]ledger.Record](c, "/api/v1/ledger?subject="+subject), func(x ledger.Record) bool { return x.Kind != kind })
}

// checkOnce: two decisions, one effect, one proof, one end.
func (c *crash) checkOnce(r approval.Request) {
	c.Helper()
	did := make(map[string]int)
	for _, row := range c.rowsOf(r.ID, ledger.KindContainment) {
		what, _, _ := strings.Cut(row.Key, "/")
		did[what]++
	}
	if did["applied"] != 1 || did["verified"] != 1 || did["reverted"] != 1 || len(did) != 3 {
		c.Errorf("the ledger has the effects %v, want each once", did)
	}
	decided := get[[]approval.Request](c, "/api/v1/approvals")
	if len(decided) != 1 || len(decided[0].Votes) != 2 || decided[0].Votes[0].By.ID != "ana" || decided[0].Votes[1].By.ID != "bob" || decided[0].Votes[0].By.Via != "slack" {
		c.Errorf("the decisions are %+v", decided)
	}
	times := c.caseOf(r).Incident.Times
	if took := times.Contained.Sub(times.Decided); times.Contained.IsZero() || took <= 0 {
		c.Errorf("the time to effect is %s", took)
	}
}

// checkEvidence: each artefact that was sealed before people were asked is what its hash says, after every kill.
func (c *crash) checkEvidence(file api.Case) {
	c.Helper()
	for _, item := range file.Evidence {
		text, err := os.ReadFile(filepath.Join(c.dir, "data", "evidence", item.SHA256[:2], item.SHA256))
		if sum := sha256.Sum256(text); err != nil || hex.EncodeToString(sum[:]) != item.SHA256 || len(text) == 0 {
			c.Errorf("%s is not what was sealed: %v", item.Name, err)
		}
	}
}

// checkDraft: the post-mortem names each decision and effect, and cites each row of the ledger about the request.
func (c *crash) checkDraft(r approval.Request) {
	c.Helper()
	file := c.caseOf(r)
	i := slices.IndexFunc(file.Drafts, func(d store.Draft) bool { return d.Name == "post-mortem" })
	if i < 0 {
		c.Fatal("there is no post-mortem")
	}
	for _, want := range []string{r.ID, "ana", "bob", "Contained"} {
		if !strings.Contains(file.Drafts[i].Markdown, want) {
			c.Errorf("the post-mortem does not say %q:\n%s", want, file.Drafts[i].Markdown)
		}
	}
	rows := get[[]ledger.Record](c, "/api/v1/ledger?subject="+r.ID)
	for _, row := range rows {
		if !strings.Contains(file.Drafts[i].Markdown, fmt.Sprintf("[ledger %d]", row.Seq)) {
			c.Errorf("the post-mortem does not cite row %d, %s %s:\n%s", row.Seq, row.Kind, row.Key, file.Drafts[i].Markdown)
		}
	}
	if len(rows) < 7 { // the question, a refusal, two decisions, applied, verified, reverted
		c.Errorf("the ledger has the rows %+v", rows)
	}
}

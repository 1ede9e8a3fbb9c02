package app

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/slack"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
	"github.com/tocsin-dr/tocsin/ui"
)

// withSlack adds a door in Slack to a configuration, with its secrets in files.
func withSlack(t *testing.T, cfg Config, mode string, fake *slackfake.Fake) Config {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	cfg.Slack = &SlackConfig{
		Mode: mode, BotTokenFile: file("bot", slackfake.BotToken), Team: slackfake.Team, Channel: slackfake.Channel, APIURL: fake.API(),
		People: map[string]string{"U0ANA": "ana", "U0EVE": "eve"},
	}
	if mode == slack.ModeSocket {
		cfg.Slack.AppTokenFile = file("app", slackfake.AppToken)
	} else {
		cfg.Slack.SigningSecretFile = file("secret", slackfake.Secret)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestSlackStory is a hijacked session from its telemetry to the verified containment, decided in Slack, by each of its two modes: what
// those who may not do is refused and recorded, and the card says what the store holds.
func TestSlackStory(t *testing.T) {
	for n, mode := range []string{slack.ModeSocket, slack.ModeHTTP} {
		t.Run(mode, func(t *testing.T) {
			fake := slackfake.New(t)
			for _, u := range []sdk.User{{ID: "U0ANA"}, {ID: "U0EVE"}, {ID: "U0GUEST", IsUltraRestricted: true}, {ID: "U0NEW"}} {
				fake.AddUser(u)
			}
			h, _ := start(t, withSlack(t, configured(t), mode, fake))
			if mode == slack.ModeHTTP {
				fake.Callback = h.console("/slack/interactions")
			} else {
				h.until("a socket", func() bool { return fake.Sockets() > 0 })
			}
			requests, session := hijacked(t, n)
			h.send(requests...)
			r := h.asked(session)
			card := h.card(fake, r)
			h.refusedInSlack(fake, r)
			h.lookedAtInSlack(fake, r)
			view := h.opened(fake, card, "U0ANA")
			if err := fake.Submit(view, map[string]string{"decision": "approve", "reason": "not what the user asked for"}); err != nil {
				t.Fatal(err)
			}
			h.until("the outcome in the window", func() bool {
				v, _ := fake.View("U0ANA")
				return bytes.Contains(v.Body, []byte("Recorded: approved. 1 of 1 approvals."))
			})
			h.contained(r)
			if d := h.request(r.ID).Decision; d == nil || d.By.ID != "ana" || d.By.Via != "slack" || d.Looked <= 0 {
				t.Errorf("the decision is %+v", d)
			}
			h.until("the card to say so", func() bool {
				m := h.card(fake, r)
				return bytes.Contains(m.Blocks, []byte(`"Contained`)) && bytes.Contains(m.Blocks, []byte("a probe saw the effect")) && !slackfake.HasButton(m, "review")
			})
			h.until("the note in the thread", func() bool { return len(fake.Thread(h.card(fake, r).TS)) > 0 })
			at := slices.IndexFunc(h.facts.Health(t.Context()), func(x ui.Health) bool { return x.Part == "slack" && x.OK })
			if at < 0 {
				t.Error("the health page has no line of Slack")
			}
			h.verify()
			h.checkTypes(fake)
		})
	}
}

// TestSlackQuorum is a containment that a policy asks two people for, one in Slack and one at the API: the card counts them, and nothing
// is done before the second.
func TestSlackQuorum(t *testing.T) {
	fake := slackfake.New(t)
	fake.AddUser(sdk.User{ID: "U0ANA"})
	cfg := configured(t)
	cfg.Policies.File = filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(cfg.Policies.File, []byte("policies:\n  - {classes: [contain], need: 2, from: [role:responder]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, withSlack(t, cfg, slack.ModeSocket, fake))
	h.until("a socket", func() bool { return fake.Sockets() > 0 })
	requests, session := hijacked(t, 7)
	h.send(requests...)
	r := h.asked(session)
	card := h.card(fake, r)
	if !bytes.Contains(card.Blocks, []byte("U0ANA")) {
		t.Errorf("the card mentions nobody who is asked: %s", card.Blocks)
	}
	view := h.opened(fake, card, "U0ANA")
	if err := fake.Submit(view, map[string]string{"decision": "approve", "reason": "not what the user asked for"}); err != nil {
		t.Fatal(err)
	}
	h.until("the card to count the first", func() bool {
		return bytes.Contains(h.card(fake, r).Blocks, []byte("1 of 2 approvals: ana."))
	})
	if h.denies(r) || h.request(r.ID).State != approval.Pending {
		t.Error("one approval of two was enough")
	}
	again := h.opened(fake, h.card(fake, r), "U0ANA")
	if bytes.Contains(again.Body, []byte(`"value":"approve"`)) {
		t.Errorf("who approved is offered to approve again: %s", again.Body)
	}
	if status, answer := h.decide("bob", r, r.Digest); status != http.StatusOK {
		t.Fatalf("the second approval was answered with %d %s", status, answer)
	}
	h.until("the containment", func() bool {
		i, err := h.store.Incident(t.Context(), r.Incident)
		return err == nil && i.Status == incident.Contained && h.denies(r)
	})
	h.until("the card to name both", func() bool { return bytes.Contains(h.card(fake, r).Blocks, []byte("Approved by ana, bob")) })
}

// card waits for an incident's card.
func (h *running) card(fake *slackfake.Fake, r approval.Request) (m slackfake.Message) {
	h.Helper()
	h.until("the card", func() bool {
		all := fake.Messages()
		at := slices.IndexFunc(all, func(m slackfake.Message) bool {
			return bytes.Contains(m.Blocks, []byte(r.ID+".")) || bytes.Contains(m.Blocks, []byte(":"+r.ID+`"`))
		})
		if at >= 0 {
			m = all[at]
		}
		return at >= 0
	})
	return m
}

// opened presses Review and waits for the window to be filled.
func (h *running) opened(fake *slackfake.Fake, card slackfake.Message, user string) (v slackfake.View) {
	h.Helper()
	told := -1
	h.until("the window", func() bool {
		var ok bool
		v, ok = fake.View(user)
		// On a busy machine the window may come too late; a person is told so, and presses again.
		if n := len(fake.Ephemeral(user)); n != told && (!ok || told < 0) || bytes.Contains(v.Body, []byte("Press the button again")) {
			told = n
			if err := fake.Click(card, "review", user); err != nil {
				h.Fatal(err)
			}
			return false
		}
		return ok && !bytes.Contains(v.Body, []byte("Reading the facts"))
	})
	return v
}

// refusedInSlack tries the clicks that must not count.
func (h *running) refusedInSlack(fake *slackfake.Fake, r approval.Request) {
	h.Helper()
	card := h.card(fake, r)
	for user, kind := range map[string]string{"U0GUEST": approval.RefusedIdentity, "U0NEW": approval.RefusedIdentity} {
		who := "slack:" + slackfake.Team + "/" + user
		v := h.opened(fake, card, user)
		if !bytes.Contains(v.Body, []byte("Refused, and recorded")) {
			h.Errorf("the window of %s says %s", user, v.Body)
		}
		if len(h.refusals(who, r, kind)) != 1 || len(h.refusalEntries(who, r, kind)) != 1 {
			h.Errorf("the click of %s is %d times in the ledger and %d times in the timeline", user, len(h.refusals(who, r, kind)), len(h.refusalEntries(who, r, kind)))
		}
	}
	forged := fake.Press(card, "looking", "U0ANA")
	forged["actions"].([]map[string]any)[0]["value"] = "v1." + r.ID + ".1.00"
	if _, err := fake.Send(forged); err != nil {
		h.Fatal(err)
	}
	h.until("the forged button in the ledger", func() bool {
		return len(h.refusals("slack:"+slackfake.Team+"/U0ANA", approval.Request{ID: "slack"}, approval.RefusedForged)) == 1
	})
	if v := h.opened(fake, card, "U0EVE"); !bytes.Contains(v.Body, []byte("You can't answer this")) {
		h.Errorf("a viewer's window says %s", v.Body)
	}
	if got := h.request(r.ID); got.State != approval.Pending {
		h.Fatalf("the request is %s", got.State)
	}
}

// lookedAtInSlack is a person who closes the window without an answer: the incident is noticed and undecided.
func (h *running) lookedAtInSlack(fake *slackfake.Fake, r approval.Request) {
	h.Helper()
	if err := fake.Close(h.opened(fake, h.card(fake, r), "U0ANA")); err != nil {
		h.Fatal(err)
	}
	h.until("the notice", func() bool {
		i, err := h.store.Incident(h.Context(), r.Incident)
		return err == nil && i.NoticedBy == "ana" && i.NoticedVia == "slack"
	})
	h.until("the card to say who looks", func() bool { return bytes.Contains(h.card(fake, r).Blocks, []byte("ana is looking")) })
	entries, err := h.store.Timeline(h.Context(), r.Incident)
	if err != nil || !slices.ContainsFunc(entries, func(e incident.Entry) bool { return e.Kind == "notice" && e.Source == "slack" }) {
		h.Errorf("the timeline has no notice from Slack: %v", err)
	}
}

// checkTypes has everything that was sent checked against the type definitions of Slack's own package, where that is at hand.
func (h *running) checkTypes(fake *slackfake.Fake) {
	h.Helper()
	if err := slackfake.CheckTypes(h.T, fake.Surfaces()); err != nil {
		h.Error(err)
	}
}

// In HTTP mode what Slack did not sign is refused, with one answer for all.
func TestSlackUnsigned(t *testing.T) {
	fake := slackfake.New(t)
	h, _ := start(t, withSlack(t, configured(t), slack.ModeHTTP, fake))
	response, err := http.Post(h.console("/slack/interactions"), "application/x-www-form-urlencoded", strings.NewReader("payload={}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("an unsigned request was answered with %s", response.Status)
	}
}

// Every mistake in the section names its key and line.
func TestSlackConfig(t *testing.T) {
	const good = "users: [{name: ana, role: responder, password_hash: x}]\nslack:\n  bot_token_file: b\n  app_token_file: a\n  team: T0T\n  channel: C0C\n  people: {U0ANA: ana}\n"
	if c, err := readConfig(t, good); err != nil || c.Slack.Mode != slack.ModeSocket {
		t.Fatalf("the good one: %v", err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"mode":           {"  team", "  mode: rtm\n  team", `slack.mode: "rtm" is neither`},
		"no bot token":   {"  bot_token_file: b\n", "", "slack.bot_token_file"},
		"no app token":   {"  app_token_file: a\n", "", "slack.app_token_file"},
		"no secret":      {"  team", "  mode: http\n  team", "slack.signing_secret_file"},
		"team":           {"T0T", "acme", "slack.team"},
		"channel's name": {"C0C", `"#agents"`, "slack.channel"},
		"person":         {"U0ANA: ana", "ana: ana", "slack.people.ana"},
		"no user":        {"U0ANA: ana", "U0ANA: nobody", `"nobody" is none of users`},
		"pager":          {"  team", "  pager_url: http://pager.example/x\n  team", "slack.pager_url: want https"},
		"console":        {"  team", "  console_url: tocsin\n  team", "slack.console_url"},
		"unknown key":    {"  team", "  chanel: C\n  team", "chanel"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readConfig(t, strings.Replace(good, c.old, c.new, 1))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "tocsin.yaml:") {
				t.Errorf("the error is %v, want the file, the line and %q", err, c.want)
			}
		})
	}
}

// Secrets that are of another kind than the key says are refused before anything connects.
func TestSlackTokens(t *testing.T) {
	cfg := withSlack(t, configured(t), slack.ModeSocket, slackfake.New(t))
	cfg.Slack.BotTokenFile, cfg.Slack.AppTokenFile = cfg.Slack.AppTokenFile, cfg.Slack.BotTokenFile
	text, err := json.Marshal(cfg.Slack.People)
	if err != nil {
		t.Fatal(err)
	}
	a := &App{cfg: cfg}
	if err := a.openSlack(t.Context()); err == nil || strings.Contains(err.Error(), slackfake.AppToken) {
		t.Errorf("swapped tokens give %v (people: %s)", err, text)
	}
}

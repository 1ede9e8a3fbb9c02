package slack

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/slack-go/slack"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/slack/slackfake"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestStages has one golden card for each stage.
func TestStages(t *testing.T) {
	s := drawer()
	seen := make(map[stage]int)
	for _, c := range stages() {
		seen[c.want]++
		name := strings.TrimSuffix(fmt.Sprintf("%s-%d", c.want, seen[c.want]), "-1")
		t.Run(name, func(t *testing.T) {
			f := c.facts
			if f.all[0].stage != c.want {
				t.Errorf("the stage is %s, want %s", f.all[0].stage, c.want)
			}
			m, err := s.card(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(map[string]any{"text": m.fallback, "blocks": m.blocks, "notes": noteTexts(f)}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "cards", name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("the card (want -, got +; -update writes it anew):\n%s", diff)
			}
		})
	}
}

func noteTexts(f facts) (out []string) {
	for _, n := range notes(f.all[0], f.incident) {
		out = append(out, n.key+": "+string(n.text))
	}
	return out
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

type stageCase struct {
	want  stage
	facts facts
}

func stages() []stageCase {
	yes := approval.Decision{Verb: approval.Approve, By: approval.Principal{ID: "ana", Via: "slack"}, Reason: "not what the user asked for", At: noon.Add(-2 * time.Minute)}
	agent := event.Agent{ID: "billing/billing-bot", Name: "billing-bot"}
	lease := func(change func(*action.Lease)) *action.Lease {
		l := &action.Lease{
			ID: "INC-1-R1", Plan: approval.Plan{Lease: time.Hour}, Applied: noon.Add(-119 * time.Second), Ends: noon.Add(58 * time.Minute),
			Grants: []approval.Grant{{Issued: yes.At}},
		}
		change(l)
		return l
	}
	var out []stageCase
	add := func(want stage, change func(i *incident.Incident, q *question)) {
		i := incident.Incident{ID: "INC-1", Title: "billing-bot, calling send_money: A payment to an account out of a tool's output", Severity: detect.Critical, Status: incident.Waiting}
		q := question{Request: approval.Request{
			ID: "INC-1-R1", Incident: "INC-1", Revision: 1, Digest: strings.Repeat("ab", 32), Requester: "playbook:hijack", State: approval.Pending,
			Plan:  approval.Plan{Action: "quarantine", Class: approval.Contain, Target: approval.Target{Agent: agent.ID}, Lease: time.Hour, Change: []string{"the gate denies every call", "and another"}, Blast: 2},
			Asked: noon.Add(-5 * time.Minute), Deadline: noon.Add(10 * time.Minute), OnExpiry: "deny",
		}}
		change(&i, &q)
		q.Question = q.Plan.Question()
		judge(&q, i, noon)
		f := facts{incident: i, all: []question{q}, at: noon, quotes: []quoted{quote("Pay to DE89-EVIL <!channel>", maxQuote)}}
		f.findings = []detect.Finding{{Rule: "untrusted-argument", Title: "A payment to an account out of a tool's output", Severity: detect.Critical, Confidence: detect.HighConfidence, Reason: "1 call of send_money"}}
		f.choose()
		out = append(out, stageCase{want, f})
	}
	approve := func(q *question) { q.Answer(yes) }
	add(waiting, func(*incident.Incident, *question) {})
	add(partial, func(_ *incident.Incident, q *question) { q.Terms.Need = 2; approve(q) })
	add(approved, func(_ *incident.Incident, q *question) { approve(q) })
	add(applied, func(_ *incident.Incident, q *question) { approve(q); q.lease = lease(func(*action.Lease) {}) })
	add(contained, func(_ *incident.Incident, q *question) {
		approve(q)
		q.lease = lease(func(l *action.Lease) {
			l.Verified, l.Effective, l.Lag = noon.Add(-118*time.Second), noon.Add(3*time.Minute), "tokens that were handed out stay good"
		})
	})
	add(done, func(_ *incident.Incident, q *question) {
		q.Plan.Class, q.Plan.Lease, q.Terms.StepUp = approval.Destroy, 0, true
		approve(q)
		q.lease = lease(func(l *action.Lease) { l.Plan.Lease, l.Lifted, l.LiftedBy = 0, l.Applied, "nobody: it can't be undone" })
	})
	add(failed, func(_ *incident.Incident, q *question) {
		q.Plan.Class, q.Plan.Lease = approval.Destroy, 0
		approve(q)
		q.failed = "The containment was applied but not verified: the probe was not denied"
		q.lease = lease(func(l *action.Lease) { l.Plan.Lease, l.Lifted = 0, l.Applied })
	})
	add(failed, func(_ *incident.Incident, q *question) {
		approve(q)
		q.failed = "The containment failed; its effect is unknown: timeout"
	})
	add(reverted, func(_ *incident.Incident, q *question) {
		approve(q)
		q.lease = lease(func(l *action.Lease) { l.Verified, l.Lifted, l.LiftedBy = l.Applied, noon, "bob" })
	})
	add(overdue, func(_ *incident.Incident, q *question) {
		approve(q)
		q.lease = lease(func(l *action.Lease) { l.Verified, l.Ends = l.Applied, noon.Add(-undoGrace) })
	})
	add(denied, func(_ *incident.Incident, q *question) { d := yes; d.Verb = approval.Deny; q.Answer(d) })
	add(expired, func(_ *incident.Incident, q *question) { q.State = approval.Expired })
	add(superseded, func(_ *incident.Incident, q *question) { q.State = approval.Superseded })
	add(cancelled, func(i *incident.Incident, _ *question) { i.Status = incident.Closed })

	loosening := func(want stage, change func(q *question)) {
		q := question{Request: loosen("billing/billing-bot")}
		q.Answer(yes)
		change(&q)
		judge(&q, incident.Incident{}, noon)
		out = append(out, stageCase{want, facts{incident: incident.Incident{ID: q.ID}, all: []question{q}, questions: []question{q}, at: noon}})
	}
	loosening(partial, func(*question) {})
	loosening(approved, func(q *question) { d := yes; d.By.ID = "bob"; q.Answer(d); q.Due = true })
	loosening(made, func(q *question) { d := yes; d.By.ID = "bob"; q.Answer(d) })
	loosening(denied, func(q *question) { d := yes; d.By.ID, d.Verb = "bob", approval.Deny; q.Answer(d) })
	loosening(expired, func(q *question) { q.State = approval.Expired })
	return out
}

// loosen is the change of a privileged agent's baseline that two leads must sign.
func loosen(agent string) approval.Request {
	r := approval.Request{
		ID: "REQ-abcdefghijkl", Revision: 1, Requester: "baseline:rebase", Agents: []string{agent}, State: approval.Pending, OnExpiry: "deny",
		Plan:   approval.Plan{Action: "rebase", Class: approval.Record, Target: approval.Target{Agent: agent}, Params: map[string]string{"change": "rebase"}, Need: 2, Evidence: []string{}},
		Effect: "Its own history is dropped, and peers judge it until it has another", Undo: "Roll back, while the copy is kept", DoesNotStop: "The agent works on either way",
		Asked: noon.Add(-5 * time.Minute), Deadline: noon.Add(4 * time.Hour), Terms: approval.Terms{Need: 2, From: []approval.Approvers{{Groups: []string{"role:lead"}}}},
	}
	r.Question = r.Plan.Question()
	r.Digest, _ = approval.DigestOf(r.Plan) // its text is UTF-8
	return r
}

// What people, and whoever chose the agent's name, write on the card of a baseline is shown and not interpreted.
func TestNothingHostileOnALoosening(t *testing.T) {
	s := drawer()
	rapid.Check(t, func(t *rapid.T) {
		r := loosen("x")
		r.Plan.Target.Agent, r.Plan.Action, r.Incident = hostile().Draw(t, "agent"), hostile().Draw(t, "action"), hostile().Draw(t, "incident")
		r.Effect, r.Undo, r.DoesNotStop, r.Digest = hostile().Draw(t, "effect"), hostile().Draw(t, "undo"), hostile().Draw(t, "does not stop"), hostile().Draw(t, "digest")
		r.Question = r.Plan.Question()
		r.Votes = []approval.Decision{{Verb: approval.Approve, By: approval.Principal{ID: hostile().Draw(t, "person")}, Reason: hostile().Draw(t, "reason"), At: noon}}
		q := question{Request: r}
		judge(&q, incident.Incident{}, noon)
		f := facts{incident: incident.Incident{ID: r.ID}, all: []question{q}, questions: []question{q}, at: noon}
		m, err := s.card(f)
		if err != nil || strings.Contains(m.fallback, marker) {
			t.Fatalf("%q, %v", m.fallback, err)
		}
		check(t, "blocks", m.blocks)
		check(t, "blocks", s.aboutAlone(q))
	})
}

// marker is in every hostile text, so that any part of one can be found.
const marker = "ZQX"

// hostile is text that tries what others' cards fell for.
func hostile() *rapid.Generator[string] {
	pieces := rapid.SampledFrom([]string{
		"<!channel>", "<!here>", "<@U0ANA>", "<!subteam^S0ONCALL>", "`", "```", "*bold*", "_i_", "~s~", "<https://evil.example|Approve>", "https://evil.example/x",
		"|", "&lt;", ":white_check_mark:", "\u202Eevil", "\u200B", "\U000E0100", "\U0001D173", "\U0001BCA0", strings.Repeat("\u00A0", 80), strings.Repeat(" ", 200),
		"\n\n\n", "\r", "\x00", "\x1b[31m", "\xff\xfe", strings.Repeat("A", 10_000), strings.Repeat("汉", 3000), "✅ Approved by ana", "U\u0301", "{\"type\":\"mrkdwn\"}",
	})
	return rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(pieces, 1, 4).Draw(t, "pieces")
		return marker + strings.Join(parts, marker) + marker
	})
}

// TestNothingHostileIsInterpreted fills every field that others can write, and finds none of it where Slack interprets text, nor any
// hidden character anywhere, nor a block that is over a limit.
func TestNothingHostileIsInterpreted(t *testing.T) {
	s := drawer()
	rapid.Check(t, func(t *rapid.T) {
		f, tracks, evidence := hostileFacts(t)
		m, err := s.card(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(m.fallback, marker) {
			t.Fatalf("the fallback has hostile text: %q", m.fallback)
		}
		check(t, "blocks", m.blocks)
		for _, q := range f.all {
			check(t, "blocks", append(s.about(f, q, tracks, evidence), aside(plain(status(q, f.incident.NoticedBy), maxContext))))
			for _, n := range notes(q, f.incident) {
				check(t, "blocks", []sdk.Block{sdk.NewSectionBlock(plain(n.text, maxSection), nil, nil), aside(mrkdwn(append(s.mentions(n.tell), "please look.")...))})
			}
		}
		check(t, "view", s.outcome(say("%s", hostile().Draw(t, "outcome")), f.all[0].ID))
	})
}

func hostileFacts(t *rapid.T) (facts, []incident.Track, []incident.EvidenceItem) {
	draw := func(name string) string { return hostile().Draw(t, name) }
	person := func() approval.Principal { return approval.Principal{ID: draw("person"), Role: approval.Lead} }
	decision := func() approval.Decision {
		return approval.Decision{Verb: rapid.SampledFrom([]approval.Verb{approval.Approve, approval.Deny}).Draw(t, "verb"), By: person(), Reason: draw("reason"), At: noon}
	}
	i := incident.Incident{
		ID: draw("incident"), Title: draw("title"), Severity: detect.Severity(draw("severity")), NoticedBy: draw("noticed by"),
		Status: rapid.SampledFrom([]incident.Status{incident.Waiting, incident.Closed}).Draw(t, "status"),
	}
	f := facts{incident: i, at: noon}
	for n := range rapid.IntRange(1, 6).Draw(t, "questions") {
		q := question{Request: approval.Request{
			ID: draw("request"), Incident: i.ID, Revision: n, Digest: draw("digest"), Requester: draw("requester"), Asked: noon.Add(-time.Hour), Deadline: noon.Add(time.Hour),
			State: rapid.SampledFrom([]approval.State{approval.Pending, approval.Approved, approval.Denied, approval.Expired, approval.Superseded}).Draw(t, "state"),
			Plan: approval.Plan{
				Action: draw("action"), Class: approval.Class(draw("class")), Target: approval.Target{Agent: draw("agent"), Session: draw("session"), Tool: draw("tool")},
				Params: map[string]string{draw("parameter"): draw("value")}, Change: []string{draw("change"), draw("change")}, Playbook: draw("playbook"), Evidence: []string{draw("hash")}, Lease: time.Hour,
			},
			Effect: draw("effect"), Undo: draw("undo"), DoesNotStop: draw("does not stop"), Standing: draw("standing"), OnExpiry: draw("on expiry"),
			Terms: approval.Terms{Need: 2, From: []approval.Approvers{{Groups: []string{draw("group"), "slack:" + draw("group")}}}, Ladder: []approval.Rung{{After: time.Minute, Tell: []string{"slack:" + draw("group")}}, {After: time.Minute}}},
			Votes: []approval.Decision{decision()},
		}, failed: draw("failed")}
		q.Question = q.Plan.Question()
		if q.State == approval.Approved || q.State == approval.Denied {
			d := decision()
			q.Decision = &d
		}
		if rapid.Bool().Draw(t, "lease") {
			q.lease = &action.Lease{Plan: q.Plan, Applied: noon, Ends: noon.Add(time.Minute), LiftedBy: draw("lifted by"), Effective: noon, Lag: draw("lag")}
			if rapid.Bool().Draw(t, "verified") {
				q.lease.Verified = noon
			}
			if rapid.Bool().Draw(t, "lifted") {
				q.lease.Lifted = noon
			}
		}
		judge(&q, i, noon)
		f.all = append(f.all, q)
	}
	for range rapid.IntRange(0, 5).Draw(t, "findings") {
		f.findings = append(f.findings, detect.Finding{
			Rule: draw("rule"), Title: draw("finding"), Severity: detect.Severity(draw("severity")), Confidence: detect.Confidence(draw("confidence")), Reason: draw("why"),
			Chain: &detect.Chain{Origin: "e", Value: draw("value")},
		})
	}
	f.quotes = quotes(f.findings, []incident.Entry{{Kind: "event", Ref: "e", Quote: incident.VisibleBlock(draw("quote"), 2000)}})
	f.choose()
	tracks := []incident.Track{{Name: draw("track"), Summary: draw("summary")}, {Name: draw("track"), Err: draw("error")}}
	return f, tracks, []incident.EvidenceItem{{Name: draw("name"), SHA256: draw("hash")}}
}

type failer interface{ Fatalf(string, ...any) }

// check validates what would be sent and looks at each text in it.
func check(t failer, kind string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := slackfake.Validate(kind, body); err != nil {
		t.Fatalf("%v:\n%s", err, body)
	}
	var all any
	if err := json.Unmarshal(body, &all); err != nil {
		t.Fatalf("%v", err)
	}
	walk(all, func(n map[string]any) {
		text, _ := n["text"].(string)
		switch n["type"] {
		case "mrkdwn":
			if strings.Contains(text, marker) {
				t.Fatalf("hostile text is interpreted: %q", text)
			}
		case "plain_text":
			if n["emoji"] != false {
				t.Fatalf("emoji in %q are interpreted", text)
			}
		case "button":
			if link, _ := n["url"].(string); strings.ContainsAny(link, "<>|\n ") || link != "" && !strings.HasPrefix(link, "https://tocsin.example/") {
				t.Fatalf("a link is %q", link)
			}
		case "link", "user", "usergroup", "broadcast", "emoji", "channel":
			t.Fatalf("an element of type %v", n["type"])
		}
		if at := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && (event.Hidden(r) || unicode.Is(unicode.Zs, r) && r != ' ') }); at >= 0 {
			t.Fatalf("a hidden character in %q at %d", text, at)
		}
	})
}

func walk(v any, see func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		see(v)
		for _, part := range v {
			walk(part, see)
		}
	case []any:
		for _, part := range v {
			walk(part, see)
		}
	}
}

// FuzzQuoted: whatever a text is, it can be shown in each place within its limit, with its head, its tail and what is left out.
func FuzzQuoted(f *testing.F) {
	for _, c := range stages() {
		f.Add(c.facts.incident.Title)
	}
	f.Add("\U000E0100 \U0001D173 :tada: <!channel> `")
	f.Fuzz(func(t *testing.T, text string) {
		for _, limit := range []int{75, maxHeader, maxField, maxSection} {
			check(t, "blocks", []sdk.Block{sdk.NewSectionBlock(plain(quoted(incident.VisibleBlock(text, 50_000)), limit), nil, nil)})
			if n := len([]rune(plain(quoted(incident.VisibleBlock(text, 50_000)), limit).Text)); n > limit {
				t.Errorf("%d characters, over the limit of %d", n, limit)
			}
		}
		if q := quote(text, maxQuote); q != "" {
			check(t, "blocks", []sdk.Block{rich("", q)})
		}
	})
}

// A long text shows where it begins and ends, and how much is hidden between.
func TestHeadAndTail(t *testing.T) {
	got := string(quote("HEAD"+strings.Repeat("x", 10_000)+"TAIL", maxQuote))
	if !strings.HasPrefix(got, "HEAD") || !strings.HasSuffix(got, "TAIL") || !strings.Contains(got, "characters hidden") {
		t.Errorf("it is shown as %q", got)
	}
}

// Names without a syntax may stand in the fallback text, others may not.
func TestFallback(t *testing.T) {
	for name, want := range map[string]string{
		"billing/billing-bot": "billing/billing-bot", "evil.example/pay": "an agent", "<!channel>": "an agent", "a`b": "an agent", ":tada:": "an agent", "*x*": "an agent", "": "an agent",
	} {
		c := stages()[0].facts
		c.questions[0].Plan.Target.Agent = name
		got := fallback(c, c.questions[0])
		if want := fmt.Sprintf("critical: approval needed by 12:10 UTC: %s. INC-1", want); got != want {
			t.Errorf("%q gives %q, want %q", name, got, want)
		}
	}
}

// drawer draws cards and reads nothing.
func drawer() *Slack {
	roles := map[string]approval.Role{"ana": approval.Responder, "bob": approval.Lead, "cyd": approval.Admin}
	return &Slack{seal: sealer{[]byte("0123456789abcdef")}, o: Options{
		Console: "https://tocsin.example", Now: func() time.Time { return noon },
		People: map[string]string{"U0ANA": "ana", "U0BOB": "bob", "U0CYD": "cyd", "U0 <!here>": "bob"}, Role: func(name string) (approval.Role, bool) { r, ok := roles[name]; return r, ok },
		Groups: func(name string) []string { return map[string][]string{"ana": {"file:night"}}[name] },
	}}
}

// Whoever is notified is named by an id of Slack's own form; groups of others by their people who are linked.
func TestMentions(t *testing.T) {
	for name, c := range map[string]struct {
		groups []string
		want   string
	}{
		"user groups": {[]string{"slack:S0ONCALL", "slack:S0ONCALL", "slack:S0LEADS"}, "<!subteam^S0ONCALL> <!subteam^S0LEADS> "},
		"role":        {[]string{"role:lead"}, "<@U0BOB> <@U0CYD> "},
		"file":        {[]string{"file:night"}, "<@U0ANA> "},
		"both":        {[]string{"file:night", "role:responder"}, "<@U0ANA> <@U0BOB> <@U0CYD> "},
		"elsewhere":   {[]string{"oidc:leads"}, ""},
		"hostile":     {[]string{"slack:s0", "slack:S0> <!channel", "<!here>", "", "role:", "role:nobody"}, ""},
	} {
		if got := mrkdwn(drawer().mentions(c.groups)...).Text; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if !slices.Equal([]ours{ident("INC-1"), ident("a b"), ident("<!here>"), ident("")}, []ours{"INC-1", "?", "?", "?"}) {
		t.Error("an id lets something through")
	}
}

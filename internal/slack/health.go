package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

const (
	testEvery  = 30 * time.Second // auth.test
	judgeEvery = 5 * time.Second
	// deaf is how long Slack may be out before people are told in another way.
	deaf = 60 * time.Second
)

// health is what is known of the connection in both directions.
type health struct {
	mu      sync.Mutex
	inbound time.Time            // when anything last came from Slack
	tested  time.Time            // when Slack last said who we are
	broken  map[string]string    // what only a person can mend, by the method that failed
	since   map[string]time.Time // since when
	// out is when the present outage began; zero while there is none. why says what is wrong.
	out time.Time
	why string
}

func newHealth(now time.Time) health {
	return health{inbound: now, tested: now, broken: make(map[string]string), since: make(map[string]time.Time)}
}

// heard says that something came from Slack.
func (h *health) heard(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inbound = now
}

// trivial are the methods without which people can still decide.
func trivial() []string { return []string{"chat.postEphemeral", "views.update"} }

// result takes in how a call went. A failure that only a person can mend stands until the same method works again.
func (h *health) result(method string, err error, now time.Time) {
	if slices.Contains(trivial(), method) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.broken, method)
		delete(h.since, method)
		return
	}
	if remedy := remedies[slackCode(err)]; remedy != "" {
		h.broken[method] = slackCode(err) + ": " + remedy
		if h.since[method].IsZero() {
			h.since[method] = now
		}
	}
}

func (h *health) authentic(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tested = now
	for method, what := range h.broken { // the token is good again, for all that it is used for
		code, _, _ := strings.Cut(what, ":")
		if method != methodOpen && slices.Contains(tokenFailures(), code) {
			delete(h.broken, method)
			delete(h.since, method)
		}
	}
}

// problem is what is wrong, and since when; "" for nothing. undelivered is the oldest question whose card is not there.
func (h *health) problem(mode string, undelivered, now time.Time) (why string, since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, method := range slices.Sorted(maps.Keys(h.broken)) {
		return method + ": " + h.broken[method], h.since[method]
	}
	switch {
	case now.Sub(h.tested) > testEvery+callTime:
		return "Slack's API does not answer", h.tested
	case mode == ModeSocket && now.Sub(h.inbound) > deaf/2:
		return "nothing comes from Slack's socket", h.inbound
	case !undelivered.IsZero() && now.Sub(undelivered) > callTime:
		return "a question could not be posted", undelivered
	}
	return "", time.Time{}
}

// State is one line for people: whether Slack works, and what is wrong if it does not.
func (s *Slack) State() (ok bool, text string) {
	s.health.mu.Lock()
	out, why, inbound := s.health.out, s.health.why, s.health.inbound
	s.health.mu.Unlock()
	if !out.IsZero() {
		return false, fmt.Sprintf("out since %s: %s; decide in the console or on the command line", clock(out), why)
	}
	if why != "" {
		return true, why
	}
	return true, fmt.Sprintf("%s mode, something last came %s ago", s.o.Mode, span(s.o.Now().Sub(inbound)))
}

// watch asks Slack who we are and judges whether people can be reached, until the context ends.
func (s *Slack) watch(ctx context.Context) error {
	test, judge := time.NewTicker(testEvery), time.NewTicker(judgeEvery)
	defer test.Stop()
	defer judge.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-test.C:
			s.introduce(ctx)
		case <-judge.C:
			if err := s.assess(ctx); err != nil && ctx.Err() == nil {
				s.o.Logger.Error("the health of Slack can't be judged", "error", err)
			}
		}
	}
}

// scopes are those that the app can't do without.
func scopes() []string { return []string{"chat:write", "users:read", "usergroups:read"} }

// introduce asks Slack who we are there: the workspace, the organisation and the app, against which every click is checked.
func (s *Slack) introduce(ctx context.Context) {
	err := s.call(ctx, "auth.test", func(ctx context.Context) error { return s.ask(ctx) })
	if err != nil {
		if ctx.Err() == nil {
			s.o.Logger.Warn("Slack does not say who Tocsin is", "error", err)
		}
		return
	}
	s.health.authentic(s.o.Now())
	nudge(s.mail) // messages may have waited for it
}

func (s *Slack) ask(ctx context.Context) error {
	me, err := s.api.AuthTestContext(ctx)
	if err != nil {
		return err
	}
	granted := strings.Split(strings.ReplaceAll(me.Header.Get("X-OAuth-Scopes"), " ", ""), ",")
	for _, scope := range scopes() {
		if me.Header.Get("X-OAuth-Scopes") != "" && !slices.Contains(granted, scope) {
			return sdk.SlackErrorResponse{Err: "missing_scope"}
		}
	}
	if me.TeamID != s.o.Team {
		return sdk.SlackErrorResponse{Err: "other_workspace"}
	}
	s.mu.Lock()
	known := s.who != nil
	s.mu.Unlock()
	if known {
		return nil
	}
	bot, err := s.api.GetBotInfoContext(ctx, sdk.GetBotInfoParameters{Bot: me.BotID})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.who = &identity{app: bot.AppID, team: me.TeamID, enterprise: me.EnterpriseID}
	s.mu.Unlock()
	return nil
}

// assess judges whether people can be reached in Slack. After a minute without it they are told in another way; when it is back, the
// cards are brought up to date with one summary.
func (s *Slack) assess(ctx context.Context) error {
	now := s.o.Now()
	undelivered, pending, err := s.undelivered(ctx)
	if err != nil {
		return err
	}
	why, since := s.health.problem(s.o.Mode, undelivered, now)
	s.health.mu.Lock()
	age, out := now.Sub(s.health.inbound), s.health.out
	begins, ends := why != "" && now.Sub(since) > deaf && out.IsZero(), why == "" && !out.IsZero()
	if begins {
		s.health.out = since
	}
	if s.health.why = why; ends {
		s.health.out = time.Time{}
	}
	s.health.mu.Unlock()
	s.o.Meter.SlackInbound(s.o.Mode, age)
	switch {
	case begins:
		s.o.Meter.SlackDegraded(s.o.Mode, true)
		s.o.Logger.Error("Slack is out: people must decide in the console or on the command line", "why", why, "since", clock(since), "waiting", len(pending))
		s.callOut(ctx, pending, "Slack is out: "+why, true)
	case ends:
		s.o.Meter.SlackDegraded(s.o.Mode, false)
		s.o.Logger.Info("Slack is back", "out", span(now.Sub(out)))
		return s.recover(ctx, out)
	case !out.IsZero():
		s.callOut(ctx, pending, "", false)
	}
	return nil
}

// recover brings every card up to date without telling each transition, and tells all of them in one message.
func (s *Slack) recover(ctx context.Context, out time.Time) error {
	s.mu.Lock()
	clear(s.paged)
	s.mu.Unlock()
	if err := s.forgive(ctx); err != nil {
		return err
	}
	failed := s.reconcile(ctx, nil, true, true)
	_, pending, err := s.undelivered(ctx)
	if err != nil {
		return err
	}
	text := say("Tocsin could not reach Slack from %s to %s. All cards above show how things stand now. %d questions wait for an answer.", clock(out), clock(s.o.Now()), len(pending))
	if _, err := s.send(ctx, facts{}, "Tocsin is back in Slack.", []sdk.Block{section(text)}); err != nil {
		return err
	}
	s.o.Meter.SlackDelivered("summary")
	return failed
}

// forgive lets a card whose posts had no known outcome be posted once more: the outage is over.
func (s *Slack) forgive(ctx context.Context) error {
	s.delivering.Lock()
	defer s.delivering.Unlock()
	var again []posted
	err := s.o.Box.EachCard(ctx, maxCards, func(doc []byte) {
		var p posted
		if json.Unmarshal(doc, &p) == nil && p.TS == "" && p.Unknown >= maxUnknown {
			again = append(again, p)
		}
	})
	for _, p := range again {
		p.Unknown = maxUnknown - 1
		if err := s.save(ctx, p, true); err != nil {
			return err
		}
	}
	return err
}

// call to the pager: ids and links of ours and no name that an agent chose.
type pagerCall struct {
	Source  string      `json:"source"`
	Text    string      `json:"text"`
	Waiting []pagerItem `json:"waiting"`
}

type pagerItem struct {
	Request  string    `json:"request"`
	Deadline time.Time `json:"deadline"`
	URL      string    `json:"url"`
}

// maxPaged bounds what one call to the pager lists.
const maxPaged = 50

// callOut tells the pager of the questions that it was not told of in this outage, and of the outage itself when it begins.
func (s *Slack) callOut(ctx context.Context, pending []approval.Request, text string, begins bool) {
	if s.o.Pager == "" {
		return
	}
	call := pagerCall{Source: "tocsin", Text: text, Waiting: []pagerItem{}}
	s.mu.Lock()
	for _, r := range pending {
		if !s.paged[r.ID] && len(call.Waiting) < maxPaged {
			call.Waiting = append(call.Waiting, pagerItem{string(ident(r.ID)), r.Deadline.UTC(), s.page("", r.ID)})
		}
	}
	s.mu.Unlock()
	if len(call.Waiting) == 0 && !begins {
		return
	}
	if call.Text == "" {
		call.Text = "Slack is out, and a question waits for an answer"
	}
	if err := s.callPager(ctx, call); err != nil {
		s.o.Meter.SlackFailed("pager")
		s.o.Logger.Error("the pager was not reached", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range call.Waiting {
		s.paged[w.Request] = true
	}
}

func (s *Slack) callPager(ctx context.Context, call pagerCall) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	body, err := json.Marshal(call)
	if err != nil {
		return fmt.Errorf("encode call: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.Pager, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call the pager: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.o.Client.Do(request)
	if err != nil {
		return fmt.Errorf("call the pager: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxBody)); err != nil {
		return fmt.Errorf("call the pager: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("call the pager: it answered %s", response.Status)
	}
	return nil
}

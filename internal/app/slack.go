package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/slack"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// SlackConfig lets people decide in Slack.
type SlackConfig struct {
	// Mode is socket, where Tocsin opens the connection, or http, where Slack calls /slack/interactions on the console's listener.
	Mode              string `yaml:"mode"`
	BotTokenFile      string `yaml:"bot_token_file"`      // xoxb-
	AppTokenFile      string `yaml:"app_token_file"`      // xapp-, for socket
	SigningSecretFile string `yaml:"signing_secret_file"` // for http
	Team              string `yaml:"team"`                // T…: the workspace
	Channel           string `yaml:"channel"`             // C… or G…: where cards are posted
	// People are users of the configuration by their Slack ids. Nobody else can decide in Slack.
	People map[string]string `yaml:"people"`
	// Tell is the least severity of an incident that is told in the channel though it asks nothing: low, medium, high, critical or none.
	Tell string `yaml:"tell"`
	// ConsoleURL is the base of links to the console; empty is the address that it listens on.
	ConsoleURL string `yaml:"console_url"`
	PagerURL   string `yaml:"pager_url"` // takes a JSON message when Slack is out
	APIURL     string `yaml:"api_url"`   // empty: https://slack.com/api/; GovSlack has another
}

var (
	slackTeam    = regexp.MustCompile(`^T[A-Z0-9]{2,}$`)
	slackChannel = regexp.MustCompile(`^[CG][A-Z0-9]{2,}$`)
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]{2,}$`)
)

func (c *Config) checkSlack() error {
	s := c.Slack
	if s == nil {
		return nil
	}
	set(&s.Mode, slack.ModeSocket)
	set(&s.Tell, string(detect.High))
	if s.Tell != "none" && detect.Severity(s.Tell).Rank() == 0 {
		return bad("slack.tell", "%q is none of low, medium, high, critical, none", s.Tell)
	}
	required := map[string]string{"bot_token_file": s.BotTokenFile, "app_token_file": s.AppTokenFile}
	switch s.Mode {
	case slack.ModeSocket:
	case slack.ModeHTTP:
		required = map[string]string{"bot_token_file": s.BotTokenFile, "signing_secret_file": s.SigningSecretFile}
	default:
		return bad("slack.mode", "%q is neither socket nor http", s.Mode)
	}
	for _, key := range []string{"bot_token_file", "app_token_file", "signing_secret_file"} {
		if file, ok := required[key]; ok && file == "" {
			return bad("slack."+key, "it is needed in mode %s; docs/slack.md says where to find it", s.Mode)
		}
	}
	if !slackTeam.MatchString(s.Team) {
		return bad("slack.team", "%q is no id of a workspace, which begins with T", s.Team)
	}
	if !slackChannel.MatchString(s.Channel) {
		return bad("slack.channel", "%q is no id of a channel, which begins with C; its name does not do", s.Channel)
	}
	if err := c.checkSlackPeople(); err != nil {
		return err
	}
	for _, u := range [][2]string{{"console_url", s.ConsoleURL}, {"pager_url", s.PagerURL}, {"api_url", s.APIURL}} {
		if err := checkURL(u[1]); err != nil {
			return bad("slack."+u[0], "%s", err)
		}
	}
	return nil
}

func (c *Config) checkSlackPeople() error {
	for id, name := range c.Slack.People {
		if !slackUser.MatchString(id) {
			return bad("slack.people."+id, "%q is no id of a Slack user, which begins with U or W", id)
		}
		if !slices.ContainsFunc(c.Users, func(u User) bool { return u.Name == name }) {
			return bad("slack.people."+id, "%q is none of users: their roles say what they may do", name)
		}
	}
	return nil
}

// checkURL refuses a URL that is not https, unless it stays on this machine.
func checkURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" && u.Fragment != "" {
		return errors.New("it is no URL with a host")
	}
	ip := net.ParseIP(u.Hostname())
	if local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); u.Scheme != "https" && !(u.Scheme == "http" && local) {
		return errors.New("want https")
	}
	return nil
}

// openSlack makes the door in Slack, if the configuration has one.
func (a *App) openSlack(context.Context) error {
	c := a.cfg.Slack
	if c == nil {
		return nil
	}
	options := slack.Options{
		Mode: c.Mode, Team: c.Team, Channel: c.Channel, People: c.People, Role: a.cfg.roleOf, Groups: belonging{a.policies, a.roster}.of,
		Console: cmp.Or(c.ConsoleURL, a.consoleURL()), Pager: c.PagerURL, API: c.APIURL,
		Reader: slackReader{a.store}, Control: a.control, Box: a.store, Meter: a.metrics, Logger: a.logger, Now: a.now, Wait: sleep,
		Client: &http.Client{Timeout: 15 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected") }},
	}
	for _, s := range []struct {
		key, file string
		into      *string
	}{
		{"bot_token_file", c.BotTokenFile, &options.BotToken}, {"app_token_file", c.AppTokenFile, &options.AppToken}, {"signing_secret_file", c.SigningSecretFile, &options.SigningSecret},
	} {
		if s.file == "" {
			continue
		}
		text, err := os.ReadFile(s.file)
		if err != nil {
			return fmt.Errorf("read slack.%s: %w", s.key, err)
		}
		*s.into = strings.TrimSpace(string(text))
	}
	if c.Tell != "none" {
		options.Tell = detect.Severity(c.Tell)
	}
	var err error
	if options.Key, err = secret(a.cfg.Data, "slack.key", 32); err != nil {
		return err
	}
	if a.slack, err = slack.New(options); err != nil {
		return err
	}
	a.facts.slack = a.slack
	return nil
}

func (a *App) consoleURL() string {
	if a.cfg.TLS.Cert != "" {
		return "https://" + a.Addresses.Console
	}
	return "http://" + a.Addresses.Console
}

func (c *Config) roleOf(name string) (approval.Role, bool) {
	i := slices.IndexFunc(c.Users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return "", false
	}
	return c.Users[i].Role, true
}

// runSlack runs the door and tells it what changes.
func (a *App) runSlack(ctx context.Context) error {
	go func() {
		for change := range a.hub.subscribe(ctx) {
			if change.Topic != "agent" {
				a.slack.Changed(change.ID)
			}
		}
	}()
	return a.slack.Run(ctx)
}

// slackReader is the store as the door reads it.
type slackReader struct{ *store.Store }

// Request implements slack.Reader.
func (r slackReader) Request(ctx context.Context, id string) (approval.Request, bool, error) {
	got, err := r.Store.Request(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return got, false, nil
	}
	return got, err == nil, err
}

// Findings implements slack.Reader.
func (r slackReader) Findings(ctx context.Context, incidentID string, limit int) (out []detect.Finding, err error) {
	alerts, err := r.Alerts(ctx, incidentID, limit)
	for _, a := range alerts {
		out = append(out, a.Finding)
	}
	return out, err
}

// Answer implements slack.Control.
func (c *control) Answer(ctx context.Context, d approval.Decision) error {
	return c.decide(ctx, d.Request, d)
}

// Refuse implements slack.Control. A claim that names no request is recorded under the door's name.
func (c *control) Refuse(ctx context.Context, d approval.Decision, why *approval.Refusal) error {
	d.Request = cmp.Or(d.Request, "slack")
	request, err := c.store.Request(ctx, d.Request)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return c.refused(ctx, request, d, why)
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package slack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	sdk "github.com/slack-go/slack"
)

// pace holds back calls of a method that Slack asked us to hold back.
type pace struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// maxPatience bounds how often one call is put off; each time lasts as long as Slack says.
const maxPatience = 5

// call calls Slack, and calls again only where Slack said that it did nothing and when to come back. Any other failure is returned: a
// message might be posted twice.
func (s *Slack) call(ctx context.Context, method string, fn func(ctx context.Context) error) error {
	var err error
	for range maxPatience {
		if err := s.hold(ctx, method); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, callTime)
		err = fn(limited)
		cancel()
		var busy *sdk.RateLimitedError
		if !errors.As(err, &busy) {
			break
		}
		s.o.Meter.SlackFailed("rate_limited")
		s.pace.mu.Lock()
		if until := s.o.Now().Add(max(busy.RetryAfter, time.Second)); until.After(s.pace.until[method]) {
			s.pace.until[method] = until
		}
		s.pace.mu.Unlock()
	}
	s.health.result(method, err, s.o.Now())
	if err == nil {
		return nil
	}
	s.o.Meter.SlackFailed(classify(err))
	return fmt.Errorf("call %s: %w", method, err)
}

// hold waits until a method may be called again.
func (s *Slack) hold(ctx context.Context, method string) error {
	for {
		s.pace.mu.Lock()
		left := s.pace.until[method].Sub(s.o.Now())
		s.pace.mu.Unlock()
		if left <= 0 {
			return ctx.Err()
		}
		if err := s.o.Wait(ctx, left); err != nil {
			return err
		}
	}
}

// slackCode is Slack's own word for a failure, or "".
func slackCode(err error) string {
	var answer sdk.SlackErrorResponse
	if errors.As(err, &answer) {
		return answer.Err
	}
	return ""
}

// remedies are the failures that only a person can mend, each with what to do.
var remedies = map[string]string{
	"invalid_auth":           "the token is wrong: set bot_token_file and app_token_file anew",
	"not_authed":             "no token was sent: set bot_token_file",
	"account_inactive":       "the app was removed from the workspace: install it again",
	"token_revoked":          "the token was revoked: install the app again and set the new one",
	"token_expired":          "the token expired: turn token rotation off for this app",
	"missing_scope":          "a scope is missing: install the app again from the manifest",
	"not_allowed_token_type": "this is another kind of token: bot_token_file needs xoxb-, app_token_file needs xapp-",
	"no_permission":          "the app may not do this in the workspace",
	"access_denied":          "the app may not do this in the workspace",
	"link_disabled":          "Socket Mode is turned off for the app",
	"channel_not_found":      "the channel does not exist or the app is not in it: invite it",
	"not_in_channel":         "the app is not in the channel: invite it",
	"is_archived":            "the channel is archived: set another",
	"restricted_action":      "the workspace does not let the app post in the channel",
	"ekm_access_denied":      "the workspace's administrators suspended messages",
	"org_login_required":     "the workspace is being moved to an organisation",
	"other_workspace":        "the bot token is of another workspace than slack.team", // our own word
}

// tokenFailures are those of the bot token as a whole.
func tokenFailures() []string {
	return []string{"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "org_login_required", "ekm_access_denied"}
}

// classify names a failure for metrics, from a closed list.
func classify(err error) string {
	code := slackCode(err)
	var status sdk.StatusCodeError
	switch {
	case remedies[code] != "":
		return code
	case code != "":
		return "refused"
	case errors.As(err, &status):
		return "server"
	}
	return "network"
}

// certain reports whether a failed call surely had no effect: Slack answered that it refused, or was never reached.
func certain(err error) bool {
	var op *net.OpError
	var busy *sdk.RateLimitedError
	return slackCode(err) != "" || errors.As(err, &busy) || errors.As(err, &op) && op.Op == "dial"
}

package measure

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// slackMetrics are those of the door in Slack. Its gauges exist once the door does, so that no zero is taken for health.
type slackMetrics struct {
	inbound   *prometheus.GaugeVec
	degraded  *prometheus.GaugeVec
	delivered *prometheus.CounterVec
	failed    *prometheus.CounterVec
}

func (m *Metrics) slackMetrics() slackMetrics {
	return slackMetrics{
		inbound:   m.gauges("tocsin_slack_last_inbound_seconds", "Time since anything came from Slack, pings too.", "mode"),
		degraded:  m.gauges("tocsin_slack_degraded", "1 while Slack is out for more than a minute and people are told in another way.", "mode"),
		delivered: m.counters("tocsin_slack_deliveries_total", "What was brought to Slack.", "what"),
		failed:    m.counters("tocsin_slack_failures_total", "Calls of Slack, and messages from it, that failed.", "why"),
	}
}

func slackWhats() []string {
	return []string{"card", "update", "note", "window", "answer", "summary"}
}

func slackWhys() []string {
	return []string{
		"rate_limited", "server", "network", "refused", "malformed", "signature", "given_up", "pager", "invalid_auth", "not_authed", "account_inactive",
		"token_revoked", "token_expired", "missing_scope", "not_allowed_token_type", "no_permission", "access_denied", "link_disabled", "channel_not_found",
		"not_in_channel", "is_archived", "restricted_action", "ekm_access_denied", "org_login_required", "other_workspace",
	}
}

// SlackInbound sets how long nothing came from Slack.
func (m *Metrics) SlackInbound(mode string, age time.Duration) {
	mode = among([]string{"socket", "http"}, mode)
	m.slack.inbound.WithLabelValues(mode).Set(age.Seconds())
	m.slack.degraded.WithLabelValues(mode) // it is 0 until an outage is known
}

// SlackDegraded sets whether Slack is out.
func (m *Metrics) SlackDegraded(mode string, degraded bool) {
	value := 0.0
	if degraded {
		value = 1
	}
	m.slack.degraded.WithLabelValues(among([]string{"socket", "http"}, mode)).Set(value)
}

// SlackDelivered counts what was brought to Slack.
func (m *Metrics) SlackDelivered(what string) {
	m.slack.delivered.WithLabelValues(among(slackWhats(), what)).Inc()
}

// SlackFailed counts a failure.
func (m *Metrics) SlackFailed(why string) {
	m.slack.failed.WithLabelValues(among(slackWhys(), why)).Inc()
}

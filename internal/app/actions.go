package app

import (
	"errors"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
)

// ActionOptions are what the actions beyond the gate need. An action whose section is missing can't be approved here: its plan fails.
// Each action holds its own credentials and no other's.
type ActionOptions struct {
	// Elsewhere are the actions that workers in other processes carry out. This process then carries out none but the gate's own.
	Elsewhere []string `yaml:"elsewhere"`

	RevokeToken   *action.RevokeTokenOptions        `yaml:"revoke_token"`
	NotifyWebhook *action.NotifyWebhookOptions      `yaml:"notify_webhook"`
	CAEP          *action.CAEPOptions               `yaml:"caep"`
	FreezeMemory  *action.FreezeMemoryOptions       `yaml:"freeze_memory"`
	StopProcess   *action.StopProcessOptions        `yaml:"stop_process"`
	RevokeLeases  *action.RevokeLeasesOptions       `yaml:"revoke_leases"`
	Quarantine    *action.QuarantineWorkloadOptions `yaml:"quarantine_workload"`
	ScaleToZero   *action.ScaleToZeroOptions        `yaml:"scale_to_zero"`
	EndMCPSession *action.EndMCPSessionOptions      `yaml:"end_mcp_session"`
}

// section is the part of the configuration that one or two actions need.
type section struct {
	key   string
	there bool
	check func() error
}

func (o *ActionOptions) sections() []section {
	return []section{
		{"revoke_token", o.RevokeToken != nil, checkOf(o.RevokeToken)},
		{"notify_webhook", o.NotifyWebhook != nil, checkOf(o.NotifyWebhook)},
		{"caep", o.CAEP != nil, checkOf(o.CAEP)},
		{"freeze_memory", o.FreezeMemory != nil, checkOf(o.FreezeMemory)},
		{"stop_process", o.StopProcess != nil, checkOf(o.StopProcess)},
		{"revoke_leases", o.RevokeLeases != nil, checkOf(o.RevokeLeases)},
		{"quarantine_workload", o.Quarantine != nil, checkOf(o.Quarantine)},
		{"scale_to_zero", o.ScaleToZero != nil, checkOf(o.ScaleToZero)},
		{"end_mcp_session", o.EndMCPSession != nil, checkOf(o.EndMCPSession)},
	}
}

// any reports whether there is a section.
func (o *ActionOptions) any() bool {
	return slices.ContainsFunc(o.sections(), func(s section) bool { return s.there })
}

// check names the first key that can't be right.
func (o *ActionOptions) check() error {
	known := action.Descriptions()
	for i, name := range o.Elsewhere {
		if _, ok := known[name]; !ok || action.AtGate(name) || slices.Contains(o.Elsewhere[:i], name) {
			return bad("actions.elsewhere", "%q is no action beyond the gate, or stands there twice", name)
		}
	}
	for _, section := range o.sections() {
		if section.there && len(o.Elsewhere) > 0 {
			return bad("actions."+section.key, "actions are carried out elsewhere (actions.elsewhere): their credentials belong to tocsin worker")
		}
		err := section.check()
		if option := (*action.BadOption)(nil); errors.As(err, &option) {
			return bad("actions."+section.key+"."+option.Field, "%s", option.Why)
		}
		if err != nil {
			return bad("actions."+section.key, "%s", err)
		}
	}
	return nil
}

// checkOf is the check of a section, which passes where the section is missing.
func checkOf[O any, P interface {
	*O
	Check() error
}](o P) func() error {
	if o == nil {
		return func() error { return nil }
	}
	return o.Check
}

// atGate makes the actions that the gate itself enforces.
func atGate(gate action.Enforcer) []action.Action {
	return []action.Action{action.NewQuarantine(gate), action.NewReadOnly(gate), action.NewAskHuman(gate), action.NewThrottle(gate)}
}

// ship makes the actions beyond the gate that this process has.
func (o *ActionOptions) ship(drafts action.Drafts, now func() time.Time) (out []action.Action) {
	if o.RevokeToken != nil {
		out = append(out, action.NewRevokeToken(*o.RevokeToken))
	}
	if o.NotifyWebhook != nil {
		webhook := action.NewNotifyWebhook(*o.NotifyWebhook, now)
		out = append(out, webhook, action.NewSendDraft(webhook, drafts))
	}
	if o.CAEP != nil {
		out = append(out, action.NewSessionRevoked(*o.CAEP, now), action.NewRiskChange(*o.CAEP, now))
	}
	if o.FreezeMemory != nil {
		out = append(out, action.NewFreezeMemory(*o.FreezeMemory))
	}
	if o.StopProcess != nil {
		out = append(out, action.NewStopProcess(*o.StopProcess))
	}
	if o.RevokeLeases != nil {
		out = append(out, action.NewRevokeLeases(*o.RevokeLeases))
	}
	if o.Quarantine != nil {
		out = append(out, action.NewQuarantineWorkload(*o.Quarantine))
	}
	if o.ScaleToZero != nil {
		out = append(out, action.NewScaleToZero(*o.ScaleToZero))
	}
	if o.EndMCPSession != nil {
		out = append(out, action.NewEndMCPSession(*o.EndMCPSession))
	}
	return out
}

package app

import (
	"errors"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
)

// ActionOptions are what the actions beyond the gate need. An action whose section is missing can't be approved here: its plan fails.
// Each action holds its own credentials and no other's.
type ActionOptions struct {
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

// check names the first key that can't be right.
func (o *ActionOptions) check() error {
	for _, section := range []struct {
		key   string
		check func() error
	}{
		{"revoke_token", checkOf(o.RevokeToken)},
		{"notify_webhook", checkOf(o.NotifyWebhook)},
		{"caep", checkOf(o.CAEP)},
		{"freeze_memory", checkOf(o.FreezeMemory)},
		{"stop_process", checkOf(o.StopProcess)},
		{"revoke_leases", checkOf(o.RevokeLeases)},
		{"quarantine_workload", checkOf(o.Quarantine)},
		{"scale_to_zero", checkOf(o.ScaleToZero)},
		{"end_mcp_session", checkOf(o.EndMCPSession)},
	} {
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

// ship makes the actions that this deployment has.
func (o *ActionOptions) ship(gate action.Enforcer, drafts action.Drafts, now func() time.Time) []action.Action {
	out := []action.Action{action.NewQuarantine(gate), action.NewReadOnly(gate), action.NewAskHuman(gate), action.NewThrottle(gate)}
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

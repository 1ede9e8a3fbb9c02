package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/oncall"
)

// TestBelonging is who is in which groups now: a door's word for a schedule of a moment ago counts for nothing.
func TestBelonging(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.ics")
	feed := "BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:shift\nDTSTART:20261101T000000Z\nDTEND:20261102T000000Z\nSUMMARY:Ana@x.org sam@x.org\nEND:VEVENT\nEND:VCALENDAR\n"
	if err := os.WriteFile(file, []byte(feed), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Users: []User{{Name: "ana"}, {Name: "bob"}}, OIDC: &OIDCConfig{}, OnCall: &oncall.Options{
		Schedules: map[string]oncall.Source{"payments": {File: file}}, People: map[string]string{"ana@X.org": "ana"},
	}}
	if err := cfg.checkOnCall(); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	roster := oncall.New(*cfg.OnCall, cfg.whose, measure.NewMetrics(), slog.New(slog.DiscardHandler), func() time.Time { return now })
	roster.Refresh(t.Context())
	b := belonging{approval.Policies{Groups: map[string][]string{"leads": {"bob", "ana"}}}, roster}
	tests := []struct {
		name string
		by   approval.Principal
		want []string
	}{
		{"a user by an address", approval.Principal{ID: "ana"}, []string{"file:leads", "schedule:payments"}},
		{"who signs in by OpenID Connect", approval.Principal{ID: "Sam@x.org", Groups: []string{"oidc:sec"}}, []string{"oidc:sec", "schedule:payments"}},
		{"who was on call a moment ago", approval.Principal{ID: "bob", Groups: []string{"schedule:payments", "slack:S1"}}, []string{"slack:S1", "file:leads"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := b.join(tt.by)
			if diff := cmp.Diff(tt.want, got.Groups); diff != "" || len(got.Shifts) > 0 != strings.Contains(strings.Join(tt.want, " "), "schedule:") {
				t.Errorf("shifts %+v, groups (-want +got):\n%s", got.Shifts, diff)
			}
		})
	}
	if diff := cmp.Diff([]string{"file:leads", "schedule:payments"}, b.of("ana")); diff != "" {
		t.Error(diff)
	}
	cfg.OnCall.People["eve@x.org"] = "eve"
	if err := cfg.checkOnCall(); err == nil || !strings.Contains(err.Error(), `oncall.people.eve@x.org: "eve" is none of users`) {
		t.Errorf("checkOnCall = %v", err)
	}
}

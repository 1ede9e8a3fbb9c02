package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/oncall"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// checkOnCall names the first option of the schedules that can't be right.
func (c *Config) checkOnCall() error {
	if c.OnCall == nil {
		return nil
	}
	err := c.OnCall.Check()
	if option := (*oncall.BadOption)(nil); errors.As(err, &option) {
		return bad("oncall."+option.Field, "%s", option.Why)
	}
	for _, a := range slices.Sorted(maps.Keys(c.OnCall.People)) {
		if who := c.OnCall.People[a]; !slices.ContainsFunc(c.Users, func(u User) bool { return u.Name == who }) {
			return bad("oncall.people."+a, "%q is none of users: whoever signs in by OpenID Connect is known by the address itself", who)
		}
	}
	return err
}

// whose says whom an address of a feed stands for: the user that the configuration gives it, a user who is called so, or whoever signs
// in by OpenID Connect, whom their address names.
func (c *Config) whose(address string) (person string, ok bool) {
	for a, who := range c.OnCall.People {
		if strings.EqualFold(a, address) {
			return who, true
		}
	}
	for _, u := range c.Users {
		if strings.EqualFold(u.Name, address) {
			return u.Name, true
		}
	}
	return address, c.OIDC != nil
}

// openRoster reads the schedules for the first time. One that can't be read is no error: nobody is on call by it, and people are told.
func (a *App) openRoster(ctx context.Context) error {
	if a.cfg.OnCall != nil {
		a.roster = oncall.New(*a.cfg.OnCall, a.cfg.whose, a.metrics, a.logger, a.now)
		a.policies.Vacant = a.roster.Vacant
	}
	if err := a.roster.Knows(schedulesOf(a.policies, a.library)); err != nil {
		return err
	}
	if a.roster != nil {
		a.roster.Refresh(ctx)
	}
	return nil
}

// schedulesOf are the schedules that policies and playbooks ask.
func schedulesOf(p approval.Policies, library map[string]playbooks.Playbook) []string {
	names := p.Schedules()
	for _, book := range library {
		for _, s := range book.Flat() {
			if s.Ask == nil {
				continue
			}
			for _, g := range s.Ask.From {
				if name, ok := strings.CutPrefix(g, "schedule:"); ok {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// belonging says which groups of the policies a person is in besides those that their door knows, and by which shifts.
type belonging struct {
	policies approval.Policies
	roster   *oncall.Roster // nil without schedules
}

// of are the groups of a person now.
func (m belonging) of(person string) []string {
	groups := m.policies.GroupsOf(person)
	for _, s := range m.roster.Shifts(person) {
		groups = append(groups, s.Group)
	}
	return groups
}

// join adds to a person the groups that they are in now, and why they are on call. What a door said of schedules a moment ago is dropped.
func (m belonging) join(by approval.Principal) approval.Principal {
	by.Shifts = m.roster.Shifts(by.ID)
	by.Groups = slices.DeleteFunc(slices.Clone(by.Groups), func(g string) bool { return strings.HasPrefix(g, "schedule:") })
	for _, g := range m.policies.GroupsOf(by.ID) {
		if !slices.Contains(by.Groups, g) {
			by.Groups = append(by.Groups, g)
		}
	}
	for _, s := range by.Shifts {
		by.Groups = append(by.Groups, s.Group)
	}
	return by
}

// PoliciesChecked is what a check of policies, playbooks and schedules found.
type PoliciesChecked struct {
	Policies  int      `json:"policies"`
	Playbooks int      `json:"playbooks"`
	Schedules []OnCall `json:"schedules"`
}

// OnCall is how a schedule stands now.
type OnCall struct {
	Schedule string           `json:"schedule"`
	People   []string         `json:"people"`
	Shifts   []approval.Shift `json:"shifts"`
	Problem  string           `json:"problem,omitempty"`
}

// CheckPolicies reads what a configuration names of policies and playbooks, and its schedules as they are now.
func CheckPolicies(ctx context.Context, cfg Config, now func() time.Time) (PoliciesChecked, error) {
	a := &App{cfg: cfg, logger: slog.New(slog.DiscardHandler), now: now, metrics: measure.NewMetrics()}
	var err error
	if a.library, err = ReadPlaybooks(cfg.Playbooks.Dir); err != nil {
		return PoliciesChecked{}, err
	}
	if a.policies, err = readPolicies(cfg.Policies.File); err != nil {
		return PoliciesChecked{}, err
	}
	if err := a.openRoster(ctx); err != nil {
		return PoliciesChecked{}, fmt.Errorf("check %s: %w", cmp.Or(cfg.Policies.File, "playbooks"), err)
	}
	out := PoliciesChecked{Policies: len(a.policies.Policies), Playbooks: len(a.library), Schedules: []OnCall{}}
	if a.roster != nil {
		for _, s := range a.roster.States() {
			out.Schedules = append(out.Schedules, OnCall{Schedule: s.Schedule, People: s.People, Shifts: s.Shifts, Problem: s.Problem})
		}
	}
	return out, nil
}

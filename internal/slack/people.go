package slack

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/slack-go/slack"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// groupLife is how long the members of a user group are remembered: whoever left a shift can't answer for longer than this.
const groupLife = 60 * time.Second

// maxGroups bounds the groups that are remembered.
const maxGroups = 200

// groups are the members of Slack's user groups.
type groups struct {
	mu    sync.Mutex
	known map[string]members
}

type members struct {
	users []string
	at    time.Time
}

// person finds who clicked. A refusal says why it is nobody who can be told from others; any other error means that Slack did not say.
func (s *Slack) person(ctx context.Context, c claim, r approval.Request) (approval.Principal, error) {
	nobody := approval.Principal{ID: stranger(c), Via: "slack"}
	refuse := func(format string, args ...any) (approval.Principal, error) {
		return nobody, approval.Refuse(approval.RefusedIdentity, format, args...)
	}
	if !slackID.MatchString(c.user) {
		return refuse("the click names no Slack user")
	}
	var u *sdk.User
	err := s.call(ctx, "users.info", func(ctx context.Context) (err error) { u, err = s.api.GetUserInfoContext(ctx, c.user); return err })
	if code := slackCode(err); code == "user_not_found" || code == "user_not_visible" {
		return refuse("Slack knows no user %s here", c.user)
	}
	if err != nil {
		return nobody, err
	}
	switch {
	case u.ID != c.user:
		return refuse("Slack answered about another user")
	case u.Deleted:
		return refuse("this Slack account was deactivated")
	case u.IsBot, u.IsAppUser, u.IsWorkflowBot, u.IsConnectorBot:
		return refuse("bots and apps may not decide")
	case u.IsUltraRestricted, u.IsRestricted:
		return refuse("guests may not decide")
	case u.IsStranger, u.TeamID != s.o.Team && !slices.Contains(u.Enterprise.Teams, s.o.Team):
		return refuse("people of other workspaces may not decide")
	}
	name, linked := s.o.People[c.user]
	role, known := s.o.Role(name)
	if !linked || !known {
		return refuse("your Slack account is linked to no user of Tocsin: ask an administrator to add %s: <your name> to slack.people in its configuration", c.user)
	}
	p := approval.Principal{ID: name, Role: role, Via: "slack"}
	p.Groups, err = s.groupsOf(ctx, c.user, r)
	p.Groups = append(p.Groups, s.o.Groups(name)...)
	return p, err
}

// stranger names somebody who is no user of Tocsin, for the record.
func stranger(c claim) string { return string(say("slack:%s/%s", c.team, c.user)) }

// groupsOf are the user groups that a request's terms name and a user is in, as they stand now.
func (s *Slack) groupsOf(ctx context.Context, user string, r approval.Request) ([]string, error) {
	var out []string
	for _, group := range named(r.Terms) {
		in, err := s.members(ctx, strings.TrimPrefix(group, "slack:"))
		if err != nil {
			return nil, err
		}
		if slices.Contains(in, user) {
			out = append(out, group)
		}
	}
	return out, nil
}

// named are the user groups of Slack that terms name.
func named(t approval.Terms) []string {
	all := append(approvers(t), t.BreakGlass...)
	for _, rung := range t.Ladder {
		all = append(all, rung.Tell...)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(group string) bool {
		id, ok := strings.CutPrefix(group, "slack:")
		return !ok || !slackID.MatchString(id)
	})
}

// approvers are the groups whose people may answer, now or later.
func approvers(t approval.Terms) (all []string) {
	for _, set := range t.From {
		all = append(all, set.Groups...)
		for _, rung := range set.Later {
			all = append(all, rung.Tell...)
		}
	}
	return all
}

// members are a group's, at most groupLife old. A group that Slack does not know has none.
func (s *Slack) members(ctx context.Context, group string) ([]string, error) {
	now := s.o.Now()
	s.groups.mu.Lock()
	known, ok := s.groups.known[group]
	s.groups.mu.Unlock()
	if ok && now.Sub(known.at) < groupLife && !now.Before(known.at) {
		return known.users, nil
	}
	var users []string
	err := s.call(ctx, "usergroups.users.list", func(ctx context.Context) (err error) {
		users, err = s.api.GetUserGroupMembersContext(ctx, group)
		return err
	})
	if code := slackCode(err); code == "no_such_subteam" || code == "subteam_not_found" {
		users, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	if len(s.groups.known) >= maxGroups {
		clear(s.groups.known)
	}
	s.groups.known[group] = members{users, now}
	return users, nil
}

// maxMentions bounds whom one message notifies.
const maxMentions = 20

// mentions notify groups: a user group of Slack as one, any other by its people who are linked.
func (s *Slack) mentions(groups []string) (out []ours) {
	add := func(m ours) {
		if m != "" && !slices.Contains(out, m) && len(out) < maxMentions {
			out = append(out, m)
		}
	}
	for _, group := range groups {
		if id, ok := strings.CutPrefix(group, "slack:"); ok {
			add(mention("slack", id))
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(s.o.People)) {
			role, _ := s.o.Role(s.o.People[id])
			if p := (approval.Principal{ID: s.o.People[id], Role: role, Groups: s.o.Groups(s.o.People[id])}); p.In(group) {
				add(mention("user", id))
			}
		}
	}
	return out
}

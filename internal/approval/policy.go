package approval

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Policies say who answers for which action and agent, and what silence means. A playbook can ask for more, never for less.
type Policies struct {
	// Groups are lists of people by name, as file:<name>: the last resort when a directory is away.
	Groups map[string][]string `yaml:"groups"`
	// Owners are the people of agents. They may contain what is theirs; whether they may release it, a policy says.
	Owners []Owner `yaml:"owners"`
	// Policies are all that may apply; what applies is merged to the strictest.
	Policies []Policy `yaml:"policies"`
	// Release is who may end a containment before its time; without it, leads who do not own the agent.
	Release Policy `yaml:"release"`
	// Privileged names the agents whose baselines several people must loosen, and who these are; without it there are none.
	Privileged Policy `yaml:"privileged"`
	// Vacant reports whether it is known that nobody is in a group now; nil knows of none. Where all that are asked are vacant, the
	// fallback is asked with them at once.
	Vacant func(group string) bool `yaml:"-"`
}

// Owner is whose agents are.
type Owner struct {
	Agents []string `yaml:"agents"` // patterns with *
	People []string `yaml:"people"`
}

// Policy is who answers what it applies to.
type Policy struct {
	Actions []string `yaml:"actions"` // names; none for all
	Classes []Class  `yaml:"classes"` // none for all
	Agents  []string `yaml:"agents"`  // patterns with *; none for all
	Need    int      `yaml:"need"`
	From    []string `yaml:"from"` // groups of which one is enough
	// Fallback may answer too once half the time has passed. It is needed where From names only groups that are looked up elsewhere.
	Fallback []string      `yaml:"fallback"`
	Not      []string      `yaml:"not"`      // people, or the word owner
	Deadline time.Duration `yaml:"deadline"` // at most; 0 leaves the playbook's
	// OnExpiry is deny or escalate; empty leaves the playbook's. Silence never approves.
	OnExpiry   string     `yaml:"on_expiry"`
	Escalate   []PartRung `yaml:"escalate"` // empty: told again at 25 %, the fallback at 50 %, the leads at 80 %
	StepUp     bool       `yaml:"step_up"`
	BreakGlass Glass      `yaml:"break_glass"`
}

// Glass is who may approve alone, and whether only with a security key. Whoever has one must always give it.
type Glass struct {
	From []string `yaml:"from"`
	// RequireKey keeps those out who have no key. Without it they may: the glass is there for when things are broken, and what breaks can
	// be the keys.
	RequireKey bool `yaml:"require_key"`
}

// UnmarshalYAML implements yaml.Unmarshaler. A list is who may.
func (g *Glass) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode(&g.From)
	}
	type plain Glass
	return strict.Node("", node, (*plain)(g))
}

// PartRung is a rung at a share of the time to the deadline.
type PartRung struct {
	At   int      `yaml:"at"` // percent
	Tell []string `yaml:"tell"`
}

// The word for an agent's owners in a policy's Not.
const owner = "owner"

// ReadPolicies reads a file of policies. An unknown key, a set of approvers that can be empty, and a policy that nobody could meet are
// errors with the file and the line.
func ReadPolicies(file string, text []byte) (Policies, error) {
	var p Policies
	if err := strict.YAML(file, text, &p); err != nil && !errors.Is(err, strict.ErrEmpty) {
		return Policies{}, err
	}
	var errs []error
	found := func(field string, all []error) {
		for _, err := range all {
			errs = append(errs, fmt.Errorf("%s: %s: %w", strict.Place(file, text, field), field, err))
		}
	}
	for i, one := range p.Policies {
		found(fmt.Sprintf("policies.%d", i), p.check(one))
	}
	for i, o := range p.Owners {
		found(fmt.Sprintf("owners.%d", i), o.check())
	}
	found("release", p.check(p.Release))
	found("privileged", append(p.checkPrivileged(), p.check(p.privileged())...))
	return p, errors.Join(errs...)
}

func (p Policies) check(one Policy) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, r := range one.Escalate {
		if r.At < 1 || r.At > 99 {
			bad("escalate.at: %d, want 1 to 99 percent", r.At)
		}
	}
	for _, g := range one.groups() {
		if err := CheckGroup(g); err != nil {
			bad("%w", err)
		} else if name, ok := strings.CutPrefix(g, "file:"); ok && len(p.Groups[name]) == 0 {
			bad("group %q has nobody: name people under groups.%s", g, name)
		}
	}
	if one.BreakGlass.RequireKey && len(one.BreakGlass.From) == 0 {
		bad("break_glass: require_key without from: nobody may break the glass")
	}
	if one.Need < 0 || one.Need > 10 {
		bad("need: %d, want at most 10", one.Need)
	}
	if one.OnExpiry != "" && one.OnExpiry != "deny" && one.OnExpiry != "escalate" {
		bad("on_expiry: %q: silence denies or escalates, it never approves", one.OnExpiry)
	}
	if one.Deadline < 0 || one.Deadline > 24*time.Hour {
		bad("deadline: %s, want at most 24h", one.Deadline)
	}
	for _, c := range one.Classes {
		if !slices.Contains([]Class{Contain, Destroy, Speak}, c) {
			bad("classes: %q is not one of contain, destroy, speak", c)
		}
	}
	errs = append(errs, checkPatterns(one.Agents)...)
	if err := p.reachable(one); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// check refuses what would make nobody an owner: whoever is to be kept from an answer as the owner would not be.
func (o Owner) check() []error {
	errs := checkPatterns(o.Agents)
	if len(o.Agents) == 0 || len(o.People) == 0 {
		errs = append(errs, errors.New("name the agents, as patterns with *, and the people"))
	}
	return errs
}

func checkPatterns(agents []string) (errs []error) {
	for _, pattern := range agents {
		if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("agents: %q is no pattern", pattern))
		}
	}
	return errs
}

// groups are all that the policy names.
func (one Policy) groups() []string {
	groups := slices.Concat(one.From, one.Fallback, one.BreakGlass.From)
	for _, r := range one.Escalate {
		groups = append(groups, r.Tell...)
	}
	return groups
}

// reachable refuses approvers who can be nobody: groups that others look up need a fallback that this file or the users of the
// configuration know, and a group of this file needs as many people as must approve.
func (p Policies) reachable(one Policy) error {
	if len(one.From) == 0 {
		return nil // every responder
	}
	people, outside := make(map[string]bool), false
	for _, g := range slices.Concat(one.From, one.Fallback) {
		switch kind, name, _ := strings.Cut(g, ":"); kind {
		case "role":
			return nil
		case "file":
			for _, who := range p.Groups[name] {
				if !slices.Contains(one.Not, who) {
					people[who] = true
				}
			}
		default:
			outside = true
		}
	}
	switch {
	case len(people) == 0:
		return fmt.Errorf("from: %s can be nobody, because it is looked up elsewhere: add a last resort, fallback: [\"file:x\"], or role:x beside it", strings.Join(one.From, ", "))
	case !outside && len(people) < one.Need:
		return fmt.Errorf("need: %d people, but only %s can answer", one.Need, strings.Join(slices.Sorted(maps.Keys(people)), ", "))
	}
	return nil
}

// CheckGroup refuses the name of a group of an unknown kind.
func CheckGroup(g string) error {
	kind, name, ok := strings.Cut(g, ":")
	if !ok || name == "" || strings.ContainsAny(g, "{}$= ") {
		return fmt.Errorf("group %q: want role:, file:, oidc:, slack: or schedule: and a name that stands in the file", g)
	}
	switch kind {
	case "file", "oidc", "slack", "schedule":
		return nil
	case "role":
		if Role(name).AtLeast(Responder) {
			return nil
		}
		return fmt.Errorf("group %q: the roles that decide are responder, lead and admin", g)
	}
	return fmt.Errorf("group %q: %q is not one of role, file, oidc, slack, schedule", g, kind)
}

// Schedules are the names of the schedules that the policies ask.
func (p Policies) Schedules() []string {
	names := make(map[string]bool)
	for _, one := range append(slices.Clone(p.Policies), p.Release, p.Privileged) {
		for _, g := range one.groups() {
			if name, ok := strings.CutPrefix(g, "schedule:"); ok {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// GroupsOf returns the groups of the file that a person is in.
func (p Policies) GroupsOf(who string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		if slices.Contains(p.Groups[name], who) {
			out = append(out, "file:"+name)
		}
	}
	return out
}

// OwnersOf returns an agent's owners.
func (p Policies) OwnersOf(agent string) (out []string) {
	for _, o := range p.Owners {
		if matchesAny(o.Agents, agent) {
			out = append(out, o.People...)
		}
	}
	return out
}

// Ask completes what a playbook asks with what the policies for its action and agent say, and returns the terms, the deadline and what
// silence means. The defaults: one responder contains; two leads, each with a second factor, destroy or speak.
func (p Policies) Ask(plan Plan, asked Policy) (t Terms, deadline time.Duration, onExpiry string) {
	deadline, onExpiry = asked.Deadline, asked.OnExpiry
	applying := []Policy{asked, byClass(plan.Class)}
	for _, one := range p.Policies {
		if one.applies(plan) {
			applying = append(applying, one)
		}
	}
	for _, one := range applying {
		if one.Deadline > 0 {
			deadline = min(deadline, one.Deadline)
		}
		if one.OnExpiry == "deny" {
			onExpiry = "deny"
		}
	}
	for i, one := range applying {
		part := p.terms(one, plan.Target.Agent, deadline)
		if i == 0 {
			t = part
			continue
		}
		t = t.Merge(part)
	}
	if t.Ladder == nil {
		t.Ladder = ladder(nil, deadline)
	}
	return t, deadline, onExpiry
}

// Releases is who may end a containment of an agent before its time.
func (p Policies) Releases(agent string) Terms { return p.terms(byLeads(p.Release), agent, 0) }

// byLeads is a policy whose approvers, where it names none, are leads who don't own the agent.
func byLeads(one Policy) Policy {
	if one.From == nil {
		one.From = []string{"role:lead"}
	}
	if one.Not == nil {
		one.Not = []string{owner}
	}
	return one
}

// Defaults of a privileged agent's policy.
const (
	privilegedNeed     = 2
	privilegedDeadline = 4 * time.Hour
)

// privileged is the policy of privileged agents with its defaults.
func (p Policies) privileged() Policy {
	one := byLeads(p.Privileged)
	one.Need, one.Deadline = cmp.Or(one.Need, privilegedNeed), cmp.Or(one.Deadline, privilegedDeadline)
	return one
}

// checkPrivileged refuses what a policy of privileged agents can't say.
func (p Policies) checkPrivileged() (errs []error) {
	one := p.Privileged
	if one.Need == 1 {
		errs = append(errs, errors.New("need: 1, want 2 or more: one person alone loosens no baseline of a privileged agent"))
	}
	if len(one.Agents) == 0 && (one.Need != 0 || one.Deadline != 0 || one.From != nil || one.Not != nil || one.StepUp) {
		errs = append(errs, errors.New("agents: name them, as patterns with *"))
	}
	if one.Actions != nil || one.Classes != nil || one.Fallback != nil || one.Escalate != nil || one.BreakGlass.From != nil || one.BreakGlass.RequireKey || one.OnExpiry != "" {
		errs = append(errs, errors.New("it takes agents, need, from, not, deadline and step_up alone: what nobody signs in time is not done"))
	}
	return errs
}

// Loosens is who must loosen the baseline of an agent together and by when; ok is false for an agent that is not privileged.
func (p Policies) Loosens(agent string) (t Terms, deadline time.Duration, ok bool) {
	if !matchesAny(p.Privileged.Agents, agent) {
		return Terms{}, 0, false
	}
	one := p.privileged()
	return p.terms(one, agent, one.Deadline), one.Deadline, true
}

func byClass(c Class) Policy {
	if c == Contain {
		return Policy{Need: 1}
	}
	return Policy{Need: 2, From: []string{"role:lead"}, StepUp: true}
}

func (one Policy) applies(plan Plan) bool {
	return (len(one.Actions) == 0 || slices.Contains(one.Actions, plan.Action)) &&
		(len(one.Classes) == 0 || slices.Contains(one.Classes, plan.Class)) &&
		(len(one.Agents) == 0 || matchesAny(one.Agents, plan.Target.Agent))
}

func (p Policies) terms(one Policy, agent string, deadline time.Duration) Terms {
	t := Terms{Need: one.Need, StepUp: one.StepUp, BreakGlass: one.BreakGlass.From, GlassKey: one.BreakGlass.RequireKey}
	for _, who := range one.Not {
		if who == owner {
			t.Not = append(t.Not, p.OwnersOf(agent)...)
		} else {
			t.Not = append(t.Not, who)
		}
	}
	for _, r := range one.Escalate {
		t.Ladder = append(t.Ladder, Rung{After: deadline * time.Duration(r.At) / 100, Tell: r.Tell})
	}
	if one.Escalate == nil && len(one.Fallback) > 0 {
		t.Ladder = ladder(one.Fallback, deadline)
	}
	if len(one.From) > 0 {
		t.From = []Approvers{{Groups: one.From, Later: t.Ladder}}
		if p.Vacant != nil && !slices.ContainsFunc(one.From, func(g string) bool { return !p.Vacant(g) }) {
			t.From[0].Groups = slices.Concat(one.From, one.Fallback)
		}
	}
	return t
}

// ladder is how an escalation goes that no policy describes.
func ladder(fallback []string, deadline time.Duration) []Rung {
	return []Rung{{After: deadline / 4}, {After: deadline / 2, Tell: fallback}, {After: deadline * 4 / 5, Tell: []string{"role:lead"}}}
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return Matches(pattern, name) })
}

// Matches reports whether a pattern fits a name; * spans slashes too.
func Matches(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
	return ok && err == nil
}

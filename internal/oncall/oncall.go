// Package oncall says who is on call now: schedules are iCalendar feeds (RFC 5545), as pagers and calendars export them, and whoever
// the events of this instant name. It writes to no calendar, notifies nobody and decides nothing; a schedule that it can't read, or that
// names nobody it knows, has nobody on call.
package oncall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	_ "time/tzdata" // feeds name zones, and the machine may have none

	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Options are the schedules and the people whom they name.
type Options struct {
	Schedules map[string]Source `yaml:"schedules"`
	// People are users by the e-mail addresses by which feeds name them. Who signs in by OpenID Connect is known by their address.
	People map[string]string `yaml:"people"`
	// Hosts are those that feeds are read from, and Networks are prefixes that they may be in although they are private or loopback.
	Hosts    []string       `yaml:"hosts"`
	Networks []netip.Prefix `yaml:"networks"`
}

// Source is where a schedule's feed comes from: one of File, URL and URLFile.
type Source struct {
	File string `yaml:"file"`
	URL  string `yaml:"url"`
	// URLFile holds the URL, where whoever knows it may read the feed.
	URLFile string `yaml:"url_file"`
	// AuthorizationFile holds the value of the Authorization header, as "Bearer …".
	AuthorizationFile string `yaml:"authorization_file"`
	// Zone is that of times and dates without one; empty is the calendar's own, or UTC.
	Zone  string        `yaml:"zone"`
	Every time.Duration `yaml:"every"` // how often it is read; 0 is five minutes
	Stale time.Duration `yaml:"stale"` // the age from which on nobody is on call by it; 0 is an hour
}

// BadOption is an option that can't be right, by its key within the section.
type BadOption struct{ Field, Why string }

func (b *BadOption) Error() string { return b.Field + ": " + b.Why }

func bad(field, format string, args ...any) error {
	return &BadOption{field, fmt.Sprintf(format, args...)}
}

const (
	maxSchedules = 50
	leastEvery   = 10 * time.Second
	mostStale    = 24 * time.Hour
)

var scheduleName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,40}$`)

// Check names the first option that can't be right, and sets the defaults.
func (o *Options) Check() error {
	if len(o.Schedules) == 0 || len(o.Schedules) > maxSchedules {
		return bad("schedules", "%d, want 1 to %d", len(o.Schedules), maxSchedules)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Schedules)) {
		s, field := o.Schedules[name], "schedules."+name
		if !scheduleName.MatchString(name) {
			return bad(field, "%q is no name of a schedule: want small letters, digits, - and _", name)
		}
		if err := s.check(field, o.Hosts); err != nil {
			return err
		}
		o.Schedules[name] = s
	}
	for _, a := range slices.Sorted(maps.Keys(o.People)) {
		if address.FindString(a) != a {
			return bad("people."+a, "%q is no e-mail address", a)
		}
	}
	return nil
}

func (s *Source) check(field string, hosts []string) error {
	given := 0
	for _, from := range []string{s.File, s.URL, s.URLFile} {
		if from != "" {
			given++
		}
	}
	if given != 1 {
		return bad(field, "want one of file, url and url_file")
	}
	if s.AuthorizationFile != "" && s.File != "" {
		return bad(field+".authorization_file", "a file needs none")
	}
	if s.URL != "" {
		if _, err := feedURL(s.URL, hosts); err != nil {
			return bad(field+".url", "%s", err)
		}
	}
	if s.Zone != "" {
		if _, err := (&feed{zones: make(map[string]*time.Location)}).location(s.Zone); err != nil {
			return bad(field+".zone", "%s", err)
		}
	}
	if s.Every == 0 {
		s.Every = 5 * time.Minute
	}
	if s.Stale == 0 {
		s.Stale = max(time.Hour, 2*s.Every)
	}
	if s.Every < leastEvery || s.Stale < s.Every || s.Stale > mostStale {
		return bad(field, "every %s and stale %s: want every from %s on, and stale from that to %s", s.Every, s.Stale, leastEvery, mostStale)
	}
	return nil
}

// Meter shows the state of schedules to machines.
type Meter interface {
	// OnCall sets how many people are on call by a schedule, and how old its feed is; negative where none was read.
	OnCall(schedule string, people int, age time.Duration)
}

// Roster knows who is on call. Safe for concurrent use.
type Roster struct {
	known  func(address string) (person string, ok bool)
	meter  Meter
	logger *slog.Logger
	now    func() time.Time
	client *http.Client
	hosts  []string
	names  []string // of the schedules, sorted

	mu        sync.Mutex
	schedules map[string]*schedule
}

// schedule is what is known of one.
type schedule struct {
	Source
	zone   *time.Location
	tried  time.Time
	read   time.Time // zero while the feed was never read
	digest string
	shifts []shift
	err    error  // of the last try
	told   string // what people were told of it
}

// New returns a Roster of options that were checked. It knows nobody before Refresh. known says who of Tocsin's people an address is.
func New(o Options, known func(address string) (string, bool), meter Meter, logger *slog.Logger, now func() time.Time) *Roster {
	r := &Roster{known: known, meter: meter, logger: logger, now: now, hosts: o.Hosts, client: newClient(o.Networks), schedules: make(map[string]*schedule)}
	for name, source := range o.Schedules {
		s := &schedule{Source: source}
		if source.Zone != "" {
			s.zone, _ = time.LoadLocation(source.Zone) // Check tried it
		}
		r.schedules[name] = s
	}
	r.names = slices.Sorted(maps.Keys(r.schedules))
	return r
}

// beat is how often it is looked whether a feed is due and who is on call.
const beat = 5 * time.Second

// Run keeps the schedules fresh until the context ends.
func (r *Roster) Run(ctx context.Context) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		r.Refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// readers bounds the feeds that are read at once: each may have maxFeed bytes.
const readers = 4

// Refresh reads the feeds that are due, and tells where nobody is on call.
func (r *Roster) Refresh(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(readers)
	for _, name := range r.names {
		now := r.now()
		r.mu.Lock()
		s := r.schedules[name]
		due := s.tried.IsZero() || now.Sub(s.tried) >= s.Every || now.Before(s.tried)
		if due {
			s.tried = now
		}
		r.mu.Unlock()
		if due {
			group.Go(func() error { r.refresh(ctx, s, now); return nil })
		}
	}
	if err := group.Wait(); err != nil { // none returns one
		r.logger.Error("schedules can't be read", "error", err)
	}
	r.judge()
}

// refresh reads one feed. One that can't be read leaves what was known, until that is stale.
func (r *Roster) refresh(ctx context.Context, s *schedule, now time.Time) {
	text, err := r.fetch(ctx, s.Source)
	var shifts []shift
	if err == nil {
		// A minute earlier, for a clock that is set back a little.
		shifts, err = parse(ctx, text, s.zone, now.Add(-time.Minute), now.Add(s.Stale+s.Every))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.err = err; err == nil {
		s.shifts, s.digest, s.read = shifts, digest(text), now
	}
}

// State is how a schedule stands.
type State struct {
	Schedule string
	People   []string         // who is on call now
	Shifts   []approval.Shift // by which events, one for each of the people
	Read     time.Time        // zero if the feed was never read
	Problem  string           // empty if somebody is on call and the feed can be read
}

// States are those of all schedules.
func (r *Roster) States() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]State, 0, len(r.names))
	for _, name := range r.names {
		out = append(out, r.state(name, r.now()))
	}
	return out
}

// state reckons who is on call by a schedule at a time. Whoever calls it holds mu.
func (r *Roster) state(name string, now time.Time) State {
	s := r.schedules[name]
	out := State{Schedule: name, Read: s.read}
	switch age := now.Sub(s.read); {
	case s.read.IsZero() && s.err == nil:
		out.Problem = "its feed was not read yet"
		return out
	case s.read.IsZero():
		out.Problem = "its feed can't be read: " + s.err.Error()
		return out
	case age > s.Stale || age < -time.Minute:
		out.Problem = fmt.Sprintf("its feed was last read at %s and is stale", s.read.UTC().Format(time.RFC3339))
		if s.err != nil {
			out.Problem += ": " + s.err.Error()
		}
		return out
	}
	var strangers []string
	for _, h := range s.shifts {
		if now.Before(h.start) || !now.Before(h.end) {
			continue
		}
		for _, a := range h.addresses {
			person, ok := r.known(a)
			switch {
			case !ok:
				strangers = append(strangers, clean(a))
			case !slices.Contains(out.People, person):
				out.People = append(out.People, person)
				out.Shifts = append(out.Shifts, approval.Shift{Group: "schedule:" + name, Feed: s.digest, Read: s.read.UTC(), Event: h.event, Start: h.start.UTC(), End: h.end.UTC()})
			}
		}
	}
	switch {
	case len(out.People) == 0 && len(strangers) > 0:
		out.Problem = fmt.Sprintf("it names %s, whom nobody here knows: add them to oncall.people", strings.Join(strangers[:min(len(strangers), 3)], ", "))
	case len(out.People) == 0:
		out.Problem = "no event of now names anybody"
	case s.err != nil:
		out.Problem = "its feed can't be read, and what was read before holds until it is stale: " + s.err.Error()
	}
	return out
}

// judge tells people and machines how the schedules stand; people once for each change.
func (r *Roster) judge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for _, name := range r.names {
		s, state := r.schedules[name], r.state(name, now)
		age := time.Duration(-1)
		if !s.read.IsZero() {
			age = now.Sub(s.read)
		}
		r.meter.OnCall(name, len(state.People), age)
		if state.Problem == s.told {
			continue
		}
		switch s.told = state.Problem; {
		case len(state.People) == 0:
			r.logger.Error("nobody is on call by a schedule; who else the policy names is asked", "schedule", name, "why", state.Problem)
		case state.Problem != "":
			r.logger.Warn("a schedule can't be read again", "schedule", name, "why", state.Problem)
		default:
			r.logger.Info("somebody is on call by a schedule", "schedule", name)
		}
	}
}

// Shifts are what puts a person on call now, one for each schedule.
func (r *Roster) Shifts(person string) (out []approval.Shift) {
	if r == nil {
		return nil
	}
	for _, s := range r.States() {
		if i := slices.IndexFunc(s.People, func(p string) bool { return strings.EqualFold(p, person) }); i >= 0 {
			out = append(out, s.Shifts[i])
		}
	}
	return out
}

// Vacant reports whether a group is a schedule by which nobody is on call now, or that does not exist.
func (r *Roster) Vacant(group string) bool {
	name, ok := strings.CutPrefix(group, "schedule:")
	if !ok {
		return false
	}
	if r == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.schedules[name] == nil || len(r.state(name, r.now()).People) == 0
}

// Problem is what is wrong with the schedules by which nobody is on call; empty for nothing.
func (r *Roster) Problem() string {
	if r == nil {
		return ""
	}
	var all []string
	for _, s := range r.States() {
		if len(s.People) == 0 {
			all = append(all, fmt.Sprintf("nobody is on call by the schedule %s: %s", s.Schedule, s.Problem))
		}
	}
	return strings.Join(all, "; ")
}

// Knows refuses names of schedules that there are none of.
func (r *Roster) Knows(names []string) error {
	var errs []error
	for _, name := range names {
		if r == nil || r.schedules[name] == nil {
			errs = append(errs, fmt.Errorf("there is no schedule %q: describe it under oncall.schedules of the configuration", name))
		}
	}
	return errors.Join(errs...)
}

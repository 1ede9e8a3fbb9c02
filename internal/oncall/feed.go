package oncall

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	ical "github.com/arran4/golang-ical"
	"github.com/teambition/rrule-go"
)

// Bounds of one feed. What is over them is an error, because a schedule of which a part is missing names the wrong people.
const (
	maxFeed        = 8 << 20  // bytes
	maxLine        = 16 << 10 // bytes of a line that is used, unfolded
	maxSeparators  = 1000     // of its parameters and values: the library copies the line for each
	maxEvents      = 20_000
	maxRecurring   = 2_000
	maxDates       = 5_000           // exceptions and additions of one event
	maxOccurrences = 20_000          // of one event from its first on: fifty years of days
	maxShifts      = 10_000          // that touch the span
	maxAddresses   = 20              // of one event
	maxRecurs      = 366 * day       // how long one occurrence of a recurring event lasts
	maxName        = 200             // characters of an event's id that are kept
	expandTime     = 5 * time.Second // for all events; one rule that never comes true takes a second or two of it
	day            = 24 * time.Hour
)

// shift is a time in which the addresses of an event are on call.
type shift struct {
	event      string // its UID
	start, end time.Time
	addresses  []string // in lower case
}

// parse reads a feed and returns the shifts that touch a span of time, in the order of the feed. Times without a zone are of zone, or
// where that is nil of the calendar's own. What it does not understand is an error.
func parse(ctx context.Context, text []byte, zone *time.Location, from, to time.Time) ([]shift, error) {
	ctx, cancel := context.WithTimeout(ctx, expandTime)
	defer cancel()
	sifted, err := sift(text)
	if err != nil {
		return nil, err
	}
	calendar, err := ical.ParseCalendar(bytes.NewReader(sifted))
	if err != nil {
		return nil, fmt.Errorf("read calendar: %w", err)
	}
	f := feed{zone: zone, from: from, to: to, zones: make(map[string]*time.Location), latest: make(map[string]int), moved: make(map[string][]time.Time)}
	if err := f.defaultZone(calendar); err != nil {
		return nil, err
	}
	events := calendar.Events()
	for _, each := range []func(context.Context, *ical.VEvent) error{f.note, f.add} {
		for _, e := range events {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("work out the occurrences: %w", context.Cause(ctx))
			}
			if err := each(ctx, e); err != nil {
				return nil, fmt.Errorf("event %q: %w", clean(e.Id()), err)
			}
		}
	}
	return f.shifts, nil
}

// sift unfolds lines (RFC 5545, section 3.1) and keeps those of events that say when and who. All that the library reads is bounded
// here: how many lines there are, how long they are and how deep they nest.
func sift(text []byte) ([]byte, error) {
	if len(text) > maxFeed {
		return nil, fmt.Errorf("the feed has more than %d bytes", maxFeed)
	}
	var s sieve
	var line []byte
	number := 0
	for raw := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		number++
		raw = bytes.TrimRight(raw, "\r\n")
		if len(raw) > 0 && (raw[0] == ' ' || raw[0] == '\t') {
			line = append(line, raw[1:]...)
			continue
		}
		if err := s.take(string(line)); err != nil {
			return nil, fmt.Errorf("before line %d: %w", number, err)
		}
		line = append(line[:0], raw...)
	}
	if err := s.take(string(line)); err != nil {
		return nil, fmt.Errorf("at line %d: %w", number, err)
	}
	if !s.ended {
		return nil, errors.New("it ends before END:VCALENDAR: it is no calendar, or not whole")
	}
	return s.kept.Bytes(), nil
}

// sieve keeps the lines of a calendar that are read.
type sieve struct {
	kept   bytes.Buffer
	open   []string // components, the outermost first
	events int
	ended  bool
}

// take takes the next line, unfolded.
func (s *sieve) take(line string) error {
	name, value := split(line)
	switch {
	case line == "":
		return nil
	case s.ended:
		return errors.New("there is text after END:VCALENDAR")
	case name == "BEGIN":
		return s.begin(strings.ToUpper(value))
	case len(s.open) == 0:
		return errors.New("it does not begin with BEGIN:VCALENDAR")
	case name == "END":
		return s.end(strings.ToUpper(value))
	case s.inEvent() && slices.Contains(used, name), len(s.open) == 1 && name == "X-WR-TIMEZONE":
		if len(line) > maxLine || strings.Count(line, ";")+strings.Count(line, ",") > maxSeparators {
			return fmt.Errorf("%s has more than %d bytes or %d parts", name, maxLine, maxSeparators)
		}
		s.kept.WriteString(name + line[len(name):] + "\r\n")
	}
	return nil
}

// inEvent reports whether the innermost component that is open is an event of the calendar.
func (s *sieve) inEvent() bool { return len(s.open) == 2 && s.open[1] == "VEVENT" }

func (s *sieve) begin(component string) error {
	s.open = append(s.open, component)
	if s.open[0] != "VCALENDAR" || len(s.open) > 4 {
		return errors.New("it is no calendar, or nests too deep")
	}
	if s.inEvent() {
		if s.events++; s.events > maxEvents {
			return fmt.Errorf("it has more than %d events", maxEvents)
		}
	}
	s.mark("BEGIN")
	return nil
}

func (s *sieve) end(component string) error {
	last := len(s.open) - 1
	if component != s.open[last] {
		return fmt.Errorf("it ends %s, want %s", clean(component), clean(s.open[last]))
	}
	s.mark("END")
	s.open = s.open[:last]
	s.ended = last == 0
	return nil
}

// mark writes where the calendar or an event of it begins or ends.
func (s *sieve) mark(name string) {
	if s.inEvent() || len(s.open) == 1 {
		s.kept.WriteString(name + ":" + s.open[len(s.open)-1] + "\r\n")
	}
}

// split returns a line's name in upper case and what follows the first colon.
func split(line string) (name, value string) {
	name = line
	if at := strings.IndexAny(line, ";:"); at >= 0 {
		name = line[:at]
	}
	_, value, _ = strings.Cut(line, ":")
	return strings.ToUpper(name), strings.TrimSpace(value)
}

// used are the properties of an event that say when and who.
var used = []string{
	"UID", "SEQUENCE", "STATUS", "DTSTART", "DTEND", "DURATION", "RRULE", "EXRULE", "RDATE", "EXDATE", "RECURRENCE-ID", "SUMMARY", "ATTENDEE", "ORGANIZER",
}

// feed is a calendar while its shifts are worked out.
type feed struct {
	zone      *time.Location
	from, to  time.Time
	zones     map[string]*time.Location
	latest    map[string]int         // the highest SEQUENCE of an event or of one of its occurrences
	moved     map[string][]time.Time // by UID: occurrences that stand in the feed by themselves
	recurring int
	shifts    []shift
}

func (f *feed) defaultZone(c *ical.Calendar) error {
	if f.zone != nil {
		return nil
	}
	f.zone = time.UTC
	for _, p := range c.CalendarProperties {
		if p.IANAToken == "X-WR-TIMEZONE" {
			var err error
			f.zone, err = f.location(p.Value)
			return err
		}
	}
	return nil
}

// location finds a zone by its name in the IANA database. A zone that the feed defines itself, under another name, is not read.
func (f *feed) location(name string) (*time.Location, error) {
	if known, ok := f.zones[name]; ok {
		return known, nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" || len(f.zones) > maxDates {
		return nil, fmt.Errorf("time zone %q is none of the IANA database, like Europe/Berlin", clean(name))
	}
	f.zones[name] = loc
	return loc, nil
}

// moment reads a DATE or a DATE-TIME (RFC 5545, sections 3.3.4 and 3.3.5). A date is its first moment.
func (f *feed) moment(value string, params map[string][]string) (t time.Time, date bool, err error) {
	loc, layout := f.zone, "20060102T150405"
	if names := params["TZID"]; len(names) > 0 {
		if loc, err = f.location(strings.TrimPrefix(names[0], "/")); err != nil {
			return t, false, err
		}
	}
	if bare, ok := strings.CutSuffix(value, "Z"); ok {
		value, loc = bare, time.UTC
	} else if len(value) == 8 {
		layout, date = "20060102", true
	}
	if t, err = time.ParseInLocation(layout, value, loc); err != nil || t.Year() < 1900 || t.Year() > 2200 {
		return t, date, fmt.Errorf("%q is no date or time between 1900 and 2200", clean(value))
	}
	return t, date, nil
}

// single returns the only property of a name; ok is false where there is none.
func single(e *ical.VEvent, name ical.ComponentProperty) (p *ical.IANAProperty, ok bool, err error) {
	all := e.GetProperties(name)
	if len(all) > 1 {
		return nil, false, fmt.Errorf("%s stands in it %d times", name, len(all))
	}
	if len(all) == 0 {
		return nil, false, nil
	}
	return all[0], true, nil
}

// when reads a property that is a time.
func (f *feed) when(e *ical.VEvent, name ical.ComponentProperty) (t time.Time, date, ok bool, err error) {
	p, ok, err := single(e, name)
	if err != nil || !ok {
		return t, false, ok, err
	}
	if t, date, err = f.moment(p.Value, p.ICalParameters); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return t, date, true, err
}

// dates reads lists of times, all of the kind of the event's start.
func (f *feed) dates(e *ical.VEvent, name ical.ComponentProperty, dated bool) (out []time.Time, err error) {
	for _, p := range e.GetProperties(name) {
		for value := range strings.SplitSeq(p.Value, ",") {
			t, date, err := f.moment(strings.TrimSpace(value), p.ICalParameters)
			if err == nil && date != dated {
				err = errors.New("want dates where DTSTART is a date, and times where it is a time")
			}
			if err == nil && len(out) >= maxDates {
				err = fmt.Errorf("more than %d", maxDates)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out = append(out, t)
		}
	}
	return out, nil
}

// version is which event, or occurrence of one, an event of the feed says something of, and how new that is (RFC 5545, 3.8.7.4).
type version struct {
	key      string
	sequence int
	single   bool      // it is one occurrence of a recurring event
	at       time.Time // when that would have begun
}

func (f *feed) version(e *ical.VEvent) (v version, err error) {
	if v.at, _, v.single, err = f.when(e, ical.ComponentPropertyRecurrenceId); err != nil {
		return v, err
	}
	if p, ok, err := single(e, ical.ComponentPropertySequence); err != nil {
		return v, err
	} else if ok {
		if v.sequence, err = strconv.Atoi(p.Value); err != nil {
			return v, fmt.Errorf("SEQUENCE: %q is no number", clean(p.Value))
		}
	}
	v.key = e.Id() + "\n"
	if v.single {
		v.key += v.at.UTC().String()
	}
	return v, nil
}

// note takes in what an event says of others: which occurrences of a recurring one stand by themselves, and how new it is.
func (f *feed) note(_ context.Context, e *ical.VEvent) error {
	v, err := f.version(e)
	if err != nil {
		return err
	}
	if v.single {
		if p := e.GetProperty(ical.ComponentPropertyRecurrenceId); len(p.ICalParameters["RANGE"]) > 0 {
			return errors.New("RECURRENCE-ID with RANGE is not supported")
		}
		f.moved[e.Id()] = append(f.moved[e.Id()], v.at)
	}
	f.latest[v.key] = max(f.latest[v.key], v.sequence)
	return nil
}

// add takes in the shifts of an event.
func (f *feed) add(ctx context.Context, e *ical.VEvent) error {
	v, err := f.version(e)
	if err != nil {
		return err
	}
	status, _, err := single(e, ical.ComponentPropertyStatus)
	if err != nil {
		return err
	}
	if status != nil && strings.EqualFold(status.Value, "CANCELLED") || e.Id() != "" && v.sequence < f.latest[v.key] {
		return nil
	}
	start, dated, ok, err := f.when(e, ical.ComponentPropertyDtStart)
	if err == nil && !ok {
		err = errors.New("DTSTART is missing")
	}
	if err != nil {
		return err
	}
	end, err := f.length(e, start, dated)
	if err != nil {
		return err
	}
	made := shift{event: clean(e.Id()), addresses: addresses(e)}
	rule, recurs, err := single(e, ical.ComponentPropertyRrule)
	if err != nil {
		return err
	}
	if e.HasProperty(ical.ComponentPropertyExrule) {
		return errors.New("EXRULE is not supported, and RFC 5545 has none")
	}
	if !recurs && !e.HasProperty(ical.ComponentPropertyRdate) {
		return f.keep(made, start, end(start))
	}
	if v.single {
		return errors.New("one occurrence of an event can't recur")
	}
	return f.expand(ctx, e, made, rule, start, dated, end)
}

// expand takes in the occurrences of a recurring event that touch the span.
func (f *feed) expand(ctx context.Context, e *ical.VEvent, made shift, rule *ical.IANAProperty, start time.Time, dated bool, end func(time.Time) time.Time) error {
	if f.recurring++; f.recurring > maxRecurring {
		return fmt.Errorf("more than %d events recur", maxRecurring)
	}
	if end(start).Sub(start) > maxRecurs {
		return errors.New("it recurs, and each time lasts longer than a year")
	}
	var set rrule.Set
	set.DTStart(start)
	if rule == nil {
		set.RDate(start)
	} else {
		r, err := recurrence(rule.Value, start)
		if err != nil {
			return fmt.Errorf("RRULE: %w", err)
		}
		set.RRule(r)
	}
	for _, list := range []struct {
		name ical.ComponentProperty
		take func(time.Time)
	}{{ical.ComponentPropertyRdate, set.RDate}, {ical.ComponentPropertyExdate, set.ExDate}} {
		dates, err := f.dates(e, list.name, dated)
		if err != nil {
			return err
		}
		for _, t := range dates {
			list.take(t)
		}
	}
	for _, t := range f.moved[e.Id()] {
		set.ExDate(t)
	}
	next := set.Iterator()
	for n := 0; ctx.Err() == nil; n++ {
		t, ok := next()
		if !ok || !t.Before(f.to) {
			return nil
		}
		if n > maxOccurrences {
			return fmt.Errorf("it occurred more than %d times before now: let it begin later", maxOccurrences)
		}
		if err := f.keep(made, t, end(t)); err != nil {
			return err
		}
	}
	return fmt.Errorf("work out the occurrences: %w", context.Cause(ctx))
}

// keep takes in a shift if it touches the span.
func (f *feed) keep(s shift, start, end time.Time) error {
	if !start.Before(f.to) || !end.After(f.from) {
		return nil
	}
	if len(f.shifts) >= maxShifts {
		return fmt.Errorf("more than %d shifts at the same time", maxShifts)
	}
	s.start, s.end = start, end
	f.shifts = append(f.shifts, s)
	return nil
}

// recurrence reads a rule. A shift does not begin by the hour, and a rule that could would be costly to follow.
func recurrence(text string, start time.Time) (*rrule.RRule, error) {
	o, err := rrule.StrToROptionInLocation(strings.ToUpper(text), start.Location())
	if err != nil {
		return nil, errors.New(clean(err.Error()))
	}
	o.Dtstart = start
	switch {
	case o.Freq > rrule.DAILY:
		return nil, fmt.Errorf("FREQ=%s is not supported, want DAILY, WEEKLY, MONTHLY or YEARLY", o.Freq)
	case o.Interval < 0 || o.Interval > 1000 || o.Count < 0:
		return nil, errors.New("INTERVAL or COUNT is out of range")
	case len(o.Byhour)*len(o.Byminute)*len(o.Bysecond) > 24 || len(o.Byhour) > 24 || len(o.Byminute) > 24 || len(o.Bysecond) > 24:
		return nil, errors.New("it occurs more than 24 times a day")
	case len(o.Byeaster) > 0:
		return nil, errors.New("BYEASTER is no part of RFC 5545")
	}
	return rrule.NewRRule(*o)
}

// duration is that of RFC 5545, section 3.3.6; weeks and days are of the calendar, the rest is exact.
var duration = regexp.MustCompile(`^\+?P(?:(\d{1,4})W|(?:(\d{1,5})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,7})M)?(?:(\d{1,8})S)?)?)$`)

// length returns what gives an occurrence's end from its start. Where an event has an end, occurrences last as long by the clock on the
// wall as the first does. By the letter of RFC 5545, section 3.8.5.3, they would last as long by the second; but then a shift from nine
// to nine would end an hour too early or too late after the clocks change, and no calendar shows it so.
func (f *feed) length(e *ical.VEvent, start time.Time, dated bool) (func(time.Time) time.Time, error) {
	end, endDated, ok, err := f.when(e, ical.ComponentPropertyDtEnd)
	if err != nil {
		return nil, err
	}
	if ok {
		if end.Before(start) || endDated != dated {
			return nil, errors.New("DTEND is before DTSTART, or one is a date and the other a time")
		}
		wall := onWall(end.In(start.Location())).Sub(onWall(start))
		return func(t time.Time) time.Time {
			if t.Equal(start) {
				return end
			}
			w := onWall(t).Add(wall)
			return time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), 0, start.Location())
		}, nil
	}
	p, ok, err := single(e, ical.ComponentPropertyDuration)
	if err != nil {
		return nil, err
	}
	if !ok {
		days := 0
		if dated {
			days = 1
		}
		return func(t time.Time) time.Time { return t.AddDate(0, 0, days) }, nil
	}
	m := duration.FindStringSubmatch(strings.ToUpper(p.Value))
	if m == nil || strings.HasSuffix(p.Value, "P") || strings.HasSuffix(strings.ToUpper(p.Value), "T") {
		return nil, fmt.Errorf("DURATION: %q is none", clean(p.Value))
	}
	n := make([]int, len(m))
	for i := 1; i < len(m); i++ {
		n[i], _ = strconv.Atoi(cmp.Or(m[i], "0")) // digits alone, and few
	}
	exact := time.Duration(n[3])*time.Hour + time.Duration(n[4])*time.Minute + time.Duration(n[5])*time.Second
	return func(t time.Time) time.Time { return t.AddDate(0, 0, 7*n[1]+n[2]).Add(exact) }, nil
}

// onWall is what a clock on the wall shows, as a time that can be reckoned with.
func onWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// address is an e-mail address in a text. It is narrower than RFC 5322, so that no text makes two readings of one.
var address = regexp.MustCompile(`[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}`)

// addresses says who an event puts on call: those who attend it and did not decline; without any, those whom its summary names; without
// these, who organises it. Whoever made the event is often its organiser, and on call by that alone only where nobody else is named.
func addresses(e *ical.VEvent) []string {
	found := make(map[string]bool)
	take := func(text string) {
		for _, a := range address.FindAllString(text, maxAddresses) {
			if len(found) < maxAddresses {
				found[strings.ToLower(strings.Trim(a, ".'-"))] = true
			}
		}
	}
	attendees := e.Attendees()
	for _, a := range attendees {
		kind := cmp.Or(parameter(&a.IANAProperty, "CUTYPE"), "INDIVIDUAL")
		if kind != "INDIVIDUAL" || parameter(&a.IANAProperty, "PARTSTAT") == "DECLINED" || parameter(&a.IANAProperty, "ROLE") == "NON-PARTICIPANT" {
			continue
		}
		take(calAddress(&a.IANAProperty))
	}
	if len(attendees) == 0 {
		if p := e.GetProperty(ical.ComponentPropertySummary); p != nil {
			take(p.Value)
		}
	}
	if p := e.GetProperty(ical.ComponentPropertyOrganizer); len(attendees) == 0 && len(found) == 0 && p != nil {
		take(calAddress(p))
	}
	return slices.Sorted(maps.Keys(found))
}

// calAddress is the address of a property, whose parameter EMAIL (RFC 7986) names it where its value is another kind of name.
func calAddress(p *ical.IANAProperty) string {
	if address.MatchString(p.Value) {
		return p.Value
	}
	return strings.Join(p.ICalParameters["EMAIL"], " ")
}

func parameter(p *ical.IANAProperty, name string) string {
	if values := p.ICalParameters[name]; len(values) > 0 {
		return strings.ToUpper(values[0])
	}
	return ""
}

// clean makes a name of a feed fit for records and messages: short, and without what a terminal or page interprets.
func clean(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "?"))
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = '?'
		}
	}
	return string(runes[:min(len(runes), maxName)])
}

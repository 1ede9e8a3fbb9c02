package oncall

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// calendar is a feed with events, each given by its lines.
func calendar(events ...string) string {
	var b strings.Builder
	b.WriteString("BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//test//test//EN\n")
	for i, e := range events {
		if !strings.Contains(e, "UID:") {
			e = fmt.Sprintf("UID:e%d\n", i+1) + e
		}
		b.WriteString("BEGIN:VEVENT\n" + strings.TrimSuffix(e, "\n") + "\nEND:VEVENT\n")
	}
	b.WriteString("END:VCALENDAR\n")
	return strings.ReplaceAll(b.String(), "\n", "\r\n")
}

// on is who is on call by a feed at a time, with the events that say so.
func on(t testing.TB, text string, zone *time.Location, at time.Time) []string {
	t.Helper()
	shifts, err := parse(t.Context(), []byte(text), zone, at.Add(-time.Minute), at.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range shifts {
		if !at.Before(s.start) && at.Before(s.end) {
			for _, a := range s.addresses {
				out = append(out, s.event+" "+a)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestOnCall(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	// The clocks of Berlin go back on 25 October 2026 and forward on 28 March 2027.
	nightly := "DTSTART;TZID=Europe/Berlin:20261001T200000\nDTEND;TZID=Europe/Berlin:20261002T080000\nRRULE:FREQ=DAILY\nSUMMARY:On call: ana@x.org"
	weekly := func(first, who string) string {
		return "DTSTART;TZID=Europe/Berlin:" + first + "\nDURATION:P1W\nRRULE:FREQ=WEEKLY;INTERVAL=2\nATTENDEE;CN=x:mailto:" + who
	}
	rotation := calendar(weekly("20261005T090000", "Ana@X.org"), weekly("20261012T090000", "bob@x.org"))
	allDay := calendar("DTSTART;VALUE=DATE:20261025\nDTEND;VALUE=DATE:20261026\nSUMMARY:ana@x.org")
	excepted := "UID:r\nDTSTART:20261102T080000Z\nDTEND:20261102T160000Z\nRRULE:FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;UNTIL=20261231T000000Z\nEXDATE:20261104T080000Z\nRDATE:20261107T080000Z\nSUMMARY:ana@x.org"
	moved := "UID:r\nRECURRENCE-ID:20261105T080000Z\nDTSTART:20261105T120000Z\nDTEND:20261105T200000Z\nSUMMARY:bob@x.org"
	cancelled := "UID:r\nRECURRENCE-ID:20261106T080000Z\nDTSTART:20261106T080000Z\nDTEND:20261106T160000Z\nSTATUS:CANCELLED\nSUMMARY:ana@x.org"
	exceptions := calendar(excepted, moved, cancelled)
	shift := "DTSTART:20261101T000000Z\nDTEND:20261102T000000Z\n"
	tests := []struct {
		name, feed string
		zone       *time.Location
		at         string
		want       []string
	}{
		{"a night", calendar(nightly), nil, "2026-10-10T22:00:00+02:00", []string{"e1 ana@x.org"}},
		{"its end is not part of it", calendar(nightly), nil, "2026-10-10T08:00:00+02:00", nil},
		{"its start is", calendar(nightly), nil, "2026-10-10T20:00:00+02:00", []string{"e1 ana@x.org"}},
		{"the night in which the clocks go back ends at eight", calendar(nightly), nil, "2026-10-25T07:59:59+01:00", []string{"e1 ana@x.org"}},
		{"and no later", calendar(nightly), nil, "2026-10-25T08:00:00+01:00", nil},
		{"the night in which they go forward too", calendar(nightly), nil, "2027-03-28T07:59:59+02:00", []string{"e1 ana@x.org"}},
		{"and no later then", calendar(nightly), nil, "2027-03-28T08:00:00+02:00", nil},
		{"a handover before the clocks change", rotation, nil, "2026-10-12T08:59:59+02:00", []string{"e1 ana@x.org"}},
		{"and after it", rotation, nil, "2026-10-26T08:59:59+01:00", []string{"e1 ana@x.org"}},
		{"the next one", rotation, nil, "2026-10-26T09:00:00+01:00", []string{"e2 bob@x.org"}},
		{"all day in the feed's zone of 25 hours", strings.Replace(allDay, "BEGIN:VEVENT", "X-WR-TIMEZONE:Europe/Berlin\r\nBEGIN:VEVENT", 1), nil, "2026-10-25T23:59:59+01:00", []string{"e1 ana@x.org"}},
		{"all day begins there at midnight", strings.Replace(allDay, "BEGIN:VEVENT", "X-WR-TIMEZONE:Europe/Berlin\r\nBEGIN:VEVENT", 1), nil, "2026-10-25T00:00:00+02:00", []string{"e1 ana@x.org"}},
		{"all day in UTC", allDay, nil, "2026-10-25T00:00:00+02:00", nil},
		{"all day in the zone of the configuration", allDay, berlin, "2026-10-25T00:00:00+02:00", []string{"e1 ana@x.org"}},
		{"all day without an end is one day", calendar("DTSTART;VALUE=DATE:20261025\nSUMMARY:ana@x.org"), nil, "2026-10-26T00:00:00Z", nil},
		{"a weekday", exceptions, nil, "2026-11-03T09:00:00Z", []string{"r ana@x.org"}},
		{"a day that is excepted", exceptions, nil, "2026-11-04T09:00:00Z", nil},
		{"a day that is added", exceptions, nil, "2026-11-07T09:00:00Z", []string{"r ana@x.org"}},
		{"a day on which another took over, before", exceptions, nil, "2026-11-05T09:00:00Z", nil},
		{"a day on which another took over", exceptions, nil, "2026-11-05T13:00:00Z", []string{"r bob@x.org"}},
		{"a day that was cancelled", exceptions, nil, "2026-11-06T09:00:00Z", nil},
		{"after the last", exceptions, nil, "2027-01-04T09:00:00Z", nil},
		{"shifts that overlap", calendar(shift+"SUMMARY:ana@x.org", shift+"SUMMARY:bob@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org", "e2 bob@x.org"}},
		{"who attends goes before who organises", calendar(shift + "ORGANIZER:mailto:boss@x.org\nATTENDEE:mailto:ana@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"who attends goes before the summary", calendar(shift + "SUMMARY:eve@x.org\nATTENDEE:mailto:ana@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"nobody where all declined", calendar(shift + "SUMMARY:eve@x.org\nORGANIZER:mailto:boss@x.org\nATTENDEE;PARTSTAT=DECLINED:mailto:ana@x.org"), nil, "2026-11-01T12:00:00Z", nil},
		{"no room and no guest", calendar(shift + "ATTENDEE;CUTYPE=ROOM:mailto:room@x.org\nATTENDEE;ROLE=NON-PARTICIPANT:mailto:eve@x.org\nATTENDEE:mailto:ana@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"who organises where nobody else is named", calendar(shift + "SUMMARY:On call\nORGANIZER;CN=Ana:MAILTO:ana@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"an address as a parameter", calendar(shift + "ATTENDEE;EMAIL=ana@x.org:urn:uuid:1"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"a line that is folded", calendar(shift + "SUMMARY:On call is an\n a@x.org"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"a newer version of an event", calendar("UID:a\nSEQUENCE:1\n"+shift+"SUMMARY:bob@x.org", "UID:a\n"+shift+"SUMMARY:ana@x.org"), nil, "2026-11-01T12:00:00Z", []string{"a bob@x.org"}},
		{"what alarms and zones say is nothing", calendar(shift + "SUMMARY:ana@x.org\nBEGIN:VALARM\nATTENDEE:mailto:eve@x.org\nSUMMARY:eve@x.org\nEND:VALARM"), nil, "2026-11-01T12:00:00Z", []string{"e1 ana@x.org"}},
		{"an instant is no shift", calendar("DTSTART:20261101T120000Z\nSUMMARY:ana@x.org"), nil, "2026-11-01T12:00:00Z", nil},
		{"small letters", strings.ToLower(calendar(shift + "SUMMARY:ana@x.org")), nil, "2026-11-01T12:00:00Z", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, tt.at)
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "small letters" { // names are, values are not
				tt.feed = strings.NewReplacer("20261101t000000z", "20261101T000000Z", "20261102t000000z", "20261102T000000Z").Replace(tt.feed)
				tt.want = []string{"e1 ana@x.org"}
			}
			if diff := cmp.Diff(tt.want, on(t, tt.feed, tt.zone, at)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFeedRefused(t *testing.T) {
	shift := "DTSTART:20261101T000000Z\nDTEND:20261102T000000Z\nSUMMARY:ana@x.org\n"
	whole := calendar(shift)
	recurring := func(rule string) string { return calendar(shift + "RRULE:" + rule) }
	tests := []struct{ name, feed, want string }{
		{"empty", "", "no calendar, or not whole"},
		{"a page", "<html><body>Sign in</body></html>", "does not begin with BEGIN:VCALENDAR"},
		{"cut off between events", strings.Replace(whole, "END:VCALENDAR", "", 1), "not whole"},
		{"cut off within one", whole[:len(whole)-30], "not whole"},
		{"two calendars", whole + whole, "text after END:VCALENDAR"},
		{"nested deep", strings.Repeat("BEGIN:A\n", 1000), "no calendar"},
		{"nested deep in an event", calendar(shift + strings.Repeat("BEGIN:A\n", 1000)), "nests too deep"},
		{"unbalanced", strings.Replace(whole, "END:VEVENT", "END:VTODO", 1), "ends VTODO, want VEVENT"},
		{"100 000 events", calendar(slices.Repeat([]string{"DTSTART:20261101"}, 100_000)...), "more than 20000 events"},
		{"too large", whole + strings.Repeat(" ", maxFeed), "more than 8388608 bytes"},
		{"a line without end", calendar(shift + "ATTENDEE:mailto:" + strings.Repeat("a", maxLine)), "ATTENDEE has more than 16384 bytes"},
		{"a thousand parameters", calendar(shift + "ATTENDEE" + strings.Repeat(";A=b", 1001) + ":mailto:a@x.org"), "or 1000 parts"},
		{"a zone of its own", calendar("DTSTART;TZID=Eastern Standard Time:20261101T000000\nSUMMARY:ana@x.org"), `time zone "Eastern Standard Time" is none of the IANA database`},
		{"the machine's zone", calendar("DTSTART;TZID=Local:20261101T000000\nSUMMARY:ana@x.org"), `time zone "Local" is none`},
		{"a zone that is a path", calendar("DTSTART;TZID=../../etc/passwd:20261101T000000\nSUMMARY:ana@x.org"), "is none of the IANA database"},
		{"no start", calendar("SUMMARY:ana@x.org"), "DTSTART is missing"},
		{"two starts", calendar(shift + "DTSTART:20261101T000000Z"), "DTSTART stands in it 2 times"},
		{"ends before it begins", calendar("DTSTART:20261101T000000Z\nDTEND:20261031T000000Z"), "DTEND is before DTSTART"},
		{"no date", calendar("DTSTART:yesterday"), `"yesterday" is no date or time`},
		{"no duration", calendar("DTSTART:20261101T000000Z\nDURATION:PT"), `DURATION: "PT" is none`},
		{"every second", recurring("FREQ=SECONDLY"), "FREQ=SECONDLY is not supported"},
		{"every hour", recurring("FREQ=HOURLY"), "FREQ=HOURLY is not supported"},
		{"every second of each day", recurring("FREQ=DAILY;BYHOUR=" + seq(24) + ";BYMINUTE=" + seq(60) + ";BYSECOND=" + seq(60)), "more than 24 times a day"},
		{"no rule", recurring("FREQ=SOMETIMES"), "undefined frequency"},
		{"since long ago", calendar("DTSTART:19010101T000000Z\nDTEND:19010101T010000Z\nRRULE:FREQ=DAILY\nSUMMARY:ana@x.org"), "occurred more than 20000 times"},
		{"for years each time", calendar("DTSTART:20200101T000000Z\nDTEND:20230101T000000Z\nRRULE:FREQ=DAILY\nSUMMARY:ana@x.org"), "lasts longer than a year"},
		{"a rule that excepts", calendar(shift + "RRULE:FREQ=DAILY\nEXRULE:FREQ=WEEKLY"), "EXRULE is not supported"},
		{"this and all later ones", calendar(shift + "RECURRENCE-ID;RANGE=THISANDFUTURE:20261101T000000Z"), "RANGE is not supported"},
		{"a date that excepts a time", calendar(shift + "RRULE:FREQ=DAILY\nEXDATE;VALUE=DATE:20261101"), "EXDATE: want dates where DTSTART is a date"},
		{"a name to hide in", calendar("UID:\u202ee\u0007vil" + strings.Repeat("x", 500) + "\nDTSTART:now"), `event "?e?vilxx`},
	}
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(t.Context(), []byte(tt.feed), nil, at, at.Add(time.Hour))
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("parse = %v, want %s", err, tt.want)
			}
		})
	}
}

func seq(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return strings.Join(all, ",")
}

// A feed full of rules that never come true is given up and does not hold up the others for longer than expandTime and one rule.
func TestNeverTrue(t *testing.T) {
	never := "DTSTART:20260101T000000Z\nDTEND:20260101T010000Z\nRRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30\nSUMMARY:ana@x.org"
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	if _, err := parse(ctx, []byte(calendar(never, never)), nil, now, now.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "work out the occurrences: context deadline exceeded") {
		t.Errorf("parse = %v", err)
	}
	if testing.Short() {
		return
	}
	if shifts, err := parse(t.Context(), []byte(calendar(never)), nil, now, now.Add(time.Hour)); err != nil || len(shifts) > 0 {
		t.Errorf("%v, %v", shifts, err)
	}
}

// Whoever takes turns by the week, in whatever zone and at whatever hour of the day: at each moment exactly one is on call.
func TestRotationHasNoGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom([]string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"}).Draw(t, "zone")
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		people, hour := rapid.IntRange(1, 4).Draw(t, "people"), rapid.IntRange(4, 23).Draw(t, "hour") // no clock changes at these hours
		first := time.Date(2026, 1, 5, hour, 0, 0, 0, loc)
		var events []string
		for n := range people {
			from, to := first.AddDate(0, 0, 7*n), first.AddDate(0, 0, 7*n+7)
			events = append(events, fmt.Sprintf("DTSTART;TZID=%s:%s\nDTEND;TZID=%s:%s\nRRULE:FREQ=WEEKLY;INTERVAL=%d\nSUMMARY:p%d@x.org", zone, from.Format("20060102T150405"), zone, to.Format("20060102T150405"), people, n))
		}
		at := first.AddDate(0, 0, 7*people).Add(time.Duration(rapid.Int64Range(0, int64(300*day)).Draw(t, "later")))
		shifts, err := parse(context.Background(), []byte(calendar(events...)), nil, at.Add(-time.Minute), at.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range shifts {
			if !at.Before(s.start) && at.Before(s.end) {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%d people at %s: %+v", n, at, shifts)
		}
	})
}

func FuzzFeed(f *testing.F) {
	f.Add([]byte(calendar("DTSTART;TZID=Europe/Berlin:20261001T200000\nDURATION:PT12H\nRRULE:FREQ=DAILY\nEXDATE;TZID=Europe/Berlin:20261002T200000\nATTENDEE;PARTSTAT=ACCEPTED:mailto:ana@x.org")))
	f.Add([]byte(calendar("UID:r\nDTSTART;VALUE=DATE:20261101\nRRULE:FREQ=MONTHLY;BYDAY=-1MO;COUNT=3\nSUMMARY:a@x.org", "UID:r\nRECURRENCE-ID;VALUE=DATE:20261130\nDTSTART;VALUE=DATE:20261201\nSTATUS:CANCELLED")))
	f.Fuzz(func(t *testing.T, text []byte) {
		from := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		shifts, err := parse(context.Background(), text, nil, from, from.Add(time.Hour))
		if err != nil && len(shifts) > 0 {
			t.Fatal("a feed that is refused has shifts")
		}
		for _, s := range shifts {
			if !s.start.Before(from.Add(time.Hour)) || !s.end.After(from) || len(s.addresses) > maxAddresses || len([]rune(s.event)) > maxName {
				t.Fatalf("%+v", s)
			}
		}
	})
}

package oncall

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// shown is the last that the meter was told.
type shown struct {
	people int
	age    time.Duration
}

func (s *shown) OnCall(_ string, people int, age time.Duration) { *s = shown{people, age} }

// office is a roster with one schedule, whose clock and feed the test sets.
type office struct {
	*Roster
	now   time.Time
	meter shown
	log   bytes.Buffer
}

func open(t *testing.T, o Options) *office {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	f := &office{now: time.Date(2026, 11, 2, 8, 58, 0, 0, time.UTC)}
	known := func(a string) (string, bool) {
		who, ok := map[string]string{"ana@x.org": "ana", "bob@x.org": "bob"}[a]
		return who, ok
	}
	f.Roster = New(o, known, &f.meter, slog.New(slog.NewTextHandler(&f.log, nil)), func() time.Time { return f.now })
	return f
}

// at moves the clock, refreshes, and says who is on call.
func (f *office) at(t *testing.T, clock string) string {
	t.Helper()
	at, err := time.Parse("15:04", clock)
	if err != nil {
		t.Fatal(err)
	}
	f.now = time.Date(2026, 11, 2, at.Hour(), at.Minute(), 0, 0, time.UTC)
	f.Refresh(t.Context())
	return strings.Join(f.States()[0].People, " ")
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const handover = "DTSTART:20261102T010000Z\nDTEND:20261102T090000Z\nSUMMARY:ana@x.org"

func TestRoster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "night.ics")
	text := calendar("UID:first\n"+handover, "UID:second\nDTSTART:20261102T090000Z\nDTEND:20261102T170000Z\nSUMMARY:bob@x.org")
	f := open(t, Options{Schedules: map[string]Source{"night": {File: write(t, file, text)}}})
	if !f.Vacant("schedule:night") || f.Vacant("file:leads") || !f.Vacant("schedule:other") {
		t.Error("before the feed was read: somebody is on call, or a group of the file is vacant")
	}
	if got := f.at(t, "08:59"); got != "ana" || f.Vacant("schedule:night") || f.Problem() != "" {
		t.Fatalf("at 08:59 %q, %s", got, f.Problem())
	}
	want := []approval.Shift{{
		Group: "schedule:night", Feed: digest([]byte(text)), Read: f.now, Event: "first", Start: time.Date(2026, 11, 2, 1, 0, 0, 0, time.UTC), End: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC),
	}}
	if diff := cmp.Diff(want, f.Shifts("Ana")); diff != "" || f.Shifts("bob") != nil {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.now = f.now.Add(time.Minute) // the handover needs no new feed
	if f.Shifts("ana") != nil || len(f.Shifts("bob")) != 1 {
		t.Errorf("at 09:00: ana %v, bob %v", f.Shifts("ana"), f.Shifts("bob"))
	}

	write(t, file, "<html>")
	if got := f.at(t, "09:10"); got != "bob" || f.meter.people != 1 || !strings.Contains(f.States()[0].Problem, "holds until it is stale") {
		t.Errorf("with a feed that can't be read any more: %q, %+v", got, f.States())
	}
	if got := f.at(t, "10:05"); got != "" || f.meter.people != 0 || !strings.Contains(f.Problem(), "nobody is on call by the schedule night: its feed was last read at 2026-11-02T08:59:00Z and is stale: at line 1") {
		t.Errorf("with a stale feed: %q, %q", got, f.Problem())
	}
	f.at(t, "10:15")
	if n := strings.Count(f.log.String(), "nobody is on call"); n != 1 {
		t.Errorf("people were told %d times:\n%s", n, f.log.String())
	}
	write(t, file, text)
	if got := f.at(t, "10:30"); got != "bob" || !strings.Contains(f.log.String(), "somebody is on call") {
		t.Errorf("with a feed that is back: %q\n%s", got, f.log.String())
	}
	write(t, file, strings.ReplaceAll(text, "bob@x.org", "eve@x.org"))
	if got := f.at(t, "10:40"); got != "" || !strings.Contains(f.Problem(), "it names eve@x.org, whom nobody here knows: add them to oncall.people") {
		t.Errorf("with strangers: %q, %q", got, f.Problem())
	}
	if got := f.at(t, "18:00"); got != "" || !strings.Contains(f.Problem(), "no event of now names anybody") {
		t.Errorf("after the last shift: %q, %q", got, f.Problem())
	}
	if (*Roster)(nil).Shifts("ana") != nil || !(*Roster)(nil).Vacant("schedule:night") || (*Roster)(nil).Knows([]string{"night"}) == nil || f.Knows([]string{"night"}) != nil {
		t.Error("without schedules somebody is on call, or one that exists is not known")
	}
}

// A feed over https is asked with its credential, at a host that is named, in a network that is allowed, and nowhere else.
func TestFetch(t *testing.T) {
	feed := calendar(handover)
	mux := http.NewServeMux()
	mux.HandleFunc("/private/s3cret", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k3y" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, feed)
	})
	mux.Handle("/moved/s3cret", http.RedirectHandler("http://127.0.0.1/", http.StatusFound))
	mux.HandleFunc("/endless/s3cret", func(w http.ResponseWriter, _ *http.Request) {
		for range maxFeed/1024 + 2 {
			w.Write(make([]byte, 1024))
		}
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	tests := []struct {
		name, url string
		hosts     []string
		networks  []netip.Prefix
		key, want string
	}{
		{"good", server.URL + "/private/s3cret", []string{"127.0.0.1"}, loopback, "Bearer k3y\n", ""},
		{"another credential", server.URL + "/private/s3cret", []string{"127.0.0.1"}, loopback, "Bearer x", "answered 401"},
		{"a redirect", server.URL + "/moved/s3cret", []string{"127.0.0.1"}, loopback, "Bearer k3y", "redirects are not followed"},
		{"too much", server.URL + "/endless/s3cret", []string{"127.0.0.1"}, loopback, "Bearer k3y", "more than 8388608 bytes"},
		{"a host that is not named", server.URL + "/private/s3cret", []string{"calendar.example.com"}, loopback, "Bearer k3y", "its host 127.0.0.1 is none of oncall.hosts"},
		{"a network inside", server.URL + "/private/s3cret", []string{"127.0.0.1"}, nil, "Bearer k3y", "not a public address, and in none of oncall.networks"},
		{"a name that points inside", strings.Replace(server.URL, "127.0.0.1", "localhost", 1) + "/private/s3cret", []string{"localhost"}, nil, "Bearer k3y", "not a public address"},
		{"without TLS", "http://127.0.0.1/private/s3cret", []string{"127.0.0.1"}, loopback, "Bearer k3y", "want https"},
		{"webcal", "webcal://127.0.0.1/private/s3cret", []string{"127.0.0.1"}, loopback, "Bearer k3y", "want https in the place of webcal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			source := Source{URLFile: write(t, filepath.Join(dir, "url"), tt.url+"\n"), AuthorizationFile: write(t, filepath.Join(dir, "key"), tt.key)}
			f := open(t, Options{Schedules: map[string]Source{"night": source}, Hosts: tt.hosts, Networks: tt.networks})
			f.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
			got := f.at(t, "08:59")
			if problem := f.Problem(); (got == "ana") != (tt.want == "") || !strings.Contains(problem, tt.want) || strings.Contains(problem+f.log.String(), "s3cret") || strings.Contains(problem+f.log.String(), "k3y") {
				t.Errorf("%q is on call: %s", got, problem)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"none", Options{}, "schedules: 0, want 1 to 50"},
		{"a name", Options{Schedules: map[string]Source{"On Call": {File: "x"}}}, `schedules.On Call: "On Call" is no name`},
		{"two sources", Options{Schedules: map[string]Source{"a": {File: "x", URLFile: "y"}}}, "schedules.a: want one of file, url and url_file"},
		{"no source", Options{Schedules: map[string]Source{"a": {}}}, "want one of file, url and url_file"},
		{"a host", Options{Schedules: map[string]Source{"a": {URL: "https://x.org/a"}}}, "schedules.a.url: its host x.org is none of oncall.hosts"},
		{"a zone", Options{Schedules: map[string]Source{"a": {File: "x", Zone: "Berlin"}}}, `schedules.a.zone: time zone "Berlin" is none`},
		{"too often", Options{Schedules: map[string]Source{"a": {File: "x", Every: time.Second}}}, "want every from 10s on"},
		{"stale before it is read again", Options{Schedules: map[string]Source{"a": {File: "x", Every: time.Hour, Stale: time.Minute}}}, "stale from that"},
		{"no address", Options{Schedules: map[string]Source{"a": {File: "x"}}, People: map[string]string{"ana": "ana"}}, `people.ana: "ana" is no e-mail address`},
		{"a file with a credential", Options{Schedules: map[string]Source{"a": {File: "x", AuthorizationFile: "y"}}}, "schedules.a.authorization_file: a file needs none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.o.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want %s", err, tt.want)
			}
		})
	}
}

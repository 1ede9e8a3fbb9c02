package pipeline_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// What rules ask of a baseline is unknown until it learned, and then says what is new in each feature.
func TestRulesAskBaselines(t *testing.T) {
	call := func(session, name, arg, value string) event.Event {
		return event.Event{Session: event.Session{ID: session}, Tool: tool(name, arg, value)}
	}
	for _, tt := range []struct {
		when string
		e    event.Event
		want bool
	}{
		{`baseline.first_seen("tool")`, call("new", "run_report", "id", "A17-001"), true},
		{`baseline.first_seen("tool")`, call("new", "get_page", "id", "A17-001"), false},
		{`not baseline.first_seen("tool")`, call("new", "get_page", "id", "A17-001"), true},
		{`baseline.first_seen("argument")`, call("new", "get_page", "id", "B99-777"), true},
		{`baseline.first_seen("argument")`, call("new", "get_page", "id", "A17-001"), false},
		{`baseline.first_seen("destination")`, call("new", "get_page", "url", "https://new.example/"), true},
		{`baseline.first_seen("destination")`, call("new", "get_page", "url", "https://usual.example/"), false},
		{`baseline.rarity("tool") > 5`, call("new", "run_report", "id", "A17-001"), true},
		{`baseline.rarity("tool") < 2`, call("new", "get_page", "id", "A17-001"), true},
		{`baseline.rarity("destination") > 5`, call("new", "get_page", "url", "https://new.example/"), true},
	} {
		t.Run(tt.when+" on "+tt.e.Tool.Name+" "+tt.e.Tool.Args[0].Value, func(t *testing.T) {
			f := newFeed(t, fmt.Sprintf("'%s'", tt.when))
			early := tt.e
			early.Session.ID, early.Agent = "early", event.Agent{Service: "svc", Name: "another"}
			if _, raised := f.send(0, early); len(raised) > 0 {
				t.Errorf("fires while the baseline is learning: %v", raised)
			}
			for i := range 20 {
				session, at := fmt.Sprint("s", i), time.Duration(1+i)*time.Hour
				for j := range 10 {
					e := call(session, "get_page", "id", "A17-001")
					e.Content = []event.Content{{Role: event.RolePrompt, Text: "Get A17-001"}}
					if j%2 == 0 {
						e.Tool = tool("get_page", "url", "https://usual.example/")
					}
					f.send(at+time.Duration(j)*time.Second, e)
				}
			}
			f.send(30*time.Hour, call("idle", "get_page", "id", "A17-001"))
			e, raised := f.send(31*time.Hour, tt.e)
			fired := slices.Contains(raised, "svc/bot "+detect.FindingID("", "svc", "the-rule", []string{e.ID}))
			if fired != tt.want {
				t.Errorf("raised %v, want %t", raised, tt.want)
			}
		})
	}
}

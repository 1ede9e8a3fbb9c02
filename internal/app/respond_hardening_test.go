package app

import (
	"testing"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// TestForeignEventsStayOut has a sender of another class choose the session, the trace and the ids of the class concerned.
func TestForeignEventsStayOut(t *testing.T) {
	mine := event.Event{ID: "e1", Agent: event.Agent{ID: "bank/teller", Class: "bank"}, Session: event.Session{ID: "s"}, Trace: event.Trace{TraceID: "t"}}
	late := event.Event{ID: "e2", Agent: mine.Agent, Trace: mine.Trace}
	foreign := mine
	foreign.Agent = event.Agent{ID: "mallory", Class: "mallory"}
	tenant := mine
	tenant.Tenant = "other"
	raised := []pipeline.Raised{{Finding: detect.Finding{Agent: mine.Agent, Session: "s", Events: []string{"e1"}}}}
	got := ofSessions([]event.Event{foreign, tenant, mine, late, mine}, raised)
	if len(got) != 2 || got[0].Agent.Class != "bank" || got[0].Tenant != "" || got[1].ID != "e2" {
		t.Errorf("kept %+v, want e1 and e2 of bank", got)
	}
}

package app

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/workflows"
)

// ended is a workflow server on which every workflow has ended.
type ended struct {
	client.Client
	asked int
}

func (e *ended) UpdateWorkflow(context.Context, client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	e.asked++
	return nil, serviceerror.NewNotFound("workflow execution already completed")
}

// A closed incident refuses updates. Where the store is behind, the workflow server knows it; where it is not, the workflow is not
// asked, because the session's next incident has the same one.
func TestUpdateOfAClosedIncident(t *testing.T) {
	for status, asked := range map[incident.Status]int{incident.Resolved: 1, incident.Closed: 0} {
		s, err := store.Open(t.Context(), t.TempDir()+"/store.db")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.SaveIncident(t.Context(), incident.Incident{ID: "INC-1", Key: "k", Status: status}); err != nil {
			t.Fatal(err)
		}
		server := &ended{}
		err = (&control{workflows: server, store: s}).update(t.Context(), "INC-1", workflows.UpdateClose, nil)
		if diff := cmp.Diff(&approval.Refusal{Kind: approval.RefusedLate, Text: "the incident is closed"}, err); diff != "" || server.asked != asked {
			t.Errorf("%s: asked %d times, %v\n%s", status, server.asked, err, diff)
		}
	}
}

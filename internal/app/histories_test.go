package app

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"

	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	history "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"

	"github.com/tocsin-dr/tocsin/workflows"
)

var update = flag.Bool("update", false, "write the histories of this run to testdata/histories")

// where names the machine and the process that recorded a history.
var where = regexp.MustCompile(`"(identity|buildId|binaryChecksum)": *"[^"]*"|"(name)": *"[^"]*:[0-9a-f-]{36}"`)

// record saves what the workflows of TestDecide did, for workflows to replay: every release must still understand what the ones
// before it left running.
func (h *running) record() {
	if !*update {
		return
	}
	h.Helper()
	for _, i := range h.incidents() {
		name := "expired"
		for _, r := range h.requests("") {
			switch {
			case r.Incident != i.ID || r.Decision == nil:
			case r.Requester == "ana":
				name = "denied-then-asked"
			case name == "expired":
				name = "approved"
				h.save("lease", workflows.LeaseID(r.ID))
			}
		}
		h.save(name, workflows.IncidentID(i.Key))
	}
}

func (h *running) save(name, workflow string) {
	h.Helper()
	var all history.History
	events := h.workflows.GetWorkflowHistory(h.Context(), workflow, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			h.Fatal(err)
		}
		all.Events = append(all.Events, e)
	}
	readable := map[string]any{common.EnablePayloadShorthandMetadataKey: true}
	text, err := temporalproto.CustomJSONMarshalOptions{Indent: " ", Metadata: readable}.Marshal(&all)
	if err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("..", "..", "testdata", "histories", name+".json"), where.ReplaceAll(text, []byte(`"$1$2": "tocsin"`)), 0o644); err != nil {
		h.Fatal(err)
	}
}

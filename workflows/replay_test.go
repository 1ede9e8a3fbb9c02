package workflows

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	common "go.temporal.io/api/common/v1"
	history "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
)

// TestReplay replays what real runs did. A change of the order of commands fails here, and would stop every incident that is open
// when the new release starts; guard it with workflow.GetVersion, and record new histories with
// go test ./internal/app -run 'TestDecide|TestCorpus' -update and go test ./cmd/tocsin -run TestWorker -update, under names of their own,
// only for what no release has.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("../testdata/histories/*.json")
	if err != nil || len(files) < 28 {
		t.Fatalf("there are the histories %q, want one for each kind of step and outcome: %v", files, err)
	}
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflow(Incident)
	replayer.RegisterWorkflow(ContainmentLease)
	logger := sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil || len(text) > 300_000 {
				t.Errorf("the history has %d bytes, want at most 300 000: %v", len(text), err)
			}
			var all history.History
			readable := temporalproto.CustomJSONUnmarshalOptions{Metadata: map[string]any{common.EnablePayloadShorthandMetadataKey: true}}
			if err := readable.Unmarshal(text, &all); err != nil {
				t.Fatal(err)
			}
			if err := replayer.ReplayWorkflowHistory(logger, &all); err != nil {
				t.Error(err)
			}
		})
	}
}

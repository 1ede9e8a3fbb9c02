package eval

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
)

func shippedSet(t testing.TB) *detect.Set {
	t.Helper()
	library, err := detect.ReadLibrary(rules.FS)
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := detect.ReadRules(rules.FS, library)
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// The data are transcripts of AgentDojo (Debenedetti et al., 2024); they are not part of the repository.
const agentdojoFile = "../../../shared/datasets/agentdojo/dev.jsonl.gz"

func TestAgentDojo(t *testing.T) {
	if testing.Short() {
		t.Skip("judges a thousand sessions by a thousand models")
	}
	f, err := os.Open(agentdojoFile)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the AgentDojo transcripts are not on this machine")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := NewRig(shippedSet(t)).ReadAgentDojo(f, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		name  string
		group leftOut
	}{{"warm", byPipeline}, {"cold", byTask}} {
		start := time.Now()
		got, err := d.protocol(t.Context(), d.rig, p.group, func(done, all int) {
			if done%100 == 0 {
				t.Log(done, all, time.Since(start))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s %v: %+v", p.name, time.Since(start), got)
	}
}

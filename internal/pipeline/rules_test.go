package pipeline_test

import (
	"testing"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

func TestShippedRules(t *testing.T) {
	shipped, err := detect.ReadRules(rules.FS, detect.DefaultCatalogue())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range shipped {
		fires, quiet := 0, 0
		for _, res := range pipeline.TestRule(r) {
			if !res.OK {
				t.Errorf("%s: test %q: fired %d times, want %d %s", r.File, res.Test, res.Got, res.Want, res.Err)
			}
			if res.Want > 0 {
				fires++
			} else {
				quiet++
			}
		}
		if fires == 0 || quiet == 0 {
			t.Errorf("%s: want a test that fires and one that does not, have %d and %d", r.File, fires, quiet)
		}
	}
}

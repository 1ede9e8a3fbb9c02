package ui

import (
	"strings"
	"testing"
)

// Every page says that Slack is out, or that nobody is on call, and no page does while it is not so.
func TestUnasked(t *testing.T) {
	b := newBench(t, nil)
	for _, why := range []string{"", "out since noon <b>"} {
		b.facts.unasked, b.facts.offCall = why, why
		for _, path := range []string{"/", "/approvals", "/incidents/" + incID} {
			if _, body := b.get(path); strings.Contains(body, "Slack is out.") != (why != "") || strings.Contains(body, "Nobody is on call.") != (why != "") || strings.Contains(body, "<b>") {
				t.Errorf("%s with %q: the banner is wrong", path, why)
			}
		}
	}
}

package ui

import (
	"strings"
	"testing"
)

// Every page says that Slack is out, and no page does while it is not.
func TestUnasked(t *testing.T) {
	b := newBench(t, nil)
	for _, why := range []string{"", "out since noon <b>"} {
		b.facts.unasked = why
		for _, path := range []string{"/", "/approvals", "/incidents/" + incID} {
			if _, body := b.get(path); strings.Contains(body, "Slack is out.") != (why != "") || strings.Contains(body, "<b>") {
				t.Errorf("%s with %q: the banner is wrong", path, why)
			}
		}
	}
}

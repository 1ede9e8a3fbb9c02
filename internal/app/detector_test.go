package app

import (
	"testing"
	"time"
)

func TestDue(t *testing.T) {
	for _, tc := range []struct {
		name              string
		ago, every, spent time.Duration
		want              bool
	}{
		{name: "little to judge again", ago: 30 * time.Second, spent: 50 * time.Millisecond, want: false},
		{name: "much to judge again", ago: 4 * time.Second, spent: replayAtMost, want: true},
		{name: "old", ago: snapshotAge, spent: time.Millisecond, want: true},
		{name: "much, and a large state", ago: 4 * time.Second, every: 10 * time.Second, spent: 2 * replayAtMost, want: false},
		{name: "old, and a large state", ago: snapshotAge, every: 2 * snapshotAge, want: false},
		{name: "a large state, in time", ago: 10 * time.Second, every: 10 * time.Second, spent: replayAtMost, want: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &detector{every: tc.every, spent: tc.spent}
			if got := d.due(tc.ago); got != tc.want {
				t.Errorf("due = %v, want %v", got, tc.want)
			}
		})
	}
}

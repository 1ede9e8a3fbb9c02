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
			now := time.Unix(0, 0).Add(2*snapshotAge - time.Second)
			d := &detector{of: 1, when: now.Add(-tc.ago), every: tc.every, spent: tc.spent}
			if got := d.due(now); got != tc.want {
				t.Errorf("due = %v, want %v", got, tc.want)
			}
		})
	}
}

// Partitions that were saved in the same moment, as when the log was idle, are not due in the same moment again.
func TestPartitionsTakeTurns(t *testing.T) {
	const partitions = 8
	saved := time.Unix(0, 0)
	due := make(map[time.Duration]int)
	for p := range partitions {
		d := &detector{partition: p, of: partitions, when: saved}
		after := time.Duration(0)
		for !d.due(saved.Add(after)) {
			after += 100 * time.Millisecond
		}
		if after > snapshotAge {
			t.Errorf("partition %d is due after %v, want %v at most", p, after, snapshotAge)
		}
		due[after]++
	}
	if len(due) != partitions {
		t.Errorf("due after %v, want a moment each", due)
	}
}

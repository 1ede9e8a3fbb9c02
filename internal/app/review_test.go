package app

import (
	"strconv"
	"testing"
	"time"
)

func TestLooks(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var l looks
	if got := l.since("ana", "R", now); got != 0 {
		t.Errorf("who never looked had it open for %s", got)
	}
	l.open("ana", "R", now)
	l.open("ana", "R", now.Add(time.Minute)) // the page shows it again
	for _, tt := range []struct {
		name, person, request string
		after, want           time.Duration
	}{
		{"since the first look", "ana", "R", 2 * time.Minute, 2 * time.Minute},
		{"at once", "ana", "R", 0, 1},
		{"somebody else", "bob", "R", time.Minute, 0},
		{"another request", "ana", "S", time.Minute, 0},
		{"long ago", "ana", "R", lookLife, 0},
	} {
		if got := l.since(tt.person, tt.request, now.Add(tt.after)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	for i := range maxLooks + 10 {
		l.open("ana", strconv.Itoa(i), now)
	}
	if len(l.opened) > maxLooks {
		t.Errorf("%d looks are remembered", len(l.opened))
	}
}

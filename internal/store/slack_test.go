package store

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testInbox keeps a message over a restart until it is dealt with, and knows it again for a day.
func testInbox(t *testing.T, at string) {
	s, ctx := open(t, at), t.Context()
	put := func(id string, at time.Time) bool {
		fresh, err := s.PutInbox(ctx, id, at, []byte(`{"id":"`+id+"\xff\"}"))
		must(t, err)
		return fresh
	}
	waiting := func() (ids []string) {
		must(t, open(t, at).EachInbox(ctx, 10, func(id string, got time.Time, body []byte) {
			if want := `{"id":"` + id + "\uFFFD\"}"; string(body) != want {
				t.Errorf("the body is %q, want %q", body, want)
			}
			ids = append(ids, id)
		}))
		n, err := s.CountInbox(ctx)
		must(t, err)
		if n != len(ids) {
			t.Errorf("%d messages are counted, %d are listed", n, len(ids))
		}
		return ids
	}
	fresh := []bool{put("b", clock().Add(time.Second)), put("a", clock()), put("a", clock().Add(time.Hour))}
	if diff := cmp.Diff([]bool{true, true, false}, fresh); diff != "" {
		t.Errorf("fresh (want -, got +):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, waiting()); diff != "" {
		t.Errorf("waiting (want -, got +):\n%s", diff)
	}
	must(t, s.DropInbox(ctx, "a", clock().Add(time.Minute)))
	if put("a", clock()) || !slices.Equal(waiting(), []string{"b"}) {
		t.Error("a message that was dealt with came back")
	}
	must(t, s.DropInbox(ctx, "b", clock().Add(inboxLife+2*time.Minute)))
	if !put("a", clock()) {
		t.Error("an id is remembered for ever")
	}
}

func testCards(t *testing.T, at string) {
	s, ctx := open(t, at), t.Context()
	must(t, s.SaveCard(ctx, "INC-1", "C1", "", true, []byte(`{"n":1}`)))
	must(t, s.SaveCard(ctx, "INC-1", "C1", "10.1", true, []byte(`{"n":2}`)))
	must(t, s.SaveCard(ctx, "INC-2", "C1", "11.1", true, []byte(`{"n":3}`)))
	must(t, s.SaveCard(ctx, "INC-3", "C1", "12.1", false, []byte(`{"n":4}`)))
	var open []string
	must(t, s.EachCard(ctx, 10, func(doc []byte) { open = append(open, string(doc)) }))
	if diff := cmp.Diff([]string{`{"n":3}`, `{"n":2}`}, open); diff != "" {
		t.Errorf("open cards (want -, got +):\n%s", diff)
	}
	if doc, found, err := s.Card(ctx, "INC-3"); err != nil || !found || string(doc) != `{"n":4}` {
		t.Errorf("the closed card is %q %v %v", doc, found, err)
	}
	if _, found, err := s.Card(ctx, "INC-9"); err != nil || found {
		t.Errorf("there is a card of no incident: %v", err)
	}
}

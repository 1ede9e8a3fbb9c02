package slack

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// overSocket starts the socket of a house whose clicks then come over it.
func (h *house) overSocket() {
	h.Helper()
	h.slack.o.Mode, h.fake.Callback = ModeSocket, ""
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.slack.listen(ctx); err != nil {
			h.Error(err)
		}
	})
	h.Cleanup(func() { cancel(); wg.Wait() })
	h.until("a socket", func() bool { return h.fake.Sockets() > 0 })
}

// Over a socket the whole way is the same, over a new socket too, and a message that comes twice counts once.
func TestSocket(t *testing.T) {
	h := open(t)
	h.overSocket()
	r, m := h.post(1)
	v := h.window(m, ana)
	h.fake.Drop()
	h.until("the old socket to go and a new one to come", func() bool { return h.fake.Sockets() == 1 && h.fake.Calls("apps.connections.open") == 2 })
	h.wantShown("the window", h.submit(v, approval.Approve).Body, "Recorded: approved")
	if _, err := h.fake.Repeat(); err != nil {
		t.Error(err)
	}
	h.settled()
	if h.desk.asked != 1 || h.request(r.ID).State != approval.Approved {
		t.Errorf("%d answers were sent, the request is %s", h.desk.asked, h.request(r.ID).State)
	}
}

// What can't be stored is not acknowledged: Slack tells the person.
func TestSocketNotStored(t *testing.T) {
	h := open(t)
	_, m := h.post(1)
	h.slack.o.Box = fullBox{h.slack.o.Box}
	h.overSocket()
	if err := h.fake.Click(m, actLooking, ana); err == nil {
		t.Error("a message that was not stored was acknowledged")
	}
}

// A socket that stays open and brings nothing is an outage; pings are enough to end it.
func TestDeafSocket(t *testing.T) {
	h := open(t)
	h.overSocket()
	assess := func(after time.Duration) (ok bool, text string) {
		h.Helper()
		h.time.move(after)
		h.slack.introduce(t.Context())
		h.must(h.slack.assess(t.Context()))
		return h.slack.State()
	}
	h.until("the hello", func() bool { return h.slack.heardAt().Equal(h.time.Now()) })
	if ok, text := assess(30 * time.Second); !ok {
		t.Errorf("the health is %q after half a minute", text)
	}
	h.fake.Deaf(true)
	h.fake.Ping()
	if ok, text := assess(31 * time.Second); ok {
		t.Errorf("the health is %q on a deaf socket", text)
	}
	h.fake.Deaf(false)
	h.fake.Ping()
	h.until("the ping", func() bool { return h.slack.heardAt().Equal(h.time.Now()) })
	if ok, text := assess(0); !ok {
		t.Errorf("the health is %q after a ping", text)
	}
}

func (s *Slack) heardAt() time.Time {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.inbound
}

// A refusal that only a person can mend is told, and the socket comes back when it is mended.
func TestSocketRefused(t *testing.T) {
	h := open(t)
	h.slack.o.AppToken = "xapp-other"
	bad, err := New(h.slack.o)
	h.must(err)
	h.slack = bad
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := bad.listen(ctx); err != nil {
			t.Error(err)
		}
	})
	h.until("the refusal", func() bool { why, _ := bad.health.problem(ModeSocket, time.Time{}, h.time.Now()); return why != "" })
	cancel()
	wg.Wait()
	why, _ := bad.health.problem(ModeSocket, time.Time{}, h.time.Now())
	if want := "apps.connections.open: invalid_auth: " + remedies["invalid_auth"]; why != want {
		t.Errorf("the problem is %q, want %q", why, want)
	}
}

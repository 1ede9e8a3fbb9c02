// Package slack lets people decide in Slack: one card an incident, a window with fresh facts, and an answer that goes the same way as
// every other door's. It reads state and never makes it: a click is a claim, which control judges, and a card shows nothing that the
// store does not hold. It runs no action and signs no grant.
package slack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	sdk "github.com/slack-go/slack"
	"golang.org/x/sync/errgroup"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// Reader is what cards and windows are made of.
type Reader interface {
	Request(ctx context.Context, id string) (r approval.Request, found bool, err error)
	Requests(ctx context.Context, state approval.State, limit int) ([]approval.Request, error)
	// IncidentRequests are those that an incident's workflow asks; what no workflow asks has a card of its own.
	IncidentRequests(ctx context.Context, incidentID string) ([]approval.Request, error)
	Incident(ctx context.Context, id string) (incident.Incident, error)
	// Incidents returns the latest ones.
	Incidents(ctx context.Context, limit int) ([]incident.Incident, error)
	Findings(ctx context.Context, incidentID string, limit int) ([]detect.Finding, error)
	IncidentLeases(ctx context.Context, incidentID string) ([]action.Lease, error)
	Timeline(ctx context.Context, incidentID string) ([]incident.Entry, error)
	Tracks(ctx context.Context, incidentID string) ([]incident.Track, error)
	Evidence(ctx context.Context, incidentID string) ([]incident.EvidenceItem, error)
}

// Control carries out what people do. A decision that does not count is an *approval.Refusal, and is recorded before it is returned.
type Control interface {
	Answer(ctx context.Context, d approval.Decision) error
	Notice(ctx context.Context, by approval.Principal, incidentID string) error
	Note(ctx context.Context, by approval.Principal, incidentID, text string) error
	// Refuse records a decision that is refused before it is judged, because nobody knows who sent it or whether it was sent.
	Refuse(ctx context.Context, d approval.Decision, why *approval.Refusal) error
}

// Box keeps what Slack sent until it is dealt with, and where the cards are. It must be durable when it returns.
type Box interface {
	// PutInbox stores a message under its id. fresh is false where it was stored before, dealt with or not.
	PutInbox(ctx context.Context, id string, at time.Time, body []byte) (fresh bool, err error)
	// EachInbox calls take with the messages that wait, the oldest first.
	EachInbox(ctx context.Context, limit int, take func(id string, at time.Time, body []byte)) error
	// DropInbox says that a message is dealt with. Its id is remembered until a later message is older than a day.
	DropInbox(ctx context.Context, id string, at time.Time) error
	// CountInbox is the number of messages that wait.
	CountInbox(ctx context.Context) (int, error)

	SaveCard(ctx context.Context, incidentID, channel, ts string, open bool, doc []byte) error
	Card(ctx context.Context, incidentID string) (doc []byte, found bool, err error)
	// EachCard calls take with the open cards, the newest first.
	EachCard(ctx context.Context, limit int, take func(doc []byte)) error
}

// Meter counts what happens; see internal/measure.
type Meter interface {
	SlackInbound(mode string, age time.Duration)
	SlackDelivered(what string)
	SlackFailed(why string)
	SlackDegraded(mode string, degraded bool)
}

// The modes in which Slack brings what people do.
const (
	ModeSocket = "socket"
	ModeHTTP   = "http"
)

// Options configure a Slack. All are required but AppToken (ModeHTTP), SigningSecret (ModeSocket), Pager and API.
type Options struct {
	Mode          string
	BotToken      string
	AppToken      string
	SigningSecret string
	Team          string // the workspace; clicks from any other are refused
	Channel       string // where the cards are, by its id
	// People maps Slack user ids to the names of Tocsin's users, and Role says what each of those may do.
	People map[string]string
	Role   func(name string) (approval.Role, bool)
	// Groups are those that the policies' own file puts a user in.
	Groups func(name string) []string
	// Tell is the least severity of an incident that has a card although it asks nothing; "" for none.
	Tell detect.Severity
	// Console is the base of the console's links. Pager takes a JSON message where Slack is deaf; "" for none.
	Console string
	Pager   string
	API     string // "" is Slack's own
	// Key signs what buttons and windows carry, so that only what Tocsin sent comes back.
	Key []byte

	Reader  Reader
	Control Control
	Box     Box
	Meter   Meter
	Logger  *slog.Logger
	Now     func() time.Time
	// Wait returns after a while, or with the context's error.
	Wait   func(ctx context.Context, d time.Duration) error
	Client *http.Client
}

// Limits of what is kept and asked of Slack at once.
const (
	maxBody    = 1 << 20 // of one message from Slack
	maxWaiting = 10_000  // messages in the inbox
	maxCards   = 500     // cards that are kept up to date
	workers    = 8       // messages dealt with at once; a window must open within three seconds of its click
	callTime   = 10 * time.Second
)

// Slack is the door. Safe for concurrent use.
type Slack struct {
	o      Options
	api    *sdk.Client
	seal   sealer
	groups groups
	pace   pace
	health health
	replay replays

	mail chan struct{} // there is something in the inbox
	kick chan struct{} // something changed

	began time.Time

	mu    sync.Mutex
	who   *identity        // who Tocsin is in Slack; nil until Slack said so
	hopes map[string]*hope // senders who wait for an outcome, by the id of their message
	dirty map[string]bool  // incidents that changed; nil for all
	paged map[string]bool  // requests that the pager was told of in this outage

	delivering sync.Mutex // one delivers at a time, so that a card is posted once

	taking sync.Mutex           // one takes from the inbox at a time, so that a message has one worker
	busy   map[string]time.Time // messages that a worker has, or that are put off until then
}

// identity is who Tocsin is in Slack.
type identity struct{ app, team, enterprise string }

// New checks the options and returns a Slack that does nothing before Run.
func New(o Options) (*Slack, error) {
	switch {
	case o.Mode != ModeSocket && o.Mode != ModeHTTP:
		return nil, fmt.Errorf("configure Slack: mode %q is neither socket nor http", o.Mode)
	case !strings.HasPrefix(o.BotToken, "xoxb-"):
		return nil, errors.New("configure Slack: the bot token must begin with xoxb-")
	case o.Mode == ModeSocket && !strings.HasPrefix(o.AppToken, "xapp-"):
		return nil, errors.New("configure Slack: the app token must begin with xapp-")
	case o.Mode == ModeHTTP && o.SigningSecret == "":
		return nil, errors.New("configure Slack: the signing secret is empty")
	case len(o.Key) < 16:
		return nil, errors.New("configure Slack: the key has fewer than 16 bytes")
	case o.Reader == nil || o.Control == nil || o.Box == nil || o.Meter == nil || o.Logger == nil || o.Now == nil || o.Wait == nil || o.Client == nil || o.Role == nil || o.Groups == nil:
		return nil, errors.New("configure Slack: a required option is missing")
	}
	settings := []sdk.Option{sdk.OptionHTTPClient(o.Client), sdk.OptionAppLevelToken(o.AppToken)}
	if o.API != "" {
		settings = append(settings, sdk.OptionAPIURL(strings.TrimSuffix(o.API, "/")+"/"))
	}
	o.Console = strings.TrimSuffix(o.Console, "/")
	now := o.Now()
	return &Slack{
		o: o, api: sdk.New(o.BotToken, settings...), seal: sealer{o.Key}, pace: pace{until: make(map[string]time.Time)},
		groups: groups{known: make(map[string]members)}, health: newHealth(now), replay: replays{seen: make(map[[32]byte]time.Time)},
		mail: make(chan struct{}, 1), kick: make(chan struct{}, 1), busy: make(map[string]time.Time), hopes: make(map[string]*hope), began: now, dirty: make(map[string]bool), paged: make(map[string]bool),
	}, nil
}

// Run keeps the cards up to date and deals with what people do, until the context ends.
func (s *Slack) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	s.introduce(ctx)
	if s.o.Mode == ModeSocket {
		group.Go(func() error { return s.listen(ctx) })
	}
	group.Go(func() error { return s.work(ctx) })
	group.Go(func() error { return s.deliver(ctx) })
	group.Go(func() error { return s.watch(ctx) })
	return group.Wait()
}

// Changed says that an incident, or a request or lease of one, changed. It never blocks.
func (s *Slack) Changed(id string) {
	s.mu.Lock()
	if s.dirty != nil && len(s.dirty) < maxCards {
		s.dirty[incidentOf(id)] = true
	} else {
		s.dirty = nil
	}
	s.mu.Unlock()
	nudge(s.kick)
}

// everything marks all cards to be looked at.
func (s *Slack) everything() {
	s.mu.Lock()
	s.dirty = nil
	s.mu.Unlock()
	nudge(s.kick)
}

// incidentOf is the incident that an id belongs to: requests and leases are named after it.
func incidentOf(id string) string {
	if at := strings.LastIndex(id, "-R"); at > 0 {
		return id[:at]
	}
	return id
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

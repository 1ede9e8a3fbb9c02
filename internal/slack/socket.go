package slack

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	sdk "github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
	"golang.org/x/sync/errgroup"
)

// methodOpen opens a socket. Its token is the app's, not the bot's.
const methodOpen = "apps.connections.open"

const (
	pingEvery  = 30 * time.Second // without a ping of Slack's for so long, the socket is opened anew
	againAfter = 30 * time.Second // a connection that Slack refused for good is tried again, because people mend tokens
	maxTaking  = 64               // messages that are being stored and answered at once
	// frame holds the largest answer that Slack takes (20 KiB) in one piece; it drops answers in several.
	frame = 32 << 10
)

// listen takes what Slack sends over sockets that it opens itself, until the context ends.
func (s *Slack) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		client := socketmode.New(s.api, socketmode.OptionPingInterval(pingEvery), socketmode.OptionDialer(s.dialer()))
		group, inner := errgroup.WithContext(ctx)
		group.Go(func() error { return client.RunContext(inner) })
		group.Go(func() error { return s.take(inner, client) })
		err := group.Wait()
		if ctx.Err() != nil {
			return nil
		}
		s.health.result(methodOpen, err, s.o.Now())
		s.o.Meter.SlackFailed(classify(err))
		s.o.Logger.Error("Slack refused the socket", "error", err)
		if err := s.o.Wait(ctx, againAfter); err != nil {
			return nil
		}
	}
	return nil
}

// take stores each message and answers it.
func (s *Slack) take(ctx context.Context, client *socketmode.Client) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxTaking)
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), group.Wait())
		case e := <-client.Events:
			switch e.Type {
			case socketmode.EventTypeHello:
				s.health.heard(s.o.Now())
				s.health.result(methodOpen, nil, s.o.Now())
				s.everything() // cards may have missed what happened while the socket was gone
			case socketmode.EventTypeConnectionError:
				if failure, ok := e.Data.(*sdk.ConnectionErrorEvent); ok {
					s.health.result(methodOpen, failure.ErrorObj, s.o.Now())
					s.o.Meter.SlackFailed(classify(failure.ErrorObj))
				}
			case socketmode.EventTypeErrorBadMessage, socketmode.EventTypeErrorWriteFailed:
				s.o.Meter.SlackFailed("malformed")
			}
			if e.Request == nil || e.Request.EnvelopeID == "" {
				continue
			}
			group.Go(func() error { s.answer(ctx, client, *e.Request); return nil })
		}
	}
}

// answer acknowledges a message once it is stored. One that could not be stored is not acknowledged: Slack tells its sender.
func (s *Slack) answer(ctx context.Context, client *socketmode.Client, r socketmode.Request) {
	var reply any
	if r.Type == socketmode.RequestTypeInteractive {
		var err error
		if reply, err = s.accept(ctx, r.Payload); err != nil {
			s.o.Logger.Error("a message from Slack can't be kept", "error", err)
			return
		}
	}
	if err := client.AckCtx(ctx, r.EnvelopeID, reply); err != nil && ctx.Err() == nil {
		s.o.Logger.Warn("Slack was not answered", "error", err)
	}
}

// dialer notes everything that arrives, pings too: the library tells of messages alone.
func (s *Slack) dialer() *websocket.Dialer {
	return &websocket.Dialer{
		Proxy: http.ProxyFromEnvironment, HandshakeTimeout: callTime, WriteBufferSize: frame,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: callTime}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &heardConn{conn, func() { s.health.heard(s.o.Now()) }}, nil
		},
	}
}

// heardConn calls heard whenever something arrives.
type heardConn struct {
	net.Conn
	heard func()
}

// Read implements net.Conn.
func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard()
	}
	return n, err
}

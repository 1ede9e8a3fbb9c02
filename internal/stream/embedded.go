package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Embedded runs a NATS server inside the process, on local files. It listens on no port: clients connect through memory.
type Embedded struct{ server *server.Server }

// StartEmbedded starts the server on a directory. Every stored message is synced to disk before it is acknowledged.
func StartEmbedded(dir string) (*Embedded, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "tocsin", DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true,
		MaxPayload: maxPayload, MaxPending: 16 * pullBytes,
		// Without a bound of ours the server takes three quarters of what the disk has free by now, and does not open a log that may
		// grow larger: on a small disk, or on one that the log has filled itself.
		JetStreamMaxStore: maxStore,
	})
	if err != nil {
		return nil, fmt.Errorf("start event log: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errors.New("start event log: the embedded server was not ready after 20 s")
	}
	return &Embedded{server: s}, nil
}

// maxStore is more than a disk holds: how large each stream may get is its own bound.
const maxStore = 1 << 60

// Connect returns a new connection to the embedded server.
func (e *Embedded) Connect() (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(e.server))
	if err != nil {
		return nil, fmt.Errorf("connect to event log: %w", err)
	}
	return nc, nil
}

// Stop ends the server and waits until its files are closed.
func (e *Embedded) Stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

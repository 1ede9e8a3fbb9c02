// Package stream is the event log and the channel of findings on NATS JetStream, embedded or external. It stores and reads
// bytes in order; it knows partitions and durability, and nothing of what an event means.
//
// Durability: a publish returns when the stream has the message. With the embedded server and SyncAlways (the default) that
// means an fsync, so that neither a killed process nor a power cut takes what was acknowledged. Events travel in batches, so
// that an fsync for each message is affordable. On a cluster, replication takes the place of the local fsync.
package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Names of the streams, buckets and subjects.
const (
	eventsStream    = "TOCSIN_EVENTS"
	findingsStream  = "TOCSIN_FINDINGS"
	eventsSubject   = "tocsin.events."
	findingsSubject = "tocsin.findings"
	snapshotsBucket = "TOCSIN_SNAPSHOTS"
)

// Options size the streams.
type Options struct {
	Partitions int           // number of event partitions; it can't change once there are events
	Replicas   int           // 1, or 3 on a cluster
	MaxAge     time.Duration // how long events are kept
	MaxBytes   int64         // how many bytes of events are kept; the oldest go first
}

// Log is a connection to the event log. Safe for concurrent use.
type Log struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	events    jetstream.Stream
	findings  jetstream.Stream
	snapshots jetstream.ObjectStore
	options   Options
}

// duplicates is how long the server recognises a message id that was published before. Consumers recognise repeats by
// themselves beyond that.
const duplicates = 10 * time.Minute

// Open creates or adopts the streams on a connection, which Close then closes.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Log, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	if err := checkPartitions(ctx, js, o.Partitions); err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	l := &Log{nc: nc, js: js, options: o}
	l.events, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: eventsStream, Subjects: []string{eventsSubject + "*"}, Storage: jetstream.FileStorage, Replicas: o.Replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: o.MaxAge, MaxBytes: o.MaxBytes, Duplicates: duplicates,
		AllowDirect: true, Metadata: map[string]string{partitionsKey: fmt.Sprint(o.Partitions)},
	})
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	l.findings, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: findingsStream, Subjects: []string{findingsSubject}, Storage: jetstream.FileStorage, Replicas: o.Replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxAge: o.MaxAge, Duplicates: duplicates,
	})
	if err != nil {
		return nil, fmt.Errorf("open finding stream: %w", err)
	}
	l.snapshots, err = js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: snapshotsBucket, Replicas: o.Replicas})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return l, nil
}

// partitionsKey is where the stream says how many partitions its events were spread over.
const partitionsKey = "partitions"

// checkPartitions refuses another number of partitions than the stored events have: fewer would leave some unread, and with any
// other an agent's next events would go to a shard that knows nothing of it.
func checkPartitions(ctx context.Context, js jetstream.JetStream, want int) error {
	events, err := js.Stream(ctx, eventsStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	info := events.CachedInfo()
	if have := info.Config.Metadata[partitionsKey]; info.State.LastSeq > 0 && have != "" && have != fmt.Sprint(want) {
		return fmt.Errorf("it holds events in %s partitions, and %d are configured; set nats.partitions to %s, or start with an empty log", have, want, have)
	}
	return nil
}

// Close closes the connection.
func (l *Log) Close() { l.nc.Close() }

// Append stores one batch of a partition and returns when the log has it. The id makes a repeated append one message.
func (l *Log) Append(ctx context.Context, partition int, id string, batch []byte) error {
	_, err := l.js.Publish(ctx, fmt.Sprint(eventsSubject, partition), batch, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(elections), jetstream.WithRetryWait(electionWait))
	if err != nil {
		return fmt.Errorf("append to event log: %w", err)
	}
	return nil
}

// A cluster that lost a server elects a new leader for the stream within seconds, and answers nobody meanwhile.
const (
	elections    = 16
	electionWait = 250 * time.Millisecond
)

// MaxBatch is the largest batch that one message may hold, in bytes.
func (l *Log) MaxBatch() int { return int(l.nc.MaxPayload()) - 4096 }

// Message is one stored batch, or one finding.
type Message struct {
	Sequence uint64
	Data     []byte
	Stored   time.Time
	// Pending is how many messages of the subject are stored behind this one.
	Pending uint64
}

// maxPayload is the largest message of the embedded server, in bytes. It holds the largest event there is.
const maxPayload = 8 << 20

// pullBytes bounds what the server sends ahead of the reader. Unbounded pulls of large batches overrun the connection's buffer,
// and the server then cuts it. Half of it, at which the next pull is sent, must hold the largest message, or a pull could wait for
// room that never comes.
const pullBytes = 2 * maxPayload

// Follow calls fn with each message of a partition after a sequence, in order, until the context ends or fn fails. It waits for
// new messages at the end, and calls idle each time it has waited a second without one.
func (l *Log) Follow(ctx context.Context, partition int, after uint64, fn func(Message) error, idle func() error) error {
	consumer, err := l.events.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{fmt.Sprint(eventsSubject, partition)}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: after + 1,
	})
	if err != nil {
		return fmt.Errorf("follow partition %d: %w", partition, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(pullBytes))
	if err != nil {
		return fmt.Errorf("follow partition %d: %w", partition, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextMaxWait(time.Second))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded):
			if err := idle(); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("follow partition %d: %w", partition, err)
		}
		m, err := message(msg)
		if err != nil {
			return err
		}
		if err := fn(m); err != nil {
			return err
		}
	}
}

func message(msg jetstream.Msg) (Message, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("read message: %w", err)
	}
	return stored(msg, meta), nil
}

func stored(msg jetstream.Msg, meta *jetstream.MsgMetadata) Message {
	return Message{Sequence: meta.Sequence.Stream, Data: msg.Data(), Stored: meta.Timestamp, Pending: meta.NumPending}
}

// Read returns the stored batch at a sequence. A batch that retention removed is an error.
func (l *Log) Read(ctx context.Context, sequence uint64) (Message, error) {
	raw, err := l.events.GetMsg(ctx, sequence)
	if err != nil {
		return Message{}, fmt.Errorf("read event log at %d: %w", sequence, err)
	}
	return Message{Sequence: raw.Sequence, Data: raw.Data, Stored: raw.Time}, nil
}

// keyHeader says of a finding's message which other findings it is handled in order with.
const keyHeader = "Tocsin-Key"

// PublishFinding stores a finding; the id makes a repeated one the same message while the server remembers it. Findings of one key are
// handled in order.
func (l *Log) PublishFinding(ctx context.Context, id, key string, data []byte) error {
	msg := &nats.Msg{Subject: findingsSubject, Header: nats.Header{keyHeader: {key}}, Data: data}
	if _, err := l.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(elections), jetstream.WithRetryWait(electionWait)); err != nil {
		return fmt.Errorf("publish finding: %w", err)
	}
	return nil
}

// A finding that could not be handled comes again after retry, and then after twice as long each time, up to maxRetry.
const (
	retry    = 2 * time.Second
	maxRetry = time.Minute
)

// maxWaiting is how many findings wait to come again before no new one is taken. One incident's may wait for their workflow, and must
// not keep those of others from theirs.
const maxWaiting = 1024

// again is how long a finding waits that was delivered so often.
func again(delivered uint64) time.Duration {
	return min(maxRetry, retry<<min(max(delivered, 1)-1, 10))
}

// Permanent is an error of what a finding is and not of the moment: nothing is gained by taking it again.
type Permanent struct{ Err error }

func (p *Permanent) Error() string { return p.Err.Error() }

// Unwrap returns what is wrong with the finding.
func (p *Permanent) Unwrap() error { return p.Err }

// lanes is how many findings are handled at once. What handles one waits for others' disks most of the time.
const lanes = 8

// HandleFindings calls fn with each finding that no earlier call handled until the context ends: with those of one key one after the
// other, in order, and with others meanwhile. A finding whose fn fails comes again, unless the error is Permanent, and report is told
// why. Both are called concurrently, and no more once HandleFindings returned.
func (l *Log) HandleFindings(ctx context.Context, fn func(context.Context, Message) error, report func(error)) error {
	consumer, err := l.findings.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "respond", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: maxWaiting, AckWait: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("handle findings: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(pullBytes))
	if err != nil {
		return fmt.Errorf("handle findings: %w", err)
	}
	defer messages.Stop()
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, messages.Stop)
	var queues [lanes]chan jetstream.Msg
	for i := range queues {
		queues[i] = make(chan jetstream.Msg, maxWaiting) // one that is slow keeps nobody else's waiting
		group.Go(func() error { return handleLane(ctx, queues[i], fn, report) })
	}
	group.Go(func() error {
		for {
			msg, err := messages.Next()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				return fmt.Errorf("handle findings: %w", err)
			}
			select {
			case queues[PartitionOf(msg.Headers().Get(keyHeader), lanes)] <- msg:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return group.Wait()
}

// handleLane handles the findings of one lane.
func handleLane(ctx context.Context, queue <-chan jetstream.Msg, fn func(context.Context, Message) error, report func(error)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case msg := <-queue:
			if err := handle(ctx, msg, fn); err != nil && ctx.Err() == nil {
				report(err)
			}
		}
	}
}

func handle(ctx context.Context, msg jetstream.Msg, fn func(context.Context, Message) error) error {
	meta, err := msg.Metadata()
	if err != nil {
		return errors.Join(fmt.Errorf("read message: %w", err), msg.Term())
	}
	var permanent *Permanent
	switch err := fn(ctx, stored(msg, meta)); {
	case err == nil:
		return msg.DoubleAck(ctx)
	case errors.As(err, &permanent):
		return errors.Join(err, msg.Term())
	default:
		return errors.Join(err, msg.NakWithDelay(again(meta.NumDelivered)))
	}
}

// snapshotChunk is how much of a snapshot is one message, in bytes. Each is synced by itself.
const snapshotChunk = 1 << 20

// SaveSnapshot stores a shard's snapshot as it is written, replacing the one before if writing succeeds. A large one is never in memory
// as a whole.
func (l *Log) SaveSnapshot(ctx context.Context, name string, write func(io.Writer) error) error {
	from, to := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		chunks := bufio.NewWriterSize(to, snapshotChunk)
		err := write(chunks)
		if err == nil {
			err = chunks.Flush()
		}
		to.CloseWithError(err)
	}()
	meta := jetstream.ObjectMeta{Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: snapshotChunk}}
	_, err := l.snapshots.Put(ctx, meta, from)
	from.CloseWithError(err) // the writer need not go on
	<-written
	if err != nil {
		return fmt.Errorf("save snapshot %s: %w", name, err)
	}
	return nil
}

// ErrDamaged says that a stored snapshot is not what was saved, as after a crash while it was written.
var ErrDamaged = errors.New("it is damaged")

// Snapshot returns a shard's snapshot, or nil if there is none.
func (l *Log) Snapshot(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	info, err := l.snapshots.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil
	}
	if err == nil {
		err = l.complete(ctx, info)
	}
	var data []byte
	if err == nil {
		data, err = l.snapshots.GetBytes(ctx, name)
	}
	if errors.Is(err, jetstream.ErrDigestMismatch) {
		err = ErrDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", name, err)
	}
	return data, nil
}

// snapshotWait bounds the reading of a snapshot, which may have hundreds of megabytes.
const snapshotWait = 2 * time.Minute

// complete finds a snapshot damaged of which the stream has not all chunks: the reader would wait for them.
func (l *Log) complete(ctx context.Context, o *jetstream.ObjectInfo) error {
	chunks := fmt.Sprintf("$O.%s.C.%s", snapshotsBucket, o.NUID)
	s, err := l.js.Stream(ctx, "OBJ_"+snapshotsBucket)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(chunks))
	if err != nil {
		return err
	}
	if info.State.Subjects[chunks] != uint64(o.Chunks) {
		return ErrDamaged
	}
	return nil
}

// Last returns the sequence of the newest event batch; 0 in an empty log.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	info, err := l.events.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask event log: %w", err)
	}
	return info.State.LastSeq, nil
}

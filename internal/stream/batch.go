package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// PartitionOf returns the partition of a class of agents. All agents of a class share one, so that peers are learned in one place
// and findings don't depend on the number of partitions.
func PartitionOf(class string, partitions int) int {
	h := fnv.New32a()
	h.Write([]byte(class))
	return int(h.Sum32() % uint32(partitions))
}

// batchVersion names the layout of a batch.
const batchVersion = 1

// batch is what one message holds.
type batch struct {
	Version int           `json:"v"`
	Events  []event.Event `json:"events"`
}

// batchHead is how the encoding of a batch begins, up to its events: a map of two, the version, the next key.
var batchHead = []byte("\xa2\x61v\x01\x66events")

// EncodeBatch returns the bytes of a batch under a checksum, and an id that the same bytes always give. The id is not made of the
// events' own, which senders choose: one that repeats another's id must not cost it an event. The shard recognises repeated events.
func EncodeBatch(codec *event.Codec, events []event.Event) (data []byte, id string) {
	return appendBatch(nil, codec, events)
}

// appendBatch is EncodeBatch into memory that is there already, which holds nothing.
func appendBatch(room []byte, codec *event.Codec, events []event.Event) (data []byte, id string) {
	var sum [sha256.Size]byte
	data = codec.AppendAll(append(append(room, sum[:]...), batchHead...), events)
	sum = sha256.Sum256(data[len(sum):])
	copy(data, sum[:])
	return data, hex.EncodeToString(sum[:16])
}

// DecodeBatch returns the events of a batch. A batch that was damaged on its way or on disk is an error.
func DecodeBatch(codec *event.Codec, data []byte) ([]event.Event, error) {
	if len(data) < sha256.Size {
		return nil, errors.New("decode batch: too short")
	}
	body := data[sha256.Size:]
	if sum := sha256.Sum256(body); string(sum[:]) != string(data[:sha256.Size]) {
		return nil, errors.New("decode batch: checksum does not match")
	}
	if rest, ok := bytes.CutPrefix(body, batchHead); ok {
		if events, ok := codec.ReadAll(rest); ok {
			return events, nil
		}
	}
	var b batch
	if err := codec.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	if b.Version != batchVersion {
		return nil, fmt.Errorf("decode batch: version %d, want %d", b.Version, batchVersion)
	}
	return b.Events, nil
}

// Bounds of one batch. The bytes are an estimate by the event; EncodeBatch's result must fit the server's limit.
const (
	maxBatchEvents = 512
	queueLength    = 256 // appends that wait for a partition's writer
)

// Writer appends events to the log in batches. While one batch is being synced to disk, the events that arrive make the next
// one: under load batches grow by themselves, and an idle log adds no delay. Safe for concurrent use.
type Writer struct {
	log    *Log
	codec  *event.Codec
	queues []chan appending
	done   sync.WaitGroup
}

// appending is one caller's events of one partition, with the place for the answer.
type appending struct {
	events []event.Event
	result chan<- error
}

// NewWriter starts one goroutine for each partition; Close ends them.
func NewWriter(log *Log, codec *event.Codec) *Writer {
	w := &Writer{log: log, codec: codec}
	for p := range log.options.Partitions {
		queue := make(chan appending, queueLength)
		w.queues = append(w.queues, queue)
		w.done.Go(func() { w.run(p, queue) })
	}
	return w
}

// Close waits for the batches under way. Append must not be called any more.
func (w *Writer) Close() {
	for _, q := range w.queues {
		close(q)
	}
	w.done.Wait()
}

// Append stores events and returns when the log has all of them. On an error none, some or all may be stored; appending them
// again is safe, because the detector recognises repeated ids.
func (w *Writer) Append(ctx context.Context, events []event.Event) error {
	byPartition := w.split(events)
	results := make(chan error, len(byPartition))
	for p, part := range byPartition {
		select {
		case w.queues[p] <- appending{events: part, result: results}:
		case <-ctx.Done():
			return fmt.Errorf("append events: the log is busy: %w", ctx.Err())
		}
	}
	for range byPartition {
		select {
		case err := <-results:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("append events: %w", ctx.Err())
		}
	}
	return nil
}

// split divides events by partition. Most requests are of one agent, whose events stay where they are.
func (w *Writer) split(events []event.Event) map[int][]event.Event {
	partition := func(e *event.Event) int { return PartitionOf(e.Agent.Class, len(w.queues)) }
	if len(events) == 0 {
		return nil
	}
	first := partition(&events[0])
	if !slices.ContainsFunc(events, func(e event.Event) bool { return partition(&e) != first }) {
		return map[int][]event.Event{first: events}
	}
	out := make(map[int][]event.Event)
	for i := range events {
		p := partition(&events[i])
		out[p] = append(out[p], events[i])
	}
	return out
}

func (w *Writer) run(partition int, queue <-chan appending) {
	var room []byte // holds one batch after the other
	for first := range queue {
		waiting := []appending{first}
		n := len(first.events)
	collect:
		for n < maxBatchEvents {
			select {
			case next, ok := <-queue:
				if !ok {
					break collect
				}
				waiting = append(waiting, next)
				n += len(next.events)
			default:
				break collect
			}
		}
		var err error
		if room, err = w.write(room, partition, n, waiting); cap(room) > maxRoom {
			room = nil
		}
		for _, a := range waiting {
			a.result <- err
		}
	}
}

// maxRoom is how much memory a writer keeps for its next batch.
const maxRoom = 2 << 20

// write stores the n events in as few messages as their number and size allow, and returns the memory that it used. It runs on: a caller
// that gave up may still be stored.
func (w *Writer) write(room []byte, partition, n int, waiting []appending) (used []byte, err error) {
	events := waiting[0].events
	if len(waiting) > 1 {
		events = make([]event.Event, 0, n)
		for _, a := range waiting {
			events = append(events, a.events...)
		}
	}
	for chunk := range slices.Chunk(events, maxBatchEvents) {
		if room, err = w.writeChunk(room, partition, chunk); err != nil {
			return room, err
		}
	}
	return room, nil
}

func (w *Writer) writeChunk(room []byte, partition int, events []event.Event) (used []byte, err error) {
	data, id := appendBatch(room[:0], w.codec, events)
	if len(data) <= w.log.MaxBatch() || len(events) == 1 {
		return data, w.log.Append(context.Background(), partition, id, data)
	}
	half := len(events) / 2
	data, err = w.writeChunk(data, partition, events[:half])
	data, rest := w.writeChunk(data, partition, events[half:])
	return data, errors.Join(err, rest)
}

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

	"github.com/klauspost/compress/s2"

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

// packed begins the body of a batch that is compressed (S2, a block). No encoding of a map begins with it.
const packed = 'S'

// maxPlain bounds what a batch may unpack to, in bytes. It holds several times the largest event there is.
const maxPlain = 64 << 20

// EncodeBatch returns the bytes of a batch under a checksum, and an id that the same bytes always give. The id is not made of the
// events' own, which senders choose: one that repeats another's id must not cost it an event. The shard recognises repeated events.
func EncodeBatch(codec *event.Codec, events []event.Event) (data []byte, id string) {
	var r room
	return r.pack(codec.AppendAll(slices.Clone(batchHead), events))
}

// room is memory for one batch after the other.
type room struct{ plain, packed []byte }

// pack compresses and seals an encoded batch. Each byte is copied half a dozen times on its way through the log, and synced.
func (r *room) pack(plain []byte) (data []byte, id string) {
	const head = sha256.Size + 1
	size := head + s2.MaxEncodedLen(len(plain))
	r.packed = slices.Grow(r.packed[:0], size)[:size]
	r.packed[sha256.Size] = packed
	data = r.packed[:head+len(s2.Encode(r.packed[head:], plain))]
	sum := sha256.Sum256(data[sha256.Size:])
	copy(data, sum[:])
	return data, hex.EncodeToString(sum[:16])
}

// DecodeBatch returns the events of a batch. A batch that was damaged on its way or on disk is an error.
func DecodeBatch(codec *event.Codec, data []byte) ([]event.Event, error) {
	var r BatchReader
	return r.Decode(codec, data)
}

// BatchReader decodes one batch after the other in the same memory: the events, their tools and the tools' arguments are good until the
// next, and what else they point to for as long as it is kept. Its zero value is ready. Not safe for concurrent use.
type BatchReader struct {
	plain []byte
	room  *event.Room
}

// Decode is DecodeBatch.
func (r *BatchReader) Decode(codec *event.Codec, data []byte) ([]event.Event, error) {
	if len(data) < sha256.Size {
		return nil, errors.New("decode batch: too short")
	}
	body := data[sha256.Size:]
	if sum := sha256.Sum256(body); string(sum[:]) != string(data[:sha256.Size]) {
		return nil, errors.New("decode batch: checksum does not match")
	}
	body, err := r.unpack(body)
	if err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	if rest, ok := bytes.CutPrefix(body, batchHead); ok {
		if r.room == nil {
			r.room = event.NewRoom()
		}
		if events, ok := codec.ReadAll(r.room, rest); ok {
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

// unpack returns the encoding of a batch. Those of earlier releases are not compressed.
func (r *BatchReader) unpack(body []byte) ([]byte, error) {
	if len(body) == 0 || body[0] != packed {
		return body, nil
	}
	n, err := s2.DecodedLen(body[1:])
	if err != nil {
		return nil, err
	}
	if n > maxPlain {
		return nil, fmt.Errorf("it unpacks to %d bytes, want at most %d", n, maxPlain)
	}
	plain, err := s2.Decode(r.plain, body[1:])
	if err == nil && cap(plain) <= maxRoom {
		r.plain = plain[:cap(plain)]
	}
	return plain, err
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
	var r room
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
		err := w.write(&r, partition, waiting)
		if cap(r.plain) > maxRoom {
			r = room{}
		}
		for _, a := range waiting {
			a.result <- err
		}
	}
}

// maxRoom is how much memory a writer or a reader keeps for its next batch.
const maxRoom = 2 << 20

// write stores events in as few messages as their number and size allow. It runs on: a caller that gave up may still be stored.
func (w *Writer) write(r *room, partition int, waiting []appending) error {
	var chunk [][]event.Event
	n := 0
	for _, a := range waiting {
		for events := a.events; len(events) > 0; {
			take := min(len(events), maxBatchEvents-n)
			chunk, n, events = append(chunk, events[:take]), n+take, events[take:]
			if n < maxBatchEvents {
				continue
			}
			if err := w.writeChunk(r, partition, chunk); err != nil {
				return err
			}
			chunk, n = chunk[:0], 0
		}
	}
	return w.writeChunk(r, partition, chunk)
}

// writeChunk stores events in one message, or in several if the encoding of all is larger than a message, though it may be compressed:
// what is read back is bounded too.
func (w *Writer) writeChunk(r *room, partition int, chunk [][]event.Event) error {
	if len(chunk) == 0 {
		return nil
	}
	r.plain = w.codec.AppendAll(append(r.plain[:0], batchHead...), chunk...)
	if half := len(chunk) / 2; len(r.plain) > w.log.MaxBatch() && half > 0 {
		return errors.Join(w.writeChunk(r, partition, chunk[:half]), w.writeChunk(r, partition, chunk[half:]))
	}
	if half := len(chunk[0]) / 2; len(r.plain) > w.log.MaxBatch() && half > 0 {
		return errors.Join(w.writeChunk(r, partition, [][]event.Event{chunk[0][:half]}), w.writeChunk(r, partition, [][]event.Event{chunk[0][half:]}))
	}
	data, id := r.pack(r.plain)
	return w.log.Append(context.Background(), partition, id, data)
}

package stream

import (
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

// EncodeBatch returns the bytes of a batch under a checksum, and an id that the same bytes always give. The id is not made of the
// events' own, which senders choose: one that repeats another's id must not cost it an event. The shard recognises repeated events.
func EncodeBatch(codec *event.Codec, events []event.Event) (data []byte, id string, err error) {
	body, err := codec.Marshal(batch{Version: batchVersion, Events: events})
	if err != nil {
		return nil, "", fmt.Errorf("encode batch: %w", err)
	}
	sum := sha256.Sum256(body)
	return append(sum[:], body...), hex.EncodeToString(sum[:16]), nil
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
	maxBatchEvents = 256
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
	byPartition := make(map[int][]event.Event)
	for _, e := range events {
		p := PartitionOf(e.Agent.Class, len(w.queues))
		byPartition[p] = append(byPartition[p], e)
	}
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

func (w *Writer) run(partition int, queue <-chan appending) {
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
		err := w.write(partition, waiting)
		for _, a := range waiting {
			a.result <- err
		}
	}
}

// write stores the events in as few messages as their number and size allow. It runs on: a caller that gave up may still be stored.
func (w *Writer) write(partition int, waiting []appending) error {
	var events []event.Event
	for _, a := range waiting {
		events = append(events, a.events...)
	}
	for chunk := range slices.Chunk(events, maxBatchEvents) {
		if err := w.writeChunk(partition, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) writeChunk(partition int, events []event.Event) error {
	data, id, err := EncodeBatch(w.codec, events)
	if err != nil {
		return err
	}
	if len(data) > w.log.MaxBatch() && len(events) > 1 {
		half := len(events) / 2
		return errors.Join(w.writeChunk(partition, events[:half]), w.writeChunk(partition, events[half:]))
	}
	return w.log.Append(context.Background(), partition, id, data)
}

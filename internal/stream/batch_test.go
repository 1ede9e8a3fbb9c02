package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

func newCodec(t testing.TB) *event.Codec {
	t.Helper()
	codec, err := event.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func makeEvents(t testing.TB, class string, from, n int) []event.Event {
	t.Helper()
	out := make([]event.Event, n)
	for i := range out {
		out[i] = event.Event{ID: fmt.Sprint("e", from+i), Kind: event.KindPrompt, Time: time.Date(2026, 3, 1, 12, 0, 0, from+i, time.UTC), Agent: event.Agent{ID: class + "/a", Class: class}}
		if err := out[i].Check(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestPartitionOf(t *testing.T) {
	got := []int{PartitionOf("", 8), PartitionOf("payments", 8), PartitionOf("support", 8), PartitionOf("payments", 1024)}
	if diff := cmp.Diff([]int{5, 6, 0, 550}, got); diff != "" {
		t.Errorf("classes moved to other partitions than where their events lie: %s", diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1024).Draw(t, "partitions")
		if p := PartitionOf(rapid.String().Draw(t, "class"), n); p < 0 || p >= n {
			t.Fatalf("partition %d of %d", p, n)
		}
	})
}

func TestBatch(t *testing.T) {
	codec := newCodec(t)
	events := makeEvents(t, "c", 0, 3)
	data, id := EncodeBatch(codec, events)
	plain := sealed(t, codec, batch{Version: batchVersion, Events: events})
	if got, err := DecodeBatch(codec, plain); err != nil || !cmp.Equal(events, got) {
		t.Errorf("a batch of an earlier release: %v %s", err, cmp.Diff(events, got))
	}
	if body, err := new(BatchReader).unpack(data[sha256.Size:]); err != nil || !bytes.Equal(plain[sha256.Size:], body) {
		t.Errorf("%v %q, want %q", err, body, plain[sha256.Size:])
	}
	bomb := append([]byte{packed}, s2.Encode(nil, make([]byte, maxPlain+1))...)
	sum := sha256.Sum256(bomb)
	if _, err := DecodeBatch(codec, append(sum[:], bomb...)); err == nil || !strings.Contains(err.Error(), "unpacks to") {
		t.Errorf("a batch that unpacks to too much: %v", err)
	}
	if got, err := DecodeBatch(codec, data); err != nil || !cmp.Equal(events, got) {
		t.Fatalf("%v %s", err, cmp.Diff(events, got))
	}
	if _, again := EncodeBatch(codec, makeEvents(t, "c", 0, 3)); again != id {
		t.Error("the same batch, appended again, has another id")
	}
	forged := makeEvents(t, "c", 0, 3)
	forged[0].Error = "mine"
	for name, other := range map[string][]event.Event{
		"fewer": events[:2], "the same ids with other content": forged, "other class": makeEvents(t, "d", 0, 3),
		"ids that join to the same text": {{ID: "e0e", Agent: events[0].Agent}, {ID: "1e2", Agent: events[0].Agent}},
	} {
		if _, got := EncodeBatch(codec, other); got == id {
			t.Errorf("%s: two batches share an id, and the log would drop the second", name)
		}
	}
	for i := 0; i < len(data); i += 7 {
		damaged := append([]byte(nil), data...)
		damaged[i] ^= 1
		if _, err := DecodeBatch(codec, damaged); err == nil {
			t.Fatalf("a batch with a flipped bit in byte %d is decoded", i)
		}
		if _, err := DecodeBatch(codec, data[:i]); err == nil {
			t.Fatalf("a batch cut at %d is decoded", i)
		}
	}
	if _, err := DecodeBatch(codec, sealed(t, codec, batch{Version: 2})); err == nil || !strings.Contains(err.Error(), "version 2, want 1") {
		t.Errorf("a batch of another version: %v", err)
	}
}

func sealed(t testing.TB, codec *event.Codec, v any) []byte {
	t.Helper()
	body, err := codec.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	return append(sum[:], body...)
}

func FuzzDecodeBatch(f *testing.F) {
	codec := newCodec(f)
	data, _ := EncodeBatch(codec, makeEvents(f, "c", 0, 2))
	f.Add(data[sha256.Size:])
	f.Add([]byte("\xa2avbok"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if events, err := DecodeBatch(codec, body); err == nil && len(body) < sha256.Size {
			t.Fatalf("%d events without a checksum", len(events))
		}
		sum := sha256.Sum256(body)
		events, err := DecodeBatch(codec, append(sum[:], body...))
		if err != nil {
			return
		}
		data, _ := EncodeBatch(codec, events)
		if again, err := DecodeBatch(codec, data); err != nil || !cmp.Equal(events, again, cmpopts.EquateEmpty()) {
			t.Fatalf("decoded events can't be encoded: %v %s", err, cmp.Diff(events, again))
		}
	})
}

// collect follows a partition until it has seen a number of events, and returns their ids.
func collect(t *testing.T, log *Log, partition int, after uint64, want int) (ids []string, messages []Message) {
	t.Helper()
	codec, done, idle := newCodec(t), errors.New("done"), 0
	err := log.Follow(t.Context(), partition, after, func(m Message) error {
		events, err := DecodeBatch(codec, m.Data)
		if err != nil {
			return err
		}
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		if messages = append(messages, m); len(ids) >= want {
			return done
		}
		return nil
	}, func() error {
		if idle++; idle < patience {
			return nil
		}
		return fmt.Errorf("the log is at its end after %d of %d events", len(ids), want)
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	return ids, messages
}

// Every event that Append accepted is there, once, whoever appended at the same time.
func TestConcurrentAppend(t *testing.T) {
	log := newLog(t, 3)
	w := NewWriter(log, newCodec(t))
	classes := []string{"a", "b", "c", "d"}
	var all sync.WaitGroup
	for k := range 8 {
		all.Go(func() {
			for i := range 10 {
				var events []event.Event
				for _, class := range classes {
					events = append(events, makeEvents(t, class, 1000*k+10*i, 3)...)
				}
				if err := w.Append(context.Background(), events); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	w.Close()
	perPartition := make([]int, 3)
	for _, class := range classes {
		perPartition[PartitionOf(class, 3)] += 240
	}
	for p, want := range perPartition {
		if want == 0 {
			continue
		}
		ids, messages := collect(t, log, p, 0, want)
		seen := make(map[string]int)
		for _, id := range ids {
			seen[id]++
		}
		if len(ids) != want || len(seen) != 240 {
			t.Errorf("partition %d: %d events with %d ids, want %d with 240", p, len(ids), len(seen), want)
		}
		t.Logf("partition %d: %d events in %d messages", p, len(ids), len(messages))
	}
}

// Batches are split until each fits into a message, and keep their order.
func TestLargeAppendIsSplit(t *testing.T) {
	log := newLog(t, 1)
	w := NewWriter(log, newCodec(t))
	events := makeEvents(t, "c", 0, 12)
	for i := range events {
		for range 32 {
			events[i].Content = append(events[i].Content, event.Content{Text: strings.Repeat("x", event.MaxContentBytes)})
		}
	}
	if err := w.Append(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), makeEvents(t, "c", 12, 3*maxBatchEvents)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ids, messages := collect(t, log, 0, 0, 12+3*maxBatchEvents)
	for i, id := range ids {
		if id != fmt.Sprint("e", i) {
			t.Fatalf("event %d is %s", i, id)
		}
	}
	for _, m := range messages {
		if len(m.Data) > log.MaxBatch() {
			t.Errorf("a message of %d bytes, want at most %d", len(m.Data), log.MaxBatch())
		}
	}
	if len(messages) < 5 {
		t.Errorf("%d messages", len(messages))
	}
}

func TestAppendIsCancelled(t *testing.T) {
	log := newLog(t, 1)
	// No goroutine takes from this writer's queue, as if the disk hung.
	w := &Writer{log: log, queues: []chan appending{make(chan appending, 1)}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // waiting for the answer, and for a place in the queue
		if err := w.Append(ctx, makeEvents(t, "c", 0, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("Append = %v", err)
		}
	}
}

func TestAppendFails(t *testing.T) {
	log := newLog(t, 1)
	w := NewWriter(log, newCodec(t))
	log.Close()
	if err := w.Append(t.Context(), makeEvents(t, "c", 0, 1)); err == nil {
		t.Error("an append to a closed log is acknowledged")
	}
	w.Close()
}

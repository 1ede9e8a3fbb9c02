package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func start(t *testing.T, dir string, partitions int) (*Embedded, *Log) {
	t.Helper()
	server, err := StartEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	log, err := Open(t.Context(), nc, Options{Partitions: partitions, Replicas: 1, MaxAge: time.Hour, MaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return server, log
}

// A log that may grow larger than what the disk has free by now opens: it takes what it needs.
func TestLogLargerThanTheDisk(t *testing.T) {
	server, _ := start(t, t.TempDir(), 1)
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	log, err := Open(t.Context(), nc, Options{Partitions: 1, Replicas: 1, MaxAge: time.Hour, MaxBytes: 1 << 52})
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
}

func newLog(t *testing.T, partitions int) *Log {
	t.Helper()
	_, log := start(t, t.TempDir(), partitions)
	return log
}

var errDone = errors.New("done")

// patience is how many seconds without a message are taken for the end of the log, on however slow a machine.
const patience = 20

// follow returns the next messages of a partition, as text.
func follow(t *testing.T, log *Log, partition int, after uint64, n int) (out []string) {
	t.Helper()
	idle := 0
	err := log.Follow(t.Context(), partition, after, func(m Message) error {
		if out = append(out, fmt.Sprint(m.Sequence, ":", string(m.Data), ":", m.Pending)); len(out) == n {
			return errDone
		}
		return nil
	}, func() error {
		if idle++; idle < patience {
			return nil
		}
		return errors.New("the log is at its end")
	})
	if !errors.Is(err, errDone) {
		t.Fatal(out, err)
	}
	return out
}

func TestLogSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	server, log := start(t, dir, 2)
	for i, partition := range []int{0, 1, 0, 0} {
		if err := log.Append(t.Context(), partition, fmt.Sprint("id", i), []byte(fmt.Sprint("m", i))); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a repeated append is one message, whatever it says
		if err := log.Append(t.Context(), 0, "id3", []byte("again")); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.SaveSnapshot(t.Context(), "shard-0", writing([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	if err := log.SaveSnapshot(t.Context(), "shard-0", writing([]byte(strings.Repeat("new", 1<<20)))); err != nil {
		t.Fatal(err)
	}
	check := func(log *Log) {
		t.Helper()
		if diff := cmp.Diff([]string{"1:m0:2", "3:m2:1", "4:m3:0"}, follow(t, log, 0, 0, 3)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"3:m2:1", "4:m3:0"}, follow(t, log, 0, 1, 2)); diff != "" {
			t.Errorf("after sequence 1: %s", diff)
		}
		if diff := cmp.Diff([]string{"2:m1:0"}, follow(t, log, 1, 0, 1)); diff != "" {
			t.Errorf("partition 1: %s", diff)
		}
		if last, err := log.Last(t.Context()); err != nil || last != 4 {
			t.Errorf("the newest batch is %d, want 4: %v", last, err)
		}
		if m, err := log.Read(t.Context(), 3); err != nil || string(m.Data) != "m2" {
			t.Errorf("sequence 3 is %q: %v", m.Data, err)
		}
		if _, err := log.Read(t.Context(), 99); err == nil {
			t.Error("a batch that is not there can be read")
		}
		if data, err := log.Snapshot(t.Context(), "shard-0"); err != nil || string(data) != strings.Repeat("new", 1<<20) {
			t.Errorf("a snapshot of %d bytes: %v", len(data), err)
		}
		if data, err := log.Snapshot(t.Context(), "shard-1"); err != nil || data != nil {
			t.Errorf("a snapshot that was never saved: %q %v", data, err)
		}
	}
	check(log)
	log.Close()
	server.Stop()
	_, log = start(t, dir, 2)
	check(log)
}

// A crash while a snapshot is written must not keep the detector from starting: it can read the log anew.
func TestDamagedSnapshot(t *testing.T) {
	log := newLog(t, 1)
	save := func(text string) {
		if err := log.SaveSnapshot(t.Context(), "shard-0", writing([]byte(strings.Repeat(text, 1<<20)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"x", "xyz"} { // of one chunk, and of several
		save(text)
		lose(t, log)
		if data, err := log.Snapshot(t.Context(), "shard-0"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
	save("y")
	if data, err := log.Snapshot(t.Context(), "shard-0"); err != nil || len(data) != 1<<20 {
		t.Errorf("%d bytes: %v", len(data), err)
	}
}

// lose deletes the first chunk of a snapshot.
func lose(t *testing.T, log *Log) {
	t.Helper()
	chunks, err := log.js.Stream(t.Context(), "OBJ_"+snapshotsBucket)
	if err != nil {
		t.Fatal(err)
	}
	info, err := chunks.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := chunks.DeleteMsg(t.Context(), info.State.FirstSeq); err != nil {
		t.Fatal(err)
	}
}

// Events are found in the partitions that they were written to; a log that was configured otherwise must not be opened and half read.
func TestPartitionsDoNotChange(t *testing.T) {
	server, log := start(t, t.TempDir(), 8)
	reopen := func(partitions int) string {
		nc, err := server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_, err = Open(t.Context(), nc, Options{Partitions: partitions, Replicas: 1, MaxAge: time.Hour, MaxBytes: 1 << 30})
		return fmt.Sprint(err)
	}
	got := []string{reopen(6), reopen(8)} // nothing is in it yet
	if err := log.Append(t.Context(), 7, "id", []byte("m")); err != nil {
		t.Fatal(err)
	}
	got = append(got, reopen(4), reopen(16), reopen(8))
	const refusal = "open event log: it holds events in 8 partitions, and %d are configured; set nats.partitions to 8, or start with an empty log"
	want := []string{"<nil>", "<nil>", fmt.Sprintf(refusal, 4), fmt.Sprintf(refusal, 16), "<nil>"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFollowWaits(t *testing.T) {
	log := newLog(t, 1)
	idle := 0
	err := log.Follow(t.Context(), 0, 0, func(m Message) error {
		if string(m.Data) != "late" || idle == 0 {
			t.Errorf("%q after %d idle seconds", m.Data, idle)
		}
		return errDone
	}, func() error {
		idle++
		return log.Append(t.Context(), 0, "id", []byte("late"))
	})
	if !errors.Is(err, errDone) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := log.Follow(ctx, 0, 1, nil, func() error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v after its context ended", err)
	}
}

// A finding that can never be handled is reported once and does not come again.
func TestPermanentFindings(t *testing.T) {
	log := newLog(t, 1)
	const bad = maxWaiting / 8
	for i := range bad {
		if err := log.PublishFinding(t.Context(), fmt.Sprint(i), "", []byte("bad")); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.PublishFinding(t.Context(), "good", "", []byte("good")); err != nil {
		t.Fatal(err)
	}
	ended, err := log.nc.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.respond")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reported := 0
	handle := func(_ context.Context, m Message) error {
		if string(m.Data) == "good" {
			cancel()
			return nil
		}
		return &Permanent{errors.New("it is no finding")}
	}
	_ = log.HandleFindings(ctx, handle, func(error) { reported++ })
	if !errors.Is(ctx.Err(), context.Canceled) || reported != bad {
		t.Errorf("%d of %d are reported, then the good one came: %v", reported, bad, ctx.Err())
	}
	for i := range bad { // the server says so for each
		if _, err := ended.NextMsg(20 * time.Second); err != nil {
			t.Fatalf("%d of %d findings come no more: %v", i, bad, err)
		}
	}
}

func TestAgain(t *testing.T) {
	for delivered, want := range map[uint64]time.Duration{0: retry, 1: retry, 2: 2 * retry, 3: 4 * retry, 9: maxRetry, 1 << 60: maxRetry} {
		if got := again(delivered); got != want {
			t.Errorf("again(%d) = %s, want %s", delivered, got, want)
		}
	}
}

// A finding that could not be handled is reported and comes again; one that was handled comes no more.
func TestHandleFindings(t *testing.T) {
	log := newLog(t, 1)
	for _, id := range []string{"a", "b", "c", "a"} {
		if err := log.PublishFinding(t.Context(), id, "", []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	handle := func(failing string, n int) (handled, reported []string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		failed := false
		err := log.HandleFindings(ctx, func(_ context.Context, m Message) error {
			if string(m.Data) == failing && !failed {
				failed = true
				return errors.New("no workflow server")
			}
			handled = append(handled, string(m.Data))
			if len(handled) == n {
				// The answer of this one is sent after fn returns, so the end comes with the next.
				return log.PublishFinding(t.Context(), "end", "", []byte("end"))
			}
			if string(m.Data) == "end" {
				cancel()
			}
			return nil
		}, func(err error) { reported = append(reported, err.Error()) })
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return handled, reported
	}
	handled, reported := handle("b", 3)
	slices.Sort(handled[:3])
	if diff := cmp.Diff([]string{"a", "b", "c", "end"}, handled); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"no workflow server"}, reported); diff != "" {
		t.Error(diff)
	}
	if err := log.PublishFinding(t.Context(), "d", "", []byte("d")); err != nil {
		t.Fatal(err)
	}
	// "end" was handled when the context ended, and not acknowledged: it may come again. What was acknowledged must not.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_ = log.HandleFindings(ctx, func(_ context.Context, m Message) error {
		switch string(m.Data) {
		case "d":
			cancel()
		case "end":
		default:
			t.Errorf("%q comes again", m.Data)
		}
		return nil
	}, func(error) {})
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("a new finding does not come after a restart of the handler")
	}
}

// Findings of one key are handled in order, and do not wait for those of another that takes long.
func TestKeysOfFindings(t *testing.T) {
	log := newLog(t, 1)
	const slow, quick = "slow", "quick"
	if PartitionOf(slow, lanes) == PartitionOf(quick, lanes) {
		t.Fatal("the keys share a lane")
	}
	for i := range 20 {
		if err := log.PublishFinding(t.Context(), fmt.Sprint(slow, i), slow, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.PublishFinding(t.Context(), quick, quick, []byte(quick)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	over := make(chan struct{})
	var order []byte
	_ = log.HandleFindings(ctx, func(ctx context.Context, m Message) error {
		if string(m.Data) == quick {
			close(over)
			return nil
		}
		select {
		case <-over:
		case <-ctx.Done():
		}
		if order = append(order, m.Data...); len(order) == 20 {
			cancel()
		}
		return nil
	}, func(err error) { t.Error(err) })
	if !errors.Is(ctx.Err(), context.Canceled) || !slices.IsSorted(order) {
		t.Errorf("%v: handled %v", ctx.Err(), order)
	}
}

// writing writes a snapshot in pieces of all sizes.
func writing(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		for n := 1; len(data) > 0; n *= 3 {
			n = min(n, len(data))
			if _, err := w.Write(data[:n]); err != nil {
				return err
			}
			data = data[n:]
		}
		return nil
	}
}

// A snapshot that can't be written to its end, or stored, leaves the one before in place.
func TestSnapshotFails(t *testing.T) {
	log := newLog(t, 1)
	if err := log.SaveSnapshot(t.Context(), "s", writing([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no value for it")
	err := log.SaveSnapshot(t.Context(), "s", func(w io.Writer) error {
		return errors.Join(writing(make([]byte, 3*snapshotChunk))(w), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("SaveSnapshot = %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.SaveSnapshot(ctx, "s", writing(make([]byte, 3*snapshotChunk))); !errors.Is(err, context.Canceled) {
		t.Errorf("SaveSnapshot = %v, want %v", err, context.Canceled)
	}
	if data, err := log.Snapshot(t.Context(), "s"); err != nil || string(data) != "old" {
		t.Errorf("the snapshot is %.20q, %v", data, err)
	}
}

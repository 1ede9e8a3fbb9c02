package ledger

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// Rows are the ledger in SQL.
type Rows interface {
	// LedgerAfter returns the records that follow a number, in order, at most limit of them.
	LedgerAfter(ctx context.Context, seq int64, limit int) ([]Record, error)
}

// Key signs checkpoints: the two halves of an Ed25519 key in the text form of signed notes.
type Key struct{ Private, Public string }

// NewKey makes a key. Its name is random: it names the log that its checkpoints are of, and no two deployments share one.
func NewKey() (Key, error) {
	private, public, err := note.GenerateKey(rand.Reader, "tocsin-"+strings.ToLower(rand.Text()[:12]))
	if err != nil {
		return Key{}, fmt.Errorf("make checkpoint key: %w", err)
	}
	return Key{private, public}, nil
}

// Anchor copies the ledger's hashes into a transparency log: local files in the form of C2SP tlog-tiles, with a signed checkpoint over
// all of them. Entry n is the hash of record n+1, so that the log is a function of the records alone and holds no personal data. One
// process at a time may have an anchor of a directory.
type Anchor struct {
	rows   Rows
	driver tessera.Driver
	signer note.Signer
	reader tessera.LogReader
	key    string
	every  time.Duration // between two checkpoints
	batch  uint          // records that are written together
	add    tessera.AddFn
	close  func(context.Context) error

	mu    sync.Mutex
	state Anchored
}

// Anchored is how far an anchor has come.
type Anchored struct {
	Size int64 // records that are in the log
	Err  error // why it does not go on
}

const (
	// followEvery is how often the anchor looks for new records.
	followEvery = 500 * time.Millisecond
	// followBatch is how many records it reads at once, and writes together when it is behind.
	followBatch = 256
	// never is when a batch that is not full is written.
	never = 10 * 365 * 24 * time.Hour
)

// OpenAnchor opens the log in a directory, or begins it. A checkpoint is signed at most as often as publish says, which is at least a
// tenth of a second.
func OpenAnchor(ctx context.Context, dir string, key Key, rows Rows, publish time.Duration) (*Anchor, error) {
	signer, err := note.NewSigner(key.Private)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint key: %w", err)
	}
	verifier, err := note.NewVerifier(key.Public)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint key: %w", err)
	}
	if signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash() {
		return nil, errors.New("read checkpoint key: its two halves don't belong together")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open anchor: %w", err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, fmt.Errorf("open anchor: %w", err)
	}
	a := &Anchor{rows: rows, driver: driver, signer: signer, key: key.Public, every: publish}
	return a, a.open(ctx, 1)
}

// open lets records be written in batches of a size. Only full batches are written, and nothing follows a batch before it is on disk,
// so that one that fails can't let a later record take its place.
func (a *Anchor) open(ctx context.Context, batch uint) error {
	if a.close != nil {
		if err := a.Close(); err != nil {
			return err
		}
	}
	options := tessera.NewAppendOptions().WithCheckpointSigner(a.signer).WithBatching(batch, never).
		WithCheckpointInterval(a.every).WithCheckpointRepublishInterval(0)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a batch that is being added is finished
	appender, shutdown, reader, err := tessera.NewAppender(ctx, a.driver, options)
	if err != nil {
		cancel()
		return fmt.Errorf("open anchor: %w", err)
	}
	a.batch, a.add = batch, appender.Add
	if a.reader == nil { // every one reads the same files
		a.reader = reader
	}
	a.close = func(ctx context.Context) error {
		defer cancel()
		return shutdown(ctx)
	}
	return nil
}

// closeGrace is how long the last checkpoint may take.
const closeGrace = 5 * time.Second

// Close publishes the checkpoint of what was added and closes the log. Nothing may follow the ledger any more.
func (a *Anchor) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := a.close(ctx); err != nil {
		return fmt.Errorf("close anchor: %w", err)
	}
	return nil
}

// Run follows the ledger until the context ends, and tells of what stops it, once each time.
func (a *Anchor) Run(ctx context.Context, tell func(error)) {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for last := ""; ; {
		err := a.Follow(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != last {
			tell(err)
		}
		last = fmt.Sprint(err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Follow adds the records that are not in the log yet. It goes on where the log ends, so that a crash loses and repeats nothing. It
// refuses to go on where the records are not those that the log was made of.
func (a *Anchor) Follow(ctx context.Context) error {
	err := a.follow(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // to be stopped is no state of the ledger
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Err = err
	return err
}

func (a *Anchor) follow(ctx context.Context) error {
	end, err := a.reader.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("follow ledger: %w", err)
	}
	size := int64(end)
	prev, err := a.last(ctx, size)
	if err != nil {
		return err
	}
	for {
		rows, err := a.rows.LedgerAfter(ctx, size, followBatch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := Verify(r, prev); err != nil {
				return err
			}
			prev = r
		}
		if err := a.append(ctx, rows); err != nil {
			return err
		}
		size = prev.Seq
		a.note(size)
		if len(rows) < followBatch {
			return nil
		}
	}
}

// last returns the record that the log ends with, after it checked that it still is that record.
func (a *Anchor) last(ctx context.Context, size int64) (Record, error) {
	if size == 0 {
		return Record{}, nil
	}
	rows, err := a.rows.LedgerAfter(ctx, size-1, 1)
	if err != nil {
		return Record{}, err
	}
	if len(rows) == 0 {
		return Record{}, fmt.Errorf("follow ledger: the log holds %d records and the database fewer: records were removed from its end", size)
	}
	entries, err := bundleOf(ctx, a.reader.ReadEntryBundle, size-1, size)
	if err != nil {
		return Record{}, err
	}
	if rows[0].Seq != size || rows[0].Hash != entries[(size-1)%layout.EntryBundleWidth] {
		return Record{}, fmt.Errorf("follow ledger: record %d is not the one that was anchored: tocsin ledger verify finds what was changed", size)
	}
	return rows[0], nil
}

// append adds records and waits until they are on disk: all together, or one by one.
func (a *Anchor) append(ctx context.Context, rows []Record) error {
	batch := uint(1)
	if len(rows) == followBatch {
		batch = followBatch
	}
	if batch != a.batch && len(rows) > 0 {
		if err := a.open(ctx, batch); err != nil {
			return err
		}
	}
	for len(rows) > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		added := make([]tessera.IndexFuture, a.batch)
		for i := range added {
			added[i] = a.add(context.WithoutCancel(ctx), tessera.NewEntry([]byte(rows[i].Hash)))
		}
		for i, future := range added {
			index, err := future()
			if err != nil {
				return fmt.Errorf("anchor record %d: %w", rows[i].Seq, err)
			}
			if index.Index+1 != uint64(rows[i].Seq) {
				return fmt.Errorf("anchor record %d: it became entry %d, so that somebody else writes to the log", rows[i].Seq, index.Index)
			}
		}
		rows = rows[a.batch:]
	}
	return nil
}

func (a *Anchor) note(size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Size = size
}

// State says how far the anchor has come.
func (a *Anchor) State() Anchored {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Checkpoint is a signed statement of how many records there were and what they were.
type Checkpoint struct {
	Size int64  `json:"size"`
	Note string `json:"note"` // as it was signed
	Key  string `json:"key"`  // that verifies it; to believe it, compare it with one that was kept elsewhere

	root []byte
}

// Checkpoint returns the latest one that was published.
func (a *Anchor) Checkpoint(ctx context.Context) (Checkpoint, error) {
	text, err := a.reader.ReadCheckpoint(ctx)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return OpenCheckpoint(text, a.key)
}

// Await returns the latest checkpoint once it is over a record.
func (a *Anchor) Await(ctx context.Context, seq int64) (Checkpoint, error) {
	ticker := time.NewTicker(awaitEvery)
	defer ticker.Stop()
	for {
		cp, err := a.Checkpoint(ctx)
		if err != nil || cp.Size >= seq {
			return cp, err
		}
		select {
		case <-ctx.Done():
			return Checkpoint{}, fmt.Errorf("wait for the checkpoint of record %d: %w", seq, cmp.Or(a.State().Err, ctx.Err()))
		case <-ticker.C:
		}
	}
}

// awaitEvery is how often the checkpoint is read by who waits for one.
const awaitEvery = 100 * time.Millisecond

// ReadCheckpoint reads the latest checkpoint from the directory of an anchor.
func ReadCheckpoint(dir, key string) (Checkpoint, error) {
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, fmt.Errorf("there is no checkpoint in %s: the ledger was never anchored, or the files were removed", dir)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return OpenCheckpoint(text, key)
}

// Inclusion returns the proof that a record is one of those that a checkpoint of this log is over.
func (a *Anchor) Inclusion(ctx context.Context, of Checkpoint, seq int64) ([][]byte, error) {
	builder, err := client.NewProofBuilder(ctx, uint64(of.Size), a.reader.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("prove record %d: %w", seq, err)
	}
	hashes, err := builder.InclusionProof(ctx, uint64(seq-1))
	if err != nil {
		return nil, fmt.Errorf("prove record %d: %w", seq, err)
	}
	return hashes, nil
}

// Includes checks the proof that the record of a hash is number seq of those that the checkpoint is over.
func (c Checkpoint) Includes(seq int64, hash string, inclusion [][]byte) error {
	if seq < 1 || seq > c.Size {
		return fmt.Errorf("record %d is not among the %d of the checkpoint", seq, c.Size)
	}
	err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(seq-1), uint64(c.Size), leaf(hash), inclusion, c.root)
	if err != nil {
		return fmt.Errorf("record %d is not what the checkpoint is over: %w", seq, err)
	}
	return nil
}

// leaf is the Merkle hash of an entry, RFC 6962, section 2.1.
func leaf(hash string) []byte { return rfc6962.DefaultHasher.HashLeaf([]byte(hash)) }

// maxCheckpoint bounds a checkpoint, in bytes.
const maxCheckpoint = 64 << 10

// OpenCheckpoint reads a checkpoint and verifies its signature with the key, whose text form is name+hash+key.
func OpenCheckpoint(text []byte, key string) (Checkpoint, error) {
	key = strings.TrimSpace(key)
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint key: %w", err)
	}
	if len(text) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("read checkpoint: it has %d bytes, at most %d", len(text), maxCheckpoint)
	}
	cp, _, _, err := log.ParseCheckpoint(text, verifier.Name(), verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	if cp.Size > maxSize || len(cp.Hash) != sha256.Size {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %d records under a root of %d bytes can't be", cp.Size, len(cp.Hash))
	}
	return Checkpoint{Size: int64(cp.Size), Note: string(text), Key: key, root: cp.Hash}, nil
}

// maxSize bounds the records of a ledger.
const maxSize = 1 << 40

// bundleOf reads the hashes that are entries of a log of some size: those of the bundle that entry i is in.
func bundleOf(ctx context.Context, read client.EntryBundleFetcherFunc, i, size int64) ([]string, error) {
	index := i / layout.EntryBundleWidth
	bundle, err := client.GetEntryBundle(ctx, read, uint64(index), uint64(size))
	if err != nil {
		return nil, fmt.Errorf("read entry %d of the log: %w", i, err)
	}
	if n := min(layout.EntryBundleWidth, size-index*layout.EntryBundleWidth); int64(len(bundle.Entries)) < n {
		return nil, fmt.Errorf("read entry %d of the log: its bundle holds %d entries, want %d", i, len(bundle.Entries), n)
	}
	out := make([]string, len(bundle.Entries))
	for n, e := range bundle.Entries {
		out[n] = string(e)
	}
	return out, nil
}

package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

// Check computes a whole ledger anew, record by record, and compares it with its log and with checkpoints that were kept elsewhere.
type Check struct {
	dir    string // of the log; empty where there is none to compare with
	files  client.FileFetcher
	latest Checkpoint   // of the log
	kept   []Checkpoint // whoever changed all the rest could not change these
	prev   Record
	bundle []string // entries of the log around the record
	tree   *compact.Range
	tiles  map[compact.NodeID][]byte // computed, and not yet compared
}

// NewCheck begins a check. Without a directory there is no log, and the records are compared with the kept checkpoints alone.
func NewCheck(dir string, latest Checkpoint, kept []Checkpoint) *Check {
	factory := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	return &Check{
		dir: dir, files: client.FileFetcher{Root: dir}, latest: latest, kept: kept,
		tree: factory.NewEmptyRange(0), tiles: make(map[compact.NodeID][]byte),
	}
}

// Add checks the next record.
func (c *Check) Add(ctx context.Context, r Record) error {
	if err := Verify(r, c.prev); err != nil {
		return err
	}
	c.prev = r
	inLog := c.dir != "" && r.Seq <= c.latest.Size
	if inLog {
		if err := c.compareEntry(ctx, r); err != nil {
			return err
		}
	}
	err := c.tree.Append(leaf(r.Hash), func(id compact.NodeID, hash []byte) {
		if inLog && id.Level%layout.TileHeight == 0 {
			tile := compact.NodeID{Level: id.Level / layout.TileHeight, Index: id.Index / layout.TileWidth}
			c.tiles[tile] = append(c.tiles[tile], hash...)
		}
	})
	if err != nil {
		return fmt.Errorf("verify ledger: record %d: %w", r.Seq, err)
	}
	if inLog && (r.Seq == c.latest.Size || r.Seq%layout.TileWidth == 0) {
		if err := c.compareTiles(ctx, r.Seq == c.latest.Size); err != nil {
			return err
		}
	}
	return c.compareRoots(r.Seq)
}

// compareEntry compares a record with the entry of the log that was made of it.
func (c *Check) compareEntry(ctx context.Context, r Record) (err error) {
	at := (r.Seq - 1) % layout.EntryBundleWidth
	if at == 0 {
		if c.bundle, err = bundleOf(ctx, c.files.ReadEntryBundle, r.Seq-1, c.latest.Size); err != nil {
			return fmt.Errorf("verify ledger: %w", err)
		}
	}
	if entry := c.bundle[at]; entry != r.Hash {
		return fmt.Errorf("verify ledger: record %d is not the one that was anchored: its hash is %s, the log's %.64q", r.Seq, r.Hash, entry)
	}
	return nil
}

// compareTiles compares the computed tiles that are full, or at the end of the log all of them, with the log's files.
func (c *Check) compareTiles(ctx context.Context, all bool) error {
	for id, want := range c.tiles {
		n := len(want) / sha256.Size
		if n < layout.TileWidth && !all {
			continue
		}
		partial := layout.PartialTileSize(uint64(id.Level), id.Index, uint64(c.latest.Size))
		got, err := c.files.ReadTile(ctx, uint64(id.Level), id.Index, partial)
		if err != nil {
			return fmt.Errorf("verify ledger: read tile %d of level %d: %w", id.Index, id.Level, err)
		}
		if !bytes.HasPrefix(got, want) {
			return fmt.Errorf("verify ledger: tile %d of level %d is not made of the records: the log's files were changed", id.Index, id.Level)
		}
		delete(c.tiles, id)
	}
	return nil
}

// compareRoots compares the root of the records so far with the checkpoints that are over as many.
func (c *Check) compareRoots(size int64) error {
	for _, cp := range append([]Checkpoint{c.latest}, c.kept...) {
		if cp.Size != size {
			continue
		}
		root, err := c.tree.GetRootHash(nil)
		if err != nil {
			return fmt.Errorf("verify ledger: %w", err)
		}
		if !bytes.Equal(root, cp.root) {
			return fmt.Errorf("verify ledger: the first %d records are not those of the checkpoint: one of them was changed, removed or reordered since it was signed", size)
		}
	}
	return nil
}

// End checks what only the whole ledger tells, and returns how many records it holds.
func (c *Check) End(ctx context.Context) (int64, error) {
	n := c.prev.Seq
	for _, cp := range append([]Checkpoint{c.latest}, c.kept...) {
		if cp.Size > n {
			return n, fmt.Errorf("verify ledger: it holds %d records and the checkpoint %d: records were removed from the end", n, cp.Size)
		}
	}
	if c.dir == "" {
		return n, nil
	}
	for _, cp := range c.kept {
		if err := c.consistent(ctx, cp); err != nil {
			return n, err
		}
	}
	return n, nil
}

// consistent proves from the log's files alone that the log only grew since a checkpoint.
func (c *Check) consistent(ctx context.Context, old Checkpoint) error {
	if old.Size > c.latest.Size {
		return fmt.Errorf("verify ledger: the log's latest checkpoint is over %d records, the one that was kept over %d: the log was cut", c.latest.Size, old.Size)
	}
	if old.Size == 0 {
		return nil
	}
	from, to := uint64(old.Size), uint64(c.latest.Size)
	builder, err := client.NewProofBuilder(ctx, to, c.files.ReadTile)
	if err != nil {
		return fmt.Errorf("verify ledger: read the log: %w", err)
	}
	hashes, err := builder.ConsistencyProof(ctx, from, to)
	if err != nil {
		return fmt.Errorf("verify ledger: read the log: %w", err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, to, hashes, old.root, c.latest.root); err != nil {
		return fmt.Errorf("verify ledger: the log is not the one that the kept checkpoint is of: %w", err)
	}
	return nil
}

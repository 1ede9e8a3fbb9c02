package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// VerifyOptions say what of a ledger is verified.
type VerifyOptions struct {
	Data  string // the directory with the log; without one the records are compared with the kept checkpoints alone
	Store string // the database; without one that of the data directory
	// Key verifies checkpoints; without one that of the data directory, which whoever changed the ledger could have changed too.
	Key string
	// Kept are the files of checkpoints that were kept elsewhere.
	Kept []string
}

// Verified is what was found in order.
type Verified struct {
	Records  int64 `json:"records"`
	Anchored int64 `json:"anchored"` // of these, the log's checkpoint is over
	Kept     int64 `json:"kept"`     // the largest checkpoint that was kept is over
}

// VerifyLedger computes a ledger anew and compares it with its log and with checkpoints that were kept elsewhere. It needs no running
// Tocsin and changes nothing.
func VerifyLedger(ctx context.Context, o VerifyOptions) (v Verified, err error) {
	if o.Key == "" && o.Data != "" {
		text, err := os.ReadFile(PublicKey(o.Data))
		if err != nil {
			return v, fmt.Errorf("read checkpoint key: %w", err)
		}
		o.Key = string(text)
	}
	var latest ledger.Checkpoint
	var kept []ledger.Checkpoint
	dir := ""
	if o.Data != "" {
		dir = LedgerLog(o.Data)
		if latest, err = ledger.ReadCheckpoint(dir, o.Key); err != nil {
			return v, err
		}
	}
	for _, file := range o.Kept {
		text, err := os.ReadFile(file)
		if err != nil {
			return v, fmt.Errorf("read checkpoint: %w", err)
		}
		cp, err := ledger.OpenCheckpoint(text, o.Key)
		if err != nil {
			return v, fmt.Errorf("%s: %w", file, err)
		}
		kept, v.Kept = append(kept, cp), max(v.Kept, cp.Size)
	}
	if o.Store == "" {
		o.Store = filepath.Join(o.Data, "store.db")
	}
	s, err := store.OpenToRead(ctx, o.Store)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	check := ledger.NewCheck(dir, latest, kept)
	if err := s.EachRecord(ctx, func(r ledger.Record) error { return check.Add(ctx, r) }); err != nil {
		return v, err
	}
	v.Anchored = latest.Size
	v.Records, err = check.End(ctx)
	return v, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

type ledgerCmd struct {
	List       ledgerListCmd       `cmd:"" default:"withargs" help:"List the latest records, or those about one subject."`
	Checkpoint ledgerCheckpointCmd `cmd:"" help:"Print the latest checkpoint, to be kept where nobody who runs Tocsin can change it."`
	Verify     ledgerVerifyCmd     `cmd:"" help:"Compute the whole ledger anew, offline, and name the first record that is not what it was."`
}

type ledgerListCmd struct {
	server
	Subject string `arg:"" optional:"" help:"Incident, request, agent or artefact."`
}

// Run implements the command.
func (c *ledgerListCmd) Run(ctx context.Context, std *stdio) error {
	var list []ledger.Record
	if err := c.call(ctx, http.MethodGet, "/api/v1/ledger?subject="+url.QueryEscape(c.Subject), nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, list)
	}
	return table(std.out, "RECORD\tAT\tKIND\tACTOR\tSUBJECT\tHASH", len(list), "no record", func(w io.Writer, n int) {
		r := list[n]
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", r.Seq, r.At.Format(time.RFC3339), visible(r.Kind), visible(r.Actor), visible(r.Subject), brief(r.Hash))
	})
}

type ledgerCheckpointCmd struct {
	server
	Data string `help:"Data directory to read it from; without one the running Tocsin is asked." type:"existingdir"`
	Key  bool   `help:"Print the key that verifies checkpoints instead."`
}

// Run implements the command.
func (c *ledgerCheckpointCmd) Run(ctx context.Context, std *stdio) error {
	var cp ledger.Checkpoint
	if c.Data == "" {
		if err := c.call(ctx, http.MethodGet, "/api/v1/ledger/checkpoint", nil, &cp); err != nil {
			return err
		}
	} else {
		key, err := os.ReadFile(app.PublicKey(c.Data))
		if err != nil {
			return fmt.Errorf("read checkpoint key: %w", err)
		}
		if cp, err = ledger.ReadCheckpoint(app.LedgerLog(c.Data), string(key)); err != nil {
			return err
		}
	}
	switch {
	case c.JSON:
		return printJSON(std.out, cp)
	case c.Key:
		fmt.Fprintln(std.out, visible(cp.Key))
	default:
		fmt.Fprint(std.out, cp.Note)
	}
	return nil
}

type ledgerVerifyCmd struct {
	Data       string   `help:"Data directory with the log, the key and, unless --store says otherwise, the database." type:"existingdir"`
	Store      string   `help:"Database: the path of a SQLite file or postgres://… ."`
	Checkpoint []string `help:"File of a checkpoint that was kept elsewhere." type:"existingfile"`
	Key        string   `help:"Key that verifies checkpoints, or a file that holds it; one that was kept elsewhere proves more than the data directory's."`
	JSON       bool     `help:"Print JSON."`
}

// Run implements the command.
func (c *ledgerVerifyCmd) Run(ctx context.Context, std *stdio) error {
	if c.Data == "" && c.Store == "" {
		return errors.New("say what to verify: --data DIR, or --store URL with --checkpoint FILE and --key KEY")
	}
	if c.Data == "" && (len(c.Checkpoint) == 0 || c.Key == "") {
		return errors.New("--store alone shows no more than that the rows are of one piece: give --data DIR, or --checkpoint FILE with --key KEY")
	}
	key, err := keyText(c.Key)
	if err != nil {
		return err
	}
	v, err := app.VerifyLedger(ctx, app.VerifyOptions{Data: c.Data, Store: c.Store, Key: key, Kept: c.Checkpoint})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, v)
	}
	fmt.Fprintf(std.out, "%d records, each as it was written.\n", v.Records)
	if c.Data != "" {
		fmt.Fprintf(std.out, "The log's checkpoint is over the first %d; its files are made of them.\n", v.Anchored)
	}
	if len(c.Checkpoint) > 0 {
		fmt.Fprintf(std.out, "The first %d are those of the checkpoint that was kept.\n", v.Kept)
		return nil
	}
	fmt.Fprintln(std.out, "Nothing from outside was compared: whoever holds the machine could have made all of it anew. Give --checkpoint FILE.")
	return nil
}

// keyText is a key, or what a file of that name holds.
func keyText(key string) (string, error) {
	if key == "" {
		return "", nil
	}
	text, err := os.ReadFile(key)
	if errors.Is(err, os.ErrNotExist) {
		return key, nil
	}
	if err != nil {
		return "", fmt.Errorf("read checkpoint key: %w", err)
	}
	return string(text), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/evidence"
)

type evidenceCmd struct {
	Export evidenceExportCmd `cmd:"" help:"Write all that is known of an incident into one bundle that a stranger can verify."`
	Verify evidenceVerifyCmd `cmd:"" help:"Verify a bundle offline, and name what is not as it was exported."`
}

type evidenceExportCmd struct {
	address
	ID     string `arg:"" help:"Incident, as incidents list names it, or as much of its id as tells it from others."`
	Out    string `short:"o" required:"" help:"File to write; it must not be there yet."`
	Redact bool   `help:"Leave out what agents said. Its hashes stay, and the originals stay sealed in the vault."`
}

// Run implements the command.
func (c *evidenceExportCmd) Run(ctx context.Context, std *stdio) (err error) {
	id, err := (&server{address: c.address}).incident(ctx, c.ID)
	if err != nil {
		return err
	}
	request, err := c.request(ctx, http.MethodPost, "/api/v1/incidents/"+url.PathEscape(id)+"/export", api.ExportBody{Redact: c.Redact})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(c.Out)) // half a bundle is none
		}
	}()
	response, err := receive(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	n, err := io.Copy(f, io.LimitReader(response.Body, evidence.MaxBundle))
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	fmt.Fprintf(std.out, "Exported %s: %d bytes in %s. The export is recorded.\n", visible(id), n, c.Out)
	return nil
}

type evidenceVerifyCmd struct {
	File string `arg:"" type:"existingfile" help:"Bundle."`
	Key  string `help:"Key of the ledger's checkpoints, or a file that holds it, from elsewhere than the bundle."`
	JSON bool   `help:"Print JSON."`
}

// Run implements the command. A bundle that is not in order ends it with an error.
func (c *evidenceVerifyCmd) Run(std *stdio) error {
	key, err := keyText(c.Key)
	if err != nil {
		return err
	}
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	report, err := evidence.VerifyBundle(f, key)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(std.out, report)
	} else {
		showReport(std.out, report)
	}
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("the bundle is not as it was exported: %d problems", len(report.Problems))
	}
	return err
}

func showReport(w io.Writer, r evidence.Report) {
	for _, p := range r.Problems {
		fmt.Fprintf(w, "WRONG  %s\n", visible(p))
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(w, "left out  %s, %d bytes, sha256 %s: %s\n", visible(l.Name), l.Size, visible(l.SHA256), visible(l.Why))
	}
	if len(r.Problems) > 0 {
		return
	}
	fmt.Fprintf(w, "%d files as they were exported. %d records under a checkpoint over %d.\n", r.Files, r.Records, r.Size)
	if r.OwnKey {
		fmt.Fprintln(w, "The key came with the bundle: that proves that all of it is of one piece, not where it comes from. Give --key.")
	}
}

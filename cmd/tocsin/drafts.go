package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

type draftsCmd struct {
	Show draftsShowCmd `cmd:"" default:"withargs" help:"List an incident's drafts, or print one, or what a version changed."`
	Edit draftsEditCmd `cmd:"" help:"Write a version of your own. What Tocsin writes later stands beside it."`
}

type draftsShowCmd struct {
	server
	ID      string `arg:"" help:"Incident, as incidents list names it, or as much of its id as tells it from others."`
	Name    string `arg:"" optional:"" help:"Draft: post-mortem, timeline, internal-notice or customer-notice."`
	Version int    `help:"Version; without one what a person wrote last or, where nobody did, what Tocsin did."`
	Diff    bool   `help:"Print what the version changed."`
}

// Run implements the command.
func (c *draftsShowCmd) Run(ctx context.Context, std *stdio) error {
	all, err := c.versions(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.Name == "" {
		if c.JSON {
			return printJSON(std.out, all)
		}
		return table(std.out, "DRAFT\tVERSION\tBY\tAT\tSHA-256", len(all), "no draft is written yet", func(w io.Writer, n int) {
			d := all[n]
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", visible(d.Name), d.Version, visible(author(d)), d.At.Format(time.RFC3339), visible(d.SHA256))
		})
	}
	d, err := pick(all, c.Name, c.Version)
	if err != nil {
		return err
	}
	switch {
	case c.JSON:
		return printJSON(std.out, d)
	case c.Diff:
		fmt.Fprint(std.out, incident.Plain(d.Diff))
	default:
		fmt.Fprint(std.out, incident.Plain(d.Markdown))
	}
	return nil
}

func author(d api.DraftVersion) string {
	if d.Author == "" {
		return "tocsin"
	}
	return d.Author
}

// versions returns all versions of an incident's drafts.
func (s *server) versions(ctx context.Context, id string) (all []api.DraftVersion, err error) {
	id, err = s.incident(ctx, id)
	if err != nil {
		return nil, err
	}
	return all, s.call(ctx, http.MethodGet, "/api/v1/incidents/"+url.PathEscape(id)+"/drafts", nil, &all)
}

// pick returns a version of a draft; 0 is the one that people see.
func pick(all []api.DraftVersion, name string, version int) (api.DraftVersion, error) {
	var drafts []api.DraftVersion
	for _, d := range all {
		if d.Name == name {
			drafts = append(drafts, d)
		}
	}
	for _, d := range slices.Backward(drafts) {
		if d.Version == version || version == 0 && d.Author != "" {
			return d, nil
		}
	}
	if len(drafts) == 0 || version != 0 {
		return api.DraftVersion{}, fmt.Errorf("there is no version %d of %q; tocsin drafts show names them", version, name)
	}
	return drafts[len(drafts)-1], nil
}

type draftsEditCmd struct {
	server
	ID   string `arg:"" help:"Incident, as incidents list names it, or as much of its id as tells it from others."`
	Name string `arg:"" help:"Draft: post-mortem, timeline, internal-notice or customer-notice."`
	File string `help:"File with the text, - for standard input; without one $EDITOR opens the present text."`
	Base int    `help:"Version that the text was made of; without one that which people see."`
}

// Run implements the command.
func (c *draftsEditCmd) Run(ctx context.Context, std *stdio) error {
	id, err := c.incident(ctx, c.ID)
	if err != nil {
		return err
	}
	all, err := c.versions(ctx, id)
	if err != nil {
		return err
	}
	base, err := pick(all, c.Name, c.Base)
	if err != nil {
		return err
	}
	text, err := c.text(ctx, std, base.Markdown)
	if err != nil {
		return err
	}
	var d api.DraftVersion
	path := "/api/v1/incidents/" + url.PathEscape(id) + "/drafts/" + url.PathEscape(c.Name)
	if err := c.call(ctx, http.MethodPost, path, api.EditBody{Base: base.Version, Markdown: text}, &d); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, d)
	}
	fmt.Fprintf(std.out, "Version %d of %s, sha256 %s.\n", d.Version, visible(d.Name), visible(d.SHA256))
	return nil
}

// maxText bounds the text that is read, in bytes. The server takes less.
const maxText = 1 << 20

// text returns the new text.
func (c *draftsEditCmd) text(ctx context.Context, std *stdio, before string) (string, error) {
	switch c.File {
	case "":
		return edited(ctx, std, before)
	case "-":
		text, err := io.ReadAll(io.LimitReader(std.in, maxText))
		return string(text), err
	}
	text, err := os.ReadFile(c.File)
	return string(text), err
}

// edited lets a person's editor change a text.
func edited(ctx context.Context, std *stdio, before string) (after string, err error) {
	editor := os.Getenv("EDITOR")
	if editor == "" {
		return "", errors.New("set EDITOR, or give --file")
	}
	dir, err := os.MkdirTemp("", "tocsin-draft-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "draft.md")
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", file) // EDITOR may have arguments
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.in, std.err, std.err
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("edit: %w", err)
	}
	text, err := os.ReadFile(file)
	return string(text), err
}

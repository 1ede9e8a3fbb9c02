package app

import (
	"context"
	"errors"
	"slices"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// maxDraft bounds a draft that a person wrote, in bytes.
const maxDraft = 48 << 10

// EditDraft implements ui.Actor. Whoever sends the text later is bound to its hash, which is a record of the ledger.
func (c *control) EditDraft(ctx context.Context, by approval.Principal, incidentID, name string, base int, markdown string) (store.Draft, error) {
	d, err := c.editDraft(ctx, by, incidentID, name, base, markdown)
	return d, c.turnedAway(ctx, by, "edit draft", incidentID, name, err)
}

func (c *control) editDraft(ctx context.Context, by approval.Principal, incidentID, name string, base int, markdown string) (d store.Draft, err error) {
	if !by.Role.AtLeast(approval.Responder) {
		return d, c.denied(by, approval.Responder)
	}
	if len(markdown) == 0 || len(markdown) > maxDraft {
		return d, approval.Refuse(approval.RefusedReason, "a draft has 1 to %d bytes, this has %d", maxDraft, len(markdown))
	}
	drafts, err := c.store.Drafts(ctx, incidentID)
	if err != nil {
		return d, err
	}
	if !slices.ContainsFunc(drafts, func(d store.Draft) bool { return d.Name == name }) {
		return d, approval.Refuse(approval.RefusedUnknown, "incident %q has no draft %.80q", incidentID, name)
	}
	hash, err := c.vault.Put(ctx, []byte(markdown))
	if err != nil {
		return d, err
	}
	d, err = c.store.SaveDraft(ctx, store.Draft{Incident: incidentID, Name: name, Author: by.ID, Base: base, Markdown: markdown, SHA256: hash, At: c.now().UTC()})
	if errors.Is(err, store.ErrEdited) {
		return d, approval.Refuse(approval.RefusedDecided, "%v", err)
	}
	if err != nil {
		return d, err
	}
	body := map[string]any{"draft": name, "version": d.Version, "base": d.Base, "text_sha256": hash, "via": by.Via}
	if err := c.append(ctx, ledger.KindDraft, by.ID, incidentID, body); err != nil {
		return d, err
	}
	c.hub.Changed("incident", incidentID)
	return d, nil
}

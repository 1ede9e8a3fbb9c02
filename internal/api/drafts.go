package api

import (
	"net/http"
	"slices"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// DraftVersion is one version of a draft, and what it changed.
type DraftVersion struct {
	store.Draft
	Diff string `json:"diff,omitempty"` // against the version that it was made on or, where Tocsin wrote it, the one that Tocsin wrote before
}

// drafts returns every version of an incident's drafts.
func (a *api) drafts(r *http.Request, _ approval.Principal) (any, error) {
	all, err := a.Reader.DraftVersions(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return Versions(all), nil
}

// Versions says what each version of drafts changed. They are in order.
func Versions(all []store.Draft) []DraftVersion {
	out := make([]DraftVersion, 0, len(all))
	for i, d := range all {
		v := DraftVersion{Draft: d}
		for _, before := range slices.Backward(all[:i]) {
			if before.Name == d.Name && (d.Author == "" && before.Author == "" || before.Version == d.Base) {
				v.Diff = incident.Diff(before.Markdown, d.Markdown)
				break
			}
		}
		out = append(out, v)
	}
	return out
}

// EditBody is the body of an edit.
type EditBody struct {
	Base     int    `json:"base"` // the version that was edited
	Markdown string `json:"markdown"`
}

func (a *api) editDraft(r *http.Request, by approval.Principal, body EditBody) (any, error) {
	return a.Actor.EditDraft(r.Context(), by, r.PathValue("id"), r.PathValue("name"), body.Base, body.Markdown)
}

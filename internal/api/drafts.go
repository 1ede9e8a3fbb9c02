package api

import (
	"net/http"

	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// DraftVersion is one version of a draft, and what it changed.
type DraftVersion struct {
	store.Draft
	Diff string `json:"diff,omitempty"` // against the version that it was made on or, where Tocsin wrote it, the one that Tocsin wrote before
}

// drafts returns every version of an incident's drafts.
func (a *api) drafts(_ http.ResponseWriter, r *http.Request) (any, error) {
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
		for _, before := range all[:i] {
			if before.Name == d.Name && (d.Author == "" && before.Author == "" || before.Version == d.Base) {
				v.Diff = incident.Diff(before.Markdown, d.Markdown)
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

func (a *api) editDraft(_ http.ResponseWriter, r *http.Request) (any, error) {
	var body EditBody
	if err := decode(r.Body, &body); err != nil {
		return nil, err
	}
	by, _ := a.Auth.Principal(r)
	return a.Actor.EditDraft(r.Context(), by, r.PathValue("id"), r.PathValue("name"), body.Base, body.Markdown)
}

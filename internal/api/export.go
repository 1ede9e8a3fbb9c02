package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// ExportBody is the body of an export.
type ExportBody struct {
	Redact bool `json:"redact"`
}

// exportTimeout is how long a bundle may take on its way.
const exportTimeout = 10 * time.Minute

// export streams a bundle. What fails after its beginning cuts it off, which its reader sees.
func (a *api) export(w http.ResponseWriter, r *http.Request, by approval.Principal) {
	var body ExportBody
	if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &body); err != nil {
		a.fail(w, r, err)
		return
	}
	id := r.PathValue("id")
	if _, err := a.Reader.Incident(r.Context(), id); err != nil {
		a.fail(w, r, err)
		return
	}
	deadline := http.NewResponseController(w)
	defer func() { _ = deadline.SetWriteDeadline(time.Time{}) }() // the connection may serve on
	if err := deadline.SetWriteDeadline(time.Now().Add(exportTimeout)); err != nil {
		a.fail(w, r, fmt.Errorf("send bundle: %w", err))
		return
	}
	out := &begun{ResponseWriter: w}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	err := a.Exporter.Export(r.Context(), by, id, body.Redact, out)
	switch {
	case err != nil && !out.yes:
		a.fail(w, r, err)
	case err != nil:
		a.Log.ErrorContext(r.Context(), "API: a bundle was cut off", "incident", id, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// begun is a response that knows whether something was sent.
type begun struct {
	http.ResponseWriter
	yes bool
}

// Write implements http.ResponseWriter.
func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

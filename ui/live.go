package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// live sends what changed, and a heartbeat, until the browser leaves or its session ends. It sends no content: the browser
// fetches what it may see.
func (c *Console) live(w http.ResponseWriter, r *http.Request, _ approval.Principal) error {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(event, data string) error {
		if err := control.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data); err != nil {
			return err
		}
		return control.Flush()
	}
	changes := c.o.Facts.Changes(r.Context())
	beat := time.NewTicker(c.heartbeat)
	defer beat.Stop()
	err := send("beat", "{}")
	for err == nil {
		select {
		case <-r.Context().Done():
			return nil
		case change, open := <-changes:
			if !open {
				return nil
			}
			var text []byte
			if text, err = json.Marshal(change); err == nil {
				err = send("change", string(text))
			}
		case <-beat.C:
			if _, ok := c.o.Principal(r); !ok {
				return nil
			}
			err = send("beat", "{}")
		}
	}
	c.o.Log.DebugContext(r.Context(), "console: the browser is gone", "error", err)
	return nil
}

package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// held is a log that keeps its callers until it is released.
type held struct {
	mu      sync.Mutex
	n       int
	release chan struct{}
}

func (h *held) Append(context.Context, []event.Event) error {
	h.mu.Lock()
	h.n++
	h.mu.Unlock()
	<-h.release
	return nil
}

func (h *held) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// TestLargeBodiesWait sends small bodies that inflate to large ones: few may be decoded at once, and none keeps a small one out.
func TestLargeBodiesWait(t *testing.T) { synctest.Test(t, largeBodiesWait) }

func largeBodiesWait(t *testing.T) {
	log := &held{release: make(chan struct{})}
	mux := http.NewServeMux()
	// The test's own clock stands in the year 2000, and the events are of today.
	now := func() time.Time { return time.Date(2026, time.November, 23, 8, 0, 0, 0, time.UTC) }
	NewReceiver(NewMapper(Options{}), log, ReceiverOptions{Now: now}).Routes(mux)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(`{"kind":"other","time":"2026-11-23T08:00:00Z","agent":{"id":"a"},"attrs":{"a":"` + strings.Repeat("x", 2*smallBody) + `"}}`))
	z.Close()
	send := func(body []byte, encoding string) int {
		r := httptest.NewRequest(http.MethodPost, "/v1/events", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code
	}
	var all sync.WaitGroup
	for range 3 * maxLarge {
		all.Go(func() {
			if code := send(zipped.Bytes(), "gzip"); code != http.StatusOK {
				t.Errorf("large body: got %d", code)
			}
		})
	}
	synctest.Wait()
	all.Go(func() {
		if code := send([]byte(`{"kind":"other","time":"2026-11-23T08:00:00Z","agent":{"id":"b"}}`), ""); code != http.StatusOK {
			t.Errorf("small body: got %d", code)
		}
	})
	synctest.Wait()
	if n := log.count(); n != maxLarge+1 {
		t.Errorf("%d bodies are under way, want %d large ones and a small one", n, maxLarge)
	}
	close(log.release)
	all.Wait()
	if n := log.count(); n != 3*maxLarge+1 {
		t.Errorf("%d bodies reached the log, want all", n)
	}
}

// slow is a body that does not end before it is let go.
type slow struct{ end chan struct{} }

func (s slow) Read([]byte) (int, error) {
	<-s.end
	return 0, io.EOF
}

// TestLargeBodiesAreBounded sends large bodies that don't end: so many are held and no more, and small ones come through.
func TestLargeBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReceiver(NewMapper(Options{}), &memory{}, ReceiverOptions{})
		mux := http.NewServeMux()
		r.Routes(mux)
		send := func(body io.Reader) *httptest.ResponseRecorder {
			req := httptest.NewRequest(http.MethodPost, "/v1/events", body)
			req.Header.Set("Content-Type", typeJSON)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, req)
			return w
		}
		blank, end := strings.Repeat(" ", smallBody+1), make(chan struct{})
		var all sync.WaitGroup
		for range maxHeld {
			all.Go(func() {
				if w := send(io.MultiReader(strings.NewReader(blank), slow{end})); w.Code != http.StatusBadRequest {
					t.Errorf("a large body of nothing: got %d %s", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		if w := send(io.MultiReader(strings.NewReader(blank), slow{end})); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one large body more: got %d %s", w.Code, w.Body)
		}
		if w := send(strings.NewReader(`{"kind":"other","time":"2000-01-01T00:00:00Z","agent":{"id":"b"}}`)); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"accepted":1`) {
			t.Errorf("a small body: got %d %s", w.Code, w.Body)
		}
		close(end)
		all.Wait()
		if w := send(strings.NewReader(blank)); w.Code != http.StatusBadRequest {
			t.Errorf("after all of them: got %d %s", w.Code, w.Body)
		}
	})
}

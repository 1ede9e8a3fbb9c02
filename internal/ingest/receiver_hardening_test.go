package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
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
func TestLargeBodiesWait(t *testing.T) {
	log := &held{release: make(chan struct{})}
	mux := http.NewServeMux()
	NewReceiver(NewMapper(Options{}), log, ReceiverOptions{}).Routes(mux)
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
	wait := func(n int) {
		for end := time.Now().Add(10 * time.Second); log.count() < n && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	wait(maxLarge)
	all.Go(func() {
		if code := send([]byte(`{"kind":"other","time":"2026-11-23T08:00:00Z","agent":{"id":"b"}}`), ""); code != http.StatusOK {
			t.Errorf("small body: got %d", code)
		}
	})
	wait(maxLarge + 1)
	time.Sleep(50 * time.Millisecond)
	if n := log.count(); n != maxLarge+1 {
		t.Errorf("%d bodies are under way, want %d large ones and a small one", n, maxLarge)
	}
	close(log.release)
	all.Wait()
	if n := log.count(); n != 3*maxLarge+1 {
		t.Errorf("%d bodies reached the log, want all", n)
	}
}

package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// hasty is a log whose callers give up: it refuses every other request, and reads its events when the next ones come.
type hasty struct {
	memory
	wg   sync.WaitGroup
	next chan struct{}
	n    int
}

func (l *hasty) Append(ctx context.Context, events []event.Event) error {
	l.mu.Lock()
	l.n++
	refuse := l.n%2 == 0
	l.mu.Unlock()
	if !refuse {
		return l.memory.Append(ctx, events)
	}
	l.wg.Go(func() {
		<-l.next
		if err := l.memory.Append(ctx, events); err != nil {
			panic(err)
		}
	})
	return errors.New("gave up")
}

// Requests are read into each other's memory only when the log no longer needs what came of them.
func TestMemoryOfRequests(t *testing.T) {
	log := &hasty{next: make(chan struct{})}
	mux := http.NewServeMux()
	NewReceiver(NewMapper(Options{}), log, ReceiverOptions{}).Routes(mux)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 50 {
				name := fmt.Sprintf("agent-%d-%d", worker, i)
				td := traces("s", map[string]any{
					"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "gen_ai.agent.name": name,
					"gen_ai.tool.call.result": strings.Repeat(name+" ", 1+i), "gen_ai.tool.call.arguments": fmt.Sprintf(`{"a":%q}`, name),
				}, nil)
				body, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
				if err != nil {
					panic(err)
				}
				sent, encoding := bytes.NewBuffer(body), ""
				if i%3 == 0 {
					sent, encoding = new(bytes.Buffer), "gzip"
					z := gzip.NewWriter(sent)
					_, _ = z.Write(body) // into memory
					_ = z.Close()
				}
				in := httptest.NewRequest(http.MethodPost, pathTraces, sent)
				in.Header.Set("Content-Type", typeProto)
				in.Header.Set("Content-Encoding", encoding)
				mux.ServeHTTP(httptest.NewRecorder(), in)
			}
		})
	}
	wg.Wait()
	close(log.next)
	log.wg.Wait()
	seen := make(map[string]bool)
	for _, e := range log.events {
		name := e.Agent.Name
		seen[name] = true
		if n := strings.Count(e.Tool.Result.Text, name+" "); n*(len(name)+1) != len(e.Tool.Result.Text) || n == 0 || e.Tool.Args[0].Value != name {
			t.Fatalf("%s has another's result or argument: %q %q", name, e.Tool.Result.Text, e.Tool.Args[0].Value)
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d agents, want 200", len(seen))
	}
}

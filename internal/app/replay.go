package app

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// Replay runs recorded telemetry through the same mapper and the same shard as live operation, offline.
type Replay struct {
	mapper *ingest.Mapper
	shard  *pipeline.Shard
	codec  *event.Codec

	// OnEvent is told each event as its line of JSON, if it is set. OnRejected is told what could not be read.
	OnEvent    func(line []byte) error
	OnRejected func(item, reason string)
	OnProgress func(events int) // so far
	Events     int
	decoded    int
	agents     map[string]bool
	findings   map[string]bool
	files      map[string]*recording
}

// recording is what became of the requests of one file.
type recording struct{ requests, read, rejected int }

// NewReplay returns a replay through a shard with a set of rules.
func NewReplay(set *detect.Set, options pipeline.Options) (*Replay, error) {
	codec, err := event.NewCodec()
	if err != nil {
		return nil, err
	}
	// The salt makes hashes of one deployment useless in another. A replay stores nothing, and findings don't depend on it.
	hasher := event.NewHasher(nil)
	return &Replay{
		mapper: ingest.NewMapper(ingest.Options{Hasher: hasher}), shard: pipeline.New(set, hasher, options), codec: codec,
		OnRejected: func(string, string) {}, OnProgress: func(int) {},
		agents: make(map[string]bool), findings: make(map[string]bool), files: make(map[string]*recording),
	}, nil
}

// Request replays one recorded request, those of a recording in order, and hands over what each of its events raised.
func (r *Replay) Request(ctx context.Context, request ingest.Request, raised func([]pipeline.Raised) error) error {
	return r.Decode(ctx, request, func(e *event.Event) error { return r.event(e, raised) })
}

// Decode hands over the events of a recorded request in order, without judging them.
func (r *Replay) Decode(ctx context.Context, request ingest.Request, fn func(*event.Event) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	events, err := r.decode(request)
	if err != nil {
		return fmt.Errorf("replay %s: %w", r.place(request), err)
	}
	for i := range events {
		if err := fn(&events[i]); err != nil {
			return err
		}
	}
	r.decoded += len(events)
	r.OnProgress(r.decoded)
	return nil
}

func (r *Replay) decode(request ingest.Request) ([]event.Event, error) {
	f := r.files[request.File]
	if f == nil {
		f = &recording{}
		r.files[request.File] = f
	}
	f.requests++
	events, rejected, err := r.mapper.Capture(request, ingest.Receipt{})
	f.read, f.rejected = f.read+len(events), f.rejected+len(rejected)
	for _, x := range rejected {
		r.OnRejected(r.place(request)+": "+x.Item, x.Reason)
	}
	return events, err
}

// place names a request for messages by its file and its number there; the lines of a file of events have numbers of their own.
func (r *Replay) place(request ingest.Request) string {
	if request.Path == ingest.PathEvents && request.File != "" {
		return request.File
	}
	return strings.TrimSpace(fmt.Sprintf("%s request %d", request.File, r.files[request.File].requests))
}

// Unread returns the files of which every item was rejected.
func (r *Replay) Unread() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		if f := r.files[name]; f.read == 0 && f.rejected > 0 {
			out = append(out, name)
		}
	}
	return out
}

func (r *Replay) event(e *event.Event, raised func([]pipeline.Raised) error) error {
	r.Events++
	if r.OnEvent != nil {
		line, err := e.MarshalLine()
		if err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		if err := r.OnEvent(line); err != nil {
			return err
		}
	}
	out := r.shard.Process(e, pipeline.Position{Sequence: uint64(r.Events)})
	for _, raised := range out {
		r.findings[raised.Finding.ID] = true
	}
	r.agents[e.Agent.ID] = true
	return raised(out)
}

// Findings is the number of findings so far. One that is judged again under its agent is one.
func (r *Replay) Findings() int { return len(r.findings) }

// Agents is the number of agents that acted so far, each under the best name known at the time.
func (r *Replay) Agents() int { return len(r.agents) }

var (
	traceID  = regexp.MustCompile(`"traceId":\s*"([0-9a-fA-F]+)"`)
	spanTime = regexp.MustCompile(`"(?:startTimeUnixNano|timeUnixNano)":\s*"?(\d+)`)
)

// Spread lays recorded sessions out in time at a distance from each other, the last one at end; a zero end keeps the first one
// where it is. A request belongs to the session of its first trace. Everything within a session keeps its distances.
func Spread(requests []ingest.Request, end time.Time, distance time.Duration) ([]ingest.Request, error) {
	starts := make(map[string]time.Time)
	var order []string
	keys := make([]string, len(requests))
	for i, r := range requests {
		keys[i] = sessionKey(r, i)
		at, err := startOf(r)
		if err != nil {
			return nil, fmt.Errorf("spread %s request %d: %w", r.File, i+1, err)
		}
		if at.IsZero() { // it names no time that could be moved
			continue
		}
		if known, ok := starts[keys[i]]; !ok {
			order = append(order, keys[i])
			starts[keys[i]] = at
		} else if at.Before(known) {
			starts[keys[i]] = at
		}
	}
	if len(order) == 0 {
		return nil, nil
	}
	first := starts[order[0]]
	if !end.IsZero() {
		first = end.Add(-distance * time.Duration(len(order)-1))
	}
	shifts := make(map[string]time.Duration)
	for i, key := range order {
		shifts[key] = first.Add(distance * time.Duration(i)).Sub(starts[key])
	}
	out := make([]ingest.Request, 0, len(requests))
	for i, r := range requests {
		shifted, err := ingest.Shift(r, shifts[keys[i]])
		if err != nil {
			return nil, fmt.Errorf("spread %s request %d: %w", r.File, i+1, err)
		}
		out = append(out, shifted)
	}
	return out, nil
}

func sessionKey(r ingest.Request, i int) string {
	if m := traceID.FindSubmatch(r.Body); m != nil {
		return string(m[1])
	}
	return fmt.Sprint("request ", i)
}

// startOf returns the earliest time that a request names.
func startOf(r ingest.Request) (time.Time, error) {
	var first time.Time
	for _, m := range spanTime.FindAllSubmatch(r.Body, -1) {
		var nanos int64
		if err := json.Unmarshal(m[1], &nanos); err != nil {
			return time.Time{}, fmt.Errorf("read time %q: %w", m[1], err)
		}
		if at := time.Unix(0, nanos); nanos > 0 && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, nil
}

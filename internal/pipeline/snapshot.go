package pipeline

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// snapshotVersion names the layout of a snapshot. A snapshot of another version is refused, and the shard replays the log.
const snapshotVersion = 5

// snapshot is a shard's state with the place in the log up to which it is true.
type snapshot struct {
	Version int               `json:"version"`
	Last    uint64            `json:"last"` // sequence of the last message processed
	Classes map[string]*class `json:"classes"`
	Gone    map[string]int    `json:"gone"`
	Events  int               `json:"events"`
}

// Snapshot returns the shard's state with the log sequence it stands at, under a checksum. Equal states give equal bytes.
func (s *Shard) Snapshot(last uint64) ([]byte, error) {
	codec, err := event.NewCodec()
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	body, err := codec.Marshal(snapshot{Version: snapshotVersion, Last: last, Classes: s.classes, Gone: s.gone, Events: s.events})
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	sum := sha256.Sum256(body)
	return append(sum[:], body...), nil
}

// Restore replaces the shard's state by a snapshot's and returns the log sequence to go on after. State of rules that changed
// since is dropped and named. On an error the shard is unchanged.
func (s *Shard) Restore(data []byte) (last uint64, dropped []string, err error) {
	if len(data) < sha256.Size {
		return 0, nil, errors.New("restore snapshot: too short")
	}
	body := data[sha256.Size:]
	if sum := sha256.Sum256(body); string(sum[:]) != string(data[:sha256.Size]) {
		return 0, nil, errors.New("restore snapshot: checksum does not match")
	}
	codec, err := event.NewCodec()
	if err != nil {
		return 0, nil, fmt.Errorf("restore snapshot: %w", err)
	}
	var snap snapshot
	if err := codec.Unmarshal(body, &snap); err != nil {
		return 0, nil, fmt.Errorf("restore snapshot: %w", err)
	}
	if snap.Version != snapshotVersion {
		return 0, nil, fmt.Errorf("restore snapshot: version %d, want %d", snap.Version, snapshotVersion)
	}
	for name, c := range snap.Classes {
		if c == nil || c.Model == nil || c.Rules == nil {
			return 0, nil, fmt.Errorf("restore snapshot: class %q has no state", name)
		}
		if err := c.check(); err != nil {
			return 0, nil, fmt.Errorf("restore snapshot: class %q: %w", name, err)
		}
		dropped = append(dropped, c.Rules.Prune(s.rules)...)
	}
	s.classes = snap.Classes
	if s.classes == nil {
		s.classes = make(map[string]*class)
	}
	s.gone, s.events, s.bytes = snap.Gone, snap.Events, 0
	if s.gone == nil {
		s.gone = make(map[string]int)
	}
	for _, c := range s.classes {
		c.room = s.options.MaxBytes / 4
		s.count(c)
	}
	return snap.Last, dropped, nil
}

// check refuses a class that the code could not go on with.
func (c *class) check() error {
	for _, ses := range c.Sessions {
		if ses == nil {
			return errors.New("a session has no state")
		}
		if err := errors.Join(ses.Prompt.check(), ses.Output.check()); err != nil {
			return fmt.Errorf("a session's text: %w", err)
		}
	}
	for _, t := range c.Traces {
		if t == nil {
			return errors.New("a trace has no state")
		}
	}
	return nil
}

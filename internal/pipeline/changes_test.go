package pipeline

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// deed is something that happens to a shard.
type deed struct {
	Kind  int // of deeds
	Agent int
	Class int
	Skip  int // hours
}

// keeper runs a shard and saves it, whole or by its changes.
type keeper struct {
	*rapid.T
	set            *detect.Set
	shard          *Shard
	at             time.Time
	events         int
	whole, changes []byte
}

func (k *keeper) do(d deed) {
	k.at = k.at.Add(time.Duration(d.Skip) * time.Hour)
	agent, class := fmt.Sprint("svc/", d.Agent), fmt.Sprint("class", d.Class)
	k.events++
	e := event.Event{
		ID: fmt.Sprint("e", k.events), Kind: event.KindToolResult, Time: k.at, Agent: event.Agent{ID: agent, Name: agent, Class: class, Version: fmt.Sprint(d.Kind)},
		Session: event.Session{ID: fmt.Sprint("s", k.events/3)}, Tool: &event.Tool{Name: fmt.Sprint("tool", d.Kind), Args: []event.Arg{{Path: "n", Value: fmt.Sprint(d.Skip)}}},
	}
	switch d.Kind {
	case 0, 1, 2:
	case 3: // it counts, and says nothing of what the agent is
		e.Kind, e.Tool, e.Agent.Version = event.KindModelCall, nil, ""
	case 4, 5, 6: // a person's change
		kinds := []string{baselines.Freeze, baselines.Rebase, baselines.Rollback}
		e.Kind, e.Tool, e.Attrs = event.KindBaseline, nil, map[string]string{event.AttrChange: kinds[d.Kind-4], event.AttrBy: "bob"}
	case 7:
		k.shard.class(class).Model.Doubt(agent)
		return
	case 8:
		k.shard.dropClass(class)
		return
	}
	k.shard.Process(&e, Position{})
}

func (k *keeper) bytes(write func(*bytes.Buffer) error) []byte {
	var out bytes.Buffer
	if err := write(&out); err != nil {
		k.Fatal(err)
	}
	return out.Bytes()
}

// A shard that is restored from a whole snapshot and the changes since is what it was to the byte, whatever happened in between, and goes on
// to write changes that tell all of it.
func TestChangesTellEverything(t *testing.T) {
	set, err := detect.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		k := &keeper{T: t, set: set, shard: New(set, event.NewHasher(nil), Options{}), at: detect.StreamStart}
		for range rapid.IntRange(1, 120).Draw(t, "deeds") {
			d := deed{rapid.IntRange(0, 8).Draw(t, "kind"), rapid.IntRange(0, 5).Draw(t, "agent"), rapid.IntRange(0, 1).Draw(t, "class"), rapid.IntRange(0, 30).Draw(t, "skip")}
			if d.Kind == 8 && k.shard.classes[fmt.Sprint("class", d.Class)] == nil {
				continue
			}
			k.do(d)
			switch rapid.IntRange(0, 9).Draw(t, "save") {
			case 0:
				k.whole, k.changes = k.bytes(func(w *bytes.Buffer) error { return k.shard.WriteSnapshot(w, 1) }), nil
				if err := k.shard.Kept(); err != nil {
					t.Fatal(err)
				}
			case 1:
				if k.shard.Based() {
					k.changes = k.bytes(func(w *bytes.Buffer) error { return k.shard.WriteChanges(w, 2) })
					k.again()
				}
			case 2:
				if k.whole != nil && k.changes != nil {
					k.shard = k.restored()
					k.changes = k.bytes(func(w *bytes.Buffer) error { return k.shard.WriteChanges(w, 2) })
					k.again()
				}
			}
		}
	})
}

func (k *keeper) restored() *Shard {
	s := New(k.set, event.NewHasher(nil), Options{})
	if _, _, err := s.Restore(k.whole); err != nil {
		k.Fatal(err)
	}
	if last, _, ok, err := s.RestoreChanges(k.changes); err != nil || !ok || last != 2 {
		k.Fatalf("changes up to %d, %t: %v", last, ok, err)
	}
	return s
}

// again compares what was restored with the shard itself.
func (k *keeper) again() {
	k.Helper()
	want := k.bytes(func(w *bytes.Buffer) error { return k.shard.WriteSnapshot(w, 3) })
	if got := k.bytes(func(w *bytes.Buffer) error { return k.restored().WriteSnapshot(w, 3) }); !bytes.Equal(got, want) {
		k.Fatal("the changes do not tell everything")
	}
}

// Changes since another snapshot say nothing, those alone restore nothing, and those that are damaged change nothing.
func TestChangesNeedTheirSnapshot(t *testing.T) {
	s := fleet(1)
	save := func(write func(*bytes.Buffer) error) []byte {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	whole := func() []byte { return save(func(w *bytes.Buffer) error { return s.WriteSnapshot(w, 1) }) }
	old := whole()
	if err := s.Kept(); err != nil {
		t.Fatal(err)
	}
	s.class("class0").Model.Doubt("svc/1")
	changes := save(func(w *bytes.Buffer) error { return s.WriteChanges(w, 2) })
	if len(changes) > len(old)/4 {
		t.Errorf("the change of one agent of 4,096 takes %d bytes of %d", len(changes), len(old))
	}
	now := whole()
	other := New(&detect.Set{}, event.NewHasher(nil), Options{})
	if _, _, err := other.Restore(changes); err == nil {
		t.Error("changes alone were restored")
	}
	if _, _, err := other.Restore(now); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := other.RestoreChanges(changes); ok || err != nil {
		t.Errorf("changes since another snapshot were taken: %t, %v", ok, err)
	}
	if _, _, err := other.Restore(old); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(changes)
	bad[len(bad)/2] ^= 1
	if _, _, ok, err := other.RestoreChanges(bad); ok || err == nil {
		t.Error("damaged changes were taken")
	}
	if !bytes.Equal(save(func(w *bytes.Buffer) error { return other.WriteSnapshot(w, 1) }), old) {
		t.Error("damaged changes changed the shard")
	}
}

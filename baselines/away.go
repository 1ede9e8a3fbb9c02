package baselines

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// Bounds of the agents of one class. Where there are more than may be in memory, the pages of those that acted least lately are put away:
// packed, and on disk where there is a Shelf. They come back as they were. Findings do not depend on where a page is.
const (
	maxAwake    = 4096    // pages in memory, if nothing else is set
	maxAgents   = 1 << 20 // agents that are known at all, if nothing else is set
	forgetBatch = 64      // agents that are forgotten at once, where there are more: so many names a person can read
	maxTroubles = 1024
)

// Shelf keeps records of pages. Put returns the place from which Get reads the record back, or says why it can't.
type Shelf interface {
	Put(record []byte) (Place, error)
	Get(Place) ([]byte, error)
}

// Place is where a Shelf keeps a record.
type Place struct {
	Segment, Offset, Size uint32
	Sum                   uint32 // CRC-32C of the record
}

// Room is how many agents a class may have, and where those are put that are too many. The zero value is the default.
type Room struct {
	Shelf Shelf // nil: what is put away stays in memory, packed
	Awake int   // pages in memory
	Known int   // agents in all; those that acted least lately are forgotten, and told
}

// Trouble is what happened to an agent's page that people must be told.
type Trouble struct{ Agent, Why string }

// away is an agent whose page was put away.
type away struct {
	record []byte // nil if it is on disk
	place  Place
	used   uint64 // as on the page
	brief  brief
}

// brief is what is known of an agent without reading its page.
type brief struct {
	Sessions uint32
	Last     uint16 // day
	Copied   uint16 // day of the copy, and one more; 0 without one
	Frozen   bool
	Stage    Life // when it was put away
}

// SetRoom says how many agents the class may have from now on.
func (m *Model) SetRoom(r Room) {
	m.room, m.waiting = Room{Shelf: r.Shelf, Awake: cmp.Or(r.Awake, maxAwake), Known: cmp.Or(r.Known, maxAgents)}, make(map[string]*away)
	if r.Shelf == nil {
		return
	}
	for id, a := range m.Away {
		if a.record != nil {
			m.waiting[id] = a
		}
	}
}

// Tick says how many events there were, over all classes: agents are told apart by when they acted.
func (m *Model) Tick(events int) { m.Clock = max(m.Clock, uint64(events)<<20) }

// Troubles returns what happened since it was last asked.
func (m *Model) Troubles() []Trouble {
	out := m.troubles
	m.troubles = nil
	return out
}

func (m *Model) trouble(agent, why string) {
	if len(m.troubles) < maxTroubles {
		m.troubles = append(m.troubles, Trouble{agent, why})
	}
}

// Known is how many agents taught something.
func (m *Model) Known() int { return len(m.Agents) + len(m.Away) }

// IDs are the agents that taught something, in no order.
func (m *Model) IDs() []string {
	out := make([]string, 0, m.Known())
	return slices.AppendSeq(slices.AppendSeq(out, maps.Keys(m.Agents)), maps.Keys(m.Away))
}

// InMemory is how many agents have a page in memory that would be put away for want of room.
func (m *Model) InMemory() int { return len(m.Agents) + len(m.waiting) }

// find returns an agent's page, or nil, reading it back if it was put away. The agent is now the one that acted last.
func (m *Model) find(agent string) *page {
	p := m.Agents[agent]
	if p == nil {
		a := m.Away[agent]
		if a == nil {
			return nil
		}
		p = m.wake(agent, a)
	}
	m.use(agent, p)
	return p
}

// use notes that an agent acted.
func (m *Model) use(agent string, p *page) {
	if p.u64(hUsed) == m.Clock && m.Clock > 0 {
		return
	}
	m.Clock++
	p.set64(hUsed, m.Clock)
	m.touch(agent)
}

// page returns an agent's page, which is new for an agent that is.
func (m *Model) page(agent string) *page {
	p := m.find(agent)
	if p == nil {
		m.forget(m.Known() + 1 - m.room.Known)
		m.makeRoom()
		p = newPage(agentKey(agent))
		m.Agents[agent] = p
		m.use(agent, p)
	}
	m.touch(agent)
	return p
}

// wake reads back a page that was put away. One that can't be read begins anew, is learning until it has a history, and says why; that it
// was frozen is not forgotten.
func (m *Model) wake(agent string, a *away) *page {
	p, c, err := m.recall(agent, a)
	if err != nil {
		why := fmt.Sprintf("what it taught in %d sessions could not be read back: %v", a.brief.Sessions, err)
		p, c = newPage(agentKey(agent)), &care{Lost: why[:min(len(why), maxNameBytes)]}
		if a.brief.Frozen {
			c.Frozen = &Change{Kind: Freeze, By: "tocsin", Why: "it was frozen when its page was lost", At: dateOf(a.brief.Last)}
		}
		m.trouble(agent, why)
	}
	m.drop(agent)
	m.makeRoom()
	m.Agents[agent] = p
	if c != nil {
		m.Cares[agent] = c
	}
	m.touch(agent)
	return p
}

// drop takes an agent out of those that were put away.
func (m *Model) drop(agent string) {
	delete(m.Away, agent)
	delete(m.waiting, agent)
}

// recall reads what was put away.
func (m *Model) recall(agent string, a *away) (*page, *care, error) {
	record := a.record
	if record == nil {
		if m.room.Shelf == nil {
			return nil, nil, errors.New("it is on disk, and there is no directory to read it from")
		}
		var err error
		if record, err = m.room.Shelf.Get(a.place); err != nil {
			return nil, nil, err
		}
	}
	codec, err := m.encoding()
	if err != nil {
		return nil, nil, err
	}
	p := new(page)
	id, c, rest, err := readRecord(codec, record, p)
	switch {
	case err != nil:
		return nil, nil, err
	case id != agent || len(rest) > 0:
		return nil, nil, fmt.Errorf("it is the page of %q", id)
	}
	return p, c, nil
}

// encoding is made once it is needed: most models of tests and of agents that are few never put anything away.
func (m *Model) encoding() (*event.Codec, error) {
	if m.codec == nil {
		codec, err := event.NewCodec()
		if err != nil {
			return nil, err
		}
		m.codec = codec
	}
	return m.codec, nil
}

// makeRoom puts an eighth of the pages away, those that acted least lately, if there is no room for another one.
func (m *Model) makeRoom() {
	if n, most := m.InMemory(), m.room.Awake; n >= max(most, m.full) {
		m.PutAway(m.Idle(n - most + (most+7)/8))
	}
}

// Idle is an agent with a page in memory, and when it acted.
type Idle struct {
	Agent string
	Used  uint64
}

// Idle returns the agents with a page in memory that acted least lately, the first first.
func (m *Model) Idle(n int) []Idle {
	all := make([]Idle, 0, m.InMemory())
	for id, p := range m.Agents {
		all = append(all, Idle{id, p.u64(hUsed)})
	}
	for id, a := range m.waiting {
		all = append(all, Idle{id, a.used})
	}
	slices.SortFunc(all, func(a, b Idle) int { return cmp.Compare(a.Used, b.Used) })
	return all[:min(n, len(all))]
}

// PutAway puts the pages of agents away. Where the disk takes no more they stay in memory, packed, until there are an eighth more.
func (m *Model) PutAway(agents []Idle) {
	m.full = 0
	for _, of := range agents {
		a, err := m.packed(of.Agent)
		if err == nil && m.room.Shelf != nil {
			if a.place, err = m.room.Shelf.Put(a.record); err == nil {
				a.record = nil
				delete(m.waiting, of.Agent)
			}
		}
		m.touch(of.Agent)
		if err != nil {
			m.full = m.InMemory() + m.room.Awake/8
			m.trouble(of.Agent, "its page can't be put on disk and stays in memory: "+err.Error())
			return
		}
	}
}

// packed is an agent whose page is in memory, put away in memory.
func (m *Model) packed(agent string) (*away, error) {
	if a := m.Away[agent]; a != nil {
		return a, nil
	}
	codec, err := m.encoding()
	if err != nil {
		return nil, err
	}
	p, c := m.Agents[agent], m.Cares[agent]
	record, err := appendRecord(codec, nil, agent, p, c)
	if err != nil {
		return nil, err
	}
	a := &away{record: record, used: p.u64(hUsed), brief: m.briefOf(p, c)}
	delete(m.Agents, agent)
	delete(m.Cares, agent)
	m.Away[agent] = a
	if m.room.Shelf != nil {
		m.waiting[agent] = a
	}
	return a, nil
}

func (m *Model) briefOf(p *page, c *care) brief {
	b := brief{Sessions: p.u32(hSessions), Last: p.u16(hLastDay), Stage: m.grown(p, c)}
	if c != nil {
		b.Frozen = c.Frozen != nil
		if c.Copy != nil {
			b.Copied = bump(c.Copy.lastDay())
		}
	}
	return b
}

// forget drops the agents that acted least lately, if there are so many too many; a few more at once, because that looks at all of them.
func (m *Model) forget(excess int) {
	if excess <= 0 {
		return
	}
	m.Forget(max(excess, min(forgetBatch, m.room.Known/8)))
}

// Forget forgets so many of the agents that acted least lately.
func (m *Model) Forget(n int) {
	if len(m.Away) < n {
		m.PutAway(m.Idle(n))
	}
	for range n {
		id := m.oldest()
		a := m.Away[id]
		if a == nil {
			return
		}
		m.trouble(id, fmt.Sprintf("what it taught in %d sessions was forgotten: there are too many agents that acted later", a.brief.Sessions))
		m.drop(id)
		m.Evicted++
		m.changed = nil // what is kept has agents that are gone
	}
}

// oldest is the agent that acted least lately of those that were put away. It looks at all of them once for many that are asked for:
// what is put away later acted later.
func (m *Model) oldest() string {
	for {
		if len(m.line) == 0 {
			for id, a := range m.Away {
				m.line = append(m.line, Idle{id, a.used})
			}
			slices.SortFunc(m.line, func(a, b Idle) int { return cmp.Compare(a.Used, b.Used) })
			if m.line = slices.Clone(m.line[:(len(m.line)+15)/16]); len(m.line) == 0 {
				return ""
			}
		}
		next := m.line[0]
		m.line = m.line[1:]
		if a := m.Away[next.Agent]; a != nil && a.used == next.Used {
			return next.Agent
		}
	}
}

// Places tells of each page on disk where it is.
func (m *Model) Places(yield func(Place)) {
	for _, a := range m.Away {
		if a.record == nil {
			yield(a.place)
		}
	}
}

// Move puts the pages on disk that a function chooses into another place, for the sake of a whole snapshot. What can't be read stays.
func (m *Model) Move(choose func(Place) bool) {
	for _, id := range m.saves(All) {
		a := m.Away[id]
		if a == nil || a.record != nil || !choose(a.place) {
			continue
		}
		if record, err := m.room.Shelf.Get(a.place); err == nil {
			if place, err := m.room.Shelf.Put(record); err == nil {
				a.place = place
			}
		}
	}
}

// A record is what belongs to an agent, as it is put away and saved: frames, each after its length. They are the id, the page packed, its
// copy of a day before, and its care.
func appendRecord(codec *event.Codec, out []byte, id string, p *page, c *care) ([]byte, error) {
	var copied packed
	var cared []byte
	if c != nil {
		var err error
		if cared, err = codec.Marshal(c); err != nil {
			return nil, fmt.Errorf("encode what belongs to the page of %q: %w", id, err)
		}
		copied = c.Copy
	}
	used, size := p.used()
	out = append(binary.AppendUvarint(out, uint64(len(id))), id...)
	out = p.append(binary.AppendUvarint(out, uint64(size)), used)
	return frame(frame(out, copied), cared), nil
}

func frame(out, data []byte) []byte {
	return append(binary.AppendUvarint(out, uint64(len(data))), data...)
}

// frames reads the next frames.
func frames(data []byte, out ...*[]byte) (rest []byte, err error) {
	for _, to := range out {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return nil, errors.New("it ends within an agent")
		}
		*to, data = data[size:size+int(n):size+int(n)], data[size+int(n):]
	}
	return data, nil
}

// readRecord reads the first record, its page over one of the caller's. It refuses what appendRecord does not write.
func readRecord(codec *event.Codec, data []byte, p *page) (id string, c *care, rest []byte, err error) {
	var name, packing, copied, cared []byte
	if rest, err = frames(data, &name, &packing, &copied, &cared); err != nil {
		return "", nil, nil, err
	}
	id = string(name)
	if err := packed(packing).into(p); err != nil {
		return "", nil, nil, fmt.Errorf("the page of %q: %w", id, err)
	}
	if p.u64(hAgent) != agentKey(id) {
		return "", nil, nil, fmt.Errorf("the page of %q is another's", id)
	}
	if len(cared) == 0 {
		return id, nil, rest, nil
	}
	c = &care{}
	if err := codec.Unmarshal(cared, c); err != nil {
		return "", nil, nil, fmt.Errorf("what belongs to the page of %q: %w", id, err)
	}
	if len(copied) > 0 {
		c.Copy = slices.Clone(packed(copied))
		if err := c.Copy.check(); err != nil {
			return "", nil, nil, fmt.Errorf("the copy of the page of %q: %w", id, err)
		}
	}
	return id, c, rest, c.check(id, p)
}

// Holds refuses a record that is not what was put in a place.
func (p Place) Holds(record []byte) error {
	if len(record) != int(p.Size) || crc32.Checksum(record, castagnoli) != p.Sum {
		return errors.New("it is damaged: its checksum does not match")
	}
	return nil
}

// PlaceOf is the place of a record.
func PlaceOf(segment, offset uint32, record []byte) Place {
	return Place{segment, offset, uint32(len(record)), crc32.Checksum(record, castagnoli)}
}

// awaySize is how many bytes a snapshot has of a page on disk.
const awaySize = 34

// stages are numbered in snapshots.
func stages() []Life { return []Life{Learning, Active, Stale, Drifted, Frozen, Poisoned} }

func (a *away) marshal() []byte {
	le, frozen := binary.LittleEndian, byte(0)
	if a.brief.Frozen {
		frozen = 1
	}
	out := make([]byte, 0, awaySize)
	for _, v := range []uint32{a.place.Segment, a.place.Offset, a.place.Size, a.place.Sum, a.brief.Sessions} {
		out = le.AppendUint32(out, v)
	}
	out = le.AppendUint64(out, a.used)
	out = le.AppendUint16(le.AppendUint16(out, a.brief.Last), a.brief.Copied)
	return append(out, frozen, byte(slices.Index(stages(), a.brief.Stage)))
}

func unmarshalAway(b []byte) (*away, error) {
	if len(b) != awaySize || b[32] > 1 || int(b[33]) >= len(stages()) {
		return nil, errors.New("a page on disk without its place")
	}
	le := binary.LittleEndian
	return &away{
		place: Place{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}, used: le.Uint64(b[20:]),
		brief: brief{Sessions: le.Uint32(b[16:]), Last: le.Uint16(b[28:]), Copied: le.Uint16(b[30:]), Frozen: b[32] == 1, Stage: stages()[b[33]]},
	}, nil
}

// peek reads an agent's page where it is, and leaves it there; nil for an agent that taught nothing.
func (m *Model) peek(agent string) (*page, *care, error) {
	if a := m.Away[agent]; a != nil {
		return m.recall(agent, a)
	}
	return m.Agents[agent], m.Cares[agent], nil
}

// drifted reports whether too many of an agent's latest sessions were held back.
func (c *care) drifted() bool {
	return c.Shown >= driftedFrom && bits.OnesCount32(c.Recent) >= driftedFrom
}

// Brief is what is known of an agent without reading its page: nothing more than that where the page is on disk.
func (m *Model) Brief(agent string) Learned {
	a := m.Away[agent]
	if a == nil || a.record != nil {
		return m.Learned(agent)
	}
	out := Learned{Agent: agent, Class: m.Class, Version: Version, Sessions: int(a.brief.Sessions), Peers: m.Known() - 1, OnDisk: true, Provenance: map[string][]Count{}}
	if a.brief.Copied > 0 {
		out.Copy = dateOf(a.brief.Copied - 1)
	}
	switch b := a.brief; {
	case m.young(int(b.Sessions)):
		out.Life = Learning
	case b.Stage != Active && b.Stage != Stale:
		out.Life = b.Stage
	case m.Peers.Day > b.Last+staleAfter:
		out.Life = Stale
	default:
		out.Life = Active
	}
	out.Why = fmt.Sprintf("%d sessions learned, the last on %s; its page is on disk until it acts", a.brief.Sessions, dateOf(a.brief.Last).Format(time.DateOnly))
	return out
}

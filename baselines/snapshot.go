package baselines

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// packed is a sealed page without the blocks that are zero: a bit for each block, the lowest first, then the others. Most of a page is
// zero until an agent has used much, so that what is kept of a day before and what is saved are a fraction of a page.
type packed []byte

const (
	packBlock = 32
	packBits  = pageSize / packBlock / 8
)

// pack seals the page and packs it. Equal pages give equal bytes.
func (p *page) pack() packed {
	p.seal()
	var used [packBits]byte
	n := 0
	for i := range pageSize / packBlock {
		if *(*[packBlock]byte)(p[i*packBlock:]) != [packBlock]byte{} {
			used[i/8] |= 1 << (i % 8)
			n++
		}
	}
	out := append(make(packed, 0, packBits+n*packBlock), used[:]...)
	for i := range pageSize / packBlock {
		if used[i/8]>>(i%8)&1 == 1 {
			out = append(out, p[i*packBlock:(i+1)*packBlock]...)
		}
	}
	return out
}

// unpack returns the page, and refuses bytes that pack does not give.
func (c packed) unpack() (*page, error) {
	p := new(page)
	return p, c.into(p)
}

// into unpacks over a page.
func (c packed) into(p *page) error {
	if len(c) < packBits || (len(c)-packBits)%packBlock != 0 {
		return fmt.Errorf("packed page of %d bytes", len(c))
	}
	rest := c[packBits:]
	for i := range pageSize / packBlock {
		block := p[i*packBlock : (i+1)*packBlock]
		if c[i/8]>>(i%8)&1 == 0 {
			clear(block)
			continue
		}
		if len(rest) == 0 || [packBlock]byte(rest) == [packBlock]byte{} {
			return errors.New("packed page with blocks missing, or with one that is zero")
		}
		copy(block, rest)
		rest = rest[packBlock:]
	}
	if len(rest) > 0 {
		return errors.New("packed page with blocks too many")
	}
	return p.check()
}

// lastDay and agent are of the header, which is the first block.
func (c packed) lastDay() uint16 { return getU16(c, packBits+hLastDay) }
func (c packed) agent() uint64   { return binary.LittleEndian.Uint64(c[packBits+hAgent:]) }

// A million pages are too many for a general encoding, which copies each several times. They are saved in blocks, in the order of the
// agents' ids. An agent is four frames, each after its length: the id, the page packed, its copy of a day before, and its care.
const blockAgents = 256

// Saved is which of a model's agents are saved.
type Saved int

// All agents are saved, or those that changed since the model was last kept.
const (
	All Saved = iota
	Changed
)

// Whole reports whether what changed is everything, so that it takes the place of what was kept.
func (m *Model) Whole() bool { return m.changed == nil }

// Keep says that the model as it is now was kept.
func (m *Model) Keep() { m.changed = make(map[string]bool) }

// saves are the agents that are saved, in the order of their ids.
func (m *Model) saves(which Saved) (out []string) {
	for id := range m.Agents {
		if which == All || m.changed == nil || m.changed[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// WriteBlocks gives each block of agents to a function, which must not keep it.
func (m *Model) WriteBlocks(codec *event.Codec, which Saved, write func(block []byte) error) error {
	var block []byte
	for ids := range slices.Chunk(m.saves(which), blockAgents) {
		block = block[:0]
		for _, id := range ids {
			var copied packed
			var cared []byte
			if c := m.Cares[id]; c != nil {
				var err error
				if cared, err = codec.Marshal(c); err != nil {
					return fmt.Errorf("encode what belongs to the page of %q: %w", id, err)
				}
				copied = c.Copy
			}
			for _, data := range [][]byte{[]byte(id), m.Agents[id].pack(), copied, cared} {
				block = frame(block, data)
			}
		}
		if err := write(block); err != nil {
			return err
		}
	}
	return nil
}

func frame(block, data []byte) []byte {
	return append(binary.AppendUvarint(block, uint64(len(data))), data...)
}

// ReadBlocks puts the agents of blocks, up to an empty one, into a model that was read back without them. Blocks that WriteBlocks does not
// write are refused.
func (m *Model) ReadBlocks(codec *event.Codec, read func() ([]byte, error)) error {
	m.Agents, m.Cares = make(map[string]*page), make(map[string]*care)
	spare := new(page)
	for {
		block, err := read()
		if err != nil || len(block) == 0 {
			return err
		}
		for len(block) > 0 {
			if block, err = m.readAgent(codec, block, spare); err != nil {
				return fmt.Errorf("a block of pages: %w", err)
			}
		}
	}
}

// Over puts the agents of an older model that this one, of which only what changed was read, does not have beneath it.
func (m *Model) Over(older *Model) {
	m.Keep()
	for id := range m.Agents {
		m.changed[id] = true
	}
	for id, p := range older.Agents {
		if m.Agents[id] != nil {
			continue
		}
		m.Agents[id] = p
		if c := older.Cares[id]; c != nil {
			m.Cares[id] = c
		}
	}
}

// readAgent reads the first agent of a block. Its copy is checked in a spare page.
func (m *Model) readAgent(codec *event.Codec, block []byte, spare *page) (rest []byte, err error) {
	var frames [4][]byte
	for i := range frames {
		n, size := binary.Uvarint(block)
		if size <= 0 || n > uint64(len(block)-size) {
			return nil, errors.New("it ends within an agent")
		}
		frames[i], block = block[size:size+int(n)], block[size+int(n):]
	}
	id := string(frames[0])
	if m.Agents[id] != nil || len(m.Agents) >= maxAgents {
		return nil, fmt.Errorf("agent %q is there twice, or one too many", id)
	}
	if m.Agents[id], err = packed(frames[1]).unpack(); err != nil {
		return nil, fmt.Errorf("the page of %q: %w", id, err)
	}
	if len(frames[3]) == 0 {
		return block, nil
	}
	c := &care{}
	if err := codec.Unmarshal(frames[3], c); err != nil {
		return nil, fmt.Errorf("what belongs to the page of %q: %w", id, err)
	}
	if len(frames[2]) > 0 {
		c.Copy = slices.Clone(packed(frames[2]))
		if err := c.Copy.into(spare); err != nil {
			return nil, fmt.Errorf("the copy of the page of %q: %w", id, err)
		}
	}
	m.Cares[id] = c
	return block, nil
}

// Check refuses a model that was read back and that the code could not go on with.
func (m *Model) Check() error {
	if m.Agents == nil || m.Names == nil || m.Causes == nil || m.Cares == nil || len(m.Causes) > maxCauses || len(m.Agents) > maxAgents || len(m.Names) > maxNames {
		return errors.New("baselines without their tables, or with too much in them")
	}
	for _, s := range []maturities{m.Scores, m.Pure} {
		if s[young] == nil || s[grown] == nil || s[anyAge] == nil {
			return errors.New("baselines without calibrations")
		}
	}
	for id, p := range m.Agents {
		if p == nil || p.u64(hAgent) != agentKey(id) {
			return fmt.Errorf("the page of %q is another's, or none", id)
		}
	}
	if err := m.checkCares(); err != nil {
		return err
	}
	p := &m.Peers
	sized := func(b []byte, n int) bool { return b == nil || len(b) == n }
	cells := sketchRows * sketchWidth
	if !sized(p.Contexts, classContexts*contextSize) || !sized(p.Values, classValues*valueSize) || (p.Contexts == nil) != (p.Values == nil) ||
		!sized(p.Seen.Young, cells) || !sized(p.Seen.Elder, cells) || !sized(p.Used.Young, cells) || !sized(p.Used.Elder, cells) {
		return errors.New("baselines with tables of another size")
	}
	if p.Sessions < 0 || p.Reads < 0 || p.Flows < 0 || p.Signed < 0 || p.Signed > p.Flows {
		return errors.New("baselines with counts that nothing leaves")
	}
	for i := range p.Rates {
		if !p.Rates[i].check() {
			return fmt.Errorf("baselines with counts of %s that no windows leave", rateNames[i])
		}
	}
	if !p.Week.check() || len(p.Amounts) > maxAmounts {
		return errors.New("baselines with a week or amounts that nothing leaves")
	}
	for _, a := range p.Amounts {
		if !a.check() {
			return errors.New("baselines with an amount that no numbers leave")
		}
	}
	return nil
}

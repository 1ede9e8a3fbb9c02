package baselines

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Habits are how much an agent does and when, how large its numbers are, and how it changed with what it is, for people.
type Habits struct {
	Hours int `json:"hours"` // full hours that taught
	// Week is each hour of the week from Monday on, in UTC.
	Week [hourCells]WeekHour `json:"week"`
	// Latest are the latest full hours, the last one last, and Open is the one that is counted.
	Latest  []HourCount `json:"latest"`
	Open    *HourCount  `json:"open,omitempty"`
	Amounts []Amount    `json:"amounts"`
	Turns   []Turn      `json:"turns"`
}

// WeekHour is what is expected of an hour of the week.
type WeekHour struct {
	Band
	Weeks int `json:"weeks"` // that taught it
}

// HourCount is how many calls an hour had, and how many were expected.
type HourCount struct {
	At time.Time `json:"at"`
	N  int       `json:"n"`
	Band
}

// Amount is how large the numbers of an argument are.
type Amount struct {
	Text string `json:"text"` // "tool argument"
	N    int    `json:"n"`
	Band
}

// Turn is a change of what an agent is, and how what it does changed from then to the next turn, or to now.
type Turn struct {
	Kind     string    `json:"kind"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	At       time.Time `json:"at"`
	Sessions int       `json:"sessions"` // learned since
	Tools    []string  `json:"tools"`    // that are new
	// Calls is how many it makes in ten minutes over how many it made; 0 where it is not known.
	Calls float64 `json:"calls,omitempty"`
}

// Habits returns an agent's habits; ok is false for one that taught nothing.
func (m *Model) Habits(agent string) (out Habits, ok bool) {
	p, c, err := m.peek(agent)
	if p == nil || err != nil {
		return Habits{}, false
	}
	h := hours{p: p, peers: &m.Peers.Week}
	out.Hours = int(p.u32(hHours))
	for cell := range out.Week {
		out.Week[cell] = WeekHour{countBand(h.expects(cell)), h.weeks(cell)}
	}
	count := func(hour uint32, n uint32) HourCount {
		return HourCount{timeOf(hour), int(n), out.Week[cellOf(hour)].Band}
	}
	if open := p.u32(hOpen); open > 0 {
		at := count(open, p.u32(hCounted))
		out.Open = &at
	}
	out.Amounts = m.amounts(p)
	if c == nil {
		return out, true
	}
	for i, n := range c.Hourly {
		out.Latest = append(out.Latest, count(c.Hour-uint32(len(c.Hourly)-1-i), n))
	}
	for i := range c.Turns {
		out.Turns = append(out.Turns, m.turned(p, c.Turns[i:]))
	}
	return out, true
}

// amounts are sorted by how many numbers there were.
func (m *Model) amounts(p *page) (out []Amount) {
	for at := atAmounts; at < atAmounts+pageAmounts*amountSize; at += amountSize {
		print := p.u32(at)
		if n, ok := m.Names[print]; ok && print != 0 && n.Kind == 'a' {
			own := p.amount(at)
			out = append(out, Amount{n.Text, int(own.N), band(m.next(own, print))})
		}
	}
	slices.SortFunc(out, func(a, b Amount) int {
		if a.N != b.N {
			return b.N - a.N
		}
		return strings.Compare(a.Text, b.Text)
	})
	return out
}

// turn remembers what an agent was like when it became another.
func (c *care) turn(t turn) {
	if len(c.Turns) >= maxTurns {
		c.Turns = slices.Delete(c.Turns, 0, 1)
	}
	c.Turns = append(c.Turns, t)
}

// look completes a turn with what an agent is like now.
func (m *Model) look(p *page, t turn) turn {
	t.Sessions, t.Calls = p.sessions(), float64(math.Float32frombits(p.u32(atRates+rateCalls*rateSize+rMean)))
	for _, tool := range m.answers(p, 0, 't') {
		t.Tools = append(t.Tools, tool.Text)
	}
	return t
}

// turned compares an agent at the first of some turns with it at the second, or now.
func (m *Model) turned(p *page, turns []turn) Turn {
	t := turns[0]
	after := m.look(p, turn{})
	if len(turns) > 1 {
		after = turns[1]
	}
	out := Turn{Kind: t.Kind, From: t.From, To: t.To, At: t.At, Sessions: max(0, after.Sessions-t.Sessions), Tools: []string{}}
	if t.Calls > 0 {
		out.Calls = after.Calls / t.Calls
	}
	for _, tool := range after.Tools {
		if !slices.Contains(t.Tools, tool) {
			out.Tools = append(out.Tools, tool)
		}
	}
	return out
}

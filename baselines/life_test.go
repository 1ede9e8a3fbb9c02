package baselines

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// days teaches a class of four agents for some days, six sessions a day.
func days(m *Model, r *rand.Rand, from, to int) {
	for day := from; day < to; day++ {
		for n := range 24 {
			session := routine(r, day, n)
			m.Learn(fmt.Sprint("svc/", n%4), session)
		}
	}
}

func routine(r *rand.Rand, day, n int) []Observation {
	to := 1 + ranked(r, 0.6, 20)
	o := call("send_money", to, ArgObservation{Path: "to", Value: to, Provenance: event.ProvenancePrompt})
	o.At = time.Unix(1767225600, 0).Add(time.Duration(24*day)*time.Hour + time.Duration(n)*time.Minute)
	return []Observation{o}
}

// stranger is a session that sends to an account out of a tool's output.
func stranger(day int, account uint64) []Observation {
	a := ArgObservation{Path: "to", Value: account, Provenance: event.ProvenanceToolOutput}
	a.Flow = Flow{Tokens: event.Hashes{event.Hash(account<<1 | 1)}, Signed: true}
	o := call("send_money", account, a)
	o.Args[0].Flow = a.Flow
	o.At = time.Unix(1767225600, 0).Add(time.Duration(24*day)*time.Hour + time.Hour)
	return []Observation{o}
}

func TestStages(t *testing.T) {
	const agent = "svc/0"
	change := func(kind string) func(*Model) {
		return func(m *Model) {
			if !m.Change(agent, Change{Kind: kind, By: "ada", Why: "a test", At: time.Unix(1767225600, 0)}) {
				t.Errorf("%s: nothing to do", kind)
			}
		}
	}
	back := func(day int, account uint64) func(*Model) {
		return func(m *Model) {
			if m.Learn(agent, stranger(day, account)) {
				t.Errorf("day %d: what is improbable taught", day)
			}
		}
	}
	meet := func(model string) func(*Model) {
		return func(m *Model) {
			m.Meet(&event.Event{Agent: event.Agent{ID: agent}, Model: &event.Model{Name: model}})
		}
	}
	others := func(m *Model) {
		for day := 41; day < 80; day++ {
			m.Learn("svc/1", routine(rand.New(rand.NewPCG(1, uint64(day))), day, 1))
		}
	}
	work := func(m *Model) { days(m, rand.New(rand.NewPCG(3, 3)), 41, 45) }
	tests := []struct {
		name  string
		steps []func(*Model)
		want  Life
	}{
		{"at work", nil, Active},
		{"frozen", []func(*Model){change(Freeze)}, Frozen},
		{"unfrozen", []func(*Model){change(Freeze), change(Unfreeze)}, Active},
		{"one cause on two days", []func(*Model){back(40, 777), back(41, 777)}, Active},
		{"one cause on three days", []func(*Model){back(40, 777), back(41, 777), back(42, 777)}, Poisoned},
		{"one cause three times on a day", []func(*Model){back(40, 777), back(40, 777), back(40, 777)}, Active},
		{"eight causes", []func(*Model){back(40, 701), back(40, 702), back(40, 703), back(40, 704), back(40, 705), back(40, 706), back(40, 707), back(40, 708)}, Drifted},
		{"a model that it always had", []func(*Model){meet("m-1"), meet("m-1")}, Active},
		{"another model", []func(*Model){meet("m-1"), meet("m-2")}, Drifted},
		{"another model, and a month's work", []func(*Model){meet("m-1"), meet("m-2"), work}, Active},
		{"silent for weeks, while its peers work", []func(*Model){others}, Stale},
		{"silent, and back", []func(*Model){others, func(m *Model) { m.Learn(agent, routine(rand.New(rand.NewPCG(2, 2)), 80, 1)) }}, Active},
		{"rebased", []func(*Model){change(Rebase)}, Drifted},
		{"rebased and rolled back", []func(*Model){change(Rebase), change(Rollback)}, Active},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := NewModel("class")
			days(m, rand.New(rand.NewPCG(1, 1)), 0, 40)
			for _, step := range tt.steps {
				step(m)
			}
			got, why, out := m.life(m.Agents[agent], m.Cares[agent])
			if got != tt.want || why == "" || out == "" && got != Active {
				t.Errorf("stage %s (%s; way out: %s), want %s", got, why, out, tt.want)
			}
			if err := m.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A frozen page stays as it is to the byte; one that is rolled back is as it was at the end of the day before.
func TestFreezeAndRollback(t *testing.T) {
	const agent = "svc/0"
	m, r := NewModel("class"), rand.New(rand.NewPCG(1, 1))
	days(m, r, 0, 20)
	yesterday := *m.Agents[agent]
	days(m, r, 20, 21)
	if *m.Agents[agent] == yesterday {
		t.Fatal("a day taught nothing")
	}
	m.Change(agent, Change{Kind: Rollback})
	if now := learned(m.Agents[agent]); now != learned(&yesterday) {
		t.Error("rolled back to something else")
	}
	m.Change(agent, Change{Kind: Freeze})
	before := *m.Agents[agent]
	days(m, r, 21, 23)
	for range 500 {
		m.Count(&event.Event{Kind: event.KindToolResult, Tool: &event.Tool{Name: "x"}, Agent: event.Agent{ID: agent}, Time: time.Unix(1769225600, 0).Add(time.Duration(r.IntN(1e6)) * time.Second)})
	}
	after := *m.Agents[agent]
	if learned(&after) != learned(&before) {
		t.Error("a frozen page changed")
	}
	if m.Expect(agent, stranger(30, 5)) {
		t.Error("a frozen page was taught what a person expects")
	}
}

// learned is a page without the windows and the hour that are open and their evidence, and when the agent acted.
func learned(p *page) page {
	out := *p
	clear(out[hPartial : hPartial+2])
	clear(out[hUsed : hUsed+8])
	clear(out[atChecksum:])
	clear(out[hOpen : hCounted+4])
	for i := range rateCount {
		clear(out[atRates+i*rateSize+rCounted : atRates+(i+1)*rateSize])
	}
	return out
}

// What a person expects is learned: the next session of its kind is no longer held back.
func TestExpect(t *testing.T) {
	const agent = "svc/0"
	m := NewModel("class")
	days(m, rand.New(rand.NewPCG(1, 1)), 0, 40)
	o := stranger(43, 777)
	before := scored(m, agent, &o[0])
	for day := range 3 {
		if m.Learn(agent, stranger(40+day, 777)) {
			t.Fatal("what is improbable taught")
		}
	}
	for day := range 3 {
		if !m.Expect(agent, stranger(40+day, 777)) {
			t.Fatal("what was expected did not teach")
		}
	}
	after := scored(m, agent, &o[0])
	if life, why, _ := m.life(m.Agents[agent], m.Cares[agent]); life != Active || after.Rarity(FeatureDestination) > before.Rarity(FeatureDestination)-2 {
		t.Errorf("stage %s (%s), destination at %.1f bits, before %.1f", life, why, after.Rarity(FeatureDestination), before.Rarity(FeatureDestination))
	}
}

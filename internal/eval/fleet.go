package eval

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// A fleet is generated: roles of several agents with habits of their own, who work by day and rest at weekends. It is made of what
// detections look at (tools, values with their origin, destinations, volumes, times), and is no model of any real fleet.

// job is one way of working: some reading, then one act.
type job struct {
	reads []string
	act   string
	to    string // the argument of the act that names the contact
	args  []string
	// found is the share of sessions in which the contact is not in the prompt but in what was read.
	found float64
}

type role struct {
	name    string
	jobs    []job
	contact func(n uint64) string
	admin   []string // tools that the role could use and does not
}

// roles returns the roles of the fleet.
func roles() []role {
	return []role{
		{
			"support",
			[]job{
				{[]string{"lookup_customer"}, "send_email", "to", []string{"subject", "body"}, 0.1},
				{[]string{"get_order", "lookup_customer"}, "issue_refund", "account", []string{"amount", "reason"}, 0.3},
				{[]string{"search_tickets"}, "update_ticket", "assignee", []string{"status"}, 0},
			},
			func(n uint64) string { return fmt.Sprintf("customer%d@mail%d.example", n, n%7) },
			[]string{"export_customers", "delete_ticket", "create_api_key", "read_audit_log"},
		},
		{
			"payments",
			[]job{
				{[]string{"read_invoice", "get_supplier"}, "send_money", "recipient", []string{"amount", "reference"}, 0.25},
				{[]string{"list_transactions"}, "post_message", "channel", []string{"text"}, 0},
			},
			func(n uint64) string { return fmt.Sprintf("GB%02dBANK%014d", n%90+10, n*7919) },
			[]string{"add_payee", "raise_limit", "export_ledger", "disable_approval"},
		},
		{
			"research",
			[]job{
				{[]string{"search_web", "web_fetch", "web_fetch"}, "write_file", "path", []string{"content"}, 0},
				{[]string{"search_web"}, "share_file", "with", []string{"path"}, 0.1},
			},
			func(n uint64) string { return fmt.Sprintf("reader%d@partner%d.example", n, n%11) },
			[]string{"run_shell", "read_secret", "install_plugin", "create_webhook"},
		},
		{
			"ops",
			[]job{
				{[]string{"run_query"}, "post_message", "channel", []string{"text"}, 0},
				{[]string{"get_service", "read_metrics"}, "restart_service", "service", []string{"region"}, 0.2},
			},
			func(n uint64) string { return fmt.Sprintf("svc-%d.internal.example", n) },
			[]string{"grant_role", "rotate_key", "open_firewall", "dump_memory"},
		},
	}
}

const (
	fleetAgents  = 6  // of a role
	roleContacts = 60 // that a role's agents share
	ownContacts  = 12 // of one agent
)

// worker is one agent of the fleet with its habits.
type worker struct {
	role     *role
	agent    event.Agent
	contacts []string // the usual ones first
	jobs     []int    // the usual ones repeated
	start    time.Duration
	perDay   float64
	tokens   float64
}

// fleet generates sessions. Equal seeds give equal fleets.
type fleet struct {
	random  *rand.Rand
	workers []*worker
	next    int // of a session
}

func newFleet(seed uint64) *fleet {
	f := &fleet{random: seeded(seed)}
	all := roles()
	for i := range all {
		for n := range fleetAgents {
			f.workers = append(f.workers, f.hire(&all[i], fmt.Sprintf("%s-%d", all[i].name, n+1)))
		}
	}
	return f
}

func (f *fleet) hire(r *role, name string) *worker {
	w := &worker{
		role: r, agent: event.Agent{Service: r.name, Name: name, Class: r.name}, start: time.Duration(6+f.random.IntN(5)) * time.Hour,
		perDay: 3 + 4*f.random.Float64(), tokens: 5 + f.random.Float64(),
	}
	for _, n := range f.random.Perm(roleContacts)[:ownContacts] {
		w.contacts = append(w.contacts, r.contact(uint64(n)))
	}
	for i := range r.jobs {
		for range 1 + f.random.IntN(4) {
			w.jobs = append(w.jobs, i)
		}
	}
	return w
}

// plan is what a session departs from habit in.
type plan struct {
	worker   *worker // whose habits it has
	agent    *worker // who does it
	contact  string  // if not a habitual one
	found    bool    // the contact comes out of what was read
	extra    func(s *script)
	attacked bool
}

// script is a session being written.
type script struct {
	*fleet
	plan   plan
	id     string
	at     time.Time
	events []labelled
	attack bool // what follows belongs to the attack
	ref    string
}

// day is one day's ordinary sessions of a worker.
func (f *fleet) day(w *worker, day int) (out [][]labelled) {
	rate := w.perDay
	if day%7 >= 5 {
		rate /= 8
	}
	for range f.poisson(rate) {
		out = append(out, f.session(plan{worker: w, agent: w}, f.moment(w, day)))
	}
	return out
}

// moment is a time in a worker's day: most often at its middle.
func (f *fleet) moment(w *worker, day int) time.Time {
	return begin.AddDate(0, 0, day).Add(w.start + time.Duration((f.random.Float64()+f.random.Float64())/2*float64(9*time.Hour)))
}

// poisson draws by multiplying uniforms (Knuth), which is exact and fast for small rates.
func (f *fleet) poisson(rate float64) int {
	n, product, limit := 0, f.random.Float64(), math.Exp(-rate)
	for product > limit {
		n, product = n+1, product*f.random.Float64()
	}
	return n
}

func (f *fleet) session(p plan, at time.Time) []labelled {
	f.next++
	s := &script{fleet: f, plan: p, id: fmt.Sprintf("session-%d", f.next), at: at, ref: fmt.Sprintf("R%06d", f.random.IntN(1_000_000))}
	w := p.worker
	j := &w.role.jobs[w.jobs[f.random.IntN(len(w.jobs))]]
	contact := w.contacts[int(float64(len(w.contacts))*math.Pow(f.random.Float64(), 2))]
	found := f.random.Float64() < j.found
	if p.contact != "" {
		contact, found = p.contact, p.found
	}
	s.attack = p.attacked && p.extra == nil
	s.prompt(j, contact, found)
	for _, read := range j.reads {
		about := ""
		if found {
			about = contact
		}
		s.read(read, about)
	}
	s.act(j, contact)
	if p.extra != nil {
		s.attack = true
		p.extra(s)
	}
	return s.events
}

func (s *script) add(kind event.Kind) *event.Event {
	s.at = s.at.Add(time.Second + time.Duration(s.random.ExpFloat64()*float64(4*time.Second)))
	s.events = append(s.events, labelled{attack: s.attack, Event: event.Event{
		ID: fmt.Sprintf("%s-%d", s.id, len(s.events)), Kind: kind, Time: s.at, Agent: s.plan.agent.agent, Session: event.Session{ID: s.id},
	}})
	return &s.events[len(s.events)-1].Event
}

func (s *script) prompt(j *job, contact string, found bool) {
	text := "Please " + strings.ReplaceAll(j.act, "_", " ") + " for " + s.ref
	if !found {
		text += ", it is about " + contact
	}
	s.add(event.KindPrompt).Content = []event.Content{{Role: event.RolePrompt, Text: text}}
	s.think()
}

// think is a call of the model: its tokens are the worker's usual volume.
func (s *script) think() {
	tokens := int64(math.Exp(s.plan.worker.tokens + s.random.NormFloat64()/2))
	s.add(event.KindModelCall).Model = &event.Model{Provider: "example", Name: "large", InputTokens: 4 * tokens, OutputTokens: tokens}
}

// words that results are made of.
var words = strings.Fields("order account status open closed pending delivery invoice total service region healthy degraded note reply customer supplier record result page summary")

func (s *script) words(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = words[s.random.IntN(len(words))]
	}
	return strings.Join(out, " ")
}

func (s *script) read(tool, about string) {
	s.call(tool, "record "+s.ref+" "+s.words(10+s.random.IntN(30))+" "+about, "query", s.ref)
}

func (s *script) act(j *job, contact string) {
	args := []string{j.to, contact}
	for _, a := range j.args {
		value := s.words(4)
		if a == "amount" {
			value = fmt.Sprintf("%.2f", math.Exp(4+s.random.NormFloat64()))
		}
		args = append(args, a, value)
	}
	s.call(j.act, "done", args...)
	s.think()
}

// call is a call of a tool with its arguments as paths and values in turn.
func (s *script) call(tool, result string, args ...string) {
	e := s.add(event.KindToolResult)
	e.Outcome = event.OutcomeSuccess
	e.Tool = &event.Tool{Name: tool, Server: s.plan.worker.role.name + "-tools", Result: event.Content{Text: result}}
	for i := 0; i < len(args); i += 2 {
		e.Tool.Args = append(e.Tool.Args, event.Arg{Path: args[i], Value: args[i+1]})
	}
}

// inOrder puts sessions' events into the order of time, as a log has them.
func inOrder(sessions [][]labelled) ([]labelled, error) {
	var out []labelled
	for _, s := range sessions {
		out = append(out, s...)
	}
	for i := range out {
		if err := out[i].Check(); err != nil {
			return nil, fmt.Errorf("generated event %s: %w", out[i].ID, err)
		}
	}
	slices.SortFunc(out, func(a, b labelled) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

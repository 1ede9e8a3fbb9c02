package playbooks

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Result is how a step of a run ended.
type Result string

// The results. A step without one is under way.
const (
	Done     Result = "done"      // it succeeded
	Failed   Result = "failed"    // it did not; steps after it are skipped
	Approved Result = "approved"  // humans approved a gated step; its effect comes next
	Refused  Result = "refused"   // a human denied it, or nobody answered
	Skipped  Result = "skipped"   // its condition is false, or a step that it needs did not succeed
	TimedOut Result = "timed_out" // it was given up
)

// State is a run's progress, by the path of each step: its id, and #n for the n-th item of each foreach around it.
type State map[string]*StepState

// StepState is how far a step has come.
type StepState struct {
	Result Result `json:"result,omitempty"`
	// Why says in a few words why the result is what it is.
	Why     string    `json:"why,omitempty"`
	Started time.Time `json:"started"`
	Items   []string  `json:"items,omitempty"` // of a foreach, as they were when it began
	Tries   int       `json:"tries,omitempty"`
	Again   time.Time `json:"again,omitzero"` // when the next try is due
}

func (s *StepState) settled() bool {
	return s != nil && s.Result != "" && s.Result != Approved
}

func (s *StepState) failed() bool { return s != nil && (s.Result == Failed || s.Result == TimedOut) }

// Verb is what a run does.
type Verb string

// The verbs.
const (
	Do  Verb = "do"  // do the step
	Ask Verb = "ask" // ask humans about the step
)

// Command is one thing that a run does now.
type Command struct {
	Verb Verb
	Step Step
	Path string // the step's key in the state
	Item string // of the foreach around it
	// Params are the step's parameters, rendered.
	Params map[string]string
}

// Next is what a run does next.
type Next struct {
	// Commands are all that may be under way now, those that are already among them. What is under way and not among them any more was
	// given up: it is to be cancelled.
	Commands []Command
	// Wake is when to ask again though nothing happened; zero for never.
	Wake time.Time
	// Finished: every step has its result.
	Finished bool
}

// root is the path of the whole run.
const root = ""

// Advance says what a run does next, and notes in its state what follows from the state alone: what is skipped, begun, over or given up.
// It is pure but for that, and it ends: each step gets a result in the end whatever the results of commands are, a gated step is never
// done unless it was approved, and a step never before those that it needs.
func (p Playbook) Advance(now time.Time, env Env, s State) Next {
	if s[root] == nil {
		s[root] = &StepState{Started: now}
	}
	w := &walker{now: now, env: env, state: s}
	w.env.Steps = make(map[string]string, len(s))
	// One map becomes another.
	//workflowcheck:ignore
	for path, st := range s {
		w.env.Steps[path] = string(st.Result)
	}
	end := s[root].Started.Add(cmp.Or(p.Timeout, DefaultTimeout))
	if w.due(end) {
		w.giveUp(p.Steps, root, TimedOut, "the run's time is over")
	}
	if w.sequence(p.Steps, root, "") {
		s[root].Result = Done
		return Next{Finished: true}
	}
	return Next{Commands: w.commands, Wake: w.wake}
}

// Report takes in what became of a command. A try that failed is repeated where the step says so.
func (p Playbook) Report(now time.Time, env Env, s State, c Command, result Result, why string) {
	st := s[c.Path]
	if st == nil || st.settled() {
		return // it was given up meanwhile
	}
	st.Tries++
	st.Why = why
	if r := c.Step.Retry; result == Failed && r != nil && st.Tries < r.Attempts {
		env.Error, env.Inputs, env.Item = why, c.Step.Inputs, c.Item
		if again, err := holds(r.When, env); again && err == nil {
			st.Again = now.Add(r.wait(c.Path, st.Tries))
			return
		}
	}
	st.Result = result
}

// wait is how long to wait after so many tries. What varies it is made from the path, so that a replay waits as long.
func (r Retry) wait(path string, tries int) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(path + strconv.Itoa(tries)))
	share := 1 + r.Jitter*(2*float64(h.Sum32())/(1<<32)-1)
	return time.Duration(float64(r.Every<<(tries-1)) * share)
}

// walker goes through the steps that may run now.
type walker struct {
	now      time.Time
	env      Env
	state    State
	commands []Command
	wake     time.Time
}

// due reports whether a time has come, and otherwise sees to it that the run is woken then.
func (w *walker) due(at time.Time) bool {
	if !w.now.Before(at) {
		return true
	}
	if w.wake.IsZero() || at.Before(w.wake) {
		w.wake = at
	}
	return false
}

func (w *walker) settle(path string, r Result, why string) {
	w.state[path].Result, w.state[path].Why = r, why
	w.env.Steps[path] = string(r)
}

// sequence walks steps one after another and reports whether all are settled.
func (w *walker) sequence(steps []Step, suffix, item string) bool {
	for _, s := range steps {
		if !w.step(s, suffix, item) {
			return false
		}
	}
	return true
}

// step reports whether a step, with its fallback, is settled.
func (w *walker) step(s Step, suffix, item string) bool {
	path := s.ID + suffix
	w.env.Inputs, w.env.Item = s.Inputs, item
	if w.state[path] == nil && !w.begin(s, path, suffix) {
		return true
	}
	st := w.state[path]
	if !st.settled() && s.Timeout > 0 && w.due(st.Started.Add(s.Timeout)) {
		w.stop(s, suffix, TimedOut, "took more than "+s.Timeout.String())
	}
	if !st.settled() && !w.inside(s, path, suffix, item) {
		return false
	}
	if st.failed() && len(s.Fallback) > 0 {
		if !w.sequence(s.Fallback, suffix, item) {
			return false
		}
		if w.all(s.Fallback, suffix, Done, Skipped) && !w.all(s.Fallback, suffix, Skipped) {
			w.settle(path, Done, "its fallback did it: "+st.Why)
		}
	}
	return true
}

// begin opens a step, or settles it at once and returns false.
func (w *walker) begin(s Step, path, suffix string) bool {
	w.state[path] = &StepState{Started: w.now}
	for _, needed := range s.After {
		if !w.succeeded(needed, suffix) {
			w.settle(path, Skipped, "needs "+needed)
			return false
		}
	}
	switch ok, err := holds(s.If, w.env); {
	case err != nil:
		w.settle(path, Failed, "if: "+err.Error())
	case !ok:
		w.settle(path, Skipped, "not: "+s.If)
		return false
	}
	if f := s.Foreach; f != nil && !w.state[path].settled() {
		items, err := list(f.In, w.env)
		if err == nil && len(items) > f.Max {
			err = fmt.Errorf("%d items, at most %d", len(items), f.Max)
		}
		if err != nil {
			w.settle(path, Failed, "foreach: "+err.Error())
		}
		w.state[path].Items = items
	}
	return true
}

// succeeded reports whether a step, within the same item of a foreach or outside of it, was done.
func (w *walker) succeeded(id, suffix string) bool {
	for {
		if st := w.state[id+suffix]; st != nil {
			return st.Result == Done
		}
		if suffix == "" {
			return false
		}
		suffix = suffix[:max(0, strings.LastIndexByte(suffix, '#'))]
	}
}

// inside goes on with a step that is open and reports whether it is settled now.
func (w *walker) inside(s Step, path, suffix, item string) bool {
	switch {
	case s.Parallel != nil:
		return w.parallel(s, path, suffix, item)
	case s.Foreach != nil:
		for n, each := range w.state[path].Items {
			if !w.sequence(s.Foreach.Steps, suffix+"#"+strconv.Itoa(n), each) {
				return false
			}
		}
		w.settle(path, w.outcome(s.Foreach.Steps, path, suffix), "")
		return true
	}
	return w.plain(s, path, item)
}

// outcome of a foreach is done unless a step of an item failed.
func (w *walker) outcome(steps []Step, path, suffix string) Result {
	for n := range w.state[path].Items {
		if w.failed(steps, suffix+"#"+strconv.Itoa(n)) {
			return Failed
		}
	}
	return Done
}

func (w *walker) parallel(s Step, path, suffix, item string) bool {
	p, mark := s.Parallel, len(w.commands)
	late := p.Timeout > 0 && w.due(w.state[path].Started.Add(p.Timeout))
	settled := w.branches(p, suffix, item, func(b Branch) {
		if late {
			w.giveUp(b.Steps, suffix, TimedOut, "the branch took more than "+p.Timeout.String())
		}
	})
	broken := p.Mode == FailFast && slices.ContainsFunc(p.Branches, func(b Branch) bool { return w.failed(b.Steps, suffix) })
	if broken && !settled {
		w.commands = w.commands[:mark]
		settled = w.branches(p, suffix, item, func(b Branch) { w.giveUp(b.Steps, suffix, Skipped, "another branch failed") })
	}
	switch {
	case settled && broken:
		w.settle(path, Failed, "a branch failed")
	case settled:
		w.settle(path, Done, "")
	}
	return settled
}

// branches walks all branches, each after a look at it, and reports whether all are settled.
func (w *walker) branches(p *Parallel, suffix, item string, look func(Branch)) bool {
	settled := true
	for _, b := range p.Branches {
		look(b)
		settled = w.sequence(b.Steps, suffix, item) && settled
	}
	return settled
}

// failed reports whether one of the steps failed.
func (w *walker) failed(steps []Step, suffix string) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return w.state[s.ID+suffix].failed() })
}

// all reports whether each of the steps has one of the results.
func (w *walker) all(steps []Step, suffix string, results ...Result) bool {
	return !slices.ContainsFunc(steps, func(s Step) bool {
		st := w.state[s.ID+suffix]
		return st == nil || !slices.Contains(results, st.Result)
	})
}

func (w *walker) plain(s Step, path, item string) bool {
	st := w.state[path]
	if !st.Again.IsZero() && !w.due(st.Again) {
		return false
	}
	params, err := render(s.With, w.env)
	if err != nil {
		w.settle(path, Failed, err.Error())
		return true
	}
	verb := Do
	if s.Class.Gated() && st.Result != Approved {
		verb = Ask
	}
	w.commands = append(w.commands, Command{Verb: verb, Step: s, Path: path, Item: item, Params: params})
	return false
}

// giveUp settles what is not settled of steps, with their fallbacks.
func (w *walker) giveUp(steps []Step, suffix string, r Result, why string) {
	for _, s := range steps {
		w.stop(s, suffix, r, why)
		w.giveUp(s.Fallback, suffix, r, why)
	}
}

// stop settles a step with all inside it. An effect that was approved goes on: what became of it must be known.
func (w *walker) stop(s Step, suffix string, r Result, why string) {
	path := s.ID + suffix
	if w.state[path] == nil {
		w.state[path] = &StepState{Started: w.now}
	}
	open := w.state[path].Result == Approved
	if s.Parallel != nil {
		for _, b := range s.Parallel.Branches {
			w.giveUp(b.Steps, suffix, r, why)
			open = open || w.open(b.Steps, suffix)
		}
	}
	if s.Foreach != nil {
		for n := range w.state[path].Items {
			w.giveUp(s.Foreach.Steps, suffix+"#"+strconv.Itoa(n), r, why)
			open = open || w.open(s.Foreach.Steps, suffix+"#"+strconv.Itoa(n))
		}
	}
	if !open && !w.state[path].settled() {
		w.settle(path, r, why)
	}
}

// open reports whether one of the steps that were given up is not settled, or one of their fallbacks.
func (w *walker) open(steps []Step, suffix string) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return !w.state[s.ID+suffix].settled() || w.open(s.Fallback, suffix) })
}

package playbooks

// Result is how a step of a run ended.
type Result string

// The results. A step that is not in a run's state has not been done.
const (
	Done     Result = "done"     // it succeeded
	Failed   Result = "failed"   // it did not; steps after it are skipped
	Approved Result = "approved" // a human approved a gated step; its effect comes next
	Refused  Result = "refused"  // a human denied it, or nobody answered
	Skipped  Result = "skipped"  // a step that it needs did not succeed
)

// Verb is what a run does next.
type Verb string

// The verbs.
const (
	Do     Verb = "do"     // do the step
	Ask    Verb = "ask"    // ask a human about the step
	Skip   Verb = "skip"   // record that the step is skipped
	Finish Verb = "finish" // there is nothing left
)

// Command is the next thing of a run.
type Command struct {
	Verb Verb
	Step Step
}

// Next says what a run does next. It is pure, and it ends: each command, once its result is in the state, is never given again,
// and a gated step is never done unless it was approved.
func (p Playbook) Next(state map[string]Result) Command {
	for _, s := range p.Steps {
		switch state[s.ID] {
		case Done, Failed, Refused, Skipped:
			continue
		case Approved:
			return Command{Do, s}
		}
		for _, needed := range s.After {
			if state[needed] != Done {
				return Command{Skip, s}
			}
		}
		if s.Class.Gated() {
			return Command{Ask, s}
		}
		return Command{Do, s}
	}
	return Command{Verb: Finish}
}

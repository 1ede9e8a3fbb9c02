// Package workflows makes responses durable: the incident workflow, the lease workflow, and the activities that do their I/O.
//
// Workflow code must be deterministic: no clock but workflow.Now, no maps ranged over, no goroutines but workflow.Go, no I/O. A
// change of the order of commands needs workflow.GetVersion, and the saved histories in testdata/histories prove it.
package workflows

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/pipeline"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// Names of the messages that workflows take, and of the queue of what observes and records.
const (
	TaskQueue    = "tocsin"
	SignalFound  = "finding" // pipeline.Raised
	SignalNotice = "notice"  // Notice
	UpdateDecide = "decide"  // approval.Decision
	UpdateAsk    = "ask"     // HumanAsk
	UpdateClose  = "close"   // Closing
	UpdateRun    = "run"     // RunPlaybook
	SignalLift   = "lift"    // Lift, to a lease
	SignalEnded  = "ended"   // the id of a lease that was undone, from its workflow
)

// IncidentID is the workflow id of the open incident of a key.
func IncidentID(key string) string { return "incident/" + key }

// LeaseID is the workflow id of a lease.
func LeaseID(lease string) string { return "lease/" + lease }

// IncidentInput starts an incident, or carries it over a continue-as-new.
type IncidentInput struct {
	// Playbooks are the compiled playbooks that this incident may run, pinned for its whole life.
	Playbooks map[string]playbooks.Playbook `json:"playbooks"`
	// GrantKey verifies the control plane's grants.
	GrantKey ed25519.PublicKey `json:"grant_key"`
	State    *State            `json:"state,omitempty"`
}

// State is everything an incident knows. It is what a continue-as-new carries.
type State struct {
	Incident incident.Incident  `json:"incident"`
	Raised   []pipeline.Raised  `json:"raised"` // bounded by maxRaised and maxBytes; the store has all. Each position stands once
	Bytes    int                `json:"bytes"`  // size of Raised
	Seen     []string           `json:"seen"`   // the latest findings taken in; see seenKey
	Runs     []*Run             `json:"runs"`
	Tracks   []incident.Track   `json:"tracks"`
	Evidence []string           `json:"evidence"`
	Requests []approval.Request `json:"requests"`
	Fresh    []pipeline.Raised  `json:"fresh"`  // taken in and not yet recorded
	Asked    []HumanAsk         `json:"asked"`  // containments that people asked for and others have not answered
	Leases   []string           `json:"leases"` // verified containments that have not ended
	Names    map[string]string  `json:"names"`  // what agents that were known by their service are called
	// Unsealed counts the tries to seal evidence that failed in a row.
	Unsealed int `json:"unsealed,omitempty"`
	// Shown is how many votes of each request people were shown. One can come while they are shown those before it.
	Shown map[string]int `json:"shown,omitempty"`
	// Asking are the questions that were put, by the task that puts them.
	Asking map[string]*Asking `json:"asking,omitempty"`
}

// Asking is a question, so that a run that continues as new waits on instead of asking again, and that its effect finds its request.
type Asking struct {
	Request string `json:"request"`
	Attempt int    `json:"attempt"` // how often it was put anew, because nobody answered
}

// Run is one playbook's progress.
type Run struct {
	Playbook string `json:"playbook"`
	// Agent and Tool are of the finding that started the run: whom it may ask to stop, and with what.
	Agent    string               `json:"agent"`
	By       string               `json:"by,omitempty"` // the person who started it, if one did
	Tool     string               `json:"tool,omitempty"`
	Scopes   []string             `json:"scopes,omitempty"` // see pipeline.Raised
	Finding  playbooks.FindingEnv `json:"finding"`
	State    playbooks.State      `json:"state"`
	Finished bool                 `json:"finished"`
}

// Notice says that a human became aware of the incident.
type Notice struct {
	Incident string    `json:"incident"`
	By       string    `json:"by"`
	Via      string    `json:"via"`
	At       time.Time `json:"at"`
}

// Closing is a person's end of an incident. Like all that people send it names the incident: the workflow is that of a session, which
// can have another incident by the time that somebody uses an old page.
type Closing struct {
	Incident    string               `json:"incident"`
	Disposition incident.Disposition `json:"disposition"`
}

// HumanAsk is a containment that a person asks for; somebody else decides.
type HumanAsk struct {
	Incident string          `json:"incident"`
	By       string          `json:"by"`
	Via      string          `json:"via"`
	Target   approval.Target `json:"target"`
	Lease    time.Duration   `json:"lease_ns"`
	Reason   string          `json:"reason"`
}

// Lift ends a lease before its time.
type Lift struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

const (
	maxRaised   = 50        // findings that an incident works with; later ones are recorded only
	maxBytes    = 512 << 10 // their size: it goes into several activities, and Temporal ends a workflow that sends one more than 2 MiB
	maxSeen     = 2_000     // findings recognised when a detector repeats them after a crash
	maxRuns     = 8         // playbooks that an incident runs, over all its agents
	maxAsked    = 3         // containments that people asked for and that wait to be put to others
	askDeadline = 15 * time.Minute
	// A run continues as new before its history holds this much, of which Temporal allows 51,200 events, 10,000 signals (each is an
	// event too) and 50 MB, and when the server suggests it.
	continueEvents = 4_000
	continueBytes  = 4 << 20
	maxCarried     = 20 // findings that the next run starts with unrecorded; Temporal allows 2 MiB for all that it starts with
	maxUnsealed    = 30 // tries to seal, of sealTime each
	sealTime       = 2 * time.Minute
)

// run is the incident in flight.
type run struct {
	in    IncidentInput
	state *State
	acts  *Activities
	does  *Effects
	// tasks are what is under way, by key: steps of playbooks, and people's questions. writes lets one of them at a time write the
	// incident, so that an older state never lands after a newer one.
	tasks  map[string]*task
	writes workflow.Mutex
	dirty  bool // the incident changed and was not saved since
	// moved: a task ended, or a timer did, so that there may be something new to do. failed ends the workflow.
	moved  bool
	failed error
	wake   time.Time // when the timer is due that is set
	// closing is a human's disposition that the main loop has yet to write. done says that it is written.
	closing *incident.Disposition
	done    bool
}

// Incident is the workflow of one incident: it takes findings in, secures evidence first, investigates, asks, contains, writes,
// and stays until a human closes it.
func Incident(ctx workflow.Context, in IncidentInput) error {
	r := &run{in: in, state: in.State, tasks: make(map[string]*task), writes: workflow.NewMutex(ctx)}
	if r.state == nil {
		r.state = &State{}
	}
	if r.state.Asking == nil {
		r.state.Asking = make(map[string]*Asking)
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Second, // also how long an activity is lost for when its process is killed
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	})
	if err := r.handlers(ctx); err != nil {
		return err
	}
	for {
		if err := r.step(ctx); err != nil {
			return err
		}
		if r.done {
			return r.end(ctx)
		}
		if err := r.carryOn(ctx); err != nil {
			return err
		}
		// Draining inside the condition is safe: it blocks on nothing, and taking in what arrived twice takes in nothing more.
		if err := workflow.Await(ctx, func() bool { r.drain(ctx); return !r.idle() }); err != nil {
			return err
		}
	}
}

func full(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > continueEvents || info.GetCurrentHistorySize() > continueBytes
}

// handled waits for the updates under way, so that each sender gets an answer, and takes in what arrived meanwhile.
func (r *run) handled(ctx workflow.Context) error {
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return err
	}
	r.drain(ctx)
	return nil
}

// carryOn returns the error by which a run whose history is full continues as new, and nil for any other. All that is under way then
// are questions that wait, of which the state has everything.
func (r *run) carryOn(ctx workflow.Context) error {
	for full(ctx) && r.closing == nil && r.failed == nil && r.resting() {
		if r.dirty {
			if err := r.save(ctx); err != nil {
				return err
			}
		}
		if err := r.handled(ctx); err != nil {
			return err
		}
		if r.closing != nil || r.dirty || !r.resting() {
			return nil // the main loop does that first, and comes back
		}
		if len(r.state.Fresh) <= maxCarried {
			return r.next(ctx, r.state)
		}
		if err := r.record(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) next(ctx workflow.Context, s *State) error {
	in := r.in
	in.State = s
	return workflow.NewContinueAsNewError(ctx, Incident, in)
}

// end is the end of a closed incident. Findings that came too late for it open the session's next one.
func (r *run) end(ctx workflow.Context) error {
	if err := r.handled(ctx); err != nil || len(r.state.Fresh) == 0 {
		return err
	}
	return r.next(ctx, &State{Seen: r.state.Seen, Fresh: r.state.Fresh})
}

// idle reports whether there is nothing to do but wait.
func (r *run) idle() bool {
	return r.closing == nil && r.failed == nil && len(r.state.Fresh) == 0 && !r.dirty && !r.moved
}

// step does what is to be done now: record findings, start what playbooks and people want next, save.
func (r *run) step(ctx workflow.Context) error {
	r.drain(ctx)
	r.moved = false
	if err := r.record(ctx); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	if r.closing != nil {
		return r.finish(ctx)
	}
	if !full(ctx) {
		r.launch(ctx)
	}
	if r.dirty {
		return r.save(ctx)
	}
	return nil
}

// drain takes in what arrived, without blocking.
func (r *run) drain(ctx workflow.Context) {
	found := workflow.GetSignalChannel(ctx, SignalFound)
	for {
		var raised pipeline.Raised
		if !found.ReceiveAsync(&raised) {
			break
		}
		if key := seenKey(raised); !slices.Contains(r.state.Seen, key) {
			r.state.Seen = append(r.state.Seen, key)
			r.state.Fresh = append(r.state.Fresh, r.lighten(raised))
		}
		r.state.Seen = r.state.Seen[max(0, len(r.state.Seen)-maxSeen):]
	}
	notices := workflow.GetSignalChannel(ctx, SignalNotice)
	for {
		var n Notice
		if !notices.ReceiveAsync(&n) {
			break
		}
		if n.Incident == r.state.Incident.ID {
			r.noticed(n)
		}
	}
	ended := workflow.GetSignalChannel(ctx, SignalEnded)
	for {
		var lease string
		if !ended.ReceiveAsync(&lease) {
			return
		}
		known := len(r.state.Leases)
		r.state.Leases = slices.DeleteFunc(r.state.Leases, func(l string) bool { return l == lease })
		if known > 0 && len(r.state.Leases) == 0 && r.state.Incident.Status == incident.Contained {
			r.move(incident.Resolved)
			r.dirty = true
		}
	}
}

// seenKey tells reports of findings apart: a finding is reported again when its agent's name arrives. It is short whatever names
// agents give themselves, because the state is carried whole.
func seenKey(raised pipeline.Raised) string {
	sum := sha256.Sum256([]byte(raised.Finding.ID + " " + raised.Finding.Agent.ID))
	return hex.EncodeToString(sum[:8])
}

// lighten takes away what only evidence needs of a finding for which the incident has no room any more.
func (r *run) lighten(raised pipeline.Raised) pipeline.Raised {
	if len(r.state.Raised)+len(r.state.Fresh) < maxRaised && r.state.Bytes < maxBytes {
		return raised
	}
	return pipeline.Raised{Finding: raised.Finding, Ingested: raised.Ingested}
}

func (r *run) noticed(n Notice) {
	t := &r.state.Incident.Times
	if t.Noticed.IsZero() || n.At.Before(t.Noticed) {
		t.Noticed, r.state.Incident.NoticedBy, r.state.Incident.NoticedVia = n.At, n.By, n.Via
		r.dirty = true
	}
}

// record writes the fresh findings to the store and takes them into the incident.
func (r *run) record(ctx workflow.Context) error {
	fresh := r.state.Fresh
	r.state.Fresh = nil
	for _, raised := range fresh {
		r.take(ctx, raised)
		if err := r.write(ctx, raised); err != nil {
			return fmt.Errorf("record finding: %w", err)
		}
	}
	return nil
}

// write records a finding with its disposition so far. What only evidence needs of it is left out.
func (r *run) write(ctx workflow.Context, raised pipeline.Raised) error {
	if err := r.writes.Lock(ctx); err != nil {
		return err
	}
	defer r.writes.Unlock()
	in := RecordInput{
		Incident: r.state.Incident, Raised: pipeline.Raised{Finding: raised.Finding, Ingested: raised.Ingested},
		Disposition: incident.FirstPass(raised.Finding, r.state.Tracks, workflow.Now(ctx)), Unknown: !r.knows(raised.Finding),
	}
	return book(ctx, r.acts.Record, in).Get(ctx, nil)
}

// take makes a finding part of the incident's state and starts the playbook that it names, once.
func (r *run) take(ctx workflow.Context, raised pipeline.Raised) {
	f, i := raised.Finding, &r.state.Incident
	if i.ID == "" {
		*i = incident.Incident{
			ID: incident.NewID(f), Key: incident.Key(f), Title: incident.Title(f), Status: incident.Open, Agent: f.Agent,
			Session: f.Session, Severity: f.Severity, Times: incident.Times{FirstBad: f.First, Ingested: raised.Ingested, Detected: workflow.Now(ctx)},
		}
	}
	if f.Severity.Rank() > i.Severity.Rank() {
		i.Severity, i.Title = f.Severity, incident.Title(f)
	}
	if f.First.Before(i.Times.FirstBad) {
		i.Times.FirstBad = f.First
	}
	if slices.ContainsFunc(r.state.Raised, func(known pipeline.Raised) bool { return known.Finding.ID == f.ID }) {
		r.named(raised)
		return
	}
	i.Findings++
	r.keep(raised)
	r.title()
	for _, name := range r.wanted(f) {
		r.start(name, raised)
	}
	r.moved = true
}

// wanted are the playbooks that a finding starts: the one that its rule names, or those whose triggers fit it. One that can contain
// starts only for a finding that may propose it; where none does, there is one that looks.
func (r *run) wanted(f detect.Finding) (names []string) {
	propose := f.Lane == detect.Propose
	if propose && f.Playbook != "" && r.knows(f) {
		return []string{f.Playbook}
	}
	env := Env(r.state.Incident, r.findings(), r.state.Tracks)
	env.Finding, env.Agent = findingEnv(f), agentEnv(f.Agent)
	for _, name := range workflow.DeterministicKeys(r.in.Playbooks) {
		if p := r.in.Playbooks[name]; p.Starts(env) && (propose || !p.Gated()) {
			names = append(names, name)
		}
	}
	if names == nil {
		return []string{"look"}
	}
	return names
}

// title names the incident after that of its gravest findings that says most of what happened, the first one where several do.
func (r *run) title() {
	var best *detect.Finding
	for n := range r.state.Raised {
		f := &r.state.Raised[n].Finding
		if f.Severity == r.state.Incident.Severity && (best == nil || says(f) > says(best)) {
			best = f
		}
	}
	if best != nil { // else the gravest is one for which there was no room, and was taken for the title when it came
		r.state.Incident.Title = incident.Title(*best)
	}
}

// says ranks what a finding's title tells: where a value came from that a person is asked about, and, before a baseline's surprise, a
// rule's words for it.
func says(f *detect.Finding) (rank int) {
	if f.Lane == detect.Propose && f.Chain != nil {
		rank += 2
	}
	if f.Source == detect.SourceRule {
		rank++
	}
	return rank
}

// knows reports whether the playbook that a finding wants exists. A finding may be older than the configuration.
func (r *run) knows(f detect.Finding) bool {
	_, ok := r.in.Playbooks[f.Playbook]
	return ok || f.Playbook == "" || f.Lane != detect.Propose
}

// keep adds a finding to those that the incident works with, as far as there is room. The findings of one session repeat the
// positions of its events; each is kept once.
func (r *run) keep(raised pipeline.Raised) {
	known := make(map[pipeline.Position]bool)
	for _, k := range r.state.Raised {
		for _, at := range k.Positions {
			known[at] = true
		}
	}
	raised.Positions = slices.DeleteFunc(slices.Clone(raised.Positions), func(at pipeline.Position) bool { return known[at] })
	text, err := json.Marshal(raised)
	if err != nil {
		return // it came as JSON
	}
	if n := len(r.state.Raised); n == 0 || n < maxRaised && r.state.Bytes+len(text) <= maxBytes {
		r.state.Raised, r.state.Bytes = append(r.state.Raised, raised), r.state.Bytes+len(text)
	}
}

// named takes in a finding that was reported again because the name of its agent arrived: the incident, and the runs that it started,
// are about that agent.
func (r *run) named(raised pipeline.Raised) {
	f := raised.Finding
	r.state.Incident.Agent = f.Agent
	defer r.title()
	for i := range r.state.Raised {
		known := &r.state.Raised[i]
		if known.Finding.ID != f.ID {
			continue
		}
		for n := range r.state.Runs {
			if r.state.Runs[n].Agent == known.Finding.Agent.ID {
				r.state.Runs[n].Agent = f.Agent.ID
			}
		}
		if old := known.Finding.Agent.ID; old != f.Agent.ID {
			if r.state.Names == nil {
				r.state.Names = make(map[string]string)
			}
			r.state.Names[old] = f.Agent.ID
		}
		known.Finding = f
		if raised.Baseline.Agent != "" {
			known.Baseline = raised.Baseline
		}
	}
}

// start queues a playbook's run, unless the incident ran it already, or runs one that does all that looking does.
func (r *run) start(name string, raised pipeline.Raised) {
	p, f := r.in.Playbooks[name], raised.Finding
	for _, known := range r.state.Runs {
		if known.Playbook == p.Name && known.Agent == f.Agent.ID || p.Name == "look" || len(r.state.Runs) >= maxRuns {
			return
		}
	}
	r.state.Runs = append(r.state.Runs, &Run{Playbook: p.Name, Agent: f.Agent.ID, Tool: f.Tool, Scopes: raised.Scopes, Finding: findingEnv(f), State: make(playbooks.State)})
	r.state.Incident.Playbook = p.Ref()
}

// save writes the incident's state for people to see.
func (r *run) save(ctx workflow.Context) error {
	if err := r.writes.Lock(ctx); err != nil {
		return err
	}
	defer r.writes.Unlock()
	r.dirty = false
	if err := book(ctx, r.acts.Save, r.state.Incident).Get(ctx, nil); err != nil {
		return fmt.Errorf("save incident: %w", err)
	}
	return nil
}

// move changes the status where the life cycle allows it; an impossible move is left undone, because the status only shows what
// the state holds.
func (r *run) move(to incident.Status) {
	if s, err := incident.Move(r.state.Incident.Status, to); err == nil {
		r.state.Incident.Status = s
	}
}

// seal secures the evidence. One try has an end, so that a history that is full can continue as new before the next; an empty result
// means that it is due. Without evidence nothing is asked of anybody, and people are told so.
func (r *run) seal(ctx workflow.Context) (playbooks.Result, error) {
	limited := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		// The heartbeat tells a long session from a process that was killed.
		StartToCloseTimeout: sealTime, ScheduleToCloseTimeout: sealTime, HeartbeatTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	})
	in := SealInput{Incident: r.state.Incident, Raised: r.state.Raised, At: workflow.Now(ctx)}
	var items []incident.EvidenceItem
	err := workflow.ExecuteActivity(limited, r.acts.Seal, in).Get(ctx, &items)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return playbooks.Failed, fmt.Errorf("seal evidence: %w", err)
	case r.state.Unsealed < maxUnsealed:
		r.state.Unsealed++
		return "", nil
	default:
		r.state.Unsealed = 0
		return playbooks.Failed, r.uncontained(ctx, "The evidence can't be sealed, so no containment is asked for: "+rootCause(err), r.state.Incident.ID)
	}
	r.state.Unsealed = 0
	for _, item := range items {
		if !slices.Contains(r.state.Evidence, item.SHA256) {
			r.state.Evidence = append(r.state.Evidence, item.SHA256)
		}
	}
	return playbooks.Done, nil
}

// investigate runs the tracks in parallel. Each settles on its own: one that fails or hangs takes nothing from the others.
func (r *run) investigate(ctx workflow.Context, names []string) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Second, ScheduleToCloseTimeout: time.Minute,
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 3},
	})
	futures := make([]workflow.Future, 0, len(names))
	for _, name := range names {
		futures = append(futures, workflow.ExecuteActivity(ctx, r.acts.Track, TrackInput{Name: name, Incident: r.state.Incident, Raised: r.state.Raised}))
	}
	found := make([]incident.Track, 0, len(names))
	for i, f := range futures {
		var t incident.Track
		if err := f.Get(ctx, &t); err != nil {
			t = incident.Track{Name: names[i], Err: rootCause(err), At: workflow.Now(ctx)}
		}
		found = append(found, t)
	}
	r.state.Tracks = slices.DeleteFunc(r.state.Tracks, func(t incident.Track) bool { return slices.Contains(names, t.Name) })
	r.state.Tracks = append(r.state.Tracks, found...)
	in := TracksInput{Incident: r.state.Incident.ID, Tracks: found}
	if err := book(ctx, r.acts.SaveTracks, in).Get(ctx, nil); err != nil {
		return fmt.Errorf("save tracks: %w", err)
	}
	return nil
}

// triage gives every finding its first-pass disposition, now that the tracks have spoken.
func (r *run) triage(ctx workflow.Context) error {
	for _, raised := range r.state.Raised {
		if err := r.write(ctx, raised); err != nil {
			return fmt.Errorf("triage finding: %w", err)
		}
	}
	return nil
}

func (r *run) draft(ctx workflow.Context) error {
	if err := book(ctx, r.acts.Draft, r.state.Incident.ID).Get(ctx, nil); err != nil {
		return fmt.Errorf("write drafts: %w", err)
	}
	return nil
}

// book runs an activity that does nothing but write what the workflow knows into the store. It runs where the workflow does and costs the
// workflow server nothing of its own: one scheduled there is several of its transactions. After a crash all of them since the workflow's last
// wait run again, so that what one writes must bear being written again, at a later time.
func book(ctx workflow.Context, activity any, in any) workflow.Future {
	if workflow.GetVersion(ctx, "book-here", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return workflow.ExecuteActivity(ctx, activity, in)
	}
	o := workflow.GetActivityOptions(ctx)
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: o.StartToCloseTimeout, RetryPolicy: o.RetryPolicy})
	return workflow.ExecuteLocalActivity(ctx, activity, in)
}

// rootCause is an activity's failure in its own words, or the innermost of what else went wrong.
func rootCause(err error) string {
	if failed := (*temporal.ApplicationError)(nil); errors.As(err, &failed) {
		return failed.Message()
	}
	if unattended(err) {
		return "no worker took it in time"
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

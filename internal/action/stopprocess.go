package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameStopProcess is the name in playbooks and plans.
const NameStopProcess = "stop-process"

// StopProcessOptions are the processes that may be ended, by name.
type StopProcessOptions struct {
	Processes map[string]ProcessOptions `yaml:"processes"`
}

// ProcessOptions are of one process on this machine.
type ProcessOptions struct {
	Agent   string `yaml:"agent"` // that runs in it
	PIDFile string `yaml:"pid_file"`
	// Executable is what must run under that id: an agent may be able to write its own id file, and must not name another's process.
	Executable string        `yaml:"executable"`
	UID        *uint32       `yaml:"uid"`   // of the process; any where it is missing
	Grace      time.Duration `yaml:"grace"` // between SIGTERM and SIGKILL
}

// The grace leaves room within the time that an effect may take.
const (
	defaultGrace = 10 * time.Second
	maxGrace     = 20 * time.Second
)

// Check names the first option that can't be right.
func (o *StopProcessOptions) Check() error {
	if len(o.Processes) == 0 {
		return badOption("processes", "is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Processes)) {
		p, field := o.Processes[name], "processes."+name
		if p.Agent == "" || !filepath.IsAbs(p.PIDFile) || !filepath.IsAbs(p.Executable) {
			return badOption(field, "want agent, and pid_file and executable as absolute paths")
		}
		if p.Grace < 0 || p.Grace > maxGrace {
			return badOption(field+".grace", "%s, want at most %s", p.Grace, maxGrace)
		}
	}
	return nil
}

// StopProcess ends a process of this machine: SIGTERM, and SIGKILL where that does not end it.
type StopProcess struct {
	irreversible
	noLag
	options StopProcessOptions
}

// NewStopProcess returns the action.
func NewStopProcess(o StopProcessOptions) *StopProcess { return &StopProcess{options: o} }

// Describe implements Action.
func (s *StopProcess) Describe() Description {
	return Description{
		Name: NameStopProcess, Class: approval.Destroy, Targets: []string{"agent"}, Idempotent: true, Irreversible: true,
		Effect:      "A process of the agent on this machine is ended, and what it had in memory is lost.",
		Undo:        "It can't be undone: the agent must be started again.",
		DoesNotStop: "Processes that it started, a supervisor that starts it again, and what it had handed over to others.",
		Params:      map[string]string{"process": "a name of actions.stop_process.processes"}, Required: []string{"process"},
	}
}

// running is one process: ids are used again, and the start, in clock ticks since the machine started, tells two of one id apart.
type running struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// look reads the state and start of a process (proc_pid_stat(5)); gone where there is none, or one that only waits to be reaped.
func look(pid int) (start uint64, gone bool, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		if _, err := os.Stat("/proc/self/stat"); err != nil {
			return 0, false, fmt.Errorf("look at processes: %w (only Linux has this)", err)
		}
		return 0, true, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look at process: %w", err)
	}
	// The name is in parentheses and may hold any character; what follows the last one is numbers.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const state, startTime = 0, 19 // fields 3 and 22
	if len(fields) <= startTime {
		return 0, false, fmt.Errorf("look at process %d: its state can't be read", pid)
	}
	start, err = strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return start, fields[state] == "Z" || fields[state] == "X", nil
}

func (s *StopProcess) process(p approval.Plan) (ProcessOptions, error) {
	o, ok := s.options.Processes[p.Params["process"]]
	if !ok {
		return o, fmt.Errorf("process: actions.stop_process.processes has no %q", p.Params["process"])
	}
	if o.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "" {
		return o, fmt.Errorf("process: %q is of agent %s, not of %s", p.Params["process"], o.Agent, p.Target)
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	return o, nil
}

// resolve finds the process that the id file names, and refuses one that is not what the configuration says.
func (s *StopProcess) resolve(p approval.Plan) (r running, o ProcessOptions, err error) {
	if o, err = s.process(p); err != nil {
		return r, o, err
	}
	f, err := os.Open(o.PIDFile)
	if err != nil {
		return r, o, fmt.Errorf("read process id: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return r, o, fmt.Errorf("read process id: %w", err)
	}
	if r.PID, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil || r.PID <= 1 || r.PID == os.Getpid() {
		return r, o, fmt.Errorf("read process id: %s does not hold the id of a process that may be ended", o.PIDFile)
	}
	start, gone, err := look(r.PID)
	if err != nil {
		return r, o, err
	}
	if gone {
		return r, o, fmt.Errorf("process %d of %s does not run: there is nothing to stop", r.PID, o.PIDFile)
	}
	r.Start = start
	proc := fmt.Sprintf("/proc/%d", r.PID)
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return r, o, fmt.Errorf("look at process: %w", err)
	}
	if exe != o.Executable {
		return r, o, fmt.Errorf("process %d runs %q, and not %s", r.PID, exe, o.Executable)
	}
	info, err := os.Stat(proc)
	if err != nil {
		return r, o, fmt.Errorf("look at process: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); o.UID != nil && (!ok || stat.Uid != *o.UID) {
		return r, o, fmt.Errorf("process %d does not run as user %d", r.PID, *o.UID)
	}
	return r, o, nil
}

// Plan implements Action.
func (s *StopProcess) Plan(_ context.Context, in Input) (Change, error) {
	r, o, err := s.resolve(in.Plan)
	if err != nil {
		return Change{}, err
	}
	return Change{Lines: []string{fmt.Sprintf("process %d (%s, started at tick %d) gets SIGTERM, and SIGKILL after %s", r.PID, o.Executable, r.Start, o.Grace)}, Blast: 1}, nil
}

// Snapshot implements Action: which process it was.
func (s *StopProcess) Snapshot(_ context.Context, in Input) (json.RawMessage, error) {
	r, _, err := s.resolve(in.Plan)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

func (r running) gone() (bool, error) {
	start, gone, err := look(r.PID)
	return err == nil && (gone || start != r.Start), err
}

// Apply implements Action.
func (s *StopProcess) Apply(ctx context.Context, l Lease) error {
	o, err := s.process(l.Plan)
	if err != nil {
		return err
	}
	var r running
	if err := json.Unmarshal(l.Snapshot, &r); err != nil || r.PID <= 1 {
		return errors.Join(errors.New("decode snapshot: it names no process"), err)
	}
	// The handle is taken before the look: from then on a signal reaches this process or none, even if its id is used again.
	p, err := os.FindProcess(r.PID)
	if err != nil {
		return fmt.Errorf("find process: %w", err)
	}
	defer func() { _ = p.Release() }()
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, o.Grace}, {syscall.SIGKILL, 5 * time.Second}} {
		if gone, err := r.gone(); err != nil || gone {
			return err
		}
		if err := p.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal process %d: %w", r.PID, err)
		}
		if gone, err := r.await(ctx, step.wait); err != nil || gone {
			return err
		}
	}
	return fmt.Errorf("process %d runs after SIGKILL", r.PID)
}

// await looks until the process is gone, for a time.
func (r running) await(ctx context.Context, most time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		if gone, err := r.gone(); err != nil || gone {
			return gone, err
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return r.gone()
		}
	}
}

// Verify implements Action.
func (s *StopProcess) Verify(_ context.Context, l Lease) (bool, error) {
	var r running
	if err := json.Unmarshal(l.Snapshot, &r); err != nil || r.PID <= 1 {
		return false, errors.Join(errors.New("decode snapshot: it names no process"), err)
	}
	return r.gone()
}

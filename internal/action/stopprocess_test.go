package action

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// TestAgentProcess is no test: it is the process that others end. A stubborn one does not listen to SIGTERM.
func TestAgentProcess(t *testing.T) {
	kind := os.Getenv("TOCSIN_TEST_AGENT")
	if kind == "" {
		t.Skip("this is a process that other tests start")
	}
	if kind == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	fmt.Println("ready")
	<-time.After(time.Minute) // it ends by itself should the test that started it not end it
}

// agentProcess starts this test's binary as an agent, and returns its options and how it ended.
func agentProcess(t *testing.T, kind string) (o StopProcessOptions, ended func() syscall.Signal) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestAgentProcess$")
	cmd.Env = append(os.Environ(), "TOCSIN_TEST_AGENT="+kind)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatal(line, err)
	}
	done := make(chan syscall.Signal, 1)
	go func() {
		cmd.Wait()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		done <- status.Signal()
	}()
	t.Cleanup(func() { cmd.Process.Kill() })
	o = StopProcessOptions{Processes: map[string]ProcessOptions{"bot": {Agent: "a", PIDFile: file(t, strconv.Itoa(cmd.Process.Pid)+"\n"), Executable: self, Grace: 300 * time.Millisecond}}}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	return o, func() syscall.Signal { return <-done }
}

func process(name string) approval.Plan {
	return approval.Plan{Target: approval.Target{Agent: "a"}, Params: map[string]string{"process": name}}
}

func TestStopProcess(t *testing.T) {
	for kind, want := range map[string]syscall.Signal{"willing": syscall.SIGTERM, "stubborn": syscall.SIGKILL} {
		t.Run(kind, func(t *testing.T) {
			o, ended := agentProcess(t, kind)
			s := NewStopProcess(o)
			c, d, in := granted(t, s, process("bot"))
			if holds, err := s.Verify(t.Context(), Lease{Plan: in.Plan, Snapshot: mustSnapshot(t, c, in)}); err != nil || holds {
				t.Fatalf("proved before it was applied: %v", err)
			}
			l, err := c.Apply(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if got := ended(); got != want {
				t.Errorf("ended by %s, want %s", got, want)
			}
			if l, err = c.Verify(t.Context(), l); err != nil || l.Verified.IsZero() || d.leases["r1"].Verified.IsZero() {
				t.Errorf("%+v %v", l, err)
			}
			if err := s.Apply(t.Context(), l); err != nil {
				t.Errorf("applied again: %v", err)
			}
		})
	}
}

// A process that took the id of the one that was approved is left alone.
func TestStopProcessOfAnotherStart(t *testing.T) {
	o, _ := agentProcess(t, "willing")
	s := NewStopProcess(o)
	c, _, in := granted(t, s, process("bot"))
	var r running
	if err := json.Unmarshal(mustSnapshot(t, c, in), &r); err != nil {
		t.Fatal(err)
	}
	r.Start--
	old, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), Lease{Plan: in.Plan, Snapshot: old}); err != nil {
		t.Error(err)
	}
	if _, gone, err := look(r.PID); err != nil || gone {
		t.Errorf("the process that runs now was ended: %v", err)
	}
}

func TestStopProcessRefuses(t *testing.T) {
	o, _ := agentProcess(t, "willing")
	other := uint32(4711)
	for _, tt := range []struct {
		name   string
		change func(*ProcessOptions)
		want   string
	}{
		{"another executable", func(p *ProcessOptions) { p.Executable = "/usr/bin/true" }, "and not /usr/bin/true"},
		{"another user", func(p *ProcessOptions) { p.UID = &other }, "does not run as user 4711"},
		{"another agent", func(p *ProcessOptions) { p.Agent = "b" }, "is of agent b"},
		{"init", func(p *ProcessOptions) { p.PIDFile = file(t, "1") }, "may be ended"},
		{"a group", func(p *ProcessOptions) { p.PIDFile = file(t, "-1") }, "may be ended"},
		{"Tocsin itself", func(p *ProcessOptions) { p.PIDFile = file(t, strconv.Itoa(os.Getpid())) }, "may be ended"},
		{"no number", func(p *ProcessOptions) { p.PIDFile = file(t, "bot") }, "may be ended"},
		{"no file", func(p *ProcessOptions) { p.PIDFile = "/nowhere" }, "read process id"},
		{"no process", func(p *ProcessOptions) { p.PIDFile = file(t, "4194304") }, "nothing to stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := o.Processes["bot"]
			tt.change(&p)
			_, err := NewStopProcess(StopProcessOptions{Processes: map[string]ProcessOptions{"bot": p}}).Plan(t.Context(), Input{Plan: process("bot")})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Plan = %v, want %s", err, tt.want)
			}
		})
	}
	// Another process than was approved is another change.
	c, _, in := granted(t, NewStopProcess(o), process("bot"))
	second, _ := agentProcess(t, "willing")
	text, err := os.ReadFile(second.Processes["bot"].PIDFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Processes["bot"].PIDFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), in); err == nil || !strings.Contains(err.Error(), ErrChanged.Error()) {
		t.Errorf("applied to another process: %v", err)
	}
	for _, p := range []ProcessOptions{{Agent: "a", PIDFile: "pid", Executable: "/x"}, {Agent: "a", PIDFile: "/pid", Executable: "x"}, {PIDFile: "/pid", Executable: "/x"}, {Agent: "a", PIDFile: "/pid", Executable: "/x", Grace: time.Hour}} {
		bad := StopProcessOptions{Processes: map[string]ProcessOptions{"p": p}}
		if bad.Check() == nil {
			t.Errorf("%+v passes", p)
		}
	}
}

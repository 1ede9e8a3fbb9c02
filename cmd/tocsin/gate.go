package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/incident"
)

// asker is how the gate is reached.
type asker struct {
	Gate  string        `help:"Address of the gate." default:"http://127.0.0.1:4318" env:"TOCSIN_GATE"`
	Token string        `help:"Bearer token of the configuration's tokens, where it has any." env:"TOCSIN_GATE_TOKEN"`
	Wait  time.Duration `help:"How long to wait for the answer." default:"2s"`
	Class string        `help:"The agent's class, if its behaviour without the gate differs." env:"TOCSIN_CLASS"`
}

func (a *asker) ask(ctx context.Context, agent, session, tool string) (api.GateAnswer, error) {
	var answer api.GateAnswer
	ctx, cancel := context.WithTimeout(ctx, a.Wait)
	defer cancel()
	body, err := json.Marshal(api.GateQuery{Query: gate.Query{Agent: agent, Session: session, Tool: tool}, Class: a.Class})
	if err != nil {
		return answer, fmt.Errorf("encode query: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(a.Gate, "/")+"/v1/gate/check", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	request.Header.Set("Content-Type", "application/json")
	if a.Token != "" {
		request.Header.Set("Authorization", "Bearer "+a.Token)
	}
	return answer, send(request, door{"set --gate or TOCSIN_GATE", "set --token or TOCSIN_GATE_TOKEN"}, &answer)
}

type gateCmd struct {
	Check gateCheckCmd `cmd:"" default:"withargs" help:"Ask whether an agent may act. Exit code 0: allowed, 3: denied, 4: a human must allow the call, 1: no answer."`
}

type gateCheckCmd struct {
	asker
	Agent   string `required:"" help:"Agent id: service/name, or the service alone." env:"TOCSIN_AGENT"`
	Session string `help:"Session."`
	Tool    string `help:"Tool."`
	JSON    bool   `help:"Print JSON."`
}

// Exit codes of answers that don't allow.
const (
	exitDenied = 3
	exitAsk    = 4
)

// Run implements the command.
func (c *gateCheckCmd) Run(ctx context.Context, std *stdio) error {
	answer, err := c.ask(ctx, c.Agent, c.Session, c.Tool)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := printJSON(std.out, answer); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(std.out, "%s: %s\n", answer.Word(), visible(answer.Reason))
	}
	switch answer.Word() {
	case action.Deny:
		return exitError{exitDenied}
	case action.Ask:
		return exitError{exitAsk}
	}
	return nil
}

type hookCmd struct {
	asker
	Agent   string `help:"Agent id: service/name, or the service alone. Without one the gate can't be asked." env:"TOCSIN_AGENT"`
	OnError string `enum:"open,closed,server" default:"server" help:"What to answer when the gate can't: open (let it pass), closed (deny), or server (what the gate last declared for this class; open before it ever answered)."`
}

// hookInput is what a coding agent sends before it calls a tool (Claude Code's PreToolUse).
type hookInput struct {
	Event     string `json:"hook_event_name"`
	SessionID string `json:"session_id"`
	ToolName  string `json:"tool_name"`
}

// maxHook bounds the hook's input, in bytes.
const maxHook = 16 << 20

// Run implements the command: it prints the hook's answer and always exits with 0, because the format carries the verdict and another
// code means something else to each agent. That no agent is named is as if the gate did not answer. For another event than PreToolUse
// it says nothing.
func (c *hookCmd) Run(ctx context.Context, std *stdio) error {
	in, unread := readHook(std.in)
	if unread == nil && in.Event != "PreToolUse" {
		return nil
	}
	answer, err := c.askAbout(ctx, in.SessionID, in.ToolName)
	if err == nil {
		c.remember(answer.OnError)
	}
	// The agent has a hand in its hook's input. One that can't be read is asked about as far as it goes, by the agent alone; what the
	// gate then allows is still not known to be allowed.
	if unread != nil && (err != nil || answer.Allow) {
		err = unread
	}
	if err != nil {
		fmt.Fprintln(std.err, "tocsin hook:", visible(err.Error()))
		answer = c.withoutGate(err)
	}
	if answer.Allow {
		return nil // no opinion: the agent's own permissions decide
	}
	return json.NewEncoder(std.out).Encode(map[string]any{"hookSpecificOutput": map[string]string{
		"hookEventName": "PreToolUse", "permissionDecision": answer.Word().String(), "permissionDecisionReason": "Tocsin: " + incident.Visible(answer.Reason, 300),
	}})
}

func (c *hookCmd) askAbout(ctx context.Context, session, tool string) (api.GateAnswer, error) {
	if c.Agent == "" {
		return api.GateAnswer{}, errors.New("no agent is named: set --agent or TOCSIN_AGENT")
	}
	return c.ask(ctx, c.Agent, session, tool)
}

// readHook reads a hook's input.
func readHook(r io.Reader) (hookInput, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxHook+1))
	if err != nil {
		return hookInput{}, fmt.Errorf("read hook: %w", err)
	}
	if len(text) > maxHook {
		return hookInput{}, fmt.Errorf("read hook: more than %d bytes", maxHook)
	}
	var in hookInput
	if err := json.Unmarshal(text, &in); err != nil {
		return hookInput{}, fmt.Errorf("read hook: want the JSON of a hook on standard input: %w", err)
	}
	return in, nil
}

// withoutGate is the declared answer where the gate gives none.
func (c *hookCmd) withoutGate(err error) api.GateAnswer {
	choice := c.OnError
	if choice == "server" {
		choice = c.recall()
	}
	if choice == "closed" {
		return api.GateAnswer{Answer: gate.Answer{Reason: "the gate can't be asked and this class of agents is declared fail-closed: " + err.Error()}}
	}
	return api.GateAnswer{Answer: gate.Answer{Allow: true}}
}

// stateFile holds what the gate last declared for a class, so that a hook knows it when the gate is gone.
func (c *hookCmd) stateFile() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	name := strings.NewReplacer("/", "_", string(filepath.Separator), "_", "..", "_").Replace(c.Agent + "@" + c.Class)
	return filepath.Join(dir, "tocsin", "on-error-"+name), nil
}

// remember keeps the declaration. That it can't be kept must not fail the hook: the next answer brings it again.
func (c *hookCmd) remember(choice string) {
	file, err := c.stateFile()
	if err != nil || c.recall() == choice {
		return
	}
	if os.MkdirAll(filepath.Dir(file), 0o700) == nil {
		_ = os.WriteFile(file, []byte(choice), 0o600)
	}
}

func (c *hookCmd) recall() string {
	file, err := c.stateFile()
	if err != nil {
		return ""
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(text)
}

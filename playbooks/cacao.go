package playbooks

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// CACAO returns a playbook in the exchange format CACAO Security Playbooks 2.0 (OASIS). The format has no approval, retry, undo or
// evidence of its own: a question becomes a manual step before its action, and what has no place is written into the description.
// Every id is made from the playbook's digest, so that one text always gives one document.
func (p Playbook) CACAO(at time.Time) ([]byte, error) {
	x := &exporter{p: p, space: uuid.NewSHA1(uuid.NameSpaceURL, []byte("tocsin:playbook:"+p.Digest)), steps: make(map[string]any)}
	end := x.add("end", "end", map[string]any{"type": "end"})
	first := x.sequence(p.Steps, end)
	start := x.add("start", "start", map[string]any{"type": "start", "on_completion": first})
	author := x.id("identity", "tocsin")
	stamp := at.UTC().Format("2006-01-02T15:04:05.000Z")
	kinds := []string{"investigation"}
	if p.Gated() {
		kinds = append(kinds, "mitigation")
	}
	doc := map[string]any{
		"type": "playbook", "spec_version": "cacao-2.0", "id": x.id("playbook", p.Name), "name": p.Title, "description": p.About,
		"playbook_types": kinds, "created_by": author, "created": stamp, "modified": stamp, "labels": []string{p.Name, "version " + p.Version, "sha256 " + p.Digest},
		"workflow_start": start, "workflow": x.steps,
		"agent_definitions": map[string]any{
			x.id("organization", "people"):      map[string]any{"type": "organization", "name": "the people on call"},
			x.id("security-category", "engine"): map[string]any{"type": "security-category", "name": "tocsin", "category": []string{"orchestrator"}},
		},
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", p.Name, err)
	}
	return append(text, '\n'), nil
}

// exporter collects the steps of a document.
type exporter struct {
	p     Playbook
	space uuid.UUID
	steps map[string]any
}

// id is an identifier of CACAO: a type and a UUID of version 5.
func (x *exporter) id(kind, name string) string {
	return kind + "--" + uuid.NewSHA1(x.space, []byte(kind+" "+name)).String()
}

func (x *exporter) add(kind, name string, step map[string]any) string {
	id := x.id(kind, name)
	x.steps[id] = step
	return id
}

// sequence adds steps one after another before next, and returns the first.
func (x *exporter) sequence(steps []Step, next string) string {
	for i := len(steps) - 1; i >= 0; i-- {
		next = x.step(steps[i], next)
	}
	return next
}

// step adds a step with its condition and its question before next, and returns where it begins.
func (x *exporter) step(s Step, next string) string {
	var first string
	switch {
	case s.Parallel != nil:
		branches := make([]string, 0, len(s.Parallel.Branches))
		for _, b := range s.Parallel.Branches {
			end := x.add("end", s.ID+" "+b.Name, map[string]any{"type": "end"})
			branches = append(branches, x.sequence(b.Steps, end))
		}
		first = x.add("parallel", s.ID, map[string]any{"type": "parallel", "name": s.ID, "description": "mode " + s.Parallel.Mode, "next_steps": branches, "on_completion": next})
	case s.Foreach != nil:
		end := x.add("end", s.ID, map[string]any{"type": "end"})
		first = x.add("while-condition", s.ID, map[string]any{
			"type": "while-condition", "name": s.ID, "condition": fmt.Sprintf("for each of %s, at most %d", s.Foreach.In, s.Foreach.Max),
			"on_true": x.sequence(s.Foreach.Steps, end), "on_completion": next,
		})
	default:
		first = x.action(s, next)
	}
	if s.If != "" {
		first = x.add("if-condition", s.ID+" if", map[string]any{"type": "if-condition", "name": s.ID + ": condition", "condition": s.If, "on_true": first, "on_false": next})
	}
	return first
}

func (x *exporter) action(s Step, next string) string {
	step := map[string]any{
		"type": "action", "name": s.ID, "description": s.about(), "agent": x.id("security-category", "engine"),
		"commands": []any{map[string]any{"type": "manual", "command": "tocsin " + s.Do}},
	}
	if len(s.Fallback) > 0 {
		step["on_success"], step["on_failure"] = next, x.sequence(s.Fallback, next)
	} else {
		step["on_completion"] = next
	}
	if s.Timeout > 0 {
		step["timeout"] = s.Timeout.Milliseconds()
	}
	first := x.add("action", s.ID, step)
	if s.Ask == nil {
		return first
	}
	return x.add("action", s.ID+" ask", map[string]any{
		"type": "action", "name": s.ID + ": approval", "agent": x.id("organization", "people"), "timeout": s.Ask.Deadline.Milliseconds(),
		"description": fmt.Sprintf("People approve or deny within %s; silence means %s.", s.Ask.Deadline, s.Ask.OnExpiry),
		"commands":    []any{map[string]any{"type": "manual", "command": "approve or deny " + s.Do}},
		"on_success":  first, "on_failure": next,
	})
}

// about is what of a step CACAO has no field for.
func (s Step) about() string {
	text := fmt.Sprintf("class %s", s.Class)
	if s.Target != "" {
		text += ", target " + s.Target
	}
	if s.Lease > 0 {
		text += ", reverts by itself after " + s.Lease.String()
	}
	if s.Irreversible {
		text += ", irreversible"
	}
	if len(s.After) > 0 {
		text += fmt.Sprintf(", needs %v", s.After)
	}
	return text
}

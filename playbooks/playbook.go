// Package playbooks holds the written responses: their format, the compiler that refuses what must not run, and the pure step
// function that says what a run does next. It runs nothing itself.
package playbooks

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Library holds the playbooks that Tocsin ships.
//
//go:embed library/*.yaml
var Library embed.FS

// Playbook is a compiled response. A run carries the whole of it, so that editing the file never changes a running response.
type Playbook struct {
	Name    string `yaml:"name" json:"name"`
	Version string `yaml:"version" json:"version"`
	Title   string `yaml:"title" json:"title"`
	Steps   []Step `yaml:"steps" json:"steps"`
	Digest  string `yaml:"-" json:"digest"` // SHA-256 of the file
}

// Ref names the exact text of a playbook.
func (p Playbook) Ref() string { return p.Name + "@" + p.Digest[:min(12, len(p.Digest))] }

// Step is one piece of the response.
type Step struct {
	ID string `yaml:"id" json:"id"`
	// Do is what the step does: seal, investigate, triage, draft, or the name of an action.
	Do    string         `yaml:"do" json:"do"`
	Class approval.Class `yaml:"class" json:"class"`
	// Tracks are investigated in parallel and settle on their own.
	Tracks []string `yaml:"tracks" json:"tracks,omitempty"`
	// After names steps that must have succeeded before this one.
	After []string `yaml:"after" json:"after,omitempty"`
	// Target is what an action works on: agent, session or tool.
	Target string        `yaml:"target" json:"target,omitempty"`
	Lease  time.Duration `yaml:"lease" json:"lease,omitempty"`
	Ask    *Question     `yaml:"ask" json:"ask,omitempty"`
}

// Question is the question that a gated step puts to humans.
type Question struct {
	Deadline time.Duration `yaml:"deadline" json:"deadline"`
	// OnExpiry is deny or escalate. Silence is never consent.
	OnExpiry string `yaml:"on_expiry" json:"on_expiry"`
}

// What steps can do besides actions.
const (
	DoSeal        = "seal"        // capture and hash the evidence
	DoInvestigate = "investigate" // run the tracks
	DoTriage      = "triage"      // first-pass disposition of every finding
	DoDraft       = "draft"       // write the post-mortem and the notices
)

// own maps the steps that are Tocsin's own bookkeeping to their class.
var own = map[string]approval.Class{DoSeal: approval.Record, DoInvestigate: approval.Observe, DoTriage: approval.Record, DoDraft: approval.Record}

// Tracks are the lines of investigation that exist.
var Tracks = []string{"identity", "data", "peers"}

// Limits of a playbook.
const (
	maxBytes    = 64 << 10
	maxSteps    = 64
	maxLease    = 7 * 24 * time.Hour
	maxDeadline = 24 * time.Hour
)

// Compile reads one playbook and refuses what must not run. actions maps the actions that exist to their classes. Errors name
// the file, the step and the fix.
func Compile(file string, text []byte, actions map[string]approval.Class) (Playbook, error) {
	if len(text) > maxBytes {
		return Playbook{}, fmt.Errorf("%s: %d bytes, a playbook has at most %d", file, len(text), maxBytes)
	}
	var p Playbook
	if err := strict.YAML(file, text, &p); err != nil {
		return Playbook{}, err
	}
	sum := sha256.Sum256(text)
	p.Digest = hex.EncodeToString(sum[:])
	if p.Name == "" || p.Version == "" || p.Title == "" || len(p.Steps) == 0 || len(p.Steps) > maxSteps {
		return Playbook{}, fmt.Errorf("%s: want name, version, title and 1 to %d steps", file, maxSteps)
	}
	var errs []error
	seen := make(map[string]Step)
	for _, s := range p.Steps {
		if err := s.check(seen, actions); err != nil {
			errs = append(errs, fmt.Errorf("%s: step %q: %w", file, s.ID, err))
		}
		seen[s.ID] = s
	}
	return p, errors.Join(errs...)
}

func (s Step) check(before map[string]Step, actions map[string]approval.Class) error {
	if _, twice := before[s.ID]; s.ID == "" || twice {
		return errors.New("id: is empty or used twice")
	}
	class, known := own[s.Do]
	if !known {
		class, known = actions[s.Do]
	}
	if !known {
		return fmt.Errorf("do: %q is neither a step of Tocsin's own nor an action", s.Do)
	}
	if s.Class != class {
		return fmt.Errorf("class: %q, but %s is of class %s", s.Class, s.Do, class)
	}
	for _, a := range s.After {
		if _, ok := before[a]; !ok {
			return fmt.Errorf("after: there is no earlier step %q", a)
		}
	}
	for _, t := range s.Tracks {
		if !slices.Contains(Tracks, t) {
			return fmt.Errorf("tracks: %q is not one of %s", t, strings.Join(Tracks, ", "))
		}
	}
	if class.Gated() {
		return s.checkGated(before)
	}
	if s.Ask != nil || s.Lease != 0 || s.Target != "" {
		return fmt.Errorf("ask, lease and target belong to gated steps, and %s is not one", s.Do)
	}
	return nil
}

// checkGated refuses an effect without a human, without evidence before it, or without an end.
func (s Step) checkGated(before map[string]Step) error {
	if s.Ask == nil {
		return fmt.Errorf("ask: is missing: a step of class %s asks a human first", s.Class)
	}
	if d := time.Duration(s.Ask.Deadline); d <= 0 || d > maxDeadline {
		return fmt.Errorf("ask.deadline: want more than 0 and at most %s", maxDeadline)
	}
	if s.Ask.OnExpiry != "deny" && s.Ask.OnExpiry != "escalate" {
		return fmt.Errorf("ask.on_expiry: %q: silence denies or escalates, it never approves", s.Ask.OnExpiry)
	}
	if !slices.ContainsFunc(s.After, func(id string) bool { return before[id].Do == DoSeal }) {
		return errors.New("after: must name the seal step: evidence is secured before anything is changed")
	}
	if !slices.Contains([]string{"agent", "session", "tool"}, s.Target) {
		return fmt.Errorf("target: %q is not one of agent, session, tool", s.Target)
	}
	if l := s.Lease; l <= 0 || l > maxLease {
		return fmt.Errorf("lease: want more than 0 and at most %s: a containment ends by itself", maxLease)
	}
	return nil
}

// Read compiles every playbook of a file system, by name.
func Read(fsys fs.FS, actions map[string]approval.Class) (map[string]Playbook, error) {
	out := make(map[string]Playbook)
	err := strict.Files(fsys, func(name string, text []byte) error {
		p, err := Compile(name, text, actions)
		if err != nil {
			return err
		}
		if _, twice := out[p.Name]; twice {
			return fmt.Errorf("%s: name %q is taken", name, p.Name)
		}
		out[p.Name] = p
		return nil
	})
	return out, err
}

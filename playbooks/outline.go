package playbooks

import (
	"fmt"
	"strings"
)

// Outline is the steps of a playbook for people, one line each, indented by what they are inside of.
func (p Playbook) Outline() string {
	var b strings.Builder
	outline(&b, p.Steps, "")
	return b.String()
}

func outline(b *strings.Builder, steps []Step, indent string) {
	for _, s := range steps {
		fmt.Fprintf(b, "%s%s: %s\n", indent, s.ID, s.line())
		if s.Parallel != nil {
			for _, branch := range s.Parallel.Branches {
				fmt.Fprintf(b, "%s  branch %s\n", indent, branch.Name)
				outline(b, branch.Steps, indent+"    ")
			}
		}
		if s.Foreach != nil {
			outline(b, s.Foreach.Steps, indent+"  ")
		}
		if len(s.Fallback) > 0 {
			fmt.Fprintf(b, "%s  if it fails\n", indent)
			outline(b, s.Fallback, indent+"    ")
		}
	}
}

// line is a step without what is inside of it.
func (s Step) line() string {
	var text string
	switch {
	case s.Parallel != nil:
		text = "branches side by side, " + s.Parallel.Mode
	case s.Foreach != nil:
		text = fmt.Sprintf("for each of %s, at most %d", s.Foreach.In, s.Foreach.Max)
	default:
		text = Command{Step: s, Params: s.With}.describe() + " (" + string(s.Class) + ")"
	}
	if s.If != "" {
		text += ", if " + s.If
	}
	if len(s.After) > 0 {
		text += ", after " + strings.Join(s.After, " and ")
	}
	if q := s.Ask; q != nil {
		text += fmt.Sprintf(", asks within %s, else %s", q.Deadline, q.OnExpiry)
	}
	if s.Irreversible {
		text += ", irreversible"
	}
	if s.Unverified {
		text += ", unverified"
	}
	return text
}

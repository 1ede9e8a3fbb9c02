package playbooks

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// Env is what the expressions of a playbook see: facts of the run, typed. It holds no text that an agent wrote but names, which
// are compared and never interpreted. An expression has no clock and does no I/O.
type Env struct {
	Incident IncidentEnv
	Finding  FindingEnv // the one that started the run
	Agent    AgentEnv   // its agent
	Tracks   TracksEnv
	Steps    map[string]string // results by the id of the step
	Inputs   map[string]any    // of the playbook that the step was included from
	Item     string            // of the foreach around the step
	Error    string            // of the last try, in retry.when
}

// IncidentEnv is the incident so far.
type IncidentEnv struct {
	ID       string   `expr:"id"`
	Severity string   `expr:"severity"` // informational, low, medium, high, critical
	Rank     int      `expr:"rank"`     // of the severity, from 0
	Findings int      `expr:"findings"`
	Agents   []string `expr:"agents"`
	Session  string   `expr:"session"`
	Noticed  bool     `expr:"noticed"` // a human is aware of it
}

// FindingEnv is a finding.
type FindingEnv struct {
	Rule       string `expr:"rule"`
	Source     string `expr:"source"` // rule or baseline
	Severity   string `expr:"severity"`
	Rank       int    `expr:"rank"`
	Confidence string `expr:"confidence"`
	Risk       int    `expr:"risk"`
	Tool       string `expr:"tool"`
	Value      string `expr:"value"` // of an argument, that came from untrusted text; empty if none did
}

// AgentEnv is an agent.
type AgentEnv struct {
	ID      string `expr:"id"`
	Name    string `expr:"name"`
	Service string `expr:"service"`
	Class   string `expr:"class"`
	Version string `expr:"version"`
}

// TracksEnv is what the investigation has found so far.
type TracksEnv struct {
	Identity TrackEnv `expr:"identity"`
	Data     TrackEnv `expr:"data"`
	Peers    TrackEnv `expr:"peers"`
}

// TrackEnv is one track's outcome.
type TrackEnv struct {
	Facts      int  `expr:"facts"`
	Suspicious int  `expr:"suspicious"` // of the facts
	Failed     bool `expr:"failed"`     // it says nothing
}

// maxNodes bounds an expression. The environment's lists are bounded too, so that no expression costs more than microseconds.
const maxNodes = 100

// Starts reports whether a playbook's trigger fits a finding.
func (p Playbook) Starts(env Env) bool {
	if p.On == nil {
		return false
	}
	named := len(p.On.Rules) == 0 || slices.ContainsFunc(p.On.Rules, func(pattern string) bool { return approval.Matches(pattern, env.Finding.Rule) })
	fits, err := holds(p.On.When, env)
	return named && fits && err == nil
}

// functions are the builtins that expressions have: none has a clock, and none's result hangs on the order of a map.
func functions() []string {
	return []string{"len", "lower", "upper", "trim", "all", "any", "none", "one"}
}

// program compiles an expression. An unknown name, of an input too, and a wrong type are errors.
func program(text string, inputs map[string]any, want expr.Option) (*vm.Program, error) {
	known := &inputNames{inputs: inputs}
	options := []expr.Option{expr.Env(Env{}.values()), want, expr.MaxNodes(maxNodes), expr.DisableAllBuiltins(), expr.Patch(known)}
	for _, name := range functions() {
		options = append(options, expr.EnableBuiltin(name))
	}
	p, err := expr.Compile(text, options...)
	return p, errors.Join(err, known.err)
}

// inputNames finds an input that the playbook does not have, which a map would take for nothing.
type inputNames struct {
	inputs map[string]any
	err    error
}

// Visit implements ast.Visitor.
func (n *inputNames) Visit(node *ast.Node) {
	m, ok := (*node).(*ast.MemberNode)
	if !ok {
		return
	}
	if of, ok := m.Node.(*ast.IdentifierNode); !ok || of.Value != "inputs" {
		return
	}
	name, ok := m.Property.(*ast.StringNode)
	if !ok {
		n.err = errors.New("name the input: inputs.name")
	} else if _, known := n.inputs[name.Value]; !known {
		n.err = fmt.Errorf("there is no input %q", name.Value)
	}
}

// values are the environment by name.
func (e Env) values() map[string]any {
	return map[string]any{
		"incident": e.Incident, "finding": e.Finding, "agent": e.Agent, "tracks": e.Tracks, "steps": e.Steps, "inputs": e.Inputs, "item": e.Item, "error": e.Error,
	}
}

// evaluate returns an expression's value.
func evaluate(text string, env Env, want expr.Option) (any, error) {
	p, err := program(text, env.Inputs, want)
	if err != nil {
		return nil, err
	}
	return expr.Run(p, env.values())
}

// holds evaluates a condition; an empty one holds.
func holds(text string, env Env) (bool, error) {
	if text == "" {
		return true, nil
	}
	v, err := evaluate(text, env, expr.AsBool())
	yes, _ := v.(bool)
	return yes, err
}

// list evaluates the collection of a foreach.
func list(text string, env Env) ([]string, error) {
	v, err := evaluate(text, env, expr.AsKind(reflect.Slice))
	if err != nil {
		return nil, err
	}
	items, ok := v.([]string)
	if !ok {
		return nil, fmt.Errorf("%s gives %T, want a list of strings", text, v)
	}
	return slices.Clone(items), nil
}

// render returns a step's parameters with their expressions evaluated.
func render(with map[string]string, env Env) (map[string]string, error) {
	if len(with) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(with))
	// Sorted, so that a workflow that is replayed sees the same error.
	//workflowcheck:ignore
	for _, name := range slices.Sorted(maps.Keys(with)) {
		text, isExpr := strings.CutPrefix(with[name], "=")
		if !isExpr {
			out[name] = with[name]
			continue
		}
		v, err := evaluate(text, env, expr.AsAny())
		if err != nil {
			return nil, fmt.Errorf("with.%s: %w", name, err)
		}
		switch v.(type) {
		case string, int, float64, bool:
			out[name] = fmt.Sprint(v)
		default:
			return nil, fmt.Errorf("with.%s: %s gives %T, want text, a number or a truth value", name, text, v)
		}
	}
	return out, nil
}

// Evaluate returns whether a step's condition holds, and its parameters, as things stand.
func (s Step) Evaluate(env Env) (ok bool, params map[string]string, err error) {
	env.Inputs = s.Inputs
	if ok, err = holds(s.If, env); err != nil {
		return false, nil, fmt.Errorf("if: %w", err)
	}
	params, err = render(s.With, env)
	return ok, params, err
}

// parse reads the text of an input by its type.
func (in Input) parse(text string) (any, error) {
	switch in.Type {
	case "int":
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no whole number", text)
		}
		return n, nil
	case "bool":
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return b, nil
	}
	return text, nil
}

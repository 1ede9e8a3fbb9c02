package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

const asking = "id: asks-baseline\nversion: 1.0.0\ntitle: Asks\nseverity: low\ntags: {asi: [ASI10]}\ntriage: Look.\non: [tool.result]\nsuppress: 0s\nwhen: '%s'\n"

var (
	learning = BaselineEnv{P: 1, Tool: "unknown", Destination: "unknown", Why: "3 of 10 sessions learned", Features: []BaselineFeature{{Name: "tool", Familiarity: "unknown"}}}
	active   = BaselineEnv{Ready: true, P: 0.001, Tool: "new", Destination: "known", Features: []BaselineFeature{
		{Name: "tool", Bits: 9.5, Familiarity: "new"}, {Name: "destination", Bits: 1, Familiarity: "known"}, {Name: "argument", Familiarity: "known"},
	}}
)

// fires reports whether a rule with an expression fires on a call of the tool get while the baseline says that.
func fires(t rapid.TB, when string, says BaselineEnv) bool {
	set, env := compileOne(t, fmt.Sprintf(asking, when)), NewEnv()
	e := visit(1, 0)
	env.Fill(&e, SessionFacts{}, says)
	return len(set.Evaluate(env, &e, NewState())) > 0
}

func TestUnknown(t *testing.T) {
	for _, tc := range []struct {
		when             string
		learning, active bool
	}{
		{`baseline.p < 0.01`, false, true},
		{`baseline.p > 0.01`, false, false},
		{`not (baseline.p > 0.01)`, false, true},
		{`baseline.p > 0.01 || tool.name == "get"`, true, true},
		{`not (baseline.p > 0.01 && tool.name == "get")`, false, true},
		{`not (baseline.p > 0.01 && tool.name == "other")`, true, true},
		{`baseline.first_seen("tool")`, false, true},
		{`not baseline.first_seen("tool")`, false, false},
		{`not baseline.first_seen("destination")`, false, true},
		{`not (not baseline.first_seen("tool"))`, false, true},
		{`baseline.first_seen("tool") == true`, false, true},
		{`baseline.first_seen("tool") != true`, false, false},
		{`baseline.rarity("tool") > 8`, false, true},
		{`baseline.rarity("destination") < 8`, false, true},
		{`baseline.rarity("argument") < 8`, false, true},
		{`baseline.rarity("tool") > baseline.rarity("destination")`, false, true},
		{`(baseline.p < 0.5 ? "likely" : "not") == "not" || false`, false, false},
		{`baseline.p < 0.5 ? tool.name == "get" : true`, false, true},
		{`baseline.known("tool")`, false, true},
		{`not baseline.known("tool")`, true, false},
		{`baseline.ready`, false, true},
		{`not baseline.ready`, true, false},
		{`baseline.tool == "unknown"`, true, false},
	} {
		t.Run(tc.when, func(t *testing.T) {
			if got := fires(t, tc.when, learning); got != tc.learning {
				t.Errorf("while learning: %t", got)
			}
			if got := fires(t, tc.when, active); got != tc.active {
				t.Errorf("when active: %t", got)
			}
		})
	}
}

// Any expression holds exactly where Kleene's logic finds it true.
func TestUnknownIsKleenes(t *testing.T) {
	const no, unknown, yes = 0, 1, 2
	var draw func(t *rapid.T, depth int, says *BaselineEnv) (string, int)
	draw = func(t *rapid.T, depth int, says *BaselineEnv) (string, int) {
		leaf := func(value bool) int {
			switch {
			case !says.Ready:
				return unknown
			case value:
				return yes
			}
			return no
		}
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth == 0 {
			kind = min(kind, 3)
		}
		switch kind {
		case 0:
			return "baseline.p < 0.01", leaf(true)
		case 1:
			return `baseline.first_seen("destination")`, leaf(false)
		case 2:
			return `tool.name == "get"`, yes
		case 3:
			return "session.tainted", no
		case 4:
			text, value := draw(t, depth-1, says)
			return "not (" + text + ")", yes - value
		}
		left, a := draw(t, depth-1, says)
		right, b := draw(t, depth-1, says)
		if kind == 5 {
			return "(" + left + " && " + right + ")", min(a, b)
		}
		return "(" + left + " || " + right + ")", max(a, b)
	}
	rapid.Check(t, func(t *rapid.T) {
		says := rapid.SampledFrom([]BaselineEnv{learning, active}).Draw(t, "says")
		when, want := draw(t, 4, &says)
		if got := fires(t, when, says); got != (want == yes) {
			t.Fatalf("%s: fires %t, want %d of 2", when, got, want)
		}
	})
}

func TestExplainUnknown(t *testing.T) {
	set, env, e := compileOne(t, fmt.Sprintf(asking, `tool.name == "get" && baseline.p < 0.01 && not baseline.first_seen("tool")`)), NewEnv(), visit(1, 0)
	for _, tc := range []struct {
		name  string
		says  BaselineEnv
		parts []string
		state string
	}{
		{"learning", learning, []string{`tool.name == "get": true`, "baseline.p < 0.01: unknown", `not baseline.first_seen("tool"): unknown`}, "the baseline is learning: 3 of 10 sessions learned; what is asked of it is unknown, which neither holds nor fails, and the rule does not fire by it"},
		{"active", active, []string{`tool.name == "get": true`, "baseline.p < 0.01: true", `not baseline.first_seen("tool"): false`}, ""},
		{"not scored", BaselineEnv{P: 1}, []string{`tool.name == "get": true`, "baseline.p < 0.01: unknown", `not baseline.first_seen("tool"): unknown`}, "the event is none that baselines look at, or a repeated report; what is asked of it is unknown, which neither holds nor fails, and the rule does not fire by it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env.Fill(&e, SessionFacts{}, tc.says)
			x, err := set.Explain("asks-baseline", env, &e, NewState())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range x.Parts[0].Parts {
				got = append(got, p.Text+": "+p.Value)
			}
			if diff := cmp.Diff(tc.parts, got); diff != "" {
				t.Error(diff)
			}
			if said := slices.Contains(x.State, tc.state); said != (tc.state != "") {
				t.Error(x.State)
			}
		})
	}
}

func TestUnknownFeature(t *testing.T) {
	l, err := ReadLibrary()
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{`baseline.first_seen("tol")`, `baseline.rarity(tool.name) > 1`, `baseline.known("")`} {
		r, err := ParseRule("r.yaml", []byte(fmt.Sprintf(asking, when)), l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Compile([]Rule{r}); err == nil || !strings.Contains(err.Error(), `a baseline is asked about one of ["tool" "destination" "argument" "shape"], as a constant text`) {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// A baseline that can't be asked does not make an index lose a rule.
func TestUnknownIsIndexed(t *testing.T) {
	set, env := compileOne(t, fmt.Sprintf(asking, `tool.name == "get" && not baseline.first_seen("destination")`)), NewEnv()
	for i, says := range []BaselineEnv{active, learning, active} {
		e := visit(i, 0)
		e.Kind = event.KindToolResult
		env.Fill(&e, SessionFacts{}, says)
		if got := len(set.Evaluate(env, &e, NewState())); got != 1-i%2 {
			t.Errorf("%d findings, want %d", got, 1-i%2)
		}
	}
}

package eval

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func cases(positives, negatives []float64) (out []scored) {
	for _, s := range positives {
		out = append(out, scored{s, true, 1})
	}
	for _, s := range negatives {
		out = append(out, scored{s, false, 1})
	}
	return out
}

func TestMetrics(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i)
	}
	for _, c := range []struct {
		name                 string
		positives, negatives []float64
		auc, at1, at5        float64
	}{
		{"apart", []float64{2, 3}, []float64{0, 1}, 1, 1, 1},
		{"the wrong way round", []float64{0, 1}, []float64{2, 3}, 0, 0, 0},
		{"all tied", []float64{1, 1}, []float64{1, 1, 1}, 0.5, 0, 0},
		{"half tied", []float64{1, 2}, []float64{1, 0}, 0.875, 0.5, 0.5},
		{"by rank", []float64{99.5, 97.5, 93.5, 0.5}, hundred, (100 + 98 + 94 + 1) / 400.0, 0.25, 0.5},
		{"tied with the one that is allowed", []float64{99, 98}, hundred, (99.5 + 98.5) / 200, 0.5, 1},
		{"no positive", nil, []float64{1}, math.NaN(), math.NaN(), math.NaN()},
		{"no negative", []float64{1}, nil, math.NaN(), math.NaN(), math.NaN()},
		{"nothing", nil, nil, math.NaN(), math.NaN(), math.NaN()},
	} {
		in := cases(c.positives, c.negatives)
		got, want := []float64{auc(in), tprAt(in, 0.01), tprAt(in, 0.05)}, []float64{c.auc, c.at1, c.at5}
		for i := range got {
			if math.Abs(got[i]-want[i]) > 1e-12 || math.IsNaN(got[i]) != math.IsNaN(want[i]) {
				t.Errorf("%s: %v, want %v", c.name, got, want)
				break
			}
		}
	}
}

// What a rank statistic must do, on any data: by pairs it is the same, no order of the cases matters, and a weight is so many cases.
func TestMetricsProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var in, repeated []scored
		for range rapid.IntRange(1, 40).Draw(r, "n") {
			c := scored{float64(rapid.IntRange(0, 9).Draw(r, "score")), rapid.Bool().Draw(r, "positive"), float64(rapid.IntRange(1, 3).Draw(r, "weight"))}
			in = append(in, c)
			for range int(c.weight) {
				repeated = append(repeated, scored{c.score, c.positive, 1})
			}
		}
		won, pairs := 0.0, 0.0
		for _, p := range repeated {
			for _, n := range repeated {
				if p.positive && !n.positive {
					pairs++
					switch {
					case p.score > n.score:
						won++
					case p.score == n.score:
						won += 0.5
					}
				}
			}
		}
		shuffled := slices.Clone(in)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		same := func(what string, a, b float64) {
			if math.Abs(a-b) > 1e-9 || math.IsNaN(a) != math.IsNaN(b) {
				r.Fatalf("%s: %v and %v", what, a, b)
			}
		}
		same("by pairs", auc(in), won/pairs)
		same("shuffled", auc(in), auc(shuffled))
		same("weights are cases", tprAt(in, 0.1), tprAt(repeated, 0.1))
		last := 0.0
		for _, fpr := range []float64{0, 0.05, 0.2, 0.5, 1} {
			got := tprAt(in, fpr)
			if got < last {
				r.Fatalf("a larger share of false positives finds less: %v after %v", got, last)
			}
			last = max(last, got)
		}
	})
}

// The threshold keeps its level on scores from the same source, ties or not, though each pair of groups has a scale of its own.
func TestThresholdKeepsItsLevel(t *testing.T) {
	random := seeded(3)
	for _, ties := range []int{50, 1 << 30} {
		hits, tests := 0, 0
		for range 100 {
			scales := make([]float64, 20)
			for i := range scales {
				scales[i] = random.ExpFloat64()
			}
			for range 100 {
				o := outcome{verdict: newVerdict(1)}
				own := float64(random.IntN(ties))
				for _, scale := range scales {
					c := pair{verdict: verdict{scores: []float64{own * scale}}}
					for range 40 { // enough for the smallest p to be below the threshold
						c.calibration = append(c.calibration, float64(random.IntN(ties))*scale)
					}
					slices.Sort(c.calibration)
					o.against = append(o.against, c)
				}
				if tests++; o.flagged() >= 0 {
					hits++
				}
			}
		}
		got := float64(hits) / float64(tests)
		if got > 1.4*agentdojoAlpha || ties > 100 && got < 0.4*agentdojoAlpha {
			t.Errorf("%d values: flagged in a share of %.4f", ties, got)
		}
	}
	if got := (&outcome{verdict: newVerdict(1)}).p(0); got != 1 {
		t.Errorf("without calibration p is %v", got)
	}
}

func TestVerdictReached(t *testing.T) {
	at := func(scores ...float64) int { return verdict{scores: scores}.reached(2) }
	got := []int{at(0, 2, 3), at(0, 1), at(2), at()}
	if diff := cmp.Diff([]int{1, -1, 0, -1}, got); diff != "" {
		t.Error(diff)
	}
}

// The interval of the pigeonhole bootstrap covers the truth, and is wider than one of independent sessions where tasks differ.
func TestBootstrap(t *testing.T) {
	random := seeded(5)
	covered := 0
	const trials = 15
	for trial := range trials {
		var in []tested
		for task := range 20 {
			hard := random.Float64() < 0.5 // a task is found by all pipelines, or by none
			for pipeline := range 6 {
				tr := &transcript{Suite: "s", Task: string(rune('a' + task)), Pipeline: string(rune('a' + pipeline))}
				in = append(in, tested{outcome: &outcome{transcript: tr}, truth: succeeded, flagged: !hard})
			}
		}
		got := (&AgentDojo{seed: uint64(trial)}).bootstrap(in)["pooled_tpr"]
		if got[0] <= 0.5 && 0.5 <= got[1] {
			covered++
		}
		if width := float64(got[1] - got[0]); width < 0.25 {
			t.Errorf("the interval is %.2f wide; of independent sessions it would be 0.18", width)
		}
	}
	if covered < trials*7/10 {
		t.Errorf("the interval covers the truth in %d of %d, want most", covered, trials)
	}
}

func TestNumberJSON(t *testing.T) {
	text, err := json.Marshal(map[string]Number{"a": 0.25, "b": Number(math.NaN()), "c": Number(math.Inf(1)), "d": 0})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":0.25,"b":null,"c":null,"d":0}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
}

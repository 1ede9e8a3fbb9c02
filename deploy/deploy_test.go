// Package deploy tests the files that docker-compose.yml is made of. No engine runs here: it reads what they say.
package deploy

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type composition struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Build       string            `yaml:"build"`
		Ports       []string          `yaml:"ports"`
		Environment map[string]string `yaml:"environment"`
		Volumes     []string          `yaml:"volumes"`
		DependsOn   map[string]any    `yaml:"depends_on"`
	} `yaml:"services"`
	Volumes map[string]any `yaml:"volumes"`
}

var (
	loopback = regexp.MustCompile(`^127\.0\.0\.1:\d+:\d+$`)
	pinned   = regexp.MustCompile(`^[a-z0-9./-]+:v?\d+(\.\d+)+[a-z0-9.-]*$`)
	secret   = regexp.MustCompile(`(?i)passw|pwd|secret|token|key`)
	asked    = regexp.MustCompile(`^\$\{[A-Z_]+:\?[^}]*\}$`)
)

func TestCompose(t *testing.T) {
	var c composition
	if err := yaml.Unmarshal([]byte(read(t, "../docker-compose.yml")), &c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tocsin", "nats-1", "nats-2", "nats-3", "temporal", "postgres", "prometheus", "grafana"} {
		if _, ok := c.Services[name]; !ok {
			t.Errorf("there is no service %s", name)
		}
	}
	for name, s := range c.Services {
		for _, port := range s.Ports {
			if !loopback.MatchString(port) {
				t.Errorf("%s: port %q is not bound to 127.0.0.1", name, port)
			}
		}
		if !pinned.MatchString(s.Image) && s.Build == "" {
			t.Errorf("%s: image %q is not pinned by its tag", name, s.Image)
		}
		for variable, value := range s.Environment {
			if secret.MatchString(variable) && !asked.MatchString(value) {
				t.Errorf("%s: %s is %q, want it demanded from the environment", name, variable, value)
			}
		}
		for _, mount := range s.Volumes {
			from, _, _ := strings.Cut(mount, ":")
			if _, ok := c.Volumes[from]; ok {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", from)); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
		for other := range s.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is no service", name, other)
			}
		}
	}
}

// series returns the names under which Prometheus stores Tocsin's metrics.
func series(t *testing.T) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(read(t, "../internal/measure/testdata/metrics.txt")) {
		kind, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, "{")
		if kind == "histogram" {
			out = append(out, name+"_bucket", name+"_sum", name+"_count")
			continue
		}
		out = append(out, name)
	}
	return out
}

var metric = regexp.MustCompile(`\btocsin_[a-z0-9_]+`)

func checkMetrics(t *testing.T, where, expr string, known []string) {
	t.Helper()
	for _, name := range metric.FindAllString(expr, -1) {
		if !slices.Contains(known, name) {
			t.Errorf("%s asks for %s, and there is no such metric", where, name)
		}
	}
}

func TestRules(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/rules.yml")), &file); err != nil {
		t.Fatal(err)
	}
	known := series(t)
	seen := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			checkMetrics(t, r.Alert, r.Expr, known)
			if r.Alert == "" || seen[r.Alert] || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("alert %+v needs a name of its own, an expression, a severity and a summary", r)
			}
			seen[r.Alert] = true
		}
	}
	if len(seen) == 0 {
		t.Error("there are no alerts")
	}
}

type dashboard struct {
	ID         *int             `json:"id"`
	UID        string           `json:"uid"`
	Title      string           `json:"title"`
	Inputs     *json.RawMessage `json:"__inputs"`
	Templating struct {
		List []struct{ Type, Name, Query string }
	}
	Panels []struct {
		Title      string
		Datasource struct{ UID string }
		Targets    []struct{ Expr string }
	}
}

func TestDashboards(t *testing.T) {
	known := series(t)
	files, err := fs.Glob(os.DirFS("."), "grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	shown := ""
	for _, file := range files {
		var d dashboard
		text := read(t, file)
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if d.ID != nil || d.UID == "" || d.UID != strings.TrimSuffix(filepath.Base(file), ".json") || d.Inputs != nil || strings.Contains(text, "${DS_") {
			t.Errorf("%s can't be provisioned: it needs no id, the uid of its file name, and no inputs", file)
		}
		if len(d.Templating.List) != 1 || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Query != "prometheus" {
			t.Errorf("%s has no variable for the data source: %+v", file, d.Templating)
		}
		for _, p := range d.Panels {
			if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
				t.Errorf("%s: panel %q does not use the variable, or shows nothing", file, p.Title)
			}
			for _, target := range p.Targets {
				checkMetrics(t, file+": "+p.Title, target.Expr, known)
				shown += " " + target.Expr
			}
		}
	}
	for _, name := range known {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if !strings.Contains(shown, base) && !slices.Contains([]string{"tocsin_summary_errors_total", "tocsin_summary_window_seconds", "tocsin_approval_deadline_timestamp_seconds"}, base) {
			t.Errorf("no dashboard shows %s", base)
		}
	}
}

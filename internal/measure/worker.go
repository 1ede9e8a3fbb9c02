package measure

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tocsin-dr/tocsin/internal/action"
)

const (
	effectsName = "tocsin_effects_total"
	effectsHelp = "What actions were asked to do here (plan, apply, verify, undo), by outcome; failed is tried again or told."
)

func effectsLabels() []string { return []string{"action", "what", "outcome"} }

// actions are the values of the label action.
func actions() []string { return slices.Sorted(maps.Keys(action.Descriptions())) }

func countEffect(c *prometheus.CounterVec, name, what string, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	c.WithLabelValues(among(actions(), name), among([]string{"plan", "apply", "verify", "undo"}, what), outcome).Inc()
}

// Effect counts what an action was asked to do.
func (m *Metrics) Effect(name, what string, err error) { countEffect(m.effects, name, what, err) }

// Unattended counts that no worker of an action took its work in time.
func (m *Metrics) Unattended(name string) { m.unattended.WithLabelValues(among(actions(), name)).Inc() }

// ActionWorkers sets how many workers elsewhere an action has.
func (m *Metrics) ActionWorkers(name string, n int) {
	m.actionWorkers.WithLabelValues(among(actions(), name)).Set(float64(n))
}

// WorkerMetrics are of a process that only carries out actions. Safe for concurrent use.
type WorkerMetrics struct {
	registry *prometheus.Registry
	effects  *prometheus.CounterVec
}

// NewWorkerMetrics returns the metrics of a version.
func NewWorkerMetrics(version string) *WorkerMetrics {
	m := &WorkerMetrics{registry: prometheus.NewRegistry()}
	m.effects = prometheus.NewCounterVec(prometheus.CounterOpts{Name: effectsName, Help: effectsHelp}, effectsLabels())
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tocsin_build_info", Help: "The version that runs, as a label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.effects, build)
	return m
}

// Registry returns the registry, for the handler that serves it.
func (m *WorkerMetrics) Registry() *prometheus.Registry { return m.registry }

// Effect counts what an action was asked to do.
func (m *WorkerMetrics) Effect(name, what string, err error) { countEffect(m.effects, name, what, err) }

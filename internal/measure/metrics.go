package measure

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// maxRules bounds the values of the label rule; what comes later is counted as other.
const maxRules = 500

const other = "other"

// Metrics holds every metric of Tocsin, in a registry of its own. All label values come from closed lists or from rule files,
// never from an agent. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	rules    bounded

	events         *prometheus.CounterVec
	ingestItems    *prometheus.CounterVec
	ingestAnswers  *prometheus.CounterVec
	ingestRequest  prometheus.Histogram
	logAppend      prometheus.Histogram
	detectorLag    *prometheus.GaugeVec
	detectorEvent  prometheus.Histogram
	evicted        *prometheus.CounterVec
	findings       *prometheus.CounterVec
	unhandled      prometheus.Counter
	ruleErrors     *prometheus.CounterVec
	ruleSeconds    *prometheus.CounterVec
	indexCompared  *prometheus.CounterVec
	ruleLoads      *prometheus.CounterVec
	approvals      *prometheus.CounterVec
	refusals       *prometheus.CounterVec
	approvalTook   prometheus.Histogram
	gateChecks     *prometheus.CounterVec
	gateCheck      prometheus.Histogram
	timeToContain  prometheus.Histogram
	notice         prometheus.Histogram
	build          *prometheus.GaugeVec
	summaryFailure prometheus.Counter
	slack          slackMetrics
	overdue        prometheus.Gauge
	onCall         *prometheus.GaugeVec
	feedAge        *prometheus.GaugeVec
	effects        *prometheus.CounterVec
	unattended     *prometheus.CounterVec
	actionWorkers  *prometheus.GaugeVec
}

// Ledger watches how many records are in the ledger and not yet in its transparency log.
func (m *Metrics) Ledger(lag func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tocsin_ledger_lag_records", Help: "Records of the ledger that are not yet in its transparency log."}, lag))
}

// NewMetrics returns the metrics, registered and at zero.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), rules: bounded{limit: maxRules, seen: make(map[string]bool)}}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.events = m.counters("tocsin_events_total", "Events that reached the log.", "dialect", "kind")
	m.ingestItems = m.counters("tocsin_ingest_items_total", "Spans, log records and events received, by what became of them.", "signal", "outcome")
	m.ingestAnswers = m.counters("tocsin_ingest_requests_total", "Requests that bring telemetry, by the HTTP status of the answer; for gRPC the one that means the same.", "signal", "code")
	m.ingestRequest = m.seconds("tocsin_ingest_request_seconds", "Time to answer a request that brings telemetry.", prometheus.DefBuckets)
	m.logAppend = m.seconds("tocsin_log_append_seconds", "Time until the log had a batch.", prometheus.ExponentialBuckets(0.0002, 2, 15))
	m.detectorLag = m.gauges("tocsin_detector_lag_seconds", "How far the detector is behind the log.", "partition")
	m.detectorEvent = m.seconds("tocsin_detector_event_seconds", "Time to judge one event.", prometheus.ExponentialBuckets(1e-6, 2, 18))
	m.evicted = m.counters("tocsin_detector_evicted_total", "What detectors forgot for want of room, since their state began: whoever fills the room blinds them.", "what")
	m.findings = m.counters("tocsin_findings_total", "Findings raised, all lanes.", "source", "rule", "severity")
	m.unhandled = prometheus.NewCounter(prometheus.CounterOpts{Name: "tocsin_findings_unhandled_total", Help: "Findings that were given up, because no incident could take them."})
	m.ruleErrors = m.counters("tocsin_rule_errors_total", "Events that a rule could not judge, because its expression failed.", "rule")
	m.ruleSeconds = m.counters("tocsin_rule_seconds_total", "About how long a rule's judging took, from one event in 64.", "rule")
	m.indexCompared = m.counters("tocsin_rule_index_compared_total", "Times at which what the index of rules says was compared with a rule's expression; any that differs is a defect of Tocsin.", "outcome")
	m.ruleLoads = m.counters("tocsin_rules_loads_total", "Loads of the rules; refused ones left the set in force as it was.", "outcome")
	m.approvals = m.counters("tocsin_approvals_total", "Outcomes of approval requests; refused counts decisions that did not count.", "outcome")
	m.refusals = m.counters("tocsin_refusals_total", "Decisions that did not count, by why.", "kind")
	m.approvalTook = m.seconds("tocsin_approval_seconds", "Time from an approval request to its decision.", humanBuckets())
	m.gateChecks = m.counters("tocsin_gate_checks_total", "Answers of the gate.", "verdict")
	m.gateCheck = m.seconds("tocsin_gate_check_seconds", "Time in which the gate answered.", prometheus.ExponentialBuckets(1e-6, 2, 18))
	m.timeToContain = m.seconds("tocsin_time_to_contain_seconds", "Time from the decision to the verified effect.", prometheus.ExponentialBuckets(0.01, 2, 18))
	m.notice = m.seconds("tocsin_notice_seconds", "Dwell time of noticed incidents alone; tocsin_dwell_seconds counts the others too.", humanBuckets())
	m.build = m.gauges("tocsin_build_info", "The version that runs, as a label.", "version")
	m.summaryFailure = prometheus.NewCounter(prometheus.CounterOpts{Name: "tocsin_summary_errors_total", Help: "Scrapes without a summary, because it could not be computed."})
	m.slack = m.slackMetrics()
	m.onCall = m.gauges("tocsin_oncall_people", "People of Tocsin's who are on call by a schedule now; with 0, whoever else the policy names is asked.", "schedule")
	m.feedAge = m.gauges("tocsin_oncall_feed_age_seconds", "Age of what is known of a schedule; without a value while its feed was never read.", "schedule")
	m.effects = m.counters(effectsName, effectsHelp, effectsLabels()...)
	m.unattended = m.counters("tocsin_actions_unattended_total", "Times that no worker of an action took its work in time; people were told, and it waits.", "action")
	m.actionWorkers = m.gauges("tocsin_action_workers", "Workers elsewhere that lately asked for work of an action and verify grants by our key.", "action")
	m.overdue = prometheus.NewGauge(prometheus.GaugeOpts{Name: "tocsin_leases_overdue", Help: "Leases that ended and were not reverted, because their workflow is missing or no worker undoes them; somebody must look."})
	m.registry.MustRegister(m.unhandled, m.summaryFailure, m.overdue)
	m.zero()
	return m
}

// LeasesOverdue sets how many leases ended and were not reverted.
func (m *Metrics) LeasesOverdue(n int) { m.overdue.Set(float64(n)) }

// OnCall sets how many people are on call by a schedule, and how old what is known of it is; negative where nothing is. The names come
// from the configuration, which bounds them.
func (m *Metrics) OnCall(schedule string, people int, age time.Duration) {
	m.onCall.WithLabelValues(schedule).Set(float64(people))
	if age >= 0 {
		m.feedAge.WithLabelValues(schedule).Set(age.Seconds())
	}
}

// RulesLoaded counts a load of the rules.
func (m *Metrics) RulesLoaded(ok bool) {
	if ok {
		m.ruleLoads.WithLabelValues("loaded").Inc()
	} else {
		m.ruleLoads.WithLabelValues("refused").Inc()
	}
}

// zero makes the series of the short lists exist, so that a rate sees the first count.
func (m *Metrics) zero() {
	m.ruleLoads.WithLabelValues("loaded")
	m.ruleLoads.WithLabelValues("refused")
	m.IndexCompared(0, 0)
	for _, outcome := range outcomes() {
		m.approvals.WithLabelValues(outcome)
	}
	for _, kind := range refusals() {
		m.refusals.WithLabelValues(kind)
	}
	for _, action := range actions() {
		m.unattended.WithLabelValues(action)
	}
	for _, what := range evicted() {
		m.evicted.WithLabelValues(what)
	}
	for _, verdict := range verdicts() {
		m.gateChecks.WithLabelValues(verdict)
	}
	for _, signal := range signals() {
		for _, outcome := range []string{"accepted", "rejected", "ignored"} {
			m.ingestItems.WithLabelValues(signal, outcome)
		}
		for _, code := range codes() {
			m.ingestAnswers.WithLabelValues(signal, code)
		}
	}
}

// Registry returns the registry, for the handler that serves it.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Version sets the version that runs.
func (m *Metrics) Version(version string) {
	m.build.Reset()
	m.build.WithLabelValues(version).Set(1)
}

// Event counts an event that reached the log.
func (m *Metrics) Event(dialect string, kind event.Kind) {
	m.events.WithLabelValues(among(dialects(), dialect), among(event.Kinds(), kind)).Inc()
}

// IngestItems counts what a request brought, by what became of it.
func (m *Metrics) IngestItems(signal string, accepted, rejected, ignored int) {
	signal = among(signals(), signal)
	m.ingestItems.WithLabelValues(signal, "accepted").Add(float64(accepted))
	m.ingestItems.WithLabelValues(signal, "rejected").Add(float64(rejected))
	m.ingestItems.WithLabelValues(signal, "ignored").Add(float64(ignored))
}

// IngestAnswer counts a request that brought telemetry by the status of its answer.
func (m *Metrics) IngestAnswer(signal string, code int) {
	m.ingestAnswers.WithLabelValues(among(signals(), signal), among(codes(), strconv.Itoa(code))).Inc()
}

// IngestRequest records the time to answer a request that brought telemetry.
func (m *Metrics) IngestRequest(took time.Duration) { m.ingestRequest.Observe(took.Seconds()) }

// LogAppend records the time until the log had a batch.
func (m *Metrics) LogAppend(took time.Duration) { m.logAppend.Observe(took.Seconds()) }

// DetectorLag sets how far the detector of a partition is behind the log.
func (m *Metrics) DetectorLag(partition int, lag time.Duration) {
	m.detectorLag.WithLabelValues(strconv.Itoa(partition)).Set(lag.Seconds())
}

// DetectorEvent records the time to judge one event.
func (m *Metrics) DetectorEvent(took time.Duration) { m.detectorEvent.Observe(took.Seconds()) }

// Evicted counts what a detector forgot for want of room.
func (m *Metrics) Evicted(what string, n int) {
	m.evicted.WithLabelValues(among(evicted(), what)).Add(float64(n))
}

// Finding counts a finding.
func (m *Metrics) Finding(f *detect.Finding) {
	m.findings.WithLabelValues(among(sources(), f.Source), m.rules.value(f.Rule), among(severities(), f.Severity)).Inc()
}

// Rules makes the series of each rule's errors and time exist, so that an alert sees the first one.
func (m *Metrics) Rules(rules []detect.Rule) {
	for _, r := range rules {
		m.ruleErrors.WithLabelValues(m.rules.value(r.ID))
		m.ruleSeconds.WithLabelValues(m.rules.value(r.ID))
	}
}

// Unhandled counts a finding that was given up.
func (m *Metrics) Unhandled() { m.unhandled.Inc() }

// RuleError counts an event that a rule could not judge.
func (m *Metrics) RuleError(rule string) { m.ruleErrors.WithLabelValues(m.rules.value(rule)).Inc() }

// RuleTook adds to the time that a rule's judging took.
func (m *Metrics) RuleTook(rule string, took time.Duration) {
	m.ruleSeconds.WithLabelValues(m.rules.value(rule)).Add(took.Seconds())
}

// IndexCompared counts how often what the index of rules says was compared with a rule's expression, and how often they differed.
func (m *Metrics) IndexCompared(times, differed int) {
	m.indexCompared.WithLabelValues("same").Add(float64(times - differed))
	m.indexCompared.WithLabelValues("differs").Add(float64(differed))
}

// Decided counts a request that was approved or denied, and records how long it waited.
func (m *Metrics) Decided(verb approval.Verb, took time.Duration) {
	outcome := approval.Denied
	if verb == approval.Approve {
		outcome = approval.Approved
	}
	m.approvals.WithLabelValues(string(outcome)).Inc()
	m.approvalTook.Observe(took.Seconds())
}

// Expired counts a request that nobody answered in time.
func (m *Metrics) Expired() { m.approvals.WithLabelValues(string(approval.Expired)).Inc() }

// Refused counts a decision that does not count, by the kind of its refusal.
func (m *Metrics) Refused(kind string) {
	m.approvals.WithLabelValues("refused").Inc()
	m.refusals.WithLabelValues(among(refusals(), kind)).Inc()
}

// GateCheck counts an answer of the gate and records how long it took.
func (m *Metrics) GateCheck(verdict string, took time.Duration) {
	m.gateChecks.WithLabelValues(among(verdicts(), verdict)).Inc()
	m.gateCheck.Observe(took.Seconds())
}

// TimeToContain records the time from a decision to the verified effect.
func (m *Metrics) TimeToContain(took time.Duration) { m.timeToContain.Observe(took.Seconds()) }

// Notice records the dwell time of an incident that a human noticed. A negative one is the clocks' fault and left out.
func (m *Metrics) Notice(dwell time.Duration) {
	if dwell >= 0 {
		m.notice.Observe(dwell.Seconds())
	}
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) seconds(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// humanBuckets reach from seconds to a month.
func humanBuckets() []float64 {
	return []float64{5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600}
}

func dialects() []string {
	return []string{"gen_ai", "openinference", "claude_code", "otel_generic", "json"}
}
func signals() []string  { return []string{"traces", "logs", "metrics", "events"} }
func codes() []string    { return []string{"200", "400", "401", "413", "415", "500", "503"} }
func verdicts() []string { return []string{"allow", "ask", "deny"} }

func evicted() []string {
	return []string{"sessions", "traces", "orphans", "ids", "services", "agents", "baselines", "classes"}
}

func outcomes() []string {
	return []string{string(approval.Approved), string(approval.Denied), string(approval.Expired), "refused"}
}

func refusals() []string {
	return []string{
		approval.RefusedRequester, approval.RefusedAgent, approval.RefusedDigest, approval.RefusedLate, approval.RefusedDecided,
		approval.RefusedRole, approval.RefusedReason, approval.RefusedGrant, approval.RefusedWaiting, approval.RefusedUnknown,
		approval.RefusedIdentity, approval.RefusedForged, approval.RefusedExcluded, approval.RefusedStepUp,
	}
}

func sources() []detect.Source {
	return []detect.Source{detect.SourceRule, detect.SourceBaseline, detect.SourceHealth}
}

func severities() []detect.Severity {
	return []detect.Severity{detect.Low, detect.Medium, detect.High, detect.Critical}
}

// among returns the value if the list holds it, else other.
func among[S ~string](list []S, value S) string {
	if i := slices.Index(list, value); i >= 0 {
		return string(list[i]) // the value's own memory may be used again
	}
	return other
}

// bounded lets the first values through, up to its limit.
type bounded struct {
	mu    sync.Mutex
	limit int
	seen  map[string]bool
}

func (b *bounded) value(v string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.seen[v] {
		if len(b.seen) >= b.limit {
			return other
		}
		b.seen[v] = true
	}
	return v
}

package eval

import (
	"math"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/tocsin-dr/tocsin/internal/event"
)

// The detectors here are what peers ship, stated again from their public descriptions and not from their code. They are for
// comparison alone: a description leaves choices open, and each is made the kinder way.

// peer is one of them. It keeps what it learns by a name: an agent's, or its role's where the agent is new.
type peer interface {
	// judge says how suspicious a session is after each of its events, and when the peer would raise something.
	judge(name string, s *session) verdict
	learn(name string, s *session)
}

// peers returns each peer with its name in reports.
func peers() []namedPeer {
	return []namedPeer{
		{"first-seen tool (new value, 7 days of learning)", func() peer { return &newValue{of: tools} }},
		{"first-seen destination (new value, 7 days of learning)", func() peer { return &newValue{of: destinations} }},
		{"calls a session over mean + 2 sd", func() peer { return &counts{over: overSD} }},
		{"calls a session over 3.5 MAD", func() peer { return &counts{over: overMAD} }},
		{"rare tool by hour (20 hours of learning)", func() peer { return &rare{} }},
	}
}

type namedPeer struct {
	name string
	make func() peer
}

func tools(e *event.Event) []string {
	if e.Tool == nil {
		return nil
	}
	return []string{e.Tool.Name}
}

func destinations(e *event.Event) (out []string) {
	for _, d := range e.Destinations {
		out = append(out, d.Kind+" "+d.Value)
	}
	return out
}

// newValue raises an alert on a value that was never seen, or not for 28 days, once it has learned for 7 days: Datadog Cloud SIEM's
// "new value" detection, by its settings (learning of 0, 1 or 7 days, values forgotten after 1 to 28).
type newValue struct {
	of    func(*event.Event) []string
	since map[string]time.Time            // by name: when it began to learn
	seen  map[string]map[string]time.Time // by name and value
}

const (
	newValueLearning = 7 * 24 * time.Hour
	newValueForgets  = 28 * 24 * time.Hour
)

func (p *newValue) judge(name string, s *session) verdict {
	v, fresh := newVerdict(len(s.events)), make(map[string]bool)
	for i := range s.events {
		e := &s.events[i]
		since, known := p.since[name]
		for _, value := range p.of(e) {
			if last, ok := p.seen[name][value]; !ok || e.Time.Sub(last) > newValueForgets {
				fresh[value] = true
			}
		}
		v.scores[i] = float64(len(fresh))
		if v.alarm < 0 && len(fresh) > 0 && known && e.Time.Sub(since) >= newValueLearning {
			v.alarm = i
		}
	}
	return v
}

func (p *newValue) learn(name string, s *session) {
	if p.since == nil {
		p.since, p.seen = make(map[string]time.Time), make(map[string]map[string]time.Time)
	}
	if _, ok := p.since[name]; !ok {
		p.since[name], p.seen[name] = s.events[0].Time, make(map[string]time.Time)
	}
	for i := range s.events {
		for _, value := range p.of(&s.events[i]) {
			p.seen[name][value] = s.events[i].Time
		}
	}
}

// counts raises an alert on a session with many more tool calls than earlier ones: mean and standard deviation as in Splunk's
// searches for excessive use, or median and median absolute deviation.
type counts struct {
	over    func(history []float64, n float64) (score float64, alarm bool)
	history map[string][]float64
}

func (p *counts) judge(name string, s *session) verdict {
	v, n := newVerdict(len(s.events)), 0.0
	for i := range s.events {
		n += float64(len(tools(&s.events[i])))
		score, alarm := p.over(p.history[name], n)
		v.scores[i] = score
		if alarm && v.alarm < 0 {
			v.alarm = i
		}
	}
	return v
}

func (p *counts) learn(name string, s *session) {
	if p.history == nil {
		p.history = make(map[string][]float64)
	}
	n := 0.0
	for i := range s.events {
		n += float64(len(tools(&s.events[i])))
	}
	p.history[name] = append(p.history[name], n)
}

// overSD says nothing where all sessions are alike, as the detectors that divide by the deviation do.
func overSD(history []float64, n float64) (float64, bool) {
	if len(history) < 2 {
		return 0, false
	}
	mean, sd := stat.MeanStdDev(history, nil)
	if sd == 0 {
		return 0, false
	}
	z := (n - mean) / sd
	return z, z > 2
}

// overMAD uses 3.5 deviations, scaled to the normal distribution's (Iglewicz and Hoaglin, 1993).
func overMAD(history []float64, n float64) (float64, bool) {
	if len(history) < 2 {
		return 0, false
	}
	middle := median(history)
	deviations := make([]float64, 0, len(history))
	for _, x := range history {
		deviations = append(deviations, math.Abs(x-middle))
	}
	mad := median(deviations)
	if mad == 0 {
		return 0, false
	}
	z := 0.6745 * (n - middle) / mad
	return z, z > 3.5
}

// rare raises an alert on a tool that occurs in few of the hours in which the agent acts: Elastic's function "rare", by its
// description, with its least number of buckets. An alert is a share of at most 1 %.
type rare struct {
	hours map[string]map[int64]map[string]bool
}

const rareBuckets = 20

func (p *rare) judge(name string, s *session) verdict {
	v, worst := newVerdict(len(s.events)), 0.0
	hours := p.hours[name]
	for i := range s.events {
		for _, tool := range tools(&s.events[i]) {
			with := 0
			for _, used := range hours {
				if used[tool] {
					with++
				}
			}
			worst = max(worst, 1-float64(with+1)/float64(len(hours)+1))
		}
		v.scores[i] = worst
		if v.alarm < 0 && len(hours) >= rareBuckets && worst >= 0.99 {
			v.alarm = i
		}
	}
	return v
}

func (p *rare) learn(name string, s *session) {
	if p.hours == nil {
		p.hours = make(map[string]map[int64]map[string]bool)
	}
	if p.hours[name] == nil {
		p.hours[name] = make(map[int64]map[string]bool)
	}
	for i := range s.events {
		hour := s.events[i].Time.Unix() / 3600
		for _, tool := range tools(&s.events[i]) {
			if p.hours[name][hour] == nil {
				p.hours[name][hour] = make(map[string]bool)
			}
			p.hours[name][hour][tool] = true
		}
	}
}

// PeerQuality is how a peer does on the same sessions. Its threshold is set as ours, on its score; what it raises as it is shipped
// stands beside.
type PeerQuality struct {
	Peer       string `json:"peer"`
	AUC        Number `json:"auc"`
	TPR        Number `json:"tpr"` // at 1 % false positives
	MacroTPR   Number `json:"macro_tpr"`
	FPR        Number `json:"fpr"`
	ShippedTPR Number `json:"shipped_tpr"`
	ShippedFPR Number `json:"shipped_fpr"`
}

// byRole is a peer as a detector that keeps one state for a role. By agent it would know nothing of a pipeline that was left out.
type byRole struct{ make func() peer }

func (b byRole) teach(sessions []*session) (judge, error) {
	p := b.make()
	for _, s := range sessions {
		p.learn("role", s)
	}
	return func(s *session) (verdict, error) { return p.judge("role", s), nil }, nil
}

// peers takes whole sessions in the order in which they end, each judged by what was learned before it.
func (r *streamRun) peers(events []labelled) (out []PeerQuality) {
	ended := r.ended(events)
	for _, named := range peers() {
		p := named.make()
		var judged []judgedSession
		for _, s := range ended {
			if !s.follow.taught {
				judged = append(judged, judgedSession{agent: s.follow.agent, attack: s.attack, verdict: p.judge(s.follow.agent, &s.session)})
			}
			p.learn(s.follow.agent, &s.session)
		}
		q := streamQuality(judged, func(string) float64 { return 1 })
		row := PeerQuality{Peer: named.name, AUC: q["auc"], TPR: q["tpr_at_fpr_1"], MacroTPR: Number(math.NaN()), FPR: Number(math.NaN())}
		row.ShippedTPR, row.ShippedFPR = shipped(judged)
		out = append(out, row)
	}
	return out
}

func shipped(judged []judgedSession) (tpr, fpr Number) {
	var hits, all [2]float64
	for _, s := range judged {
		kind := 0
		if s.attack >= 0 {
			kind = 1
		}
		all[kind]++
		if s.verdict.alarm >= 0 {
			hits[kind]++
		}
	}
	return Number(share(hits[1], all[1])), Number(share(hits[0], all[0]))
}

// endedSession is a session with all of its events.
type endedSession struct {
	session
	*follow
}

func (e endedSession) last() time.Time { return e.session.events[len(e.session.events)-1].Time }

func (r *streamRun) ended(events []labelled) []endedSession {
	byFollow, seen := make(map[*follow]*endedSession), make(map[string]bool)
	for i := range events {
		e := events[i].Event
		ses := r.at[i]
		if ses == nil || seen[e.ID] {
			continue
		}
		seen[e.ID] = true
		if byFollow[ses] == nil {
			byFollow[ses] = &endedSession{session: session{agent: ses.agent}, follow: ses}
		}
		byFollow[ses].session.events = append(byFollow[ses].session.events, e)
	}
	var out []endedSession
	for _, f := range r.order {
		if s := byFollow[f]; s != nil {
			out = append(out, *s)
		}
	}
	slices.SortStableFunc(out, func(a, b endedSession) int { return a.last().Compare(b.last()) })
	return out
}

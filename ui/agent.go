package ui

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
)

// Bounds of an agent's page.
const (
	maxPeers        = 20
	maxAnomalies    = 20
	anomalyFrom     = 10 // of its latest incidents
	anomalyFindings = 50 // of one of them
)

// argument is where the values of one argument came from.
type argument struct {
	Name   string
	Counts []baselines.Count
}

// peer is another agent of the class.
type peer struct {
	baselines.Learned
	Shared int // tools of this agent that it uses too
}

// anomaly is what a baseline found in a session, against what is usual.
type anomaly struct {
	Incident string
	At       time.Time
	P        float64
	baselines.Feature
	Gauge gauge
}

// agentPage is what the page of an agent shows.
type agentPage struct {
	baselines.Learned
	Habits          *baselines.Habits // nil where nothing was learned
	Week            []weekday
	Chart           chart
	Arguments       []argument
	Others          []peer
	Anomalies       []anomaly
	Incidents, Open []incident.Incident
	Leases          []action.Lease
	Waits           []approval.Request // changes of its baseline that need more signatures
	Times           []time.Duration
}

// leaseTimes are for how long a person may ask to contain an agent.
func leaseTimes() []time.Duration {
	return []time.Duration{15 * time.Minute, time.Hour, 4 * time.Hour, 24 * time.Hour}
}

func (c *Console) showAgent(w http.ResponseWriter, r *http.Request, by approval.Principal, id string, status int, alert string) error {
	now := c.o.Now()
	learned, all, leases, err := c.known(r, now)
	if err != nil {
		return err
	}
	data := agentPage{Learned: baselines.Learned{Agent: id}, Times: leaseTimes()}
	at := slices.IndexFunc(learned, func(l baselines.Learned) bool { return l.Agent == id })
	if at >= 0 {
		if data.Learned, err = c.o.Facts.Agent(r.Context(), id); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(data.Provenance)) {
		data.Arguments = append(data.Arguments, argument{name, data.Provenance[name]})
	}
	for _, i := range all {
		if i.Agent.ID != id {
			continue
		}
		data.Incidents = append(data.Incidents, i)
		if i.Status != incident.Closed {
			data.Open = append(data.Open, i)
		}
	}
	if at < 0 && len(data.Incidents) == 0 {
		return store.ErrNotFound
	}
	data.Leases = slices.DeleteFunc(leases, func(l action.Lease) bool { return l.Plan.Target.Agent != id })
	if data.Waits, err = c.o.Reader.Requests(r.Context(), approval.Pending, maxRows); err != nil {
		return err
	}
	data.Waits = slices.DeleteFunc(data.Waits, func(q approval.Request) bool {
		return q.Plan.Class != approval.Record || q.Plan.Target.Agent != id
	})
	data.Others = peersOf(&data.Learned, learned)
	if data.Anomalies, err = c.anomalies(r, data.Incidents); err != nil {
		return err
	}
	habits, err := c.o.Facts.Habits(r.Context(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil {
		data.Habits, data.Week, data.Chart = &habits, weekOf(&habits), chartOf(&habits)
	}
	return c.show(w, r, status, "agent", page{
		Title: incident.Visible(id, 60), Nav: "agents", Here: agentPath(id), Live: "agent lease incident request",
		Who: by, Now: now, Alert: alert, Data: data,
	})
}

// peersOf are the other agents of an agent's class, those that share the most tools first.
func peersOf(l *baselines.Learned, all []baselines.Learned) (out []peer) {
	for i := range all {
		if all[i].Class != l.Class || all[i].Agent == l.Agent {
			continue
		}
		p := peer{Learned: all[i]}
		for _, t := range l.Tools {
			if slices.ContainsFunc(p.Tools, func(other baselines.Count) bool { return other.Text == t.Text }) {
				p.Shared++
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b peer) int {
		return cmp.Or(b.Shared-a.Shared, b.Sessions-a.Sessions, strings.Compare(a.Agent, b.Agent))
	})
	return out[:min(len(out), maxPeers)]
}

// anomalies are what baselines found in an agent's latest incidents, the latest first.
func (c *Console) anomalies(r *http.Request, of []incident.Incident) (out []anomaly, err error) {
	for _, i := range of[:min(len(of), anomalyFrom)] {
		alerts, err := c.o.Reader.Alerts(r.Context(), i.ID, anomalyFindings)
		if err != nil {
			return nil, err
		}
		for _, a := range alerts {
			if n := a.Finding.Anomaly; n != nil && len(n.Features) > 0 {
				out = append(out, anomaly{i.ID, a.Finding.Time, n.P, n.Features[0], gaugeOf(n.P, &n.Features[0])})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b anomaly) int { return b.At.Compare(a.At) })
	return out[:min(len(out), maxAnomalies)], nil
}

// gauge is a number on a scale with what is usual: all as shares of its width.
type gauge struct {
	From, W, At float64 // of the band, and where the number is
	Text        string
}

// gaugeScale is the least p-value of a gauge, as powers of ten.
const gaugeScale = 6.0

// gaugeOf shows a count among the counts that are usual, and anything else by how improbable it is: in 19 of 20 sessions in which nothing
// is wrong nothing is as improbable as one in 20.
func gaugeOf(p float64, f *baselines.Feature) gauge {
	if f.Band != nil {
		top := max(float64(f.N), f.Band.High) * 1.05
		return gauge{
			From: f.Band.Low / top * chartWidth, W: max((f.Band.High-f.Band.Low)/top*chartWidth, 4), At: float64(f.N) / top * chartWidth,
			Text: fmt.Sprintf("%d, usually %.0f to %.0f", f.N, f.Band.Low, f.Band.High),
		}
	}
	place := func(p float64) float64 { return min(-math.Log10(max(p, 1e-300))/gaugeScale, 1) * chartWidth * 0.98 }
	return gauge{W: place(0.05), At: place(p), Text: "p = " + probability(p) + ", usually over 0.05"}
}

// weekday is a row of the week's table.
type weekday struct {
	Day   string
	Hours []hour
}

type hour struct {
	Heat int // 0 to heats
	baselines.WeekHour
}

// heats is how many steps of colour there are, over the square root of a share of the busiest hour.
const heats = 6

func weekOf(h *baselines.Habits) []weekday {
	most := 0.0
	for i := range h.Week {
		most = max(most, h.Week[i].Mean)
	}
	out := make([]weekday, 0, 7)
	for i, day := range []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"} {
		row := weekday{Day: day}
		for _, at := range h.Week[24*i : 24*(i+1)] {
			row.Hours = append(row.Hours, hour{int(math.Round(math.Sqrt(at.Mean/max(most, 1)) * heats)), at})
		}
		out = append(out, row)
	}
	return out
}

// chart is the latest hours with the band that was expected of each.
type chart struct {
	Bars []chartBar
	Top  float64
	Out  int // hours outside their band
}

type chartBar struct {
	baselines.HourCount
	X, W, Low, Band, Y, H float64 // in units of the chart, y from above
	Out, Open             bool
}

const chartHeight = 100.0

func chartOf(h *baselines.Habits) (out chart) {
	latest := slices.Clone(h.Latest)
	if h.Open != nil {
		latest = append(latest, *h.Open)
	}
	for _, l := range latest {
		out.Top = max(out.Top, float64(l.N), l.High)
	}
	scale, w := chartHeight/max(out.Top, 1), chartWidth/float64(max(len(latest), 1))
	for i, l := range latest {
		b := chartBar{HourCount: l, X: float64(i) * w, W: w, Low: chartHeight - l.High*scale, Band: max((l.High-l.Low)*scale, 1), H: max(float64(l.N)*scale, 1)}
		b.Y, b.Open = chartHeight-b.H, h.Open != nil && i == len(latest)-1
		b.Out = float64(l.N) > l.High || !b.Open && float64(l.N) < l.Low
		if b.Out {
			out.Out++
		}
		out.Bars = append(out.Bars, b)
	}
	return out
}

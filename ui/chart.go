package ui

import (
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/measure"
)

// chartWidth is the width of every bar in its own units; the page stretches it.
const chartWidth = 1000.0

// segment is one part of a stacked bar. Its class gives the colour, its text says the same in words.
type segment struct {
	X, W  float64
	Class string
	Text  string
	Value string
	N     int
}

// lags splits dwell time into its parts, as far as they happened. The last part runs on until somebody notices.
func lags(t incident.Times, now time.Time) []segment {
	end := t.Noticed
	if end.IsZero() {
		end = now
	}
	total := end.Sub(t.FirstBad)
	if total <= 0 {
		return nil
	}
	var out []segment
	at := t.FirstBad
	for _, step := range []struct {
		class string
		until time.Time
	}{{"ingest", t.Ingested}, {"detect", t.Detected}, {"deliver", t.Delivered}, {"notice", end}} {
		if step.until.IsZero() || step.until.Before(at) || step.until.After(end) {
			continue
		}
		d := step.until.Sub(at)
		out = append(out, segment{W: float64(d) / float64(total), Class: "lag-" + step.class, Text: step.class, Value: span(d)})
		at = step.until
	}
	return stack(out)
}

// bands is coverage as a bar that sums to all alerts.
func bands(c measure.Coverage) []segment {
	var out []segment
	for _, b := range measure.Bands() {
		if n := c.Counts[b]; n > 0 && c.N > 0 {
			out = append(out, segment{W: float64(n) / float64(c.N), Class: "band-" + string(b), Text: string(b), N: n})
		}
	}
	return stack(out)
}

// stack turns shares into places. What is there is visible, however small its share.
func stack(parts []segment) []segment {
	const least = 0.006
	total := 0.0
	for _, s := range parts {
		total += max(s.W, least)
	}
	x := 0.0
	for i, s := range parts {
		parts[i].X, parts[i].W = x, max(s.W, least)/total*chartWidth
		x += parts[i].W
	}
	return parts
}

// bar is one row of a bar list.
type bar struct {
	Text  string
	N     int
	Share float64
	W     float64
}

// bars are the counts of a baseline with their shares of the whole.
func bars(counts []baselines.Count) []bar {
	total := 0
	for _, c := range counts {
		total += c.N
	}
	out := make([]bar, 0, len(counts))
	for _, c := range counts {
		s := float64(c.N) / float64(max(total, 1))
		out = append(out, bar{c.Text, c.N, s, max(s*chartWidth, 4)})
	}
	return out
}

package detect_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
)

// The explanation of the last event of a stream shows every part with its value, those that decide nothing included, and the state.
func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		name, detection string
		entries         []string
		want            string
	}{
		{
			"count", onResult + "when: tool.effect == \"egress\" && (tool.name == \"x\" || len(destinations) > 0)\ncount: {at_least: 5, within: 10m}",
			[]string{"kind: tool.result, tool: send_mail, args: {to: a@b.example}, repeat: 5, every: 1m"},
			`{
 "rule": "example-rule",
 "operator": "count",
 "event": "EVENT",
 "looks": true,
 "parts": [
  {
   "name": "when",
   "text": "tool.effect == \"egress\" && (tool.name == \"x\" || len(destinations) > 0)",
   "value": "true",
   "parts": [
    {
     "text": "tool.effect == \"egress\"",
     "value": "true",
     "operands": [
      "tool.effect = \"egress\""
     ]
    },
    {
     "text": "tool.name == \"x\" || len(destinations) > 0",
     "value": "true",
     "parts": [
      {
       "text": "tool.name == \"x\"",
       "value": "false",
       "operands": [
        "tool.name = \"send_mail\""
       ]
      },
      {
       "text": "len(destinations) > 0",
       "value": "true",
       "operands": [
        "len(destinations) = 1"
       ]
      }
     ]
    }
   ]
  }
 ],
 "state": [
  "count: 4 of 5 within 10m0s before this event",
  "the oldest of them leaves the window at 2026-01-05T09:10:00Z"
 ],
 "fired": false
}`,
		},
		{
			"rule on findings", "on: [finding]\nkey: agent\nwhen: finding.risk > 5\nrisk_threshold: {at_least: 100, within: 24h}",
			[]string{"kind: prompt"},
			`{
 "rule": "example-rule",
 "operator": "risk_threshold",
 "event": "EVENT",
 "looks": false,
 "state": [
  "it looks at the findings of other rules, and not at the event",
  "risk_threshold: 0 of 100 within 24h0m0s before this event"
 ],
 "fired": false
}`,
		},
		{
			"sequence", onResult + `sequence: {within: 10m, steps: [{as: read, when: 'tool.effect == "read"'}, {as: post, when: tool.host == read.tool.host}]}`,
			[]string{"kind: tool.result, tool: get_page, args: {url: 'https://a.example'}", "at: 1s, kind: tool.result, tool: post_note, args: {url: 'https://b.example'}"},
			`{
 "rule": "example-rule",
 "operator": "sequence",
 "event": "EVENT",
 "looks": true,
 "parts": [
  {
   "name": "sequence.steps.read",
   "text": "tool.effect == \"read\"",
   "value": "false",
   "operands": [
    "tool.effect = \"egress\""
   ]
  },
  {
   "name": "sequence.steps.post",
   "text": "tool.host == read.tool.host",
   "value": "false",
   "operands": [
    "tool.host = \"b.example\"",
    "read.tool.host = \"a.example\""
   ]
  }
 ],
 "state": [
  "step read: 1 earlier matches for this key, the newest at 2026-01-05T09:00:00Z, which counts until 2026-01-05T09:10:00Z",
  "step post: 0 earlier matches for this key"
 ],
 "fired": false
}`,
		},
		{
			"what is looked at", onResult + "when: 'true'\ndistinct: {of: tool.host, at_least: 3, within: 1m}",
			[]string{"kind: tool.result, tool: send_mail"},
			`{
 "rule": "example-rule",
 "operator": "distinct",
 "event": "EVENT",
 "looks": true,
 "parts": [
  {"name": "when", "text": "true", "value": "true"},
  {"name": "distinct.of", "text": "tool.host", "value": "\"\""}
 ],
 "state": [
  "distinct: 0 of 3 values within 1m0s before this event"
 ],
 "fired": false
}`,
		},
		{
			"silent for a value", onResult + "when: 'true'\nfirst_seen: {of: tool.name, after: 1, within: 1s}\nsuppress: 1h",
			[]string{"kind: tool.result, tool: a", "at: 1s, kind: tool.result, tool: b", "at: 3s, kind: tool.result, tool: b"},
			`{
 "rule": "example-rule",
 "operator": "first_seen",
 "event": "EVENT",
 "looks": true,
 "parts": [
  {"name": "when", "text": "true", "value": "true"},
  {"name": "first_seen.of", "text": "tool.name", "value": "\"b\""}
 ],
 "state": [
  "first_seen: 2 values known, from 2 events; it speaks after 1",
  "silent for this key until 2026-01-05T10:00:01Z"
 ],
 "fired": false
}`,
		},
		{
			"absence that begins", onResult + "when: 'true'\nabsence: {when: 'false', after: 1m}\nlateness: 5s",
			[]string{"kind: tool.result, tool: send_mail"},
			`{
 "rule": "example-rule",
 "operator": "absence",
 "event": "EVENT",
 "looks": true,
 "parts": [
  {"name": "when", "text": "true", "value": "true"},
  {"name": "absence.when", "text": "false", "value": "false"}
 ],
 "state": [
  "absence: what belongs to it came 0 times",
  "where when holds, the rule fires with the first event from 2026-01-05T09:01:05Z on, unless what belongs to it comes until 2026-01-05T09:01:00Z"
 ],
 "fired": false
}`,
		},
		{
			"absence that another event ends", onResult + "when: 'true'\nabsence: {when: 'false', after: 1m}\nlateness: 5s",
			[]string{"kind: tool.result, tool: send_mail", "at: 65s, kind: prompt"},
			`{
 "rule": "example-rule",
 "operator": "absence",
 "event": "EVENT",
 "looks": false,
 "state": [
  "time is over for event FIRST: what belongs to it did not come until 2026-01-05T09:01:00Z"
 ],
 "fired": false
}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, events := mustLoad(t, written("example-rule", tc.detection, tc.entries...)), stream(t, tc.entries...)
			env, st := detect.NewEnv(), detect.NewState()
			last := len(events) - 1
			for i := range events {
				env.Fill(&events[i], detect.SessionFacts{}, detect.BaselineEnv{P: 1})
				if i < last {
					set.Evaluate(env, &events[i], st)
				}
			}
			got, err := set.Explain("example-rule", env, &events[last], st)
			if err != nil {
				t.Fatal(err)
			}
			got.Event = "EVENT"
			text, err := json.MarshalIndent(got, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			var gotAny, wantAny any
			text = []byte(strings.ReplaceAll(string(text), events[0].ID, "FIRST"))
			if err := json.Unmarshal(text, &gotAny); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tc.want), &wantAny); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantAny, gotAny); diff != "" {
				t.Errorf("%s\n%s", diff, text)
			}
		})
	}
}

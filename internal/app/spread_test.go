package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/internal/ingest"
)

func spans(trace string, at ...int64) ingest.Request {
	text := ""
	for i, t := range at {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(`{"traceId":"%032s","spanId":"0000000000000001","startTimeUnixNano":"%d","endTimeUnixNano":"%d"}`, trace, t*1e9, t*1e9+1)
	}
	return ingest.Request{Path: "/v1/traces", ContentType: "application/json", Body: []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[` + text + `]}]}]}`)}
}

func TestSpread(t *testing.T) {
	untimed := ingest.Request{Path: "/v1/events", ContentType: "application/json", Body: []byte(`{}`)}
	tests := []struct {
		name     string
		requests []ingest.Request
		end      int64 // 0 keeps the first one where it is
		want     []int64
	}{
		{"nothing", nil, 0, nil},
		{"from the first", []ingest.Request{spans("a", 1000), spans("b", 1001), spans("c", 5)}, 0, []int64{1000, 1600, 2200}},
		{"to the end", []ingest.Request{spans("a", 1000), spans("b", 1001)}, 90000, []int64{89400, 90000}},
		{"a session keeps its distances", []ingest.Request{spans("a", 1007, 1003), spans("b", 1000), spans("a", 1001)}, 0, []int64{1003, 1601, 1001}},
		{"without a time", []ingest.Request{untimed, spans("a", 1000), spans("b", 1000)}, 0, []int64{0, 1000, 1600}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var end time.Time
			if tt.end > 0 {
				end = time.Unix(tt.end, 0)
			}
			out, err := Spread(tt.requests, end, 10*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for _, r := range out {
				at, err := startOf(r)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, max(0, at.Unix()))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := Spread([]ingest.Request{{Path: "/v1/traces", Body: []byte(`"startTimeUnixNano":99999999999999999999`)}}, time.Time{}, time.Minute); err == nil {
		t.Error("a time that is no time is no error")
	}
}

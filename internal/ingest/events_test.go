package ingest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadEvents(t *testing.T) {
	line := func(n int) string {
		return fmt.Sprintf(`{"kind":"prompt","time":"2026-01-01T00:00:00Z","agent":{"id":"a"},"session":{"id":"s"},"content":[{"role":"user","text":"%d"}]}`, n)
	}
	lines := func(n int) string {
		var out strings.Builder
		for i := range n {
			out.WriteString(line(i) + "\n")
		}
		return out.String()
	}
	for _, tt := range []struct {
		name, in string
		parts    []int // events of each
		rejected string
	}{
		{"one", line(0), []int{1}, ""},
		{"lines", lines(3), []int{3}, ""},
		{"as many as a request has", lines(MaxJSONEvents), []int{MaxJSONEvents}, ""},
		{"more", lines(MaxJSONEvents + 2), []int{MaxJSONEvents, 2}, ""},
		{"a bad line far down", lines(MaxJSONEvents+1) + "nonsense\n" + line(7), []int{MaxJSONEvents, 2}, fmt.Sprintf("line %d", MaxJSONEvents+2)},
		{"an array over many lines", "\n[" + line(1) + strings.Repeat("\n", MaxJSONEvents) + "," + line(2) + "]", []int{2}, ""},
		{"an object over lines", strings.Replace(line(1), ",", ",\n", 3), []int{1}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMapper(Options{})
			var got []int
			rejected := ""
			err := ReadEvents(strings.NewReader(tt.in), func(r Request) error {
				events, bad, err := m.Capture(r, Receipt{})
				got = append(got, len(events))
				for _, b := range bad {
					rejected += b.Item
				}
				return err
			})
			if err != nil || rejected != tt.rejected {
				t.Errorf("rejected %q, want %q: %v", rejected, tt.rejected, err)
			}
			if diff := cmp.Diff(tt.parts, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, in := range map[string]string{"nothing": "", "no event": "hello\n"} {
		if err := ReadEvents(strings.NewReader(in), func(r Request) error { _, _, err := NewMapper(Options{}).Capture(r, Receipt{}); return err }); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

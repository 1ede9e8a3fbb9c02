package ingest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestClockAhead(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for ahead, kept := range map[time.Duration]int{0: 1, maxSkew: 1, maxSkew + time.Second: 0, 59 * time.Minute: 0} {
		body := fmt.Sprintf(`{"kind":"other","time":%q,"agent":{"id":"a"}}`, now.Add(ahead).Format(time.RFC3339))
		events, rejected, err := NewMapper(Options{}).JSON(strings.NewReader(body), Receipt{At: now})
		if err != nil || len(events) != kept || len(rejected) != 1-kept {
			t.Errorf("%s ahead: kept %d, rejected %v, error %v", ahead, len(events), rejected, err)
		}
	}
}

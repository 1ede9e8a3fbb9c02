package app

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
)

func TestUseMemory(t *testing.T) {
	for _, tc := range []struct {
		name, gogc, limit string
		percent           int
		limited           bool
	}{
		{name: "as it comes", percent: gcPercent, limited: true},
		{name: "the environment knows better", gogc: "100", limit: "off", percent: 100, limited: false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			t.Cleanup(func() { debug.SetMemoryLimit(math.MaxInt64) })
			t.Setenv("GOGC", tc.gogc)
			t.Setenv("GOMEMLIMIT", tc.limit)
			if tc.limit == "" {
				os.Unsetenv("GOMEMLIMIT")
			}
			if err := UseMemory(); err != nil {
				t.Fatal(err)
			}
			if got := debug.SetGCPercent(100); got != tc.percent {
				t.Errorf("the heap grows by %d %%, want %d", got, tc.percent)
			}
			if limited := debug.SetMemoryLimit(-1) < math.MaxInt64; limited != tc.limited {
				t.Errorf("memory is limited: %v, want %v", limited, tc.limited)
			}
		})
	}
}

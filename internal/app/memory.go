package app

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// What is alive in a detector is small beside what each event allocates for a moment: a heap that may grow to four times the living spares a
// twentieth of all processor time. Above memoryShare of what the machine or the container has, the collector runs as often as it must.
const (
	gcPercent   = 300
	memoryShare = 0.6
)

// UseMemory sets how often this process collects its garbage. Where the environment sets GOGC or GOMEMLIMIT, these stand.
func UseMemory() error {
	if _, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem))); err != nil {
		return fmt.Errorf("bound memory: %w", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return nil
}

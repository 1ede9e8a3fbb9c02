package incident

import "github.com/aymanbagabas/go-udiff"

// Diff says in unified form what a text has become; empty for the same.
func Diff(before, after string) string { return udiff.Unified("before", "after", before, after) }

// Package testdata embeds the recorded telemetry that the demonstration and the tests run on. It holds no code.
package testdata

import "embed"

// Captures are what real agent SDKs sent; captures/README.md says how they were recorded.
//
//go:embed captures/*.jsonl
var Captures embed.FS

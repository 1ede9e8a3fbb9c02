// Package rules holds the detections that Tocsin ships, one YAML file each with its tests inside. It holds no code.
package rules

import "embed"

// FS holds the rule files.
//
//go:embed *.yaml tables
var FS embed.FS

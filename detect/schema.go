package detect

import (
	_ "embed"
	"slices"
)

//go:embed rule.schema.json
var schema []byte

// Schema is the JSON schema of rule files, for editors that complete and check YAML.
func Schema() []byte { return slices.Clone(schema) }

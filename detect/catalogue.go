package detect

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Catalogue holds the ids of the threat catalogues that tags may name, with their titles.
type Catalogue struct {
	ASI   map[string]string // OWASP Top 10 for Agentic Applications, 2026
	ATLAS map[string]string // MITRE ATLAS techniques, 5.6.0: those that an agent's telemetry can show
}

//go:embed catalogue.txt
var catalogueText string

// DefaultCatalogue returns the catalogue that Tocsin ships: one "id title" a line.
func DefaultCatalogue() Catalogue {
	c := Catalogue{ASI: make(map[string]string), ATLAS: make(map[string]string)}
	for line := range strings.Lines(catalogueText) {
		id, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case !ok || strings.HasPrefix(id, "#"):
		case strings.HasPrefix(id, "ASI"):
			c.ASI[id] = title
		default:
			c.ATLAS[id] = title
		}
	}
	return c
}

func (c Catalogue) check(t Tags) error {
	if len(t.ASI)+len(t.ATLAS) == 0 {
		return fmt.Errorf("are missing: name at least one OWASP ASI or MITRE ATLAS id")
	}
	for _, list := range []struct {
		name  string
		ids   []string
		known map[string]string
	}{{"asi", t.ASI, c.ASI}, {"atlas", t.ATLAS, c.ATLAS}} {
		for _, id := range list.ids {
			if _, ok := list.known[id]; !ok {
				return fmt.Errorf("%s: %q is not in the catalogue%s", list.name, id, suggest(id, slices.Sorted(maps.Keys(list.known))))
			}
		}
	}
	return nil
}

// suggest names the nearest known word, if one is near enough to be a slip of the pen.
func suggest(word string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if d := editDistance(word, k, distance); d < distance {
			best, distance = k, d
		}
	}
	if best == "" || distance > max(1, len(word)/2) {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is Levenshtein's, or limit where it is not less.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit)
}

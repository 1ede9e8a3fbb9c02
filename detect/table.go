package detect

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Table is a lookup table: a versioned local file of keys with a text each. Rules read it and nothing changes it; there is no
// lookup over a network, so that a replay next year gives today's findings.
type Table struct {
	Version string    `yaml:"version"`
	About   string    `yaml:"about"`
	Match   string    `yaml:"match"`   // exact, domain (the key and every name under it) or cidr
	Entries yaml.Node `yaml:"entries"` // a list of keys, or a map of keys to texts

	Name string `yaml:"-"`

	entries  map[string]string
	prefixes []prefix
}

type prefix struct {
	network netip.Prefix
	text    string
}

// Limits on lookup tables.
const (
	maxTableBytes = 8 << 20
	maxPrefixes   = 1000 // networks are tried one after the other
)

func (l *Library) readTables(dir fs.FS) error {
	names, err := fs.Glob(dir, tablesDir+"/*.yaml")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		text, err := l.read(dir, name)
		if err != nil {
			return err
		}
		t, err := parseTable(name, text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.Tables[t.Name] = t
	}
	return errors.Join(errs...)
}

func parseTable(file string, text []byte) (*Table, error) {
	if len(text) > maxTableBytes {
		return nil, fmt.Errorf("%s: %d bytes, a table has at most %d", file, len(text), maxTableBytes)
	}
	t := &Table{Name: strings.TrimSuffix(path.Base(file), ".yaml"), entries: make(map[string]string)}
	if err := strict.YAML(file, text, t); err != nil {
		return nil, err
	}
	from := newSource(file, text)
	if t.Version == "" {
		return nil, fmt.Errorf("%s: version: is missing: a text such as \"2026-11-01\"", from.at("version"))
	}
	if t.Match != "exact" && t.Match != "domain" && t.Match != "cidr" {
		return nil, fmt.Errorf("%s: match: %q is not one of exact, domain, cidr%s", from.at("match"), t.Match, strict.Suggest(t.Match, []string{"exact", "domain", "cidr"}))
	}
	for i, n := 0, &t.Entries; i < len(n.Content); i++ {
		key, value := n.Content[i], ""
		if n.Kind == yaml.MappingNode {
			i++
			value = n.Content[i].Value
		}
		if err := t.add(key.Value, value); err != nil {
			return nil, fmt.Errorf("%s:%d:%d: entries: %w", file, key.Line, key.Column, err)
		}
	}
	if len(t.prefixes) > maxPrefixes {
		return nil, fmt.Errorf("%s: %d networks, a table has at most %d", file, len(t.prefixes), maxPrefixes)
	}
	t.Entries = yaml.Node{}
	return t, nil
}

func (t *Table) add(key, value string) error {
	if t.Match != "cidr" {
		t.entries[strings.ToLower(key)] = value
		return nil
	}
	network, err := netip.ParsePrefix(key)
	if err != nil {
		return fmt.Errorf("%q is no network: want an address and a length, such as 10.0.0.0/8", key)
	}
	t.prefixes = append(t.prefixes, prefix{network, value})
	return nil
}

// Lookup returns the text of the entry that covers a key. Case does not count.
func (t *Table) Lookup(key string) (text string, ok bool) {
	key = strings.ToLower(key)
	switch t.Match {
	case "cidr":
		address, err := netip.ParseAddr(key)
		if err != nil {
			return "", false
		}
		for _, p := range t.prefixes {
			if p.network.Contains(address.Unmap()) {
				return p.text, true
			}
		}
		return "", false
	case "domain":
		for key = strings.TrimSuffix(key, "."); ; {
			if text, ok = t.entries[key]; ok {
				return text, true
			}
			if _, key, ok = strings.Cut(key, "."); !ok {
				return "", false
			}
		}
	}
	text, ok = t.entries[key]
	return text, ok
}

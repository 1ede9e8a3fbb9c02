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
	if t.Entries.Kind != yaml.SequenceNode && t.Entries.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: entries: want a list of keys, or a map of keys to texts; [] for none", from.at("entries"))
	}
	for i, n := 0, &t.Entries; i < len(n.Content); i++ {
		key, value := resolve(n.Content[i]), &yaml.Node{Kind: yaml.ScalarNode}
		if n.Kind == yaml.MappingNode {
			i++
			value = resolve(n.Content[i])
		}
		err := t.add(key.Value, value.Value)
		if key.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode {
			err = errors.New("a key is a text, and so is what it stands for")
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d:%d: entries: %w", file, key.Line, key.Column, err)
		}
	}
	if len(t.prefixes) > maxPrefixes {
		return nil, fmt.Errorf("%s: %d networks, a table has at most %d", file, len(t.prefixes), maxPrefixes)
	}
	t.Entries = yaml.Node{}
	return t, nil
}

// resolve is what an alias stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// isDomain reports whether a host's name or address can be or end in a text.
func isDomain(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil || !strings.ContainsAny(text, "*/: ") && !strings.HasPrefix(text, ".") && !strings.HasSuffix(text, ".")
}

func (t *Table) add(key, value string) error {
	if t.Match != "cidr" {
		lower := strings.ToLower(key)
		other, twice := t.entries[lower]
		switch {
		case key == "":
			return errors.New("a key is empty")
		case t.Match == "domain" && !isDomain(key):
			return fmt.Errorf("%q is no domain: want a name such as a.example, which covers all names under it", key)
		case twice && other != value:
			return fmt.Errorf("%q stands there twice, for %q and for %q; case does not count", key, other, value)
		}
		t.entries[lower] = value
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

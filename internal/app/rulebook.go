package app

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// loaded says which rules are in force. It lies in the vault, and the ledger's record of the load names it, so that the next load, after
// a restart too, can say what it changed.
type loaded struct {
	Digest  string                `json:"digest"` // of the set
	Library string                `json:"library,omitempty"`
	Rules   map[string]loadedRule `json:"rules"`
}

type loadedRule struct {
	Version  string          `json:"version"`
	Digest   string          `json:"digest"`
	Lane     detect.Lane     `json:"lane"`
	Severity detect.Severity `json:"severity"`
	Since    time.Time       `json:"since"` // in that lane
}

// loadedBody is the body of a ledger record about a load.
type loadedBody struct {
	Old      string   `json:"old,omitempty"` // digest of the set that was in force
	New      string   `json:"new"`
	Manifest string   `json:"manifest"` // where the vault has what is in force
	Changes  []string `json:"changes,omitempty"`
	More     int      `json:"more,omitempty"` // changes that are left out
}

// maxChanges bounds the changes that one ledger record names, and loadsSearched the records among which the last load is looked for.
const (
	maxChanges    = 100
	loadsSearched = 50
)

// before returns what was in force at the last load, the zero value where that is not known.
func (b *rulebook) before(ctx context.Context) (last loaded, err error) {
	records, err := b.store.LedgerOf(ctx, ledger.KindRules, loadsSearched)
	if err != nil {
		return last, err
	}
	for _, r := range records {
		var body loadedBody
		if json.Unmarshal(r.Body, &body) != nil || body.Manifest == "" { // refused, or of an older release
			continue
		}
		text, err := b.vault.Get(ctx, body.Manifest)
		if err == nil {
			err = json.Unmarshal(text, &last)
		}
		if err != nil { // the rules must come into force all the same
			b.logger.Error("what was in force before can't be read; the ledger won't say what changed", "error", err)
			return loaded{}, nil
		}
		return last, nil
	}
	return last, nil
}

// manifest describes a set, and says since when each rule has been in its lane.
func manifest(set *detect.Set, library string, last loaded, now time.Time) loaded {
	out := loaded{Digest: set.Digest(), Library: library, Rules: make(map[string]loadedRule)}
	for _, r := range set.Rules() {
		in := loadedRule{Version: r.Version, Digest: r.Digest, Lane: r.Lane, Severity: r.Severity, Since: now.UTC()}
		if old, ok := last.Rules[r.ID]; ok && old.Lane == r.Lane {
			in.Since = old.Since
		}
		out.Rules[r.ID] = in
	}
	return out
}

// changes says what is otherwise than before, by rule. Why has the reasons that overlays give for a lane.
func (l *loaded) changes(last loaded, why func(rule string) string) (out []string) {
	if last.Rules == nil {
		return nil // everything is new
	}
	ids := slices.AppendSeq(slices.Collect(maps.Keys(l.Rules)), maps.Keys(last.Rules))
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		rule, is := l.Rules[id]
		old, was := last.Rules[id]
		switch {
		case !was:
			out = append(out, fmt.Sprintf("%s: added, version %s, lane %s", id, rule.Version, rule.Lane))
			continue
		case !is:
			out = append(out, fmt.Sprintf("%s: gone, was version %s, lane %s", id, old.Version, old.Lane))
			continue
		}
		if rule.Digest != old.Digest {
			out = append(out, fmt.Sprintf("%s: text of version %s, was %s: digest %.12s -> %.12s", id, rule.Version, old.Version, old.Digest, rule.Digest))
		}
		if rule.Severity != old.Severity {
			out = append(out, fmt.Sprintf("%s: severity %s -> %s", id, old.Severity, rule.Severity))
		}
		if rule.Lane != old.Lane {
			text := fmt.Sprintf("%s: lane %s -> %s", id, old.Lane, rule.Lane)
			if reason := why(id); reason != "" {
				text += ": " + reason
			}
			out = append(out, text)
		}
	}
	if l.Library != last.Library {
		out = append(out, fmt.Sprintf("macros, tables, overlays or exceptions: digest %.12s -> %.12s", last.Library, l.Library))
	}
	return out
}

// record keeps what is now in force and writes who changed what into the ledger.
func (b *rulebook) record(ctx context.Context, set *detect.Set, library *detect.Library, actor string) (loaded, error) {
	last, err := b.before(ctx)
	if err != nil {
		return loaded{}, err
	}
	now := manifest(set, library.Digest(), last, b.now())
	text, err := json.Marshal(now)
	if err != nil {
		return loaded{}, fmt.Errorf("encode the rules in force: %w", err)
	}
	body := loadedBody{Old: last.Digest, New: now.Digest, Changes: now.changes(last, func(rule string) string { return library.Overlays[rule].Reason })}
	if n := len(body.Changes); n > maxChanges {
		body.Changes, body.More = body.Changes[:maxChanges], n-maxChanges
	}
	if body.Manifest, err = b.vault.Put(ctx, text); err != nil {
		return loaded{}, fmt.Errorf("keep the rules in force: %w", err)
	}
	return now, b.store.Record(ctx, b.now(), ledger.KindRules, actor, set.Digest(), "", body)
}

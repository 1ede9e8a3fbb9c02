package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/rules"
	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/measure"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/playbooks"
)

// rulebook holds the set of rules that is in force. Safe for concurrent use.
type rulebook struct {
	dir       string
	playbooks map[string]playbooks.Playbook
	vault     *evidence.Vault
	store     *store.Store
	metrics   *measure.Metrics
	logger    *slog.Logger
	now       func() time.Time
	detectors []*detector

	loading sync.Mutex // one load at a time
	mu      sync.Mutex
	set     *detect.Set
	loaded  loaded
	archive []byte // of the files that the set was read from
	when    time.Time
}

func (b *rulebook) inForce() *detect.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set
}

// since is when a rule in force came into its lane.
func (b *rulebook) since(rule string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.loaded.Rules[rule].Since
}

// load reads the rules, keeps each text in the vault under the digest that findings carry, puts the set in force, and records who did,
// so that the way back to an older set shows too. Rules that can't be read leave the set in force as it is; that is recorded as well.
func (b *rulebook) load(ctx context.Context, actor string) error {
	b.loading.Lock()
	defer b.loading.Unlock()
	set, read, archive, err := b.read()
	if err != nil {
		b.metrics.RulesLoaded(false)
		return errors.Join(err, b.store.Record(ctx, b.now(), ledger.KindRules, actor, "refused", "", map[string]string{"error": err.Error()}))
	}
	for _, text := range read.Texts {
		if _, err := b.vault.Put(ctx, text); err != nil {
			return fmt.Errorf("keep rule: %w", err)
		}
	}
	now, err := b.record(ctx, set, read.Library, actor)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.set, b.loaded, b.archive, b.when = set, now, archive, b.now()
	b.mu.Unlock()
	for _, d := range b.detectors {
		d.setRules(ctx, set)
	}
	b.metrics.Rules(set.Rules())
	b.metrics.RulesLoaded(true)
	return nil
}

// read reads and compiles the rules and checks that the playbooks that they name exist. They are read from the archive that is handed
// out, so that it holds what is in force whatever becomes of the files.
func (b *rulebook) read() (*detect.Set, RuleFiles, []byte, error) {
	var own fs.FS
	if b.dir != "" {
		own = os.DirFS(b.dir)
	}
	archive, err := packRules(rules.FS, own)
	if err != nil {
		return nil, RuleFiles{}, nil, err
	}
	read, err := UnpackRules(archive)
	if err == nil {
		err = CheckPlaybooks(read.Rules, b.playbooks)
	}
	if err != nil {
		return nil, RuleFiles{}, nil, err
	}
	set, err := detect.Compile(read.Rules)
	return set, read, archive, err
}

// RulesInForce implements api.Rules.
func (b *rulebook) RulesInForce() api.RulesInForce {
	b.mu.Lock()
	defer b.mu.Unlock()
	return api.RulesInForce{Digest: b.set.Digest(), Loaded: b.when, Archive: b.archive}
}

// Rules implements ui.Facts: a report card for each rule in force.
func (f *facts) Rules(ctx context.Context) ([]measure.RuleReport, error) {
	stats, excepted := make(map[string]detect.Stats), make(map[string]map[string]int)
	var costs detect.Costs
	for _, d := range f.detectors {
		d.addExcepted(excepted)
		d.addCosts(&costs)
		for rule, n := range d.ruleStats() {
			sum := stats[rule]
			sum.Add(&n)
			stats[rule] = sum
		}
	}
	verdicts, err := f.store.RuleVerdicts(ctx, f.now().Add(-window))
	if err != nil {
		return nil, err
	}
	var out []measure.RuleReport
	set := f.rules.inForce()
	for _, r := range set.Rules() {
		out = append(out, measure.RuleReport{
			ID: r.ID, Version: r.Version, Title: r.Title, Severity: r.Severity, Lane: r.Lane, Operator: r.Operator(), Capture: r.Capture,
			Tests: len(r.Tests), Stats: stats[r.ID], Cost: measure.CostOf(r.ID, &costs), Verdicts: verdicts[r.ID], Since: f.rules.since(r.ID), Exceptions: hits(set.Exceptions(r.ID), excepted[r.ID]),
		})
	}
	return out, nil
}

// hits are the exceptions of a rule with how many events each covered.
func hits(of []*detect.Exception, covered map[string]int) (out []measure.ExceptionReport) {
	for _, x := range of {
		out = append(out, measure.ExceptionReport{ID: x.ID, Owner: x.Owner, Expires: x.Expires, Events: covered[x.ID]})
	}
	return out
}

// ReloadRules implements ui.Actor.
func (c *control) ReloadRules(ctx context.Context, by approval.Principal) error {
	if err := c.rules.load(ctx, by.ID); err != nil {
		return approval.Refuse(approval.RefusedRules, "the rules in force stay: %v", err)
	}
	c.logger.Info("rules were loaded", "by", by.ID, "rules", len(c.rules.inForce().Rules()))
	return nil
}

// RuleFiles are rules with the library and the texts that they were read from.
type RuleFiles struct {
	Rules   []detect.Rule
	Library *detect.Library
	Texts   [][]byte // of the rules and of the library
	// Replaced are the rules that stand in the place of a shipped one.
	Replaced []detect.Rule
}

// ReadRules reads the shipped rules and those of a directory, if one is named, with the directory's macros, tables, overlays and
// exceptions over the shipped ones. A rule of the directory takes the place of a shipped one with the same id.
func ReadRules(dir string) (RuleFiles, error) {
	dirs := []fs.FS{rules.FS}
	if dir != "" {
		dirs = append(dirs, os.DirFS(dir))
	}
	return readRuleDirs(dirs...)
}

// readRuleDirs reads the shipped rules, which come first, and those of other directories.
func readRuleDirs(dirs ...fs.FS) (RuleFiles, error) {
	library, err := detect.ReadLibrary(dirs...)
	if err != nil {
		return RuleFiles{}, err
	}
	out := RuleFiles{Library: library}
	for _, text := range library.Texts {
		out.Texts = append(out.Texts, text)
	}
	for n, from := range dirs {
		list, err := detect.ReadRules(from, library)
		if err == nil {
			err = detect.CheckIDs(list)
		}
		if err != nil {
			return RuleFiles{}, err
		}
		for _, r := range list {
			text, err := fs.ReadFile(from, r.File)
			if err != nil {
				return RuleFiles{}, fmt.Errorf("read rule %s: %w", r.ID, err)
			}
			out.Texts = append(out.Texts, text)
			if i := slices.IndexFunc(out.Rules, func(o detect.Rule) bool { return o.ID == r.ID }); i >= 0 && n > 0 {
				out.Rules[i] = r
				out.Replaced = append(out.Replaced, r)
			} else {
				out.Rules = append(out.Rules, r)
			}
		}
	}
	err = library.Check(out.Rules)
	out.Rules = library.Enabled(out.Rules)
	return out, err
}

// ReadPlaybooks reads the shipped playbooks and those of a directory, if one is named, which take the place of shipped ones with the
// same name.
func ReadPlaybooks(dir string) (map[string]playbooks.Playbook, error) {
	if dir == "" {
		return playbooks.Read(action.Descriptions(), playbooks.Shipped())
	}
	return playbooks.Read(action.Descriptions(), playbooks.Shipped(), os.DirFS(dir))
}

// CheckPlaybooks refuses rules that name a playbook that does not exist. All errors are returned together.
func CheckPlaybooks(rules []detect.Rule, library map[string]playbooks.Playbook) error {
	exist := slices.Sorted(maps.Keys(library))
	var errs []error
	for i := range rules {
		errs = append(errs, rules[i].CheckPlaybook(exist))
	}
	return errors.Join(errs...)
}

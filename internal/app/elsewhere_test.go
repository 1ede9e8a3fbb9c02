package app

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/ledger"
	"github.com/tocsin-dr/tocsin/internal/store"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// TestWorkerConfigRefuses: a worker starts with all that it needs and nothing that it must not have.
func TestWorkerConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	seed, err := grantKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeGrantKey(dir, seed.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
	const temporal, store, actions = "temporal: {address: '127.0.0.1:7233'}\n", "store: {url: store.db}\n", "actions: {stop_process: {processes: {bot: {agent: a, pid_file: /run/a, executable: /bin/a}}}}\n"
	grant := "grant_key: " + GrantPublicKey(dir) + "\n"
	for _, tt := range []struct{ name, text, want string }{
		{"all of it", temporal + store + actions + grant, ""},
		{"no key", temporal + store + actions, "grant_key: is missing"},
		{"the private key", temporal + store + actions + "grant_key: " + filepath.Join(dir, "grant.key") + "\n", "grant_key: read grant key: "},
		{"a key that is none", temporal + store + actions + "grant_key: " + file("none", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "is no Ed25519 public key in PEM"},
		{"no workflow server", store + actions + grant, "temporal.address: is missing"},
		{"no store", temporal + actions + grant, "store.url: is missing"},
		{"no action", temporal + store + grant, "actions: has no section"},
		{"actions elsewhere", temporal + store + grant + "actions: {elsewhere: [revoke-token]}", "actions.elsewhere: is for tocsin run"},
		{"it listens to others", temporal + store + actions + grant + "listen: '0.0.0.0:8701'", "listen: "},
		{"it listens by a name", temporal + store + actions + grant + "listen: 'worker:8701'", "listen: "},
		{"an action's key", temporal + store + grant + "actions:\n  stop_process: {processes: {bot: {agent: a}}}\n", "actions.stop_process.processes.bot: want agent"},
		{"a door", temporal + store + actions + grant + "users: []", "users"},
		{"no limit", temporal + store + actions + grant + "limits: {per_hour: -1}", "limits.per_hour: -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ReadWorkerConfig(file("worker.yaml", tt.text))
			if tt.want == "" && (err != nil || c.Limits.PerHour != defaultPerHour || c.Listen != "127.0.0.1:8701") {
				t.Errorf("%+v: %v", c, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("ReadWorkerConfig = %v, want %s", err, tt.want)
			}
		})
	}
}

// TestWorkerConfigShipped: the configurations of a worker that are shown have no unknown key.
func TestWorkerConfigShipped(t *testing.T) {
	shown, err := os.ReadFile("../../deploy/worker/worker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(guide), "## Credentials in a process of their own")
	_, block, _ := strings.Cut(section, "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	for name, text := range map[string]string{"deploy": string(shown), "guide": strings.Replace(block, "{…}", "{}", 1)} {
		var c WorkerConfig
		if err := strict.YAML(name, []byte(text), &c); err != nil || c.GrantKey == "" || c.Temporal.Address == "" || c.Store.URL == "" {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
}

// TestHaltFileBindsOthers: a halt file stops effects in every process, and what people halted stays halted when it goes.
func TestHaltFileBindsOthers(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	here := &governor{store: s, file: filepath.Join(dir, "halt"), mirrors: true, now: func() time.Time { return now }}
	there := &governor{store: s, file: filepath.Join(dir, "elsewhere", "halt"), now: func() time.Time { return now }}
	step := func(what string, do func() error, halted bool) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := here.mirror(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for name, g := range map[string]*governor{"here": here, "elsewhere": there} {
			if err := g.Halted(t.Context()); (err != nil) != halted {
				t.Errorf("%s: %s it is halted: %v, want %v", what, name, err, halted)
			}
		}
	}
	make := func() error { return os.WriteFile(here.file, nil, 0o600) }
	remove := func() error { return os.Remove(here.file) }
	step("nothing", func() error { return nil }, false)
	step("the file", make, true)
	step("the file is gone", remove, false)
	step("a person", func() error { return s.SaveHalt(t.Context(), &store.Halt{By: "ana", Reason: "wait", At: now}) }, true)
	step("a person and the file", make, true)
	step("a person, and the file is gone", remove, true)
	step("resumed", func() error { return s.SaveHalt(t.Context(), nil) }, false)
	if rows, err := s.LedgerOf(t.Context(), ledger.KindHalt, 10); err != nil || len(rows) != 2 {
		t.Errorf("the ledger has %+v, want that the file halted and resumed: %v", rows, err)
	}
}

// TestHaltFileOfTheSameName: a worker on another machine may have its data where tocsin run has its own. The halt of that file, which the
// worker does not see, binds it all the same.
func TestHaltFileOfTheSameName(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, want := range map[string]bool{"run": false, "worker": true} {
		g := &governor{store: s, file: filepath.Join(dir, "halt"), mirrors: name == "run", now: time.Now}
		if err := s.SaveHalt(t.Context(), &store.Halt{By: g.byFile(), Reason: "it is there", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := g.Halted(t.Context()); errors.Is(err, action.ErrHalted) != want {
			t.Errorf("%s: %v, want halted %v", name, err, want)
		}
	}
}

// TestGrantKeyFile: the public key that a worker reads is the one that verifies what the control plane signs.
func TestGrantKeyFile(t *testing.T) {
	dir := t.TempDir()
	key, err := grantKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	signer := approval.NewSigner(key)
	if err := writeGrantKey(dir, signer.Public()); err != nil {
		t.Fatal(err)
	}
	read, err := readGrantKey(GrantPublicKey(dir))
	if err != nil || !read.Equal(signer.Public()) {
		t.Errorf("%x: %v", read, err)
	}
}

package app

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/event"
	"github.com/tocsin-dr/tocsin/internal/evidence"
	"github.com/tocsin-dr/tocsin/internal/gate"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/internal/oncall"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// Config is what a deployment decides. The zero value runs everything embedded, on loopback, under ./tocsin-data.
type Config struct {
	// Data holds everything that is embedded: the event log, the workflows, the store, the vault, the keys.
	Data   string `yaml:"data"`
	Listen struct {
		OTLPHTTP string `yaml:"otlp_http"` // OTLP over HTTP, JSON events and the gate
		OTLPGRPC string `yaml:"otlp_grpc"`
		Console  string `yaml:"console"`   // console, API and /metrics
		ExtAuthz string `yaml:"ext_authz"` // the gate for Envoy, over gRPC; empty: off
	} `yaml:"listen"`
	Console struct {
		// URL is how browsers reach the console, as https://tocsin.example.org: security keys sign for it alone. Without it they sign
		// for localhost.
		URL string `yaml:"url"`
	} `yaml:"console"`
	TLS struct {
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
		// Proxy says that a proxy in front of Tocsin speaks TLS with everybody outside.
		Proxy bool `yaml:"proxy"`
	} `yaml:"tls"`
	NATS struct {
		URL         string        `yaml:"url"` // empty: embedded
		Credentials string        `yaml:"credentials"`
		Partitions  int           `yaml:"partitions"`
		Replicas    int           `yaml:"replicas"`
		MaxAge      time.Duration `yaml:"max_age"`
		MaxBytes    int64         `yaml:"max_bytes"`
	} `yaml:"nats"`
	Temporal TemporalConfig `yaml:"temporal"`
	Store    struct {
		URL string `yaml:"url"` // empty: SQLite in the data directory
	} `yaml:"store"`
	Evidence struct {
		Dir    string                  `yaml:"dir"`
		Bucket *evidence.BucketOptions `yaml:"bucket"` // in place of a directory
		// Memories are what agents keep beyond their sessions, by a name; they are sealed with their incidents.
		Memories map[string]evidence.MemoryOptions `yaml:"memories"`
	} `yaml:"evidence"`
	Rules struct {
		Dir string `yaml:"dir"` // rule files beside the shipped ones
	} `yaml:"rules"`
	Playbooks struct {
		Dir string `yaml:"dir"`
	} `yaml:"playbooks"`
	Policies struct {
		File string `yaml:"file"` // who is asked; without one, responders contain and two leads do the rest
	} `yaml:"policies"`
	Actions   ActionOptions `yaml:"actions"`
	Limits    Limits        `yaml:"limits"`
	Baselines struct {
		// Alpha is the p-value at or below which a baseline raises a finding.
		Alpha float64 `yaml:"alpha"`
		// Alerts are the budget for an agent a day, ClassAlerts the most for a class a day, and TenantAlerts the most for a tenant in it.
		Alerts       float64 `yaml:"alerts"`
		ClassAlerts  int     `yaml:"class_alerts"`
		TenantAlerts int     `yaml:"tenant_alerts"`
		// AgentsInMemory are the agents of a detector whose pages are in memory, and Agents those that it knows at all; the pages of others
		// are on disk. One class may have a quarter.
		AgentsInMemory int `yaml:"agents_in_memory"`
		Agents         int `yaml:"agents"`
	} `yaml:"baselines"`
	// Content is full, or hashed where policy forbids storing what agents read and write.
	Content ingest.ContentPolicy `yaml:"content"`
	Gate    struct {
		// OnError is what agents of a class do when the gate can't answer: open or closed. It is sent with every answer, so that
		// whoever asks knows it when the gate is gone.
		OnError string            `yaml:"on_error"`
		Classes map[string]string `yaml:"classes"`
		// Tools are the effects (read, write, egress, exec) of tools whose names don't tell them: what read-only lets pass.
		Tools map[string]event.Effect `yaml:"tools"`
		// ExtAuthz is how requests at Envoy name their agent, session and tool.
		ExtAuthz gate.ExtAuthzOptions `yaml:"ext_authz"`
	} `yaml:"gate"`
	// Tokens authenticate senders of telemetry and askers of the gate. Without any, both are open to whoever reaches them.
	Tokens []Token     `yaml:"tokens"`
	Users  []User      `yaml:"users"`
	OIDC   *OIDCConfig `yaml:"oidc"`
	// Slack lets people decide there; see docs/slack.md.
	Slack *SlackConfig `yaml:"slack"`
	// OnCall are schedules by which policies name who may answer; see docs/on-call.md.
	OnCall *oncall.Options `yaml:"oncall"`
	// SLA is how long an alert may stay untouched before coverage counts it as missed.
	SLA time.Duration `yaml:"sla"`
}

// Limits bound what all incidents together may do.
type Limits struct {
	// PerHour is how many effects of one action may begin within an hour, over all incidents.
	PerHour int `yaml:"per_hour"`
}

const defaultPerHour = 30

func (l Limits) check() error {
	if l.PerHour < 1 {
		return bad("limits.per_hour", "%d, want at least 1", l.PerHour)
	}
	return nil
}

// Token is a sender's credential, by the SHA-256 of its text in hex. Tokens of one name are one sender.
type Token struct {
	Name   string `yaml:"name"`
	SHA256 string `yaml:"sha256"`
	// Services and Classes are what the sender may speak for, where they are set. Without them a sender can write events in any
	// agent's name.
	Services []string `yaml:"services"`
	Classes  []string `yaml:"classes"`
}

// User may sign in with a password.
type User struct {
	Name         string        `yaml:"name"`
	PasswordHash string        `yaml:"password_hash"` // bcrypt; tocsin passwd prints one
	Role         approval.Role `yaml:"role"`
}

// OIDCConfig lets people sign in with an OpenID Connect provider.
type OIDCConfig struct {
	Issuer           string                   `yaml:"issuer"`
	ClientID         string                   `yaml:"client_id"`
	ClientSecretFile string                   `yaml:"client_secret_file"`
	RedirectURL      string                   `yaml:"redirect_url"`
	GroupsClaim      string                   `yaml:"groups_claim"`
	Roles            map[string]approval.Role `yaml:"roles"`
}

// ReadConfig reads a YAML file over the defaults; an empty name gives the defaults, and data, unless it is empty, takes the place of
// the file's data directory. Unknown keys are errors that name the line.
func ReadConfig(file, data string) (c Config, err error) {
	err = readYAML(file, &c, func() error {
		if data != "" {
			c.Data = data
		}
		c.defaults()
		return c.check()
	})
	return c, err
}

// readYAML reads a YAML file, and says where in it is what the check finds.
func readYAML(file string, into any, check func() error) error {
	var text []byte
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := strict.YAML(file, text, into); err != nil && !errors.Is(err, strict.ErrEmpty) {
			return fmt.Errorf("read configuration: %w", err)
		}
	}
	if err := check(); err != nil {
		var value *badValue
		if file != "" && errors.As(err, &value) {
			err = fmt.Errorf("%s: %w", strict.Place(file, text, value.field), err)
		}
		return fmt.Errorf("check configuration: %w", err)
	}
	return nil
}

// badValue is a value that can't be right, by the path of its key.
type badValue struct{ field, why string }

func (b *badValue) Error() string { return b.field + ": " + b.why }

func bad(field, format string, args ...any) error {
	return &badValue{field, fmt.Sprintf(format, args...)}
}

func (c *Config) defaults() {
	set(&c.Data, "tocsin-data")
	set(&c.Listen.OTLPHTTP, "127.0.0.1:4318")
	set(&c.Listen.OTLPGRPC, "127.0.0.1:4317")
	set(&c.Listen.Console, "127.0.0.1:8700")
	set(&c.NATS.Partitions, 8)
	set(&c.NATS.Replicas, 1)
	set(&c.NATS.MaxAge, 30*24*time.Hour)
	set(&c.NATS.MaxBytes, 20<<30)
	set(&c.Temporal.Namespace, "tocsin")
	set(&c.Store.URL, filepath.Join(c.Data, "store.db"))
	if c.Evidence.Bucket == nil {
		set(&c.Evidence.Dir, filepath.Join(c.Data, "evidence"))
	}
	set(&c.Content, ingest.ContentFull)
	set(&c.Gate.OnError, "open")
	set(&c.SLA, 24*time.Hour)
	set(&c.Limits.PerHour, defaultPerHour)
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) check() error {
	if c.Content != ingest.ContentFull && c.Content != ingest.ContentHashed {
		return bad("content", "%q is neither full nor hashed", c.Content)
	}
	if err := c.checkGate(); err != nil {
		return err
	}
	if c.NATS.Partitions < 1 || c.NATS.Partitions > 1024 {
		return bad("nats.partitions", "%d, want 1 to 1024", c.NATS.Partitions)
	}
	if err := c.checkTokens(); err != nil {
		return err
	}
	if err := c.checkBaselines(); err != nil {
		return err
	}
	if err := c.Actions.check(); err != nil {
		return err
	}
	if b := c.Evidence.Bucket; b != nil {
		if c.Evidence.Dir != "" {
			return bad("evidence.dir", "want a directory or a bucket, not both")
		}
		if err := b.Check(); err != nil {
			return bad("evidence.bucket", "%s", err)
		}
	}
	if _, err := evidence.NewMemories(c.Evidence.Memories); err != nil {
		return bad("evidence.memories", "%s", err)
	}
	if err := c.Limits.check(); err != nil {
		return err
	}
	if err := c.Temporal.check(); err != nil {
		return err
	}
	if c.SLA < 0 {
		return bad("sla", "%s, want more than 0", c.SLA)
	}
	if err := c.checkSlack(); err != nil {
		return err
	}
	if err := c.checkOnCall(); err != nil {
		return err
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return bad("tls", "want both cert and key, or neither")
	}
	if c.Console.URL != "" {
		if err := auth.CheckSite(c.Console.URL); err != nil {
			return bad("console.url", "%s", err)
		}
	}
	return c.checkExposure()
}

func (c *Config) checkGate() error {
	for class, word := range c.Gate.Classes {
		if word != "open" && word != "closed" {
			return bad("gate.classes."+class, "%q is neither open nor closed", word)
		}
	}
	if c.Gate.OnError != "open" && c.Gate.OnError != "closed" {
		return bad("gate.on_error", "%q is neither open nor closed", c.Gate.OnError)
	}
	for _, tool := range slices.Sorted(maps.Keys(c.Gate.Tools)) {
		if effect := c.Gate.Tools[tool]; !slices.Contains([]event.Effect{event.EffectRead, event.EffectWrite, event.EffectEgress, event.EffectExec}, effect) {
			return bad("gate.tools."+tool, "%q is not one of read, write, egress, exec", effect)
		}
	}
	return nil
}

func (c *Config) checkBaselines() error {
	b := c.Baselines
	if !(b.Alpha >= 0 && b.Alpha < 1) { // not a number is refused too
		return bad("baselines.alpha", "%g, want more than 0 and less than 1; 0 is the default", b.Alpha)
	}
	if !(b.Alerts >= 0 && b.Alerts <= 1000) || b.ClassAlerts < 0 || b.TenantAlerts < 0 {
		return bad("baselines", "alerts %g, class_alerts %d and tenant_alerts %d, want numbers that are not negative; 0 is the default", b.Alerts, b.ClassAlerts, b.TenantAlerts)
	}
	if b.AgentsInMemory < 0 || b.Agents < 0 || b.Agents > 0 && b.Agents < b.AgentsInMemory {
		return bad("baselines", "agents_in_memory %d and agents %d, want numbers that are not negative, the second the larger one; 0 is the default", b.AgentsInMemory, b.Agents)
	}
	return nil
}

// checkTokens refuses a token that can't be checked, and one that shares the name of another with other bounds: a name is one sender,
// whose events are stitched together whichever of its tokens brought them.
func (c *Config) checkTokens() error {
	byName := make(map[string]Token)
	for i, t := range c.Tokens {
		field := fmt.Sprintf("tokens.%d", i)
		if digest, err := hex.DecodeString(t.SHA256); t.Name == "" || err != nil || len(digest) != sha256.Size {
			return bad(field, "%q needs a name and the SHA-256 of the token in 64 hex digits", t.Name)
		}
		first, ok := byName[t.Name]
		if ok && !(slices.Equal(first.Services, t.Services) && slices.Equal(first.Classes, t.Classes)) {
			return bad(field, "two of the name %q have other services or classes; a name is one sender", t.Name)
		}
		byName[t.Name] = t
	}
	return nil
}

// checkExposure refuses to listen beyond this machine without TLS and authentication.
func (c *Config) checkExposure() error {
	secure := c.TLS.Proxy || (c.TLS.Cert != "" && c.TLS.Key != "")
	for _, l := range []struct {
		field, address string
		authenticated  bool
		how            string
	}{
		{"listen.otlp_http", c.Listen.OTLPHTTP, len(c.Tokens) > 0, "tokens"},
		{"listen.otlp_grpc", c.Listen.OTLPGRPC, len(c.Tokens) > 0, "tokens"},
		{"listen.ext_authz", c.Listen.ExtAuthz, len(c.Tokens) > 0, "tokens"},
		{"listen.console", c.Listen.Console, len(c.Users) > 0 || c.OIDC != nil, "users or oidc"},
	} {
		if l.address == "" {
			continue // off
		}
		host, _, err := net.SplitHostPort(l.address)
		if err != nil {
			return bad(l.field, "%s", err)
		}
		ip := net.ParseIP(host)
		if host == "localhost" || ip != nil && ip.IsLoopback() {
			continue
		}
		if !secure || !l.authenticated {
			return bad(l.field, "%s can be reached from other machines; set tls (cert and key, or proxy) and %s first", l.address, l.how)
		}
	}
	return nil
}

// maySpeak refuses an agent that is not the sender's to speak for.
func (c *Config) maySpeak(authn string, a event.Agent) error {
	i := slices.IndexFunc(c.Tokens, func(t Token) bool { return t.Name == authn })
	if i < 0 {
		return nil // nobody is authenticated where there are no tokens
	}
	t := c.Tokens[i]
	if len(t.Services) > 0 && (!slices.Contains(t.Services, a.Service) || a.ID != event.AgentID(a.Service, a.Name) && a.ID != a.Service) {
		return fmt.Errorf("agent: the token %q may not speak for %.80q of service %.80q", t.Name, a.ID, a.Service)
	}
	if len(t.Classes) > 0 && !slices.Contains(t.Classes, a.Class) {
		return fmt.Errorf("agent.class: the token %q may not speak for class %.80q", t.Name, a.Class)
	}
	return nil
}

// onError is the declared choice for a class of agents.
func (c *Config) onError(class string) string {
	if word, ok := c.Gate.Classes[class]; ok {
		return word
	}
	return c.Gate.OnError
}

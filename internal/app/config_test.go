package app

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/event"
)

const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func readConfig(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tocsin.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadConfig(file, "")
}

func TestConfigDefaults(t *testing.T) {
	c, err := ReadConfig("", "/data")
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(map[string]any{
		"data": c.Data, "listen": c.Listen, "tls": c.TLS, "nats": c.NATS, "temporal": c.Temporal, "store": c.Store.URL,
		"evidence": c.Evidence.Dir, "alpha": c.Baselines.Alpha, "content": c.Content, "gate": c.Gate.OnError, "sla": c.SLA,
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `alpha: 0
content: full
data: /data
evidence: /data/evidence
gate: open
listen:
    otlp_http: 127.0.0.1:4318
    otlp_grpc: 127.0.0.1:4317
    console: 127.0.0.1:8700
    ext_authz: ""
nats:
    url: ""
    credentials: ""
    partitions: 8
    replicas: 1
    max_age: 720h0m0s
    max_bytes: 21474836480
sla: 24h0m0s
store: /data/store.db
temporal:
    address: ""
    namespace: tocsin
    tls: null
    key_file: ""
    listen: ""
tls:
    cert: ""
    key: ""
    proxy: false
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if c, err = readConfig(t, "data: /elsewhere\ngate: {on_error: closed, classes: {chat: open}}"); err != nil || c.Store.URL != "/elsewhere/store.db" || c.onError("chat") != "open" || c.onError("x") != "closed" {
		t.Errorf("%+v: %v", c, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	const tls, tokens, users = "tls: {proxy: true}\n", "tokens: [{name: a, sha256: " + digest + "}]\n", "users: [{name: ada, password_hash: x, role: lead}]\n"
	tests := []struct{ name, text, want string }{
		{"unknown key", "data: x\nlisten:\n  consle: 127.0.0.1:1\n", ":3: "},
		{"wrong type", "nats: {partitions: many}", ":1:"},
		{"two documents", "data: x\n---\ndata: y\n", "more than one document"},
		{"content", "content: hashd", `content: "hashd" is neither full nor hashed`},
		{"line of a value", "data: x\n\ngate:\n  classes:\n    chat: ajar\n", `tocsin.yaml:5: gate.classes.chat: "ajar"`},
		{"line of a list's item", "tokens:\n  - {name: a, sha256: " + digest + "}\n  - {name: b}\n", `tocsin.yaml:3: tokens.1: "b" needs`},
		{"class", "gate: {classes: {chat: ajar}}", `gate.classes.chat: "ajar" is neither open nor closed`},
		{"on error", "gate: {on_error: ajar}", `gate.on_error: "ajar" is neither open nor closed`},
		{"a tool's effect", "gate: {tools: {get_email: reads}}", `gate.tools.get_email: "reads" is not one of read, write, egress, exec`},
		{"partitions", "nats: {partitions: 1025}", "nats.partitions: 1025, want 1 to 1024"},
		{"negative partitions", "nats: {partitions: -1}", "nats.partitions: -1, want 1 to 1024"},
		{"token without a name", "tokens: [{sha256: " + digest + "}]", `tokens.0: "" needs a name`},
		{"token in clear", "tokens: [{name: a, sha256: hunter2}]", `tokens.0: "a" needs a name and the SHA-256 of the token in 64 hex digits`},
		{"token that is no hex", "tokens: [{name: a, sha256: " + strings.Repeat("x", 64) + "}]", `tokens.0: "a" needs a name`},
		{"one name, two senders", "tokens: [{name: a, sha256: " + digest + "}, {name: a, sha256: " + digest + ", classes: [x]}]", `tokens.1: two of the name "a" have other services or classes; a name is one sender`},
		{"alpha of everything", "baselines: {alpha: 1}", "baselines.alpha: 1, want more than 0 and less than 1"},
		{"alpha of nothing", "baselines: {alpha: -0.1}", "baselines.alpha: -0.1, want"},
		{"alpha is no number", "baselines: {alpha: .nan}", "baselines.alpha: NaN, want"},
		{"fewer agents than in memory", "baselines: {agents: 5, agents_in_memory: 6}", "baselines: agents_in_memory 6 and agents 5, want"},
		{"an action's key", "actions: {revoke_token: {revocation_url: 'http://id.example/'}}", "actions.revoke_token.revocation_url: "},
		{"an unknown action", "actions: {erase: {}}", ":1:"},
		{"an action elsewhere that is none", "actions: {elsewhere: [erase]}", `actions.elsewhere: "erase" is no action beyond the gate`},
		{"the gate's own elsewhere", "actions: {elsewhere: [quarantine]}", `actions.elsewhere: "quarantine" is no action beyond the gate`},
		{"credentials of what is elsewhere", "actions:\n  elsewhere: [revoke-token]\n  end_mcp_session: {}\n", "3: actions.end_mcp_session: actions are carried out elsewhere"},
		{"workflows listen to others", "temporal: {listen: '0.0.0.0:7233'}", "temporal.listen: want 127.0.0.1 and a port"},
		{"workflows elsewhere listen", "temporal: {address: 'temporal:7233', listen: '127.0.0.1:7233'}", "temporal.listen: is of the embedded server"},
		{"TLS to the embedded server", "temporal: {tls: {ca: ca.pem}}", "temporal.tls: is of an external server"},
		{"a certificate alone", "temporal: {address: 'temporal:7233', tls: {cert: c.pem}}", "temporal.tls: want both cert and key"},
		{"no payload keys", "temporal: {key_file: none.keys}", "temporal.key_file: read payload keys: "},
		{"no CA", "temporal: {address: 'temporal:7233', tls: {ca: none.pem}}", "temporal.tls: read ca: "},
		{"directory and bucket", "evidence: {dir: /data, bucket: {name: vault, region: eu-1}}", "evidence.dir: want a directory or a bucket, not both"},
		{"bucket", "evidence: {bucket: {name: vault, region: eu-1, endpoint: http://s3.example.com}}", "evidence.bucket: endpoint: "},
		{"memory", "evidence: {memories: {notes: {agent: a, tables: [notes]}}}", `evidence.memories: notes: tables: "notes" is not of the form schema.table`},
		{"workload of the cluster", "actions:\n  scale_to_zero:\n    cluster: {server: ftp://kube}\n", "3: actions.scale_to_zero.cluster.server: "},
		{"sla", "sla: -1h", "sla: -1h0m0s, want more than 0"},
		{"key without certificate", "tls: {key: k.pem}", "tls: want both cert and key, or neither"},
		{"certificate without key", "tls: {cert: c.pem}", "tls: want both cert and key, or neither"},
		{"no port", "listen: {console: localhost}", "listen.console: address localhost: missing port"},
		{"every interface", "listen: {otlp_http: ':4318'}", "listen.otlp_http: :4318 can be reached from other machines; set tls (cert and key, or proxy) and tokens first"},
		{"every interface of IPv6", "listen: {otlp_grpc: '[::]:4317'}", "listen.otlp_grpc: [::]:4317 can be reached"},
		{"the gate for Envoy", tls + "listen: {ext_authz: ':9191'}", "listen.ext_authz: :9191 can be reached from other machines; set tls (cert and key, or proxy) and tokens first"},
		{"a name", "listen: {console: 'tocsin.example:80'}", "listen.console: tocsin.example:80 can be reached from other machines; set tls (cert and key, or proxy) and users or oidc first"},
		{"authentication without TLS", tokens + "listen: {otlp_http: '0.0.0.0:1'}", "listen.otlp_http: 0.0.0.0:1 can be reached"},
		{"TLS without authentication", tls + "listen: {otlp_http: '0.0.0.0:1'}", "listen.otlp_http: 0.0.0.0:1 can be reached"},
		{"tokens are no sign-in", tls + tokens + "listen: {console: '0.0.0.0:1'}", "listen.console: 0.0.0.0:1 can be reached"},
		{"users are no tokens", tls + users + "listen: {otlp_grpc: '0.0.0.0:1'}", "listen.otlp_grpc: 0.0.0.0:1 can be reached"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := readConfig(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadConfig = %v, want %s", err, tt.want)
			}
		})
	}
	for _, text := range []string{
		"listen: {otlp_http: 'localhost:1', otlp_grpc: '[::1]:1', console: '127.9.9.9:1'}",
		"tokens: [{name: a, sha256: " + digest + ", services: [s]}, {name: a, sha256: " + digest + ", services: [s]}]",
		tls + tokens + users + "listen: {otlp_http: ':1', otlp_grpc: ':2', console: ':3'}",
		"tls: {cert: c.pem, key: k.pem}\n" + tokens + "oidc: {issuer: 'https://id.example'}\nlisten: {otlp_http: ':1', otlp_grpc: ':2', console: ':3'}",
	} {
		if _, err := readConfig(t, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none.yaml"), ""); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	first, err := secret(dir, "salt", 32)
	if err != nil || len(first) != 32 {
		t.Fatal(first, err)
	}
	again, err := secret(dir, "salt", 32)
	if err != nil || !cmp.Equal(first, again) {
		t.Fatalf("a second start makes another secret: %v", err)
	}
	if other, _ := secret(dir, "other", 32); cmp.Equal(first, other) {
		t.Error("two secrets are equal")
	}
	if info, err := os.Stat(filepath.Join(dir, "salt")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v: others can read a secret", info.Mode(), err)
	}
	if _, err := secret(dir, "salt", 16); err == nil {
		t.Error("a secret of another length is used")
	}
	if _, err := secret(filepath.Join(dir, "none"), "salt", 16); err == nil {
		t.Error("a secret that can't be written is used")
	}
	key, err := grantKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := grantKey(dir); err != nil || !key.Equal(same) || len(key) != ed25519.PrivateKeySize {
		t.Errorf("a second start makes another key: %v", err)
	}
}

// A token that is bound to services and classes writes events in no other name.
func TestTokensSpeakForTheirOwn(t *testing.T) {
	c := Config{Tokens: []Token{{Name: "shop", Services: []string{"shop"}, Classes: []string{"sales"}}, {Name: "free"}}}
	for _, tt := range []struct {
		name  string
		authn string
		agent event.Agent
		want  string
	}{
		{"its own agent", "shop", event.Agent{ID: "shop/bot", Service: "shop", Name: "bot", Class: "sales"}, ""},
		{"its own service", "shop", event.Agent{ID: "shop", Service: "shop", Class: "sales"}, ""},
		{"another service", "shop", event.Agent{ID: "bank/bot", Service: "bank", Name: "bot", Class: "sales"}, `agent: the token "shop" may not speak for "bank/bot" of service "bank"`},
		{"another's id", "shop", event.Agent{ID: "bank/bot", Service: "shop", Name: "bot", Class: "sales"}, `agent: the token "shop" may not speak for "bank/bot" of service "shop"`},
		{"another class", "shop", event.Agent{ID: "shop/bot", Service: "shop", Name: "bot", Class: "payments"}, `agent.class: the token "shop" may not speak for class "payments"`},
		{"a token without bounds", "free", event.Agent{ID: "bank/bot", Service: "bank"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := c.maySpeak(tt.authn, tt.agent); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

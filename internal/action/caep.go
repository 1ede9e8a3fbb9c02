package action

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// The names in playbooks and plans.
const (
	NameSessionRevoked = "caep-session-revoked"
	NameRiskChange     = "caep-risk-change"
)

// Event types of the OpenID Continuous Access Evaluation Profile 1.0, sections 3.1 and 3.8.
const (
	typeSessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	typeRiskChange     = "https://schemas.openid.net/secevent/caep/event-type/risk-level-change"
)

// CAEPOptions are the receiver of security event tokens (SETs), and who the agents are there.
type CAEPOptions struct {
	Endpoint  string `yaml:"endpoint"` // of push delivery (RFC 8935)
	TokenFile string `yaml:"token_file"`
	Issuer    string `yaml:"issuer"`   // iss of the SETs
	Audience  string `yaml:"audience"` // aud of the SETs
	KeyFile   string `yaml:"key_file"` // PEM of a PKCS #8 key on P-256, which signs them
	// SubjectIssuer and Subjects name each agent as the receiver knows it (RFC 9493, format iss_sub).
	SubjectIssuer string            `yaml:"subject_issuer"`
	Subjects      map[string]string `yaml:"subjects"`
}

// Check names the first option that can't be right.
func (o *CAEPOptions) Check() error {
	if err := checkURL("endpoint", o.Endpoint); err != nil {
		return err
	}
	for _, f := range [][2]string{{"issuer", o.Issuer}, {"audience", o.Audience}, {"subject_issuer", o.SubjectIssuer}} {
		if f[1] == "" {
			return badOption(f[0], "is missing")
		}
	}
	if len(o.Subjects) == 0 {
		return badOption("subjects", "is empty: name the agents as the receiver knows them")
	}
	if o.TokenFile != "" {
		if err := checkSecret("token_file", o.TokenFile); err != nil {
			return err
		}
	}
	if _, _, err := o.key(); err != nil {
		return badOption("key_file", "%v", err)
	}
	return nil
}

// key reads the key that signs. Its id is its thumbprint (RFC 7638), so that a new key has another.
func (o *CAEPOptions) key() (*ecdsa.PrivateKey, string, error) {
	text, err := readSecret(o.KeyFile)
	if err != nil {
		return nil, "", err
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, "", fmt.Errorf("read key: %s is no PEM", o.KeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, "", errors.New("read key: it is not on the curve P-256")
	}
	public := jose.JSONWebKey{Key: key.Public()}
	sum, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", fmt.Errorf("read key: %w", err)
	}
	return key, base64.RawURLEncoding.EncodeToString(sum), nil
}

// JWKS is the set of keys by which a receiver verifies SETs.
func (o *CAEPOptions) JWKS() ([]byte, error) {
	key, id, err := o.key()
	if err != nil {
		return nil, err
	}
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}})
}

// transmitter makes and delivers SETs.
type transmitter struct {
	options CAEPOptions
	client  *http.Client
	now     func() time.Time
}

// subject is an agent, and where the target names one its session (Shared Signals Framework 1.0, section 3.2).
func (t *transmitter) subject(target approval.Target) (map[string]any, error) {
	id, ok := t.options.Subjects[target.Agent]
	switch {
	case !ok:
		return nil, fmt.Errorf("actions.caep.subjects has no agent %q", target.Agent)
	case target.Tool != "":
		return nil, errors.New("a tool is no subject of an event")
	}
	agent := map[string]any{"format": "iss_sub", "iss": t.options.SubjectIssuer, "sub": id}
	if target.Session == "" {
		return agent, nil
	}
	return map[string]any{"format": "complex", "user": agent, "session": map[string]any{"format": "opaque", "id": target.Session}}, nil
}

// plan is what is alike in the plans of both.
func (t *transmitter) plan(p approval.Plan, says string) (Change, error) {
	subject, err := t.subject(p.Target)
	if err != nil {
		return Change{}, err
	}
	text, err := json.Marshal(subject)
	if err != nil {
		return Change{}, fmt.Errorf("encode subject: %w", err)
	}
	return Change{Lines: []string{fmt.Sprintf("%s is told that %s", host(t.options.Endpoint), says), "the subject is " + string(text)}, Blast: 1}, nil
}

// send delivers a SET (RFC 8417) by push (RFC 8935). Its jti makes a second delivery the same event for the receiver.
func (t *transmitter) send(ctx context.Context, l Lease, jti, kind string, event map[string]any) error {
	subject, err := t.subject(l.Plan.Target)
	if err != nil {
		return err
	}
	event["event_timestamp"] = t.now().Unix()
	event["initiating_entity"] = "admin"
	event["reason_admin"] = map[string]string{"en": "Tocsin, incident " + l.Incident}
	claims, err := json.Marshal(map[string]any{
		"iss": t.options.Issuer, "aud": t.options.Audience, "iat": t.now().Unix(), "jti": jti, "txn": l.ID,
		"sub_id": subject, "events": map[string]any{kind: event},
	})
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	set, err := t.sign(claims)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.options.Endpoint, strings.NewReader(set))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/secevent+jwt")
	request.Header.Set("Accept", "application/json")
	if t.options.TokenFile != "" {
		token, err := readSecret(t.options.TokenFile)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	status, body, err := call(t.client, request)
	if err != nil || status == http.StatusAccepted {
		return err
	}
	var refused struct {
		Err string `json:"err"`
	}
	known := []string{"invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied"}
	if json.Unmarshal(body, &refused) != nil || !slices.Contains(known, refused.Err) {
		refused.Err = "no code of RFC 8935"
	}
	return fmt.Errorf("%s answered the event with status %d (%s)", request.URL.Host, status, refused.Err)
}

func (t *transmitter) sign(claims []byte) (string, error) {
	key, id, err := t.options.key()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, (&jose.SignerOptions{}).WithType("secevent+jwt"))
	if err != nil {
		return "", fmt.Errorf("sign event: %w", err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("sign event: %w", err)
	}
	return signed.CompactSerialize()
}

// SessionRevoked tells a receiver of shared signals that an agent's sessions, or one of them, are revoked.
type SessionRevoked struct {
	transmitter
	irreversible
	noLag
	noSnapshot
}

// NewSessionRevoked returns the action.
func NewSessionRevoked(o CAEPOptions, now func() time.Time) *SessionRevoked {
	return &SessionRevoked{transmitter: transmitter{o, newClient(nil), now}}
}

const caepCantStop = "Whatever does not listen to these events, and what the receiver chooses not to do."

// Describe implements Action.
func (s *SessionRevoked) Describe() Description {
	return Description{
		Name: NameSessionRevoked, Class: approval.Contain, Targets: []string{"agent", "session"}, Idempotent: true, Irreversible: true, Unverified: true,
		Effect:      "A receiver of shared signals is told that the agent's sessions are revoked (CAEP).",
		Undo:        "It can't be undone: there is no event that takes it back.",
		DoesNotStop: caepCantStop,
	}
}

// Plan implements Action.
func (s *SessionRevoked) Plan(_ context.Context, in Input) (Change, error) {
	what := "all sessions of " + in.Plan.Target.Agent + " are revoked"
	if in.Plan.Target.Session != "" {
		what = "a session of " + in.Plan.Target.Agent + " is revoked"
	}
	return s.plan(in.Plan, what)
}

// Apply implements Action. The receiver's 202 says that it has the event, not that it acted.
func (s *SessionRevoked) Apply(ctx context.Context, l Lease) error {
	return s.send(ctx, l, l.ID, typeSessionRevoked, map[string]any{})
}

// Verify implements Action: what the receiver did can't be seen.
func (*SessionRevoked) Verify(context.Context, Lease) (bool, error) { return false, nil }

// RiskChange tells a receiver of shared signals that an agent's risk level changed, and on its undo that it changed back.
type RiskChange struct {
	transmitter
	noLag
	noSnapshot
}

// NewRiskChange returns the action.
func NewRiskChange(o CAEPOptions, now func() time.Time) *RiskChange {
	return &RiskChange{transmitter: transmitter{o, newClient(nil), now}}
}

// levels are the risk levels of CAEP 1.0, section 3.8.1.
func levels() []string { return []string{"LOW", "MEDIUM", "HIGH"} }

// Describe implements Action.
func (r *RiskChange) Describe() Description {
	return Description{
		Name: NameRiskChange, Class: approval.Contain, Targets: []string{"agent", "session"}, Idempotent: true, Unverified: true,
		Effect:      "A receiver of shared signals is told that the agent's risk level changed (CAEP).",
		Undo:        "It is told the earlier level when the lease ends, or earlier by a lead.",
		DoesNotStop: caepCantStop,
		Params:      map[string]string{"level": "LOW, MEDIUM or HIGH", "previous": "the level to go back to"}, Required: []string{"level", "previous"},
	}
}

// Plan implements Action.
func (r *RiskChange) Plan(_ context.Context, in Input) (Change, error) {
	from, to := in.Plan.Params["previous"], in.Plan.Params["level"]
	if !slices.Contains(levels(), from) || !slices.Contains(levels(), to) || from == to {
		return Change{}, fmt.Errorf("level and previous: %q and %q, want two of %s", to, from, strings.Join(levels(), ", "))
	}
	return r.plan(in.Plan, fmt.Sprintf("the risk level of %s changed from %s to %s", in.Plan.Target.Agent, from, to))
}

// Apply implements Action.
func (r *RiskChange) Apply(ctx context.Context, l Lease) error {
	return r.change(ctx, l, l.ID, l.Plan.Params["previous"], l.Plan.Params["level"])
}

// Undo implements Action.
func (r *RiskChange) Undo(ctx context.Context, l Lease) error {
	return r.change(ctx, l, l.ID+"/undo", l.Plan.Params["level"], l.Plan.Params["previous"])
}

func (r *RiskChange) change(ctx context.Context, l Lease, jti, from, to string) error {
	principal := "USER" // an agent is a principal like a user; the profile knows no word of its own for it
	if l.Plan.Target.Session != "" {
		principal = "SESSION"
	}
	return r.send(ctx, l, jti, typeRiskChange, map[string]any{"principal": principal, "current_level": to, "previous_level": from, "risk_reason": "SECURITY_INCIDENT"})
}

// Verify implements Action: what the receiver did can't be seen.
func (*RiskChange) Verify(context.Context, Lease) (bool, error) { return false, nil }

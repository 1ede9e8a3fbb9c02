package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameRevokeLeases is the name in playbooks and plans.
const NameRevokeLeases = "revoke-leases"

// RevokeLeasesOptions are a server with the lease API of Vault (OpenBao has it too), and the prefixes that may be revoked there.
type RevokeLeasesOptions struct {
	Address   string `yaml:"address"`
	Namespace string `yaml:"namespace"`
	// TokenFile holds a token that may sudo sys/leases/revoke-prefix/<prefix>, without the slash at its end, and sys/leases/lookup/<prefix>,
	// and nothing else.
	TokenFile string                   `yaml:"token_file"`
	Prefixes  map[string]PrefixOptions `yaml:"prefixes"`
}

// PrefixOptions are of one prefix of leases.
type PrefixOptions struct {
	Agent  string `yaml:"agent"`  // that holds them
	Prefix string `yaml:"prefix"` // database/creds/billing/
}

// leasePrefix ends with a slash, so that it names no neighbour whose name begins alike, and has more than one part, so that it is never
// a whole mount.
var leasePrefix = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+/$`)

// Check names the first option that can't be right.
func (o *RevokeLeasesOptions) Check() error {
	if err := checkURL("address", o.Address); err != nil {
		return err
	}
	if err := checkSecret("token_file", o.TokenFile); err != nil {
		return err
	}
	if len(o.Prefixes) == 0 {
		return badOption("prefixes", "is empty")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Prefixes)) {
		if p := o.Prefixes[name]; p.Agent == "" || !leasePrefix.MatchString(p.Prefix) {
			return badOption("prefixes."+name, "want agent, and a prefix of at least two parts that ends with a slash, like database/creds/billing/")
		}
	}
	return nil
}

// RevokeLeases revokes the credentials that a secrets server gave out under a prefix. It never forces: a forced revocation forgets the
// lease even where the credential still works.
type RevokeLeases struct {
	irreversible
	noLag
	noSnapshot
	options RevokeLeasesOptions
	client  *http.Client
}

// NewRevokeLeases returns the action.
func NewRevokeLeases(o RevokeLeasesOptions) *RevokeLeases {
	return &RevokeLeases{options: o, client: newClient(nil)}
}

// Describe implements Action.
func (r *RevokeLeases) Describe() Description {
	return Description{
		Name: NameRevokeLeases, Class: approval.Contain, Targets: []string{"agent"}, Idempotent: true, Irreversible: true,
		Effect:      "The credentials that a secrets server gave the agent are revoked.",
		Undo:        "It can't be undone: whoever needs them asks for new ones.",
		DoesNotStop: "An agent that can still ask for new ones, static secrets, and connections that were opened before.",
		Params:      map[string]string{"leases": "a name of actions.revoke_leases.prefixes"}, Required: []string{"leases"},
	}
}

func (r *RevokeLeases) prefix(p approval.Plan) (string, error) {
	o, ok := r.options.Prefixes[p.Params["leases"]]
	if !ok {
		return "", fmt.Errorf("leases: actions.revoke_leases.prefixes has no %q", p.Params["leases"])
	}
	if o.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "" {
		return "", fmt.Errorf("leases: %q are of agent %s, not of %s", p.Params["leases"], o.Agent, p.Target)
	}
	return o.Prefix, nil
}

// Plan implements Action. How many leases there are is no part of it: that changes by the minute, and the approval is for the prefix.
func (r *RevokeLeases) Plan(ctx context.Context, in Input) (Change, error) {
	prefix, err := r.prefix(in.Plan)
	if err != nil {
		return Change{}, err
	}
	held, err := r.held(ctx, prefix)
	if err != nil {
		return Change{}, err
	}
	if !held {
		return Change{}, fmt.Errorf("%s holds no lease under %s: there is nothing to revoke", host(r.options.Address), prefix)
	}
	return Change{Lines: []string{fmt.Sprintf("%s revokes every lease under %s, whoever holds it", host(r.options.Address), prefix)}, Blast: 1}, nil
}

// Apply implements Action. The server writes to no path that ends with a slash, and puts one behind the prefix itself. With sync it
// answers when all of them are revoked where they are used, and not when it has queued that.
func (r *RevokeLeases) Apply(ctx context.Context, l Lease) error {
	prefix, err := r.prefix(l.Plan)
	if err != nil {
		return err
	}
	status, _, err := r.call(ctx, http.MethodPost, "revoke-prefix/"+strings.TrimSuffix(prefix, "/"), `{"sync":true}`)
	if err == nil && status != http.StatusNoContent && status != http.StatusOK {
		err = fmt.Errorf("%s answered the revocation with status %d", host(r.options.Address), status)
	}
	return err
}

// Verify implements Action.
func (r *RevokeLeases) Verify(ctx context.Context, l Lease) (bool, error) {
	prefix, err := r.prefix(l.Plan)
	if err != nil {
		return false, err
	}
	held, err := r.held(ctx, prefix)
	return err == nil && !held, err
}

// held reports whether the server holds a lease under the prefix. That there is none it says with 404 and no error; 404 with one is
// about the path or the server, and proves nothing.
func (r *RevokeLeases) held(ctx context.Context, prefix string) (bool, error) {
	status, body, err := r.call(ctx, "LIST", "lookup/"+prefix, "")
	if err != nil {
		return false, err
	}
	var answer struct {
		Errors []string `json:"errors"`
		Data   *struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	unreadable := json.Unmarshal(body, &answer)
	switch {
	case unreadable == nil && status == http.StatusNotFound && answer.Errors != nil && len(answer.Errors) == 0:
		return false, nil
	case unreadable == nil && status == http.StatusOK && answer.Data != nil:
		return len(answer.Data.Keys) > 0, nil
	}
	return false, errors.Join(fmt.Errorf("look up leases at %s: status %d says nothing about them", host(r.options.Address), status), unreadable)
}

func (r *RevokeLeases) call(ctx context.Context, method, path, body string) (int, []byte, error) {
	token, err := readSecret(r.options.TokenFile)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(r.options.Address, "/")+"/v1/sys/leases/"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("X-Vault-Token", token)
	request.Header.Set("X-Vault-Request", "true")
	if r.options.Namespace != "" {
		request.Header.Set("X-Vault-Namespace", r.options.Namespace)
	}
	return call(r.client, request)
}

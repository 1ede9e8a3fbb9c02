package action

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// ClusterOptions are a Kubernetes API server. Each action has a service account of its own there, and no other's rights.
type ClusterOptions struct {
	Server    string `yaml:"server"`
	CAFile    string `yaml:"ca_file"` // what the server's certificate is checked against; this machine's own roots where it is missing
	TokenFile string `yaml:"token_file"`
}

// WorkloadOptions are of one workload that an agent runs as.
type WorkloadOptions struct {
	Agent     string `yaml:"agent"`
	Namespace string `yaml:"namespace"`
	Kind      string `yaml:"kind"` // Deployment, StatefulSet or ReplicaSet
	Name      string `yaml:"name"`
}

// Bounds of what is read of a cluster. A pod has a few kilobytes as JSON, and a tenth of a megabyte at worst.
const (
	maxPods    = 100 // of one workload that may be acted on
	maxCluster = 16 << 20
	maxName    = 253
)

var (
	nameOfObject    = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`) // RFC 1123, as the server has it
	nameOfNamespace = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// resources are the kinds that can be acted on, with their names in paths.
func resources() map[string]string {
	return map[string]string{"Deployment": "deployments", "StatefulSet": "statefulsets", "ReplicaSet": "replicasets"}
}

// ownNamespace is where a pod finds the name of its namespace.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// checkCluster names the first option that can't be right. The namespaces of the cluster itself and the one that Tocsin runs in, which
// own tells, are never acted on.
func checkCluster(c ClusterOptions, workloads map[string]WorkloadOptions, own string) error {
	if err := checkURL("cluster.server", c.Server); err != nil {
		return err
	}
	if err := checkSecret("cluster.token_file", c.TokenFile); err != nil {
		return err
	}
	if _, err := c.roots(); err != nil {
		return badOption("cluster.ca_file", "%v", err)
	}
	if len(workloads) == 0 {
		return badOption("workloads", "is empty")
	}
	home, err := os.ReadFile(own)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return badOption("workloads", "can't tell which namespace is Tocsin's own: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(workloads)) {
		w, field := workloads[name], "workloads."+name
		switch {
		case w.Agent == "":
			return badOption(field+".agent", "is missing")
		case resources()[w.Kind] == "":
			return badOption(field+".kind", "%q is not one of Deployment, StatefulSet, ReplicaSet", w.Kind)
		case !nameOfNamespace.MatchString(w.Namespace):
			return badOption(field+".namespace", "%q is no name of a namespace", w.Namespace)
		case len(w.Name) > maxName || !nameOfObject.MatchString(w.Name):
			return badOption(field+".name", "%q is no name of a workload", w.Name)
		case strings.HasPrefix(w.Namespace, "kube-"):
			return badOption(field+".namespace", "%s belongs to the cluster itself", w.Namespace)
		case w.Namespace == strings.TrimSpace(string(home)):
			return badOption(field+".namespace", "%s is where Tocsin runs: what it needs to respond is not acted on", w.Namespace)
		}
	}
	return nil
}

// workloadOf is the workload that a plan names.
func workloadOf(section string, workloads map[string]WorkloadOptions, p approval.Plan) (WorkloadOptions, error) {
	w, ok := workloads[p.Params["workload"]]
	if !ok {
		return w, fmt.Errorf("workload: actions.%s.workloads has no %q", section, p.Params["workload"])
	}
	if w.Agent != p.Target.Agent || p.Target.Session != "" || p.Target.Tool != "" {
		return w, fmt.Errorf("workload: %q is of agent %s, not of %s", p.Params["workload"], w.Agent, p.Target)
	}
	return w, nil
}

// String names a workload for people.
func (w WorkloadOptions) String() string { return w.Kind + " " + w.Namespace + "/" + w.Name }

func (w WorkloadOptions) path() string {
	return "/apis/apps/v1/namespaces/" + w.Namespace + "/" + resources()[w.Kind] + "/" + w.Name
}

func (c ClusterOptions) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	text, err := readSecret(c.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
	}
	return pool, nil
}

// cluster is a session with an API server, for one step of one action.
type cluster struct {
	server, token string
	client        *http.Client
}

// connect reads the credentials anew, so that they can be rotated. What it returns is closed.
func (c ClusterOptions) connect() (*cluster, error) {
	token, err := readSecret(c.TokenFile)
	if err != nil {
		return nil, err
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	transport := newTransport(nil)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &cluster{strings.TrimRight(c.Server, "/"), token, clientOf(transport)}, nil
}

func (c *cluster) close() { c.client.CloseIdleConnections() }

// What the server says of an object, beside what it is.
var (
	errAbsent   = errors.New("there is none")
	errConflict = errors.New("it was changed at the same moment")
)

// do sends a request and decodes the object that answers it.
func (c *cluster) do(ctx context.Context, method, path string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json") // RFC 7386
	}
	status, answer, err := callUpTo(c.client, r, maxCluster)
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		if err := json.Unmarshal(answer, into); err != nil {
			return fmt.Errorf("decode answer of %s: %w", host(c.server), err)
		}
		return nil
	}
	var said struct {
		Kind, Reason, Message string
		Details               struct{ Name string }
	}
	// That an object is not there only the API itself can say, of that object: a 404 of a proxy, or of a path, is no such word.
	if json.Unmarshal(answer, &said) == nil && said.Kind == "Status" && said.Details.Name != "" {
		switch said.Reason {
		case "NotFound":
			return errAbsent
		case "Conflict":
			return errConflict
		}
	}
	return fmt.Errorf("%s says %d: %.300q", host(c.server), status, said.Message)
}

// meta is what every object has.
type meta struct {
	Name            string            `json:"name,omitempty"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Generation      int64             `json:"generation,omitempty"` // how often its specification was changed
	Labels          map[string]string `json:"labels,omitempty"`
	OwnerReferences []struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences,omitempty"`
}

type workload struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Replicas *int     `json:"replicas"`
		Selector selector `json:"selector"`
	} `json:"spec"`
}

type pod struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		HostNetwork bool `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// workload reads a workload. One whose selector is empty would stand for all pods of its namespace.
func (c *cluster) workload(ctx context.Context, o WorkloadOptions) (w workload, err error) {
	if err := c.do(ctx, http.MethodGet, o.path(), nil, &w); err != nil {
		return w, fmt.Errorf("read %s: %w", o, err)
	}
	if w.Metadata.UID == "" || w.Spec.Replicas == nil || len(w.Spec.Selector.MatchLabels)+len(w.Spec.Selector.MatchExpressions) == 0 {
		return w, fmt.Errorf("read %s: the answer is no workload with replicas and a selector", o)
	}
	return w, nil
}

// pods are those of a workload that have not ended, by name. One that is being ended still acts.
func (c *cluster) pods(ctx context.Context, o WorkloadOptions, s selector) (out []pod, err error) {
	text, err := s.query()
	if err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", o, err)
	}
	var list struct {
		Kind  string `json:"kind"`
		Items []pod  `json:"items"`
	}
	query := url.Values{"labelSelector": {text}, "limit": {fmt.Sprint(maxPods + 1)}}
	if err := c.do(ctx, http.MethodGet, "/api/v1/namespaces/"+o.Namespace+"/pods?"+query.Encode(), nil, &list); err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", o, err)
	}
	if list.Kind != "PodList" || len(list.Items) > maxPods {
		return nil, fmt.Errorf("list pods of %s: want a list of at most %d", o, maxPods)
	}
	for _, p := range list.Items {
		if !nameOfObject.MatchString(p.Metadata.Name) || len(p.Metadata.Name) > maxName || p.Metadata.UID == "" {
			return nil, fmt.Errorf("list pods of %s: %.80q is no name of a pod", o, p.Metadata.Name)
		}
		if p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b pod) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return out, nil
}

// selector is a label selector of the API. An empty one selects everything.
type selector struct {
	MatchLabels      map[string]string `json:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

// matches reports whether labels are selected. As in the API, an absent label is not one of any values.
func (s selector) matches(labels map[string]string) (bool, error) {
	for key, want := range s.MatchLabels {
		if got, ok := labels[key]; !ok || got != want {
			return false, nil
		}
	}
	for _, e := range s.MatchExpressions {
		got, has := labels[e.Key]
		in := has && slices.Contains(e.Values, got)
		holds, known := map[string]bool{"In": in, "NotIn": !in, "Exists": has, "DoesNotExist": !has}[e.Operator]
		if !known {
			return false, fmt.Errorf("a selector has the unknown operator %.40q", e.Operator)
		}
		if !holds {
			return false, nil
		}
	}
	return true, nil
}

// query is the selector in the words of a list's parameter.
func (s selector) query() (string, error) {
	var terms []string
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		terms = append(terms, key+"="+s.MatchLabels[key])
	}
	for _, e := range s.MatchExpressions {
		values := " (" + strings.Join(e.Values, ",") + ")"
		term, known := map[string]string{"In": e.Key + " in" + values, "NotIn": e.Key + " notin" + values, "Exists": e.Key, "DoesNotExist": "!" + e.Key}[e.Operator]
		if !known {
			return "", fmt.Errorf("a selector has the unknown operator %.40q", e.Operator)
		}
		terms = append(terms, term)
	}
	return strings.Join(terms, ","), nil
}

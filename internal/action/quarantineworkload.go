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

// NameQuarantineWorkload is the name in playbooks and plans.
const NameQuarantineWorkload = "quarantine-workload"

// QuarantineWorkloadOptions are the workloads whose pods may be cut off from the network, by name.
type QuarantineWorkloadOptions struct {
	Cluster ClusterOptions `yaml:"cluster"`
	// Label is the key=value that a NetworkPolicy which lets nothing through selects.
	Label     string                     `yaml:"label"`
	Workloads map[string]WorkloadOptions `yaml:"workloads"`
}

var (
	labelKey   = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
)

// Check names the first option that can't be right.
func (o *QuarantineWorkloadOptions) Check() error {
	if key, value, _ := strings.Cut(o.Label, "="); !labelKey.MatchString(key) || !labelValue.MatchString(value) {
		return badOption("label", "%q is not of the form key=value", o.Label)
	}
	return checkCluster(o.Cluster, o.Workloads, ownNamespace)
}

// QuarantineWorkload gives the pods of a workload a label by which a NetworkPolicy cuts them off. They stay alive: their memory is
// evidence.
type QuarantineWorkload struct {
	noLag
	options    QuarantineWorkloadOptions
	key, value string
}

// NewQuarantineWorkload returns the action.
func NewQuarantineWorkload(o QuarantineWorkloadOptions) *QuarantineWorkload {
	q := &QuarantineWorkload{options: o}
	q.key, q.value, _ = strings.Cut(o.Label, "=")
	return q
}

// Describe implements Action.
func (q *QuarantineWorkload) Describe() Description {
	return Description{
		Name: NameQuarantineWorkload, Class: approval.Contain, Targets: []string{"agent"}, Idempotent: true,
		Effect:      "The agent's pods in Kubernetes get a label by which a network policy lets nothing in and nothing out. They stay alive.",
		Undo:        "The label is as it was, on each pod that is still there, when the lease ends, or earlier by a lead.",
		DoesNotStop: "Pods that are made later, connections that are open where the network plugin lets them be, a plugin that enforces no policies, and policies of other kinds than NetworkPolicy.",
		Params:      map[string]string{"workload": "a name of actions.quarantine_workload.workloads"}, Required: []string{"workload"},
	}
}

// labelled is one pod as it was.
type labelled struct {
	Pod string  `json:"pod"`
	UID string  `json:"uid"`
	Was *string `json:"was"` // the label's value; nil where there was none
}

// on opens a session about the workload of a plan.
func (q *QuarantineWorkload) on(p approval.Plan) (*cluster, WorkloadOptions, error) {
	o, err := workloadOf("quarantine_workload", q.options.Workloads, p)
	if err != nil {
		return nil, o, err
	}
	c, err := q.options.Cluster.connect()
	return c, o, err
}

// look reads the pods that act now, and those of them that don't have the label.
func (q *QuarantineWorkload) look(ctx context.Context, c *cluster, o WorkloadOptions) (all []pod, without []labelled, err error) {
	w, err := c.workload(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if all, err = c.pods(ctx, o, w.Spec.Selector); err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		if was := p.label(q.key); was == nil || *was != q.value {
			without = append(without, labelled{p.Metadata.Name, p.Metadata.UID, was})
		}
	}
	return all, without, nil
}

func (p pod) label(key string) *string {
	if value, ok := p.Metadata.Labels[key]; ok {
		return &value
	}
	return nil
}

// policy is a NetworkPolicy. The server fills in its types.
type policy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		PodSelector selector          `json:"podSelector"`
		PolicyTypes []string          `json:"policyTypes"`
		Ingress     []json.RawMessage `json:"ingress"`
		Egress      []json.RawMessage `json:"egress"`
	} `json:"spec"`
}

// open says why pods could talk to somebody once they have the label; empty when they can't, by the policies that are named. Policies
// add up: what one of them lets through, no other stops.
func (q *QuarantineWorkload) open(ctx context.Context, c *cluster, namespace string, pods []pod) (why string, by []string, err error) {
	var list struct {
		Kind  string   `json:"kind"`
		Items []policy `json:"items"`
	}
	if err := c.do(ctx, http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/"+namespace+"/networkpolicies", nil, &list); err != nil {
		return "", nil, fmt.Errorf("list network policies: %w", err)
	}
	if list.Kind != "NetworkPolicyList" {
		return "", nil, fmt.Errorf("list network policies: the answer is %.40q", list.Kind)
	}
	denying := make(map[string]bool)
	for _, p := range pods {
		if p.Spec.HostNetwork {
			return fmt.Sprintf("pod %s is in its node's network, which no policy is about", p.Metadata.Name), nil, nil
		}
		labels := map[string]string{}
		maps.Copy(labels, p.Metadata.Labels)
		labels[q.key] = q.value
		denied := make(map[string]bool)
		for _, policy := range list.Items {
			selected, err := policy.Spec.PodSelector.matches(labels)
			if err != nil {
				return "", nil, fmt.Errorf("network policy %.80q: %w", policy.Metadata.Name, err)
			}
			if !selected {
				continue
			}
			for direction, rules := range map[string][]json.RawMessage{"Ingress": policy.Spec.Ingress, "Egress": policy.Spec.Egress} {
				if !slices.Contains(policy.Spec.PolicyTypes, direction) {
					continue
				}
				if len(rules) > 0 {
					return fmt.Sprintf("network policy %.80q would still let something through to pod %s or from it, because policies add up", policy.Metadata.Name, p.Metadata.Name), nil, nil
				}
				denied[direction], denying[policy.Metadata.Name] = true, true
			}
		}
		if !denied["Ingress"] || !denied["Egress"] {
			return fmt.Sprintf("no network policy of namespace %s denies pod %s with %s=%s all ingress and all egress", namespace, p.Metadata.Name, q.key, q.value), nil, nil
		}
	}
	return "", slices.Sorted(maps.Keys(denying)), nil
}

// Plan implements Action.
func (q *QuarantineWorkload) Plan(ctx context.Context, in Input) (Change, error) {
	c, o, err := q.on(in.Plan)
	if err != nil {
		return Change{}, err
	}
	defer c.close()
	all, without, err := q.look(ctx, c, o)
	if err != nil {
		return Change{}, err
	}
	if len(without) == 0 {
		return Change{}, fmt.Errorf("%s has no pod without %s=%s: there is nothing to quarantine", o, q.key, q.value)
	}
	why, by, err := q.open(ctx, c, o.Namespace, all)
	if err != nil {
		return Change{}, err
	}
	if why != "" {
		return Change{}, errors.New(why)
	}
	var out Change
	for _, p := range without {
		line := fmt.Sprintf("pod %s/%s of %s gets the label %s=%s", o.Namespace, p.Pod, o, q.key, q.value)
		if p.Was != nil {
			line += fmt.Sprintf(" in place of %.63q", *p.Was)
		}
		out.Lines = append(out.Lines, line)
	}
	out.Lines = append(out.Lines, fmt.Sprintf("network policy %s of namespace %s then lets nothing in and nothing out", strings.Join(by, ", "), o.Namespace))
	out.Blast = len(without)
	return out, nil
}

// Snapshot implements Action: the pods that have the label not yet.
func (q *QuarantineWorkload) Snapshot(ctx context.Context, in Input) (json.RawMessage, error) {
	c, o, err := q.on(in.Plan)
	if err != nil {
		return nil, err
	}
	defer c.close()
	_, without, err := q.look(ctx, c, o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(without)
}

// Apply implements Action.
func (q *QuarantineWorkload) Apply(ctx context.Context, l Lease) error {
	return q.each(ctx, l, func(c *cluster, path string, p pod, was *string) error {
		switch now := p.label(q.key); {
		case same(now, &q.value):
			return nil
		case !same(now, was):
			return fmt.Errorf("label pod %s: its label was changed since it was looked at", p.Metadata.Name)
		}
		return q.label(ctx, c, path, p, &q.value)
	})
}

// Undo implements Action: each pod has the label that it had. One that somebody has labelled otherwise since keeps that.
func (q *QuarantineWorkload) Undo(ctx context.Context, l Lease) error {
	var kept []string
	err := q.each(ctx, l, func(c *cluster, path string, p pod, was *string) error {
		switch now := p.label(q.key); {
		case same(now, was):
			return nil
		case !same(now, &q.value):
			kept = append(kept, p.Metadata.Name)
			return nil
		}
		return q.label(ctx, c, path, p, was)
	})
	if err == nil && kept != nil {
		return fmt.Errorf("label %s of pod %s: %w", q.key, strings.Join(kept, ", "), ErrKept)
	}
	return err
}

// each does something to every pod of the snapshot that is still there.
func (q *QuarantineWorkload) each(ctx context.Context, l Lease, do func(c *cluster, path string, p pod, was *string) error) error {
	c, o, err := q.on(l.Plan)
	if err != nil {
		return err
	}
	defer c.close()
	var snapshot []labelled
	if err := json.Unmarshal(l.Snapshot, &snapshot); err != nil || len(snapshot) > maxPods {
		return errors.Join(fmt.Errorf("decode snapshot: want at most %d pods", maxPods), err)
	}
	for _, s := range snapshot {
		if !nameOfObject.MatchString(s.Pod) {
			return fmt.Errorf("decode snapshot: %.80q is no name of a pod", s.Pod)
		}
		path := "/api/v1/namespaces/" + o.Namespace + "/pods/" + s.Pod
		var p pod
		err := c.do(ctx, http.MethodGet, path, nil, &p)
		if errors.Is(err, errAbsent) || err == nil && p.Metadata.UID != s.UID {
			continue // it is gone, and took its label along
		}
		if err != nil {
			return fmt.Errorf("read pod %s: %w", s.Pod, err)
		}
		if err := do(c, path, p, s.Was); err != nil {
			return err
		}
	}
	return nil
}

// label writes one label, or removes it, if the pod is still the one that was read.
func (q *QuarantineWorkload) label(ctx context.Context, c *cluster, path string, p pod, value *string) error {
	patch := map[string]any{"metadata": map[string]any{
		"uid": p.Metadata.UID, "resourceVersion": p.Metadata.ResourceVersion, "labels": map[string]*string{q.key: value},
	}}
	var after pod
	err := c.do(ctx, http.MethodPatch, path, patch, &after)
	if err == nil && !same(after.label(q.key), value) {
		err = errors.New("the server took another label")
	}
	if err != nil {
		return fmt.Errorf("label pod %s: %w", p.Metadata.Name, err)
	}
	return nil
}

func same(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// Verify implements Action: every pod of the workload has the label, and the policies still let nothing through.
func (q *QuarantineWorkload) Verify(ctx context.Context, l Lease) (bool, error) {
	c, o, err := q.on(l.Plan)
	if err != nil {
		return false, err
	}
	defer c.close()
	all, without, err := q.look(ctx, c, o)
	if err != nil || len(without) > 0 {
		return false, err
	}
	why, _, err := q.open(ctx, c, o.Namespace, all)
	return err == nil && why == "", err
}

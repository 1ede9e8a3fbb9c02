package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// NameScaleToZero is the name in playbooks and plans.
const NameScaleToZero = "scale-to-zero"

// ScaleToZeroOptions are the workloads that may be stopped, by name.
type ScaleToZeroOptions struct {
	Cluster   ClusterOptions             `yaml:"cluster"`
	Workloads map[string]WorkloadOptions `yaml:"workloads"`
}

// Check names the first option that can't be right.
func (o *ScaleToZeroOptions) Check() error {
	return checkCluster(o.Cluster, o.Workloads, ownNamespace)
}

// ScaleToZero ends all pods of a workload, and gives it back the replicas that it had.
type ScaleToZero struct {
	noLag
	options ScaleToZeroOptions
}

// NewScaleToZero returns the action.
func NewScaleToZero(o ScaleToZeroOptions) *ScaleToZero { return &ScaleToZero{options: o} }

// Describe implements Action.
func (s *ScaleToZero) Describe() Description {
	return Description{
		Name: NameScaleToZero, Class: approval.Destroy, Targets: []string{"agent"}, Idempotent: true,
		Effect:      "The agent's workload in Kubernetes is scaled to zero: its pods end, and what they had in memory is lost.",
		Undo:        "It gets the replicas that it had, unless somebody changed it since, when the lease ends, or earlier by a lead. What was in memory stays lost.",
		DoesNotStop: "Whatever deploys it from outside and scales it up again, pods that other workloads run for the agent, and what it had handed over.",
		Params:      map[string]string{"workload": "a name of actions.scale_to_zero.workloads"}, Required: []string{"workload"},
	}
}

// scaled is a workload as it was. Its generation counts the changes of its specification, so that others' are told from ours.
type scaled struct {
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	Replicas   int    `json:"replicas"`
}

// on opens a session about the workload of a plan.
func (s *ScaleToZero) on(p approval.Plan) (*cluster, WorkloadOptions, error) {
	o, err := workloadOf("scale_to_zero", s.options.Workloads, p)
	if err != nil {
		return nil, o, err
	}
	c, err := s.options.Cluster.connect()
	return c, o, err
}

// autoscaler is a HorizontalPodAutoscaler. One that may not go to zero by itself leaves a workload of zero replicas alone.
type autoscaler struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		MinReplicas    *int `json:"minReplicas"`
		ScaleTargetRef struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
	} `json:"spec"`
}

// others says what would scale the workload up again: its owner, or an autoscaler that goes to zero by itself and back.
func others(ctx context.Context, c *cluster, o WorkloadOptions, w workload) (string, error) {
	for _, owner := range w.Metadata.OwnerReferences {
		if owner.Controller {
			return fmt.Sprintf("it belongs to %.40q %.80q", owner.Kind, owner.Name), nil
		}
	}
	var list struct {
		Kind  string       `json:"kind"`
		Items []autoscaler `json:"items"`
	}
	if err := c.do(ctx, http.MethodGet, "/apis/autoscaling/v2/namespaces/"+o.Namespace+"/horizontalpodautoscalers", nil, &list); err != nil {
		return "", fmt.Errorf("list autoscalers: %w", err)
	}
	if list.Kind != "HorizontalPodAutoscalerList" {
		return "", fmt.Errorf("list autoscalers: the answer is %.40q", list.Kind)
	}
	for _, a := range list.Items {
		if t := a.Spec.ScaleTargetRef; t.Kind == o.Kind && t.Name == o.Name && a.Spec.MinReplicas != nil && *a.Spec.MinReplicas == 0 {
			return fmt.Sprintf("the autoscaler %.80q scales it to zero and up by itself", a.Metadata.Name), nil
		}
	}
	return "", nil
}

// Plan implements Action.
func (s *ScaleToZero) Plan(ctx context.Context, in Input) (Change, error) {
	c, o, err := s.on(in.Plan)
	if err != nil {
		return Change{}, err
	}
	defer c.close()
	w, err := c.workload(ctx, o)
	if err != nil {
		return Change{}, err
	}
	n := *w.Spec.Replicas
	if n < 1 || n > maxPods {
		return Change{}, fmt.Errorf("%s has %d replicas, want 1 to %d to scale to zero", o, n, maxPods)
	}
	why, err := others(ctx, c, o, w)
	if err != nil {
		return Change{}, err
	}
	if why != "" {
		return Change{}, fmt.Errorf("%s would be scaled up again: %s", o, why)
	}
	return Change{Lines: []string{fmt.Sprintf("%s is scaled from %d replicas to 0", o, n)}, Blast: n}, nil
}

// Snapshot implements Action.
func (s *ScaleToZero) Snapshot(ctx context.Context, in Input) (json.RawMessage, error) {
	c, o, err := s.on(in.Plan)
	if err != nil {
		return nil, err
	}
	defer c.close()
	w, err := c.workload(ctx, o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(scaled{w.Metadata.UID, w.Metadata.Generation, *w.Spec.Replicas})
}

// Apply implements Action.
func (s *ScaleToZero) Apply(ctx context.Context, l Lease) error {
	c, o, w, was, err := s.read(ctx, l)
	if err != nil {
		return err
	}
	defer c.close()
	switch {
	case was.zero(w):
		return nil
	case w.Metadata.UID != was.UID || w.Metadata.Generation != was.Generation:
		return fmt.Errorf("scale %s: it was changed since it was looked at", o)
	}
	return c.scale(ctx, o, w, 0)
}

// Undo implements Action.
func (s *ScaleToZero) Undo(ctx context.Context, l Lease) error {
	c, o, w, was, err := s.read(ctx, l)
	if errors.Is(err, errAbsent) {
		return fmt.Errorf("%s is gone: %w", o, ErrKept)
	}
	if err != nil {
		return err
	}
	defer c.close()
	switch {
	case w.Metadata.UID != was.UID:
		return fmt.Errorf("%s was made anew: %w", o, ErrKept)
	case *w.Spec.Replicas == was.Replicas:
		return nil
	case !was.zero(w):
		return fmt.Errorf("%s had %d replicas, and has %d and another specification than it was stopped with: %w", o, was.Replicas, *w.Spec.Replicas, ErrKept)
	}
	return c.scale(ctx, o, w, was.Replicas)
}

// zero reports whether the workload is as it was, but for one change, which took its replicas.
func (s scaled) zero(w workload) bool {
	return w.Metadata.UID == s.UID && w.Metadata.Generation == s.Generation+1 && *w.Spec.Replicas == 0
}

// read reads the workload of a lease and how it was. The session is closed where there is an error.
func (s *ScaleToZero) read(ctx context.Context, l Lease) (c *cluster, o WorkloadOptions, w workload, was scaled, err error) {
	if c, o, err = s.on(l.Plan); err != nil {
		return c, o, w, was, err
	}
	if err = json.Unmarshal(l.Snapshot, &was); err != nil || was.UID == "" || was.Replicas < 1 || was.Replicas > maxPods {
		err = errors.Join(errors.New("decode snapshot: it says of no workload what it had"), err)
	} else {
		w, err = c.workload(ctx, o)
	}
	if err != nil {
		c.close()
	}
	return c, o, w, was, err
}

// scale sets the replicas of a workload that is still as it was read.
func (c *cluster) scale(ctx context.Context, o WorkloadOptions, w workload, replicas int) error {
	type size struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   meta           `json:"metadata"`
		Spec       map[string]int `json:"spec"`
	}
	want := size{"autoscaling/v1", "Scale", meta{Name: o.Name, Namespace: o.Namespace, ResourceVersion: w.Metadata.ResourceVersion}, map[string]int{"replicas": replicas}}
	var got size
	err := c.do(ctx, http.MethodPut, o.path()+"/scale", want, &got)
	if err == nil && got.Spec["replicas"] != replicas {
		err = errors.New("the server took another number")
	}
	if err != nil {
		return fmt.Errorf("scale %s to %d: %w", o, replicas, err)
	}
	return nil
}

// Verify implements Action: it has no replicas, and no pod that its selector names is left, not even one that is being ended.
func (s *ScaleToZero) Verify(ctx context.Context, l Lease) (bool, error) {
	c, o, w, was, err := s.read(ctx, l)
	if err != nil {
		return false, err
	}
	defer c.close()
	if w.Metadata.UID != was.UID || *w.Spec.Replicas != 0 {
		return false, nil
	}
	pods, err := c.pods(ctx, o, w.Spec.Selector)
	return err == nil && len(pods) == 0, err
}

package action

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// kube is a real control plane, at which the test is the administrator.
type kube struct {
	*testing.T
	admin *cluster
	url   string
	ca    string // file
}

// startKube runs the program of testdata/kubernetes, which TOCSIN_TEST_KUBERNETES names, until the test ends.
func startKube(t *testing.T) *kube {
	t.Helper()
	program := os.Getenv("TOCSIN_TEST_KUBERNETES")
	if program == "" {
		t.Skip("TOCSIN_TEST_KUBERNETES is not set: no Kubernetes API server to test with; testdata/kubernetes builds one")
	}
	dir, err := os.MkdirTemp("", "kube") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(filepath.Join(dir, "service.key"), pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	token := rand.Text()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	var log bytes.Buffer
	server := exec.Command(program, dir, port, token)
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() { server.Process.Kill(); <-ended })
	k := &kube{T: t, url: "https://127.0.0.1:" + port, ca: filepath.Join(dir, "apiserver.crt")}
	for begun := time.Now(); ; {
		if k.admin == nil {
			k.admin, _ = ClusterOptions{Server: k.url, CAFile: k.ca, TokenFile: file(t, token)}.connect() // fails until the certificate is there
		} else if err = k.admin.do(t.Context(), http.MethodGet, "/apis/apps/v1/deployments", nil, new(any)); err == nil {
			return k
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the API server ended: %v\n%s", err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Since(begun) > 3*time.Minute {
			t.Fatal("the API server is not ready after three minutes: ", err)
		}
	}
}

// must sends a request of the administrator.
func (k *kube) must(method, path string, body, into any) {
	k.Helper()
	if into == nil {
		into = new(any)
	}
	if method == http.MethodPost || method == http.MethodDelete { // whose success has other statuses than the action's calls
		text, err := json.Marshal(body)
		if err != nil {
			k.Fatal(err)
		}
		r, err := http.NewRequestWithContext(k.Context(), method, k.url+path, bytes.NewReader(text))
		if err != nil {
			k.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+k.admin.token)
		r.Header.Set("Content-Type", "application/json")
		status, answer, err := call(k.admin.client, r)
		if err != nil || status >= 300 {
			k.Fatalf("%s %s: %d %v %s", method, path, status, err, answer)
		}
		if err := json.Unmarshal(answer, into); err != nil {
			k.Fatal(err)
		}
		return
	}
	if err := k.admin.do(k.Context(), method, path, body, into); err != nil {
		k.Fatalf("%s %s: %v", method, path, err)
	}
}

// namespace makes one with what deploy/kubernetes.yaml says, and a Deployment and a bystander in it.
func (k *kube) namespace(t *testing.T, name string) *kube {
	t.Helper()
	k = &kube{T: t, admin: k.admin, url: k.url, ca: k.ca}
	k.must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": name}}, nil)
	text, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plural := map[string]string{
		"NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies", "ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts",
		"Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles", "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	}
	decoder := yaml.NewDecoder(strings.NewReader(strings.ReplaceAll(string(text), "namespace: agents", "namespace: "+name)))
	for {
		var object map[string]any
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		k.must(http.MethodPost, fmt.Sprintf(plural[object["kind"].(string)], name), object, nil)
	}
	k.deployment(name, "billing-bot", 3)
	k.deployment(name, "bystander", 2)
	return k
}

func (k *kube) deployment(namespace, name string, replicas int) {
	k.Helper()
	labels := map[string]any{"app": name}
	k.must(http.MethodPost, "/apis/apps/v1/namespaces/"+namespace+"/deployments", map[string]any{
		"metadata": map[string]any{"name": name}, "spec": map[string]any{
			"replicas": replicas, "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "a", "image": "a"}}}},
		},
	}, nil)
	k.await(fmt.Sprintf("%d pods of %s", replicas, name), func() bool { return len(k.pods(namespace, "app="+name)) == replicas })
}

// pods are the labels of the pods that a selector names.
func (k *kube) pods(namespace, selector string) map[string]map[string]string {
	k.Helper()
	var list struct{ Items []pod }
	k.must(http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+selector, nil, &list)
	out := make(map[string]map[string]string)
	for _, p := range list.Items {
		out[p.Metadata.Name] = p.Metadata.Labels
	}
	return out
}

func (k *kube) await(what string, seen func() bool) {
	k.Helper()
	for begun := time.Now(); !seen(); {
		if time.Since(begun) > time.Minute {
			k.Fatal("not after a minute: ", what)
		}
		select {
		case <-k.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// again does what is done again when a controller was faster, as the workflow does it.
func (k *kube) again(do func() error) (err error) {
	k.Helper()
	k.await("no conflict", func() bool { err = do(); return !errors.Is(err, errConflict) })
	return err
}

// options are those of an action with a token of its own service account.
func (k *kube) options(namespace, account string) (ClusterOptions, map[string]WorkloadOptions) {
	k.Helper()
	var token struct{ Status struct{ Token string } }
	k.must(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", map[string]any{"spec": map[string]any{"expirationSeconds": 3600}}, &token)
	return ClusterOptions{Server: k.url, CAFile: k.ca, TokenFile: file(k.T, token.Status.Token)},
		map[string]WorkloadOptions{"billing": {Agent: "a", Namespace: namespace, Kind: "Deployment", Name: "billing-bot"}}
}

func (k *kube) quarantine(namespace string) *QuarantineWorkload {
	k.Helper()
	o := QuarantineWorkloadOptions{Label: "tocsin-quarantine=true"}
	o.Cluster, o.Workloads = k.options(namespace, "tocsin-quarantine")
	if err := o.Check(); err != nil {
		k.Fatal(err)
	}
	return NewQuarantineWorkload(o)
}

func (k *kube) scaleToZero(namespace string) *ScaleToZero {
	k.Helper()
	o := ScaleToZeroOptions{}
	o.Cluster, o.Workloads = k.options(namespace, "tocsin-scale")
	if err := o.Check(); err != nil {
		k.Fatal(err)
	}
	return NewScaleToZero(o)
}

func stopBilling() approval.Plan {
	return approval.Plan{Target: approval.Target{Agent: "a"}, Lease: time.Hour, Params: map[string]string{"workload": "billing"}}
}

// patch changes an object as a person would.
func (k *kube) patch(path string, body any) {
	k.Helper()
	k.must(http.MethodPatch, path, body, nil)
}

func labelPatch(value any) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{"tocsin-quarantine": value}}}
}

func deployments(namespace string) string {
	return "/apis/apps/v1/namespaces/" + namespace + "/deployments/billing-bot"
}

func TestKubernetes(t *testing.T) {
	k := startKube(t)
	t.Run("quarantine", func(t *testing.T) { quarantineWorkload(k.namespace(t, "quarantine"), "quarantine") })
	t.Run("quarantine refuses", func(t *testing.T) { quarantineRefuses(k.namespace(t, "refuse"), "refuse") })
	t.Run("scale", func(t *testing.T) { scaleToZero(k.namespace(t, "scale"), "scale") })
	t.Run("scale keeps what others did", func(t *testing.T) { scaleKeeps(k.namespace(t, "keep"), "keep") })
	t.Run("scale refuses", func(t *testing.T) { scaleRefuses(k.namespace(t, "rescale"), "rescale") })
}

func quarantineWorkload(k *kube, namespace string) {
	before := k.pods(namespace, "")
	names := make([]string, 0, 3)
	for name, labels := range before {
		if labels["app"] == "billing-bot" {
			names = append(names, name)
		}
	}
	k.patch("/api/v1/namespaces/"+namespace+"/pods/"+names[0], labelPatch("once")) // the label had another value here
	before = k.pods(namespace, "")
	a := k.quarantine(namespace)
	c, d, in := granted(k.T, a, stopBilling())
	if n := len(in.Plan.Change); n != 4 || in.Plan.Blast != 3 || !strings.Contains(strings.Join(in.Plan.Change, "\n"), `in place of "once"`) ||
		in.Plan.Change[3] != "network policy tocsin-quarantine of namespace quarantine then lets nothing in and nothing out" {
		k.Errorf("plan: %q, %d", in.Plan.Change, in.Plan.Blast)
	}
	if holds, err := a.Verify(k.Context(), Lease{Plan: in.Plan}); err != nil || holds {
		k.Fatalf("proved before it was applied: %v", err)
	}
	var l Lease
	err := k.again(func() (err error) { l, err = c.Apply(k.Context(), in); return err })
	if err != nil {
		k.Fatal(err)
	}
	if got := k.pods(namespace, "tocsin-quarantine=true,app=billing-bot"); len(got) != 3 || len(k.pods(namespace, "tocsin-quarantine")) != 3 {
		k.Errorf("labelled are %v, want the three", got)
	}
	if l, err = c.Verify(k.Context(), l); err != nil || l.Verified.IsZero() {
		k.Errorf("%+v %v", l, err)
	}
	if text, err := json.Marshal(d.leases); err != nil || strings.Contains(string(text), "eyJ") {
		k.Error("the lease holds the token", err)
	}
	// A pod that takes another's place has no label, and the effect does not hold.
	k.must(http.MethodDelete, "/api/v1/namespaces/"+namespace+"/pods/"+names[2], nil, nil)
	k.await("another pod", func() bool { return len(k.pods(namespace, "app=billing-bot")) == 3 })
	if holds, err := a.Verify(k.Context(), l); err != nil || holds {
		k.Errorf("proved although a pod has no label: %v", err)
	}
	delete(before, names[2])
	for range 2 {
		if err := k.again(func() error { return c.Undo(k.Context(), l, "lea") }); err != nil {
			k.Fatal(err)
		}
		after := k.pods(namespace, "")
		for name := range after {
			if _, known := before[name]; !known {
				delete(after, name)
			}
		}
		if diff := cmp.Diff(before, after); diff != "" {
			k.Error(diff)
		}
	}
	// What somebody made of a label since is theirs.
	if err := a.Apply(k.Context(), l); err != nil {
		k.Fatal(err)
	}
	k.patch("/api/v1/namespaces/"+namespace+"/pods/"+names[1], labelPatch("looked-at"))
	if err := c.Undo(k.Context(), l, "lea"); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), names[1]) || strings.Contains(err.Error(), names[0]) {
		k.Errorf("Undo = %v", err)
	}
	if after := k.pods(namespace, ""); after[names[1]]["tocsin-quarantine"] != "looked-at" || after[names[0]]["tocsin-quarantine"] != "once" {
		k.Errorf("after undo: %v", after)
	}
}

func quarantineRefuses(k *kube, namespace string) {
	a, policies := k.quarantine(namespace), "/apis/networking.k8s.io/v1/namespaces/"+namespace+"/networkpolicies"
	allow := map[string]any{"metadata": map[string]any{"name": "dns"}, "spec": map[string]any{
		"podSelector": map[string]any{"matchLabels": map[string]any{"app": "billing-bot"}}, "policyTypes": []string{"Egress"},
		"egress": []any{map[string]any{"ports": []any{map[string]any{"port": 53}}}},
	}}
	plan := func() string {
		_, err := a.Plan(k.Context(), Input{Plan: stopBilling()})
		return fmt.Sprint(err)
	}
	k.must(http.MethodPost, policies, allow, nil)
	if got := plan(); !strings.Contains(got, `"dns" would still let something through`) {
		k.Error(got)
	}
	// One that is not for quarantined pods lets nothing of theirs through.
	k.patch(policies+"/dns", map[string]any{"spec": map[string]any{"podSelector": map[string]any{"matchExpressions": []any{map[string]any{"key": "tocsin-quarantine", "operator": "DoesNotExist"}}}}})
	if got := plan(); got != "<nil>" {
		k.Error(got)
	}
	k.patch(policies+"/tocsin-quarantine", map[string]any{"spec": map[string]any{"policyTypes": []string{"Ingress"}}})
	if got := plan(); !strings.Contains(got, "no network policy of namespace refuse denies pod") {
		k.Error(got)
	}
	k.patch(policies+"/tocsin-quarantine", map[string]any{"spec": map[string]any{"policyTypes": []string{"Ingress", "Egress"}}})
	k.patch(deployments(namespace), map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"hostNetwork": true}}}})
	k.await("a pod in its node's network", func() bool { return strings.Contains(plan(), "is in its node's network") })
	// Its account can label, and nothing else.
	o := a.options.Workloads["billing"]
	c, err := a.options.Cluster.connect()
	if err != nil {
		k.Fatal(err)
	}
	if err := c.scale(k.Context(), o, workload{}, 0); err == nil || !strings.Contains(err.Error(), "403") {
		k.Errorf("the account that labels can scale: %v", err)
	}
	o.Name = "bystander"
	if _, err := c.workload(k.Context(), o); err == nil || !strings.Contains(err.Error(), "403") {
		k.Errorf("the account reads another workload: %v", err)
	}
}

// size is the replicas of the workload, and its pods.
func (k *kube) size(namespace string) string {
	k.Helper()
	var w workload
	k.must(http.MethodGet, deployments(namespace), nil, &w)
	return fmt.Sprintf("%d replicas, %d pods", *w.Spec.Replicas, len(k.pods(namespace, "app=billing-bot")))
}

func scaleToZero(k *kube, namespace string) {
	a := k.scaleToZero(namespace)
	c, _, in := granted(k.T, a, stopBilling())
	if diff := cmp.Diff([]string{"Deployment scale/billing-bot is scaled from 3 replicas to 0"}, in.Plan.Change); diff != "" || in.Plan.Blast != 3 {
		k.Error(diff, in.Plan.Blast)
	}
	if got := k.size(namespace); got != "3 replicas, 3 pods" {
		k.Errorf("planned, and it has %s", got)
	}
	// One pod takes its time to end.
	var slow string
	for slow = range k.pods(namespace, "app=billing-bot") {
		break
	}
	slow = "/api/v1/namespaces/" + namespace + "/pods/" + slow
	k.patch(slow, map[string]any{"metadata": map[string]any{"finalizers": []string{"tocsin.test/slow"}}})
	var l Lease
	err := k.again(func() (err error) { l, err = c.Apply(k.Context(), in); return err })
	if err != nil {
		k.Fatal(err)
	}
	if err := a.Apply(k.Context(), l); err != nil {
		k.Errorf("applied again: %v", err)
	}
	k.await("one pod", func() bool { return k.size(namespace) == "0 replicas, 1 pods" })
	if holds, err := a.Verify(k.Context(), l); err != nil || holds {
		k.Errorf("proved while a pod is being ended: %v", err)
	}
	k.patch(slow, map[string]any{"metadata": map[string]any{"finalizers": nil}})
	k.await("proof", func() bool {
		if l, err = c.Verify(k.Context(), l); err != nil {
			k.Fatal(err)
		}
		return !l.Verified.IsZero()
	})
	if got := k.size(namespace); got != "0 replicas, 0 pods" || len(k.pods(namespace, "app=bystander")) != 2 {
		k.Errorf("proved, and it has %s", got)
	}
	for range 2 {
		if err := k.again(func() error { return c.Undo(k.Context(), l, "lea") }); err != nil {
			k.Fatal(err)
		}
	}
	k.await("its pods", func() bool { return k.size(namespace) == "3 replicas, 3 pods" })
	if holds, err := a.Verify(k.Context(), l); err != nil || holds {
		k.Errorf("proved after it was undone: %v", err)
	}
}

// scaleKeeps: an undo puts back what it took, and nothing that somebody decided since.
func scaleKeeps(k *kube, namespace string) {
	a := k.scaleToZero(namespace)
	snapshot := func() Lease {
		text, err := a.Snapshot(k.Context(), Input{Plan: stopBilling()})
		if err != nil {
			k.Fatal(err)
		}
		return Lease{Plan: stopBilling(), Snapshot: text}
	}
	replicas := func(n int) any { return map[string]any{"spec": map[string]any{"replicas": n}} }
	// What was never applied is not undone, and what was changed meanwhile is not applied.
	l := snapshot()
	if err := a.Undo(k.Context(), l); err != nil {
		k.Error(err)
	}
	k.patch(deployments(namespace), replicas(2))
	if err := a.Apply(k.Context(), l); err == nil || !strings.Contains(err.Error(), "it was changed since it was looked at") {
		k.Errorf("Apply = %v", err)
	}
	for _, tt := range []struct {
		name   string
		change any
		want   string
	}{
		{"scaled by somebody", replicas(1), "had 2 replicas, and has 1"},
		{"another image", map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{"fixed": "yes"}}}}}, "had 2 replicas, and has 0 and another specification"},
	} {
		k.patch(deployments(namespace), replicas(2))
		l := snapshot()
		if err := k.again(func() error { return a.Apply(k.Context(), l) }); err != nil {
			k.Fatal(tt.name, err)
		}
		k.patch(deployments(namespace), tt.change)
		before := k.size(namespace)
		if err := a.Undo(k.Context(), l); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), tt.want) {
			k.Errorf("%s: Undo = %v", tt.name, err)
		}
		if after := k.size(namespace); strings.Split(before, ",")[0] != strings.Split(after, ",")[0] {
			k.Errorf("%s: %s, and %s after the undo", tt.name, before, after)
		}
	}
	// A write that somebody else was faster than is refused by the server.
	c, err := a.options.Cluster.connect()
	if err != nil {
		k.Fatal(err)
	}
	k.patch(deployments(namespace), replicas(2))
	w, err := c.workload(k.Context(), a.options.Workloads["billing"])
	if err != nil {
		k.Fatal(err)
	}
	k.patch(deployments(namespace), replicas(4))
	if err := c.scale(k.Context(), a.options.Workloads["billing"], w, 0); !errors.Is(err, errConflict) {
		k.Errorf("scale = %v", err)
	}
	l = snapshot()
	k.must(http.MethodDelete, deployments(namespace), nil, nil)
	if err := a.Undo(k.Context(), l); !errors.Is(err, ErrKept) {
		k.Errorf("Undo of what is gone = %v", err)
	}
	for _, left := range []string{"/apis/apps/v1/namespaces/" + namespace + "/replicasets", "/api/v1/namespaces/" + namespace + "/pods"} {
		k.must(http.MethodDelete, left+"?labelSelector=app=billing-bot", nil, nil) // there is no garbage collector here
	}
	k.deployment(namespace, "billing-bot", 4)
	if err := a.Undo(k.Context(), l); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "made anew") {
		k.Errorf("Undo of what was made anew = %v", err)
	}
}

func scaleRefuses(k *kube, namespace string) {
	a := k.scaleToZero(namespace)
	plan := func() string {
		_, err := a.Plan(k.Context(), Input{Plan: stopBilling()})
		return fmt.Sprint(err)
	}
	autoscalers := "/apis/autoscaling/v2/namespaces/" + namespace + "/horizontalpodautoscalers"
	k.must(http.MethodPost, autoscalers, map[string]any{"metadata": map[string]any{"name": "auto"}, "spec": map[string]any{
		"minReplicas": 1, "maxReplicas": 5, "scaleTargetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "billing-bot"},
		"metrics": []any{map[string]any{"type": "External", "external": map[string]any{"metric": map[string]any{"name": "queue"}, "target": map[string]any{"type": "Value", "value": "1"}}}},
	}}, nil)
	if got := plan(); got != "<nil>" {
		k.Error(got)
	}
	k.patch(autoscalers+"/auto", map[string]any{"spec": map[string]any{"minReplicas": 0}})
	if got := plan(); !strings.Contains(got, `the autoscaler "auto" scales it to zero and up by itself`) {
		k.Error(got)
	}
	k.must(http.MethodDelete, autoscalers+"/auto", nil, nil)
	k.patch(deployments(namespace), map[string]any{"metadata": map[string]any{"ownerReferences": []any{map[string]any{"apiVersion": "x/v1", "kind": "Crew", "name": "billing", "uid": "1", "controller": true}}}})
	if got := plan(); !strings.Contains(got, `would be scaled up again: it belongs to "Crew" "billing"`) {
		k.Error(got)
	}
	k.patch(deployments(namespace), map[string]any{"metadata": map[string]any{"ownerReferences": nil}, "spec": map[string]any{"replicas": 0}})
	if got := plan(); !strings.Contains(got, "has 0 replicas, want 1 to 100") {
		k.Error(got)
	}
	k.patch(deployments(namespace), map[string]any{"spec": map[string]any{"replicas": 1}})
	other := stopBilling()
	other.Target.Agent = "b"
	if _, err := a.Plan(k.Context(), Input{Plan: other}); err == nil || !strings.Contains(err.Error(), "is of agent a, not of agent b") {
		k.Errorf("Plan of another agent = %v", err)
	}
	a.options.Cluster.TokenFile = file(k.T, "guess")
	if got := plan(); !strings.Contains(got, "says 401") {
		k.Error(got)
	}
	a.options.Cluster.CAFile = ""
	if got := plan(); !strings.Contains(got, "certificate") {
		k.Error(got)
	}
}

// Answers that don't say what they must are errors: nothing is taken for gone, and nothing proved, by a proxy's word.
func TestKubernetesAnswers(t *testing.T) {
	deployment := `{"metadata":{"uid":"u","generation":2},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"x"}}}}`
	for _, tt := range []struct {
		name, workload, pods string
		status               int
		want                 string
	}{
		{"proxy's 404", "<html>", "", 404, "says 404"},
		{"404 of the path", `{"kind":"Status","reason":"NotFound","details":{}}`, "", 404, "says 404"},
		{"redirect", "", "", 307, "says 307"},
		{"empty object", "{}", "", 200, "is no workload"},
		{"selects everything", `{"metadata":{"uid":"u"},"spec":{"replicas":0,"selector":{}}}`, "", 200, "is no workload"},
		{"unknown operator", `{"metadata":{"uid":"u"},"spec":{"replicas":0,"selector":{"matchExpressions":[{"key":"a","operator":"Like"}]}}}`, "", 200, `unknown operator "Like"`},
		{"no list", deployment, `{}`, 200, "want a list of at most 100"},
		{"hostile name", deployment, `{"kind":"PodList","items":[{"metadata":{"name":"../../secrets/x","uid":"u"}}]}`, 200, "is no name of a pod"},
		{"too many", deployment, `{"kind":"PodList","items":[` + strings.Repeat(`{"metadata":{"name":"a","uid":"u"}},`, 100) + `{"metadata":{"name":"b","uid":"u"}}]}`, 200, "want a list of at most 100"},
		{"endless", deployment, strings.Repeat(" ", maxCluster) + "{}", 200, "more than"},
		{"proof", deployment, `{"kind":"PodList","items":[{"metadata":{"name":"a","uid":"u"},"status":{"phase":"Failed"}}]}`, 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/pods") {
					io.WriteString(w, tt.pods)
					return
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.workload)
			}))
			t.Cleanup(server.Close)
			o := ScaleToZeroOptions{Cluster: ClusterOptions{Server: server.URL, TokenFile: file(t, "hush")}, Workloads: map[string]WorkloadOptions{"billing": {Agent: "a", Namespace: "n", Kind: "Deployment", Name: "x"}}}
			if err := o.Check(); err != nil {
				t.Fatal(err)
			}
			l := Lease{Plan: stopBilling(), Snapshot: json.RawMessage(`{"uid":"u","generation":1,"replicas":3}`)}
			holds, err := NewScaleToZero(o).Verify(t.Context(), l)
			if tt.want == "" {
				if err != nil || !holds {
					t.Errorf("Verify = %v, %v", holds, err)
				}
				return
			}
			if holds || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Verify = %v, %v, want %s", holds, err, tt.want)
			}
			if tt.status != 200 {
				if err := NewScaleToZero(o).Undo(t.Context(), l); err == nil || errors.Is(err, ErrKept) {
					t.Errorf("Undo = %v", err)
				}
			}
		})
	}
}

func TestKubernetesOptions(t *testing.T) {
	home := file(t, "home\n")
	good := WorkloadOptions{Agent: "a", Namespace: "agents", Kind: "Deployment", Name: "billing-bot"}
	for _, tt := range []struct {
		name   string
		change func(c *ClusterOptions, w *WorkloadOptions)
		want   string
	}{
		{"good", func(*ClusterOptions, *WorkloadOptions) {}, ""},
		{"plain HTTP", func(c *ClusterOptions, _ *WorkloadOptions) { c.Server = "http://kube.example.com" }, "cluster.server"},
		{"no token", func(c *ClusterOptions, _ *WorkloadOptions) { c.TokenFile = "" }, "cluster.token_file"},
		{"no certificate", func(c *ClusterOptions, _ *WorkloadOptions) { c.CAFile = c.TokenFile }, "cluster.ca_file"},
		{"no agent", func(_ *ClusterOptions, w *WorkloadOptions) { w.Agent = "" }, "workloads.billing.agent"},
		{"another kind", func(_ *ClusterOptions, w *WorkloadOptions) { w.Kind = "Pod" }, "workloads.billing.kind"},
		{"a path in the namespace", func(_ *ClusterOptions, w *WorkloadOptions) { w.Namespace = "a/pods/b" }, "workloads.billing.namespace"},
		{"a path in the name", func(_ *ClusterOptions, w *WorkloadOptions) { w.Name = "../x" }, "workloads.billing.name"},
		{"a query in the name", func(_ *ClusterOptions, w *WorkloadOptions) { w.Name = "x?dryRun=All" }, "workloads.billing.name"},
		{"the cluster's own", func(_ *ClusterOptions, w *WorkloadOptions) { w.Namespace = "kube-system" }, "belongs to the cluster"},
		{"Tocsin's own", func(_ *ClusterOptions, w *WorkloadOptions) { w.Namespace = "home" }, "where Tocsin runs"},
	} {
		c, w := ClusterOptions{Server: "https://kube.example.com", TokenFile: file(t, "hush")}, good
		tt.change(&c, &w)
		err := checkCluster(c, map[string]WorkloadOptions{"billing": w}, home)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	for _, label := range []string{"", "a", "a=", "=b", "a=b c", "a/b/c=d", "A/b=c", "a=b\n", "-a=b"} {
		if err := (&QuarantineWorkloadOptions{Label: label}).Check(); err == nil || !strings.Contains(err.Error(), "label") {
			t.Errorf("label %q: %v", label, err)
		}
	}
}

func TestSelector(t *testing.T) {
	for _, tt := range []struct {
		selector, query string
		yes, no         []map[string]string
	}{
		{`{}`, "", []map[string]string{nil, {"a": "1"}}, nil},
		{`{"matchLabels":{"b":"2","a":"1"}}`, "a=1,b=2", []map[string]string{{"a": "1", "b": "2", "c": "3"}}, []map[string]string{nil, {"a": "1"}, {"a": "1", "b": "3"}}},
		{`{"matchExpressions":[{"key":"a","operator":"In","values":["1","2"]}]}`, "a in (1,2)", []map[string]string{{"a": "2"}}, []map[string]string{nil, {"a": "3"}}},
		{`{"matchExpressions":[{"key":"a","operator":"NotIn","values":["1"]}]}`, "a notin (1)", []map[string]string{nil, {"a": "2"}}, []map[string]string{{"a": "1"}}},
		{`{"matchExpressions":[{"key":"a","operator":"Exists"},{"key":"b","operator":"DoesNotExist"}]}`, "a,!b", []map[string]string{{"a": ""}}, []map[string]string{nil, {"b": ""}, {"a": "1", "b": "2"}}},
		{`{"matchLabels":{"a":""}}`, "a=", []map[string]string{{"a": ""}}, []map[string]string{nil}},
	} {
		var s selector
		if err := json.Unmarshal([]byte(tt.selector), &s); err != nil {
			t.Fatal(err)
		}
		if got, err := s.query(); err != nil || got != tt.query {
			t.Errorf("%s: query %q, %v, want %q", tt.selector, got, err, tt.query)
		}
		for want, all := range map[bool][]map[string]string{true: tt.yes, false: tt.no} {
			for _, labels := range all {
				if got, err := s.matches(labels); err != nil || got != want {
					t.Errorf("%s matches %v: %v, %v", tt.selector, labels, got, err)
				}
			}
		}
	}
}

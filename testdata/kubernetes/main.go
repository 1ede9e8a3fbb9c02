// Kubernetes is a control plane for tests: etcd, the API server, and the controllers that make pods of Deployments, ReplicaSets and
// StatefulSets, in one process on loopback. It has no nodes and no network, so that its pods never run.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/kubernetes/pkg/controller/statefulset"
)

// main takes a directory, which holds service.key, a port, and the token of an administrator.
func main() {
	if err := run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("usage: kubernetes DIRECTORY PORT TOKEN")
	}
	dir, port, token := args[1], args[2], args[3]
	store, err := etcd(dir)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer store.Close()
	if err := os.WriteFile(filepath.Join(dir, "tokens"), []byte(token+`,admin,admin,"system:masters"`+"\n"), 0o600); err != nil {
		return err
	}
	server := app.NewAPIServerCommand()
	server.SetArgs([]string{
		"--etcd-servers=http://" + store.Clients[0].Addr().String(), "--bind-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + dir,
		"--authorization-mode=RBAC", "--token-auth-file=" + filepath.Join(dir, "tokens"), "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://tocsin.test", "--service-account-key-file=" + filepath.Join(dir, "service.key"),
		"--service-account-signing-key-file=" + filepath.Join(dir, "service.key"), "--disable-admission-plugins=ServiceAccount",
		"--endpoint-reconciler-type=none", "--feature-gates=HPAScaleToZero=true",
	})
	go func() {
		if err := control(ctx, &rest.Config{
			Host: "https://127.0.0.1:" + port, BearerToken: token, QPS: -1,
			TLSClientConfig: rest.TLSClientConfig{Insecure: true}, // its own server, which has no certificate yet
		}); err != nil {
			fmt.Fprintln(os.Stderr, "run controllers:", err)
			os.Exit(1)
		}
	}()
	return server.ExecuteContext(ctx)
}

func etcd(dir string) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = filepath.Join(dir, "etcd"), "error", true
	any := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.ListenClientUrls, config.AdvertiseClientUrls, config.ListenPeerUrls, config.AdvertisePeerUrls = any, any, any, any
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	e, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err := <-e.Err():
		return nil, err
	case <-time.After(time.Minute):
		return nil, errors.New("it was not ready after a minute")
	}
}

// control runs the controllers once the server is ready.
func control(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for ready := false; !ready; time.Sleep(100 * time.Millisecond) {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		ready = err == nil
	}
	all := informers.NewSharedInformerFactory(client, 0)
	apps, pods := all.Apps().V1(), all.Core().V1().Pods()
	deployments, err := deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), pods, client)
	if err != nil {
		return err
	}
	replicas := replicaset.NewReplicaSetController(ctx, apps.ReplicaSets(), pods, client, replicaset.BurstReplicas)
	sets := statefulset.NewStatefulSetController(ctx, pods, apps.StatefulSets(), all.Core().V1().PersistentVolumeClaims(), apps.ControllerRevisions(), client)
	all.Start(ctx.Done())
	go deployments.Run(ctx, 1)
	go replicas.Run(ctx, 1)
	sets.Run(ctx, 1)
	return nil
}

// Package temporal runs a Temporal server inside the process, on a SQLite file and loopback ports, and connects to one, with payloads
// sealed where there are keys. It is the only package that links the server, which takes minutes to compile; it knows nothing of incidents.
package temporal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	sdklog "go.temporal.io/sdk/log"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	schema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

const (
	host = "127.0.0.1"
	// historyShards is fixed for the life of a database. Four cut the idle latency of one workflow to a third of that of one.
	historyShards = 4
	startTimeout  = 30 * time.Second
)

// Server is an embedded Temporal server.
type Server struct {
	server   temporal.Server
	hostPort string
	id       *identity
}

// Options of a server that other processes of this machine connect to. The zero value is for none.
type Options struct {
	Port     int    // on loopback
	Identity []byte // of Keys
}

// Start starts the server on a directory, which holds its database and its log, and creates the namespace if it is new.
func Start(ctx context.Context, dir, namespace string, o Options) (*Server, error) {
	ports, err := freePorts(8)
	if err != nil {
		return nil, fmt.Errorf("start workflow server: %w", err)
	}
	if o.Port != 0 {
		ports[0] = o.Port
	}
	id, err := newIdentity(o.Identity)
	if err != nil {
		return nil, fmt.Errorf("start workflow server: %w", err)
	}
	cfg := configuration(filepath.Join(dir, "temporal.db"), ports)
	cfg.Global.TLS = id.server()
	if err := prepare(cfg, namespace); err != nil {
		return nil, fmt.Errorf("start workflow server: %w", err)
	}
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Level: "warn", OutputFile: filepath.Join(dir, "temporal.log")}))
	hosts := make(map[primitives.ServiceName]static.Hosts)
	for i, name := range services {
		hosts[name] = static.SingleLocalHost(fmt.Sprintf("%s:%d", host, ports[i]))
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(cfg), temporal.ForServices(temporal.DefaultServices), temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()), temporal.WithStaticHosts(hosts),
		temporal.WithDynamicConfigClient(dynamicconfig.NewNoopClient()),
	)
	if err != nil {
		return nil, fmt.Errorf("start workflow server: %w", err)
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start workflow server: %w", err)
	}
	return &Server{server: server, hostPort: fmt.Sprintf("%s:%d", host, ports[0]), id: id}, nil
}

// Address is the server's host and port on loopback.
func (s *Server) Address() string { return s.hostPort }

// TLS is how a client of this process connects; no other process can.
func (s *Server) TLS() *tls.Config { return s.id.client() }

// Stop ends the server.
func (s *Server) Stop() error { return s.server.Stop() }

// Dial returns a client of a server at an address, once it answers; without a TLS configuration it speaks plain text, and without seals
// it sends payloads, and failures, as they are.
func Dial(ctx context.Context, address, namespace string, secure *tls.Config, seals *Seals, logger sdklog.Logger) (client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	o := client.Options{HostPort: address, Namespace: namespace, Logger: logger, ConnectionOptions: client.ConnectionOptions{TLS: secure}}
	if seals != nil {
		o.DataConverter = converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), seals)
		o.FailureConverter = sdk.NewDefaultFailureConverter(sdk.DefaultFailureConverterOptions{DataConverter: o.DataConverter, EncodeCommonAttributes: true})
	}
	for {
		c, err := client.DialContext(ctx, o)
		if err == nil {
			if _, err = c.CheckHealth(ctx, &client.CheckHealthRequest{}); err == nil {
				return c, nil
			}
			c.Close()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to workflow server at %s: %w", address, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// services in the order of their ports; membership ports follow.
var services = []primitives.ServiceName{primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService}

func configuration(database string, ports []int) *config.Config {
	cfg := &config.Config{
		Global: config.Global{Membership: config.Membership{MaxJoinDuration: startTimeout, BroadcastAddress: host}},
		Persistence: config.Persistence{
			DefaultStore: sqlite.PluginName, VisibilityStore: sqlite.PluginName, NumHistoryShards: historyShards,
			DataStores: map[string]config.DataStore{sqlite.PluginName: {SQL: databaseConfig(database)}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10, MasterClusterName: "active", CurrentClusterName: "active",
			ClusterInformation: map[string]cluster.ClusterInformation{
				"active": {Enabled: true, InitialFailoverVersion: 1, RPCAddress: fmt.Sprintf("%s:%d", host, ports[0])},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Archival:            config.Archival{History: config.HistoryArchival{State: "disabled"}, Visibility: config.VisibilityArchival{State: "disabled"}},
		PublicClient:        config.PublicClient{HostPort: fmt.Sprintf("%s:%d", host, ports[0])},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History: config.HistoryArchivalNamespaceDefaults{State: "disabled"}, Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		Services: make(map[string]config.Service),
	}
	for i, name := range services {
		cfg.Services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: ports[i], MembershipPort: ports[i+len(services)], BindOnLocalHost: true}}
	}
	return cfg
}

// databaseConfig asks for the write-ahead log and a sync of every commit, so that no power cut takes a decision back. A commit then
// writes and syncs one file once; with the journal that SQLite has otherwise, two files several times.
func databaseConfig(database string) *config.SQL { return journalled(database, "WAL") }

// journalled names SQLite's pragmas by their own names: one that it does not know it ignores.
func journalled(database, mode string) *config.SQL {
	return &config.SQL{
		PluginName: sqlite.PluginName, DatabaseName: database,
		ConnectAttributes: map[string]string{"mode": "rwc", "journal_mode": mode, "synchronous": "FULL"},
	}
}

// prepare creates the schema in a file of its own, which gets the database's name only when it is complete: a start that was
// killed leaves nothing half made. That file has no write-ahead log, because a log would keep the old name with all that is in it.
func prepare(cfg *config.Config, namespace string) error {
	sql := cfg.Persistence.DataStores[sqlite.PluginName].SQL
	if _, err := os.Stat(sql.DatabaseName); errors.Is(err, fs.ErrNotExist) {
		fresh := sql.DatabaseName + ".new"
		for _, leftover := range []string{fresh, fresh + "-journal"} {
			if err := os.Remove(leftover); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := schema.SetupSchema(journalled(fresh, "DELETE")); err != nil {
			return fmt.Errorf("create schema: %w", err)
		}
		if err := os.Rename(fresh, sql.DatabaseName); err != nil {
			return err
		}
	}
	ns, err := schema.NewNamespaceConfig("active", namespace, false, nil)
	if err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	if err := schema.CreateNamespaces(sql, ns); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	return nil
}

// freePorts finds ports that are free on loopback now. All are held open until the last is found, so that they differ.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

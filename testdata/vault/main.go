// Vault is a secrets server for tests: the core of HashiCorp Vault 1.1.2, which is of the last releases under the Mozilla Public License,
// in memory, initialised, unsealed and served on loopback. It has token roles and a key-value store that gives out leases.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	server "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/logical"
	"github.com/hashicorp/vault/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// main prints the server's address and the token of root, and serves until it is ended.
func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Error})
	memory, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return fmt.Errorf("open memory: %w", err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: memory, Logger: logger, DisableMlock: true, DefaultLeaseTTL: time.Hour, MaxLeaseTTL: 24 * time.Hour,
		LogicalBackends: map[string]logical.Factory{"kv": vault.LeasedPassthroughBackendFactory},
	})
	if err != nil {
		return fmt.Errorf("make core: %w", err)
	}
	one := func() *vault.SealConfig { return &vault.SealConfig{SecretShares: 1, SecretThreshold: 1} }
	begun, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one(), RecoveryConfig: nil})
	if err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	if open, err := core.Unseal(begun.SecretShares[0]); err != nil || !open {
		return fmt.Errorf("unseal: %v, %w", open, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s %s\n", listener.Addr(), begun.RootToken)
	return http.Serve(listener, server.Handler(&vault.HandlerProperties{Core: core, MaxRequestSize: 1 << 20, MaxRequestDuration: time.Minute}))
}

// Command accounts keeps the bank's register of accounts.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/books"
	"github.com/countersign-mesh/countersign/services/accounts/internal/keys"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/rpc"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "accounts:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN    settings.DSN    `default:"sqlite:accounts.db" help:"Where the register is kept, sqlite:PATH or postgres://USER@HOST:5432/DATABASE."`
	Audit  settings.Target `required:"" placeholder:"TARGET" help:"The audit service."`
	Ledger settings.Target `required:"" placeholder:"TARGET" help:"The ledger service, asked for the balance before an account is closed."`
	Login  settings.Target `required:"" placeholder:"TARGET" help:"The login service, asked for the keys of transaction tokens."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "accounts", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("accounts", "Keeps the bank's register of accounts. Whether it is ready: accounts healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		accounts, err := store.Open(ctx, string(cfg.DSN))
		if err != nil {
			return err
		}
		p.Defer(accounts.Close)
		p.Ready("database", accounts.Ping)
		ledger, err := p.Dial(cfg.Ledger, "/ledger", mesh.WithServiceConfig(books.ServiceConfig))
		if err != nil {
			return err
		}
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		customers, err := users(p, cfg.Login)
		if err != nil {
			return err
		}
		server, err := p.NewServer(mesh.WithRecorder(records), mesh.WithUsers(customers))
		if err != nil {
			return err
		}
		accountsv1.RegisterAccountServiceServer(server, rpc.New(register.New(accounts, accounts, accounts, books.New(ledger)), p.Log))
		return nil
	})
}

// users returns who verifies for which customer a call is made, by keys of login.
func users(p *mesh.Process, login settings.Target) (*txntoken.Verifier, error) {
	conn, err := p.Dial(login, "/login", mesh.WithServiceConfig(keys.ServiceConfig))
	if err != nil {
		return nil, err
	}
	set := jwks.New(keys.From(conn), jwks.WithLogger(p.Log))
	p.Go("keys of transaction tokens", set.Run)
	// Without keys every customer would be told that the bank is not available.
	p.Ready("keys of transaction tokens", func(context.Context) error { return set.Ready() })
	return txntoken.NewVerifier(set, p.Identity.ID().TrustDomain().Name()), nil
}

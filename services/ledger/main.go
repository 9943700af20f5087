// Command ledger keeps the bank's books. `ledger verify` checks the books in a database, whether a ledger runs on it or not.
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
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/keys"
	"github.com/countersign-mesh/countersign/services/ledger/internal/rpc"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ledger:", err)
		stop()
		os.Exit(exitCode(err))
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN   settings.DSN    `default:"sqlite:ledger.db" placeholder:"DSN" help:"Where the books are kept: sqlite:PATH or postgres://…."`
	Audit settings.Target `required:"" placeholder:"TARGET" help:"The audit service, such as dns:///audit:8443."`
	Login settings.Target `required:"" placeholder:"TARGET" help:"The login service, asked for the keys of transaction tokens."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "verify" {
		return runVerify(ctx, args[1:], out)
	}
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "ledger", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("ledger", "Keeps the bank's books. To check them: ledger verify --help. Whether it is ready: ledger healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		books, err := store.Open(ctx, string(cfg.DSN))
		if err != nil {
			return err
		}
		p.Defer(books.Close)
		p.Ready("database", books.Ping)
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		customers, err := users(p, cfg.Login)
		if err != nil {
			return err
		}
		s, err := p.NewServer(mesh.WithRecorder(records), mesh.WithUsers(customers))
		if err != nil {
			return err
		}
		ledgerv1.RegisterLedgerServiceServer(s, rpc.New(books, p.Log))
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

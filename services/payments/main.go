// Command payments carries payments from the wish to the books.
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
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/activity"
	"github.com/countersign-mesh/countersign/services/payments/internal/machine"
	"github.com/countersign-mesh/countersign/services/payments/internal/neighbours"
	"github.com/countersign-mesh/countersign/services/payments/internal/rpc"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "payments:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN      settings.DSN    `default:"sqlite:payments.db" help:"Where payments are kept, sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE."`
	Audit    settings.Target `required:"" placeholder:"TARGET" help:"The audit service."`
	Accounts settings.Target `required:"" placeholder:"TARGET" help:"The accounts service, asked whether both sides may take part."`
	Risk     settings.Target `required:"" placeholder:"TARGET" help:"The risk service, asked before a payment is posted."`
	Ledger   settings.Target `required:"" placeholder:"TARGET" help:"The ledger service, where payments are posted."`
	Login    settings.Target `required:"" placeholder:"TARGET" help:"The login service, asked for the keys of transaction tokens, and to renew one for a payment that has waited."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "payments", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("payments", "Carries payments from the wish to the books. Whether it is ready: payments healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		payments, err := store.Open(ctx, string(cfg.DSN))
		if err != nil {
			return err
		}
		p.Defer(payments.Close)
		p.Ready("database", payments.Ping)
		login, err := p.Dial(cfg.Login, "/login", mesh.WithServiceConfig(neighbours.ServiceConfig))
		if err != nil {
			return err
		}
		keys := jwks.New(neighbours.TransactionKeys(login), jwks.WithLogger(p.Log))
		p.Go("keys of transaction tokens", keys.Run)
		// Without keys every customer would be told that the bank is not available.
		p.Ready("keys of transaction tokens", func(context.Context) error { return keys.Ready() })
		customers := txntoken.NewVerifier(keys, p.Identity.ID().TrustDomain().Name())
		around, err := dial(p, cfg, neighbours.NewTokens(login, customers))
		if err != nil {
			return err
		}
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		server, err := p.NewServer(mesh.WithRecorder(records), mesh.WithUsers(customers))
		if err != nil {
			return err
		}
		feed := activity.New(payments, activity.WithLogger(p.Log))
		payer := machine.New(payments, around, feed, machine.WithLogger(p.Log))
		p.Defer(payer.Close) // before the store is closed, after the calls that wait for a payment have been answered
		p.Go("unfinished payments", payer.Work)
		p.Go("changes by other replicas", feed.Poll)
		paymentsv1.RegisterPaymentServiceServer(server, rpc.New(payer, payments, feed, around.Accounts, p.Log))
		return nil
	})
}

func dial(p *mesh.Process, cfg config, tokens *neighbours.Tokens) (machine.Neighbours, error) {
	retries := mesh.WithServiceConfig(neighbours.ServiceConfig)
	accounts, err := p.Dial(cfg.Accounts, "/accounts", retries)
	if err != nil {
		return machine.Neighbours{}, err
	}
	risk, err := p.Dial(cfg.Risk, "/risk", retries)
	if err != nil {
		return machine.Neighbours{}, err
	}
	ledger, err := p.Dial(cfg.Ledger, "/ledger", retries, mesh.WithTransactionTokens(neighbours.LedgerService))
	if err != nil {
		return machine.Neighbours{}, err
	}
	return machine.Neighbours{
		Accounts: neighbours.NewAccounts(accounts),
		Risk:     neighbours.NewRisk(risk),
		Ledger:   neighbours.NewLedger(ledger, tokens),
	}, nil
}

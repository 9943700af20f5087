// Command gateway is the bank's door to its customers' phones.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/front"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rpc"
	"github.com/countersign-mesh/countersign/services/gateway/internal/trust"
	"github.com/countersign-mesh/countersign/services/gateway/internal/txn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	Audit    settings.Target `required:"" placeholder:"TARGET" help:"The audit service."`
	Accounts settings.Target `required:"" placeholder:"TARGET" help:"The accounts service: whose account is which."`
	Payments settings.Target `required:"" placeholder:"TARGET" help:"The payments service."`
	Ledger   settings.Target `required:"" placeholder:"TARGET" help:"The ledger service: balances and statements."`
	Login    settings.Target `required:"" placeholder:"TARGET" help:"The authorization server: who customers are, and what they asked for."`

	EdgeListen settings.Address `default:"127.0.0.1:8543" help:"Where to serve customers' devices over gRPC."`
	RestListen settings.Address `default:"127.0.0.1:8544" help:"Where to serve them as REST/JSON; GET /openapi.json describes it."`
	EdgeCert   settings.File    `required:"" placeholder:"FILE" help:"The certificate that devices see, in PEM, with the chain after it; watched, reloaded."`
	EdgeKey    settings.File    `required:"" placeholder:"FILE" help:"The key of that certificate, in PEM."`
	Issuer     settings.Issuer  `required:"" placeholder:"URL" help:"The issuer of access tokens: the URL that login is known by."`
	Audience   string           `default:"https://bank.test/mobile" help:"For whom access tokens must be."`

	StepUpFrom    settings.Count `default:"100000" help:"From how many minor units on a transfer takes a log-in with a one-time code."`
	CustomerRate  settings.Count `default:"20" help:"How many calls one customer may begin in a second."`
	CustomerBurst settings.Count `default:"40" help:"How many at once after a rest."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "gateway", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("gateway", "The bank's door to its customers' phones. Whether it is ready: gateway healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		login, err := p.Dial(cfg.Login, "/login", mesh.WithServiceConfig(rpc.ServiceConfig))
		if err != nil {
			return err
		}
		behind, err := dialBehind(p, cfg)
		if err != nil {
			return err
		}
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		server, err := p.NewServer(mesh.WithRecorder(records))
		if err != nil {
			return err
		}
		tokens := txn.New(loginv1.NewTransactionTokenServiceClient(login), time.Now)
		bank := rpc.New(behind, tokens, int64(cfg.StepUpFrom.Value()), p.Log)
		return openDoors(ctx, p, server, cfg, trust.New(loginv1.NewKeyServiceClient(login), p.Log), bank)
	})
}

// dialBehind connects to the services behind the gateway. They, and nobody else, get the transaction tokens of calls.
func dialBehind(p *mesh.Process, cfg config) (behind rpc.Behind, err error) {
	dial := func(target settings.Target, path, service string) *grpc.ClientConn {
		if err != nil {
			return nil
		}
		var conn *grpc.ClientConn
		conn, err = p.Dial(target, path, mesh.WithServiceConfig(rpc.ServiceConfig), mesh.WithTransactionTokens(service))
		return conn
	}
	behind.Accounts = dial(cfg.Accounts, "/accounts", accountsv1.AccountService_ServiceDesc.ServiceName)
	behind.Payments = dial(cfg.Payments, "/payments", paymentsv1.PaymentService_ServiceDesc.ServiceName)
	behind.Ledger = dial(cfg.Ledger, "/ledger", ledgerv1.LedgerService_ServiceDesc.ServiceName)
	return behind, err
}

// openDoors has customers be served over gRPC and REST.
func openDoors(ctx context.Context, p *mesh.Process, server *mesh.Server, cfg config, believed *trust.Trust, bank *rpc.Server) error {
	cert, err := edge.OpenCertFile(string(cfg.EdgeCert), string(cfg.EdgeKey), p.Log)
	if err != nil {
		return fmt.Errorf("--edge-cert, --edge-key: %w", err)
	}
	conns := new(edge.Conns)
	doors, err := front.New(server, front.Config{ //nolint:contextcheck // what it makes lives longer than ctx, and ends by Serve
		TLS: edge.TLSConfig(cert.Certificate, believed.Devices, edge.WithConns(conns), edge.WithRevocations(believed.Revoked())),
		Verifier: userauth.NewVerifier(believed.Keys(), string(cfg.Issuer), cfg.Audience,
			userauth.WithRevocations(believed.Revoked()), userauth.WithLogger(p.Log)),
		Rate: cfg.CustomerRate.Value(), Burst: cfg.CustomerBurst.Value(), Bank: bank, Metrics: p.Metrics, Log: p.Log,
	})
	if err != nil {
		return err
	}
	p.Ready("login", believed.Ready)
	p.Go("keys", believed.FollowKeys)
	p.Go("revocations", believed.FollowRevocations)
	p.Go("certificate", cert.Run)
	p.Go("devices", func(ctx context.Context) error { return conns.Follow(ctx, believed.Revoked()) })
	for _, door := range []struct {
		name    string
		address settings.Address
		serve   func(context.Context, net.Listener) error
	}{{"edge", cfg.EdgeListen, doors.ServeGRPC}, {"rest", cfg.RestListen, doors.ServeREST}} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", string(door.address))
		if err != nil {
			return fmt.Errorf("--%s-listen: %w", door.name, err)
		}
		p.Defer(func() error {
			if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
		p.Log.InfoContext(ctx, "customers are served", "door", door.name, "address", listener.Addr().String())
		p.Serve(door.name, func(ctx context.Context) error { return door.serve(ctx, conns.Listener(listener)) })
	}
	return nil
}

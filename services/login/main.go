// Command login is the bank's authorization server: it enrols customers' devices, logs customers in, and issues what proves to the rest of the
// bank that a customer asked for something.
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

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/services/login/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "login:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN        settings.DSN     `default:"sqlite:login.db" help:"Where customers, devices, sessions and keys are kept, sqlite:PATH or postgres://USER@HOST:5432/DATABASE."`
	Audit      settings.Target  `required:"" placeholder:"TARGET" help:"The audit service."`
	EdgeListen settings.Address `default:"127.0.0.1:8445" help:"Where to serve customers' devices: OAuth 2.0 over HTTPS."`
	EdgeCert   settings.File    `required:"" placeholder:"FILE" help:"The certificate that devices see, in PEM, with the chain after it; watched, reloaded."`
	EdgeKey    settings.File    `required:"" placeholder:"FILE" help:"The key of that certificate, in PEM."`
	Issuer     settings.Issuer  `required:"" placeholder:"URL" help:"The URL that this server is known by, https without a path; the issuer of all access tokens."`
	Audience   string           `default:"https://bank.test/mobile" help:"For whom access tokens are."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "login", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("login", "Logs customers in. Whether it is ready: login healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error { return build(ctx, p, cfg) })
}

func build(ctx context.Context, p *mesh.Process, cfg config) error {
	kept, err := store.Open(ctx, string(cfg.DSN))
	if err != nil {
		return err
	}
	p.Defer(kept.Close)
	p.Ready("database", kept.Ping)
	own := names{issuer: string(cfg.Issuer), audience: cfg.Audience, trustDomain: p.Identity.ID().TrustDomain().Name()}
	l, err := newLogin(ctx, kept, own, p.Metrics, p.Log, time.Now)
	if err != nil {
		return err
	}
	if err := serveEdge(ctx, p, cfg, l); err != nil {
		return err
	}
	for name, run := range l.workers() {
		p.Go(name, run)
	}
	records, err := p.AuditTo(cfg.Audit)
	if err != nil {
		return err
	}
	server, err := p.NewServer(mesh.WithRecorder(records))
	if err != nil {
		return err
	}
	l.register(server)
	return nil
}

// serveEdge listens for devices, and serves them once the process serves.
func serveEdge(ctx context.Context, p *mesh.Process, cfg config, l *login) error {
	cert, err := edge.OpenCertFile(string(cfg.EdgeCert), string(cfg.EdgeKey), p.Log)
	if err != nil {
		return fmt.Errorf("--edge-cert, --edge-key: %w", err)
	}
	p.Go("edge certificate", cert.Run)
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", string(cfg.EdgeListen))
	if err != nil {
		return fmt.Errorf("--edge-listen: %w", err)
	}
	p.Defer(func() error {
		if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	p.Serve("edge", func(ctx context.Context) error { return l.serveEdge(ctx, listener, cert.Certificate) })
	return nil
}

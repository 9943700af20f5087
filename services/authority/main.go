// Command authority is the SPIFFE Workload API and the signing authority of one trust domain on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
	"github.com/countersign-mesh/countersign/services/authority/internal/socket"
	"github.com/countersign-mesh/countersign/services/authority/internal/workload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "authority:", err)
		os.Exit(1)
	}
}

// run is the authority's life: it returns nil after ctx has ended and all that it started has, too.
func run(ctx context.Context, args []string, out, logs io.Writer) error {
	var cfg config
	if err := settings.Parse("authority", "The SPIFFE Workload API and signing authority of one trust domain.", args, out, &cfg); err != nil {
		return err
	}
	if err := cfg.check(); err != nil {
		return err
	}
	log := settings.NewLogger(logs, cfg.LogLevel, cfg.LogFormat)
	td, err := spiffeid.TrustDomainFromString(string(cfg.TrustDomain))
	if err != nil {
		return err
	}
	entries, err := registration.Open(string(cfg.Entries), td, log)
	if err != nil {
		return err
	}
	p, err := newProcess(ctx, string(cfg.OpsListen), log)
	if err != nil {
		return err
	}
	defer p.closeOps()
	authority, err := ca.Open(cfg.StateDir, cfg.authority(td), ca.WithLogger(log))
	if err != nil {
		return err
	}
	p.ready("authority", func(context.Context) error {
		_, _, err := authority.Expiry()
		return err
	})
	server, err := workload.New(authority, entries, workload.WithLogger(log), workload.WithMetrics(p.metrics))
	if err != nil {
		return errors.Join(err, authority.Close())
	}
	listener, err := socket.Listen(ctx, cfg.Socket)
	if err != nil {
		return errors.Join(fmt.Errorf("--socket: %w", err), authority.Close())
	}
	log.InfoContext(ctx, "the Workload API is served", "socket", "unix://"+listener.Addr().String(), "trust_domain", td.Name(),
		"entries", entries.Current().Len(), "svid_ttl", cfg.SVIDTTL, "authority_ttl", cfg.AuthorityTTL)
	err = p.serve(ctx, server, listener, map[string]worker{"registration": entries.Watch, "rotation": authority.Run})
	return errors.Join(err, authority.Close())
}

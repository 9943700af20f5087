package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/countersign-mesh/countersign/services/authority/internal/named"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
	"github.com/countersign-mesh/countersign/services/authority/internal/socket"
	"github.com/countersign-mesh/countersign/services/authority/internal/workload"
)

// listen opens the sockets that the settings name, all or none, and returns what serves them.
func listen(ctx context.Context, cfg config, p *process, server *workload.Server, entries *registration.File) (map[string]worker, error) {
	log, workers := p.log, make(map[string]worker)
	attrs := []any{"trust_domain", string(cfg.TrustDomain), "entries", entries.Current().Len(), "svid_ttl", cfg.SVIDTTL, "authority_ttl", cfg.AuthorityTTL}
	var plain net.Listener
	if cfg.Socket != "" {
		var err error
		if plain, err = socket.Listen(ctx, cfg.Socket); err != nil {
			return nil, fmt.Errorf("--socket: %w", err)
		}
		workers["workload API"] = func(context.Context) error { return server.Serve(plain) }
		attrs = append(attrs, "socket", "unix://"+plain.Addr().String())
	}
	if cfg.Sockets != "" {
		sockets, err := named.Open(ctx, cfg.Sockets, entries, log)
		if err != nil {
			err = fmt.Errorf("--sockets: %w", err)
			if plain != nil {
				err = errors.Join(err, plain.Close())
			}
			return nil, err
		}
		p.note("sockets", sockets.Note)
		workers["sockets"] = func(ctx context.Context) error { return sockets.Serve(ctx, server.Serve) }
		attrs = append(attrs, "sockets", cfg.Sockets, "names", sockets.Len())
	}
	log.InfoContext(ctx, "the Workload API is served", attrs...)
	tell(ctx, cfg, entries.Current(), log)
	return workers, nil
}

// tell says, once, which entries give nothing to anybody here: the file may be right for all that, as it may be shared with another
// authority, and then this is what to look at when an identity is missing.
func tell(ctx context.Context, cfg config, entries *registration.Registry, log *slog.Logger) {
	if n := entries.Foreign(); n > 0 {
		log.InfoContext(ctx, "registration entries with selectors of Docker or Kubernetes are for SPIRE to attest and match nobody here", "entries", n)
	}
	names := entries.Sockets()
	switch {
	case cfg.Sockets == "" && len(names) > 0:
		log.WarnContext(ctx, "registration entries ask for sockets with a name, and --sockets does not say where to serve them: they match nobody", "names", names)
	case cfg.Sockets != "" && len(names) == 0:
		log.WarnContext(ctx, "--sockets is given, and no registration entry asks for a socket with a name: none is served", "sockets", cfg.Sockets)
	}
}

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/keys"
	"github.com/countersign-mesh/countersign/services/login/internal/oauth"
	"github.com/countersign-mesh/countersign/services/login/internal/password"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
	"github.com/countersign-mesh/countersign/services/login/internal/rpc"
	"github.com/countersign-mesh/countersign/services/login/internal/store"
	"github.com/countersign-mesh/countersign/services/login/internal/transaction"
)

// names are what tokens call this server and those that they are for.
type names struct{ issuer, audience, trustDomain string }

// login is the authorization server, without the ways to it.
type login struct {
	authority           *device.Authority
	access, transaction *keys.Ring
	feed                *revocation.Feed
	store               *store.Store
	log                 *slog.Logger
	now                 func() time.Time

	devices http.Handler
	parts   rpc.Parts
}

// newLogin puts the authorization server together.
func newLogin(ctx context.Context, s *store.Store, n names, metrics prometheus.Registerer, log *slog.Logger, now func() time.Time) (*login, error) {
	l := &login{store: s, log: log, now: now, feed: revocation.New(s, now, log)}
	var err error
	if l.authority, err = device.OpenAuthority(ctx, s, now()); err != nil {
		return nil, err
	}
	if l.access, err = keys.Open(ctx, s, keys.Access, now, log); err != nil {
		return nil, err
	}
	if l.transaction, err = keys.Open(ctx, s, keys.Transaction, now, log); err != nil {
		return nil, err
	}
	customers := customer.New(s, password.New(), now)
	devices := device.New(s, l.authority, now)
	l.devices, err = oauth.New(oauth.Parts{
		Issuer: n.issuer, Customers: customers, Devices: devices, Grants: grant.New(s, l.access, n.issuer, n.audience, now),
		Authorities: l.authority.Certificates(), Keys: l.access.Set, Revoked: l.feed.Changed, Now: now, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("serve devices: %w", err)
	}
	verifier := userauth.NewVerifier(l.access, n.issuer, n.audience, userauth.WithClock(now), userauth.WithLogger(log))
	issuer := txntoken.NewIssuer(l.transaction.Signer, n.issuer, n.trustDomain, transaction.Lifetime, txntoken.WithIssuerClock(now))
	l.parts = rpc.Parts{
		Customers: customers, Devices: devices, Transactions: transaction.New(s, devices, verifier, issuer, now), Revocations: l.feed,
		AccessKeys: l.access.Set, TransactionKeys: l.transaction.Set, Authorities: l.authority.Certificates(), Log: log,
	}
	return l, nil
}

// register registers the mesh's side.
func (l *login) register(r grpc.ServiceRegistrar) { rpc.Register(r, l.parts) }

// serveEdge serves devices on listener until ctx ends. A device shows its certificate; one that is yet to be enrolled has none. Whether a device is good is looked at for each
// request (device.Registry), so that connections need not be known.
func (l *login) serveEdge(ctx context.Context, listener net.Listener, cert func() (*tls.Certificate, error)) error {
	return oauth.Serve(ctx, listener, edge.TLSConfig(cert, l.authority.Pool, edge.WithOptionalCertificate()), l.devices, l.log)
}

// workers are what runs beside the servers.
func (l *login) workers() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"access token keys":      l.access.Run,
		"transaction token keys": l.transaction.Run,
		"revocations":            l.feed.Run,
		"tidying":                l.tidy,
	}
}

// tidyEvery is how often what is over is removed.
const tidyEvery = time.Hour

// tidy removes what nobody can use or ask for any more, until ctx ends.
func (l *login) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := l.store.Prune(ctx, l.now()); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "cannot remove what is over", "error", err)
		}
	}
}

package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// Member is this process as a member of the mesh: it has an identity, a policy that is kept up to date, and connections that are looked after. It
// is for a program that has a life of its own; Run gives a program one. It is safe for concurrent use. The zero value is not usable;
// see Join.
type Member struct {
	// Identity is the process's own SVID and the bundles it trusts.
	Identity *identity.Source
	// Policy is the policy file.
	Policy *authz.File

	log      *slog.Logger
	conns    *transport.Registry
	unwatch  context.CancelFunc
	watching sync.WaitGroup
}

// Join reads the policy file and gets the process its identity from the Workload API that SPIFFE_ENDPOINT_SOCKET names, or an option. It waits for
// the first SVID, until ctx ends. From then on it follows both until Close. Its error says what is missing.
func Join(ctx context.Context, policyFile string, opts ...RunOption) (*Member, error) {
	var o runOptions
	for _, opt := range opts {
		opt(&o)
	}
	return join(ctx, policyFile, slog.Default(), o.identity)
}

func join(ctx context.Context, policyFile string, log *slog.Logger, opts []identity.Option) (*Member, error) {
	file, err := authz.Open(policyFile, authz.WithFileLogger(log))
	if err != nil {
		return nil, err
	}
	source, err := identity.New(ctx, append([]identity.Option{identity.WithLogger(log)}, opts...)...)
	if err != nil {
		return nil, err
	}
	m := &Member{Identity: source, Policy: file, log: log, conns: transport.NewRegistry(source, transport.WithLogger(log))}
	m.conns.Heed(file) // what has no server, and what is dialled before there is one
	watch, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	m.unwatch = unwatch
	m.watching.Go(func() {
		if err := file.Watch(watch); err != nil {
			log.ErrorContext(watch, "the policy file is not watched any more", "file", policyFile, "error", err)
		}
	})
	return m, nil
}

// NewServer returns a server of this process; see the function NewServer.
func (m *Member) NewServer(opts ...ServerOption) (*Server, error) {
	return NewServer(m.conns, m.Policy, append([]ServerOption{WithLogger(m.log)}, opts...)...)
}

// Dial connects to the service of the own trust domain that has the given path, such as "/ledger", at a gRPC target; see the function Dial. The
// caller closes the connection before the Member.
func (m *Member) Dial(target, path string, opts ...DialOption) (*grpc.ClientConn, error) {
	server, err := spiffeid.FromPath(m.Identity.ID().TrustDomain(), path)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return Dial(m.conns, m.Policy, target, server, opts...)
}

// Close closes every connection and gives the identity up.
func (m *Member) Close() error {
	m.unwatch()
	m.watching.Wait()
	return errors.Join(m.conns.Close(), m.Identity.Close())
}

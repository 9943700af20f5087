package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

const (
	// fileBound is how long the policy file may be in the hands of others.
	fileBound = 5 * time.Second
	// forceBound is how long a service may take to have a change of the policy in force; less than a second is promised.
	forceBound = 5 * time.Second
)

// revoke writes a revocation into the mesh's policy file.
func (p *player) revoke(ctx context.Context, entry *policyv1.Revocation) (policyfile.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, fileBound)
	defer cancel()
	return policyfile.Revoke(ctx, p.settings.Mesh.Policy, entry)
}

// takeBack takes a revocation out of the policy file again. That it is out already is no error.
func (p *player) takeBack(ctx context.Context, change policyfile.Change) error {
	ctx, cancel := context.WithTimeout(ctx, fileBound)
	defer cancel()
	if err := policyfile.Undo(ctx, p.settings.Mesh.Policy, change); err != nil {
		return fmt.Errorf("take the revocation out of the policy again: %w", err)
	}
	return nil
}

// servers returns a connection to each server of a service, and what closes them.
func (p *player) servers(ctx context.Context, name string) (conns []*grpc.ClientConn, closeAll func() error, err error) {
	closeAll = func() error {
		var errs []error
		for _, conn := range conns {
			errs = append(errs, conn.Close())
		}
		return errors.Join(errs...)
	}
	service, err := p.settings.Mesh.Find(name)
	if err != nil {
		return nil, nil, err
	}
	for _, server := range site.Servers(ctx, p.settings.Resolver, service) {
		conn, err := p.operator.Dial(server.Target)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", server.Name, err), closeAll())
		}
		conns = append(conns, conn)
	}
	return conns, closeAll, nil
}

// disownRisk revokes risk by its SPIFFE ID, whatever SVID it has, and returns what takes that back: from then on the services that are given
// believe it again.
func (p *player) disownRisk(ctx context.Context, services ...*grpc.ClientConn) (change policyfile.Change, takeBack func(context.Context) error, err error) {
	versions := make([]string, len(services))
	for i, conn := range services {
		now, err := admin.PolicyOf(ctx, conn)
		if err != nil {
			return policyfile.Change{}, nil, err
		}
		versions[i] = now.Version
	}
	change, err = p.revoke(ctx, &policyv1.Revocation{Subject: &policyv1.Revocation_Id{Id: "/risk"}, Why: "risk is away, in countersign demo"})
	if err == nil && !change.Added {
		err = fmt.Errorf("risk is revoked already, by %s; take that out first", change.Entry)
	}
	if err != nil {
		return policyfile.Change{}, nil, err
	}
	return change, func(ctx context.Context) error {
		if err := p.takeBack(ctx, change); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, forceBound)
		defer cancel()
		var errs []error
		for i, conn := range services {
			errs = append(errs, admin.Written{Version: versions[i], Restored: true}.Follow(ctx, conn))
		}
		return errors.Join(errs...)
	}, nil
}

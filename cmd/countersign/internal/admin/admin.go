// Package admin asks the servers of a mesh about their connections, and what became of those that a revocation is to cut.
package admin

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/identity"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// Connections returns all live connections of a server, oldest first.
func Connections(ctx context.Context, conn grpc.ClientConnInterface) ([]*adminv1.Connection, error) {
	client := adminv1.NewAdminServiceClient(conn)
	var all []*adminv1.Connection
	for token := ""; ; {
		page, err := client.ListConnections(ctx, &adminv1.ListConnectionsRequest{PageSize: pageSize, PageToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetConnections()...)
		if token = page.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

const (
	pageSize    = 1000
	askInterval = 25 * time.Millisecond
	// settleTime is how long a server is asked on once it has the policy in force and no connection of the revoked one: it knows a connection by
	// the authority at the end of its chain, so that those by way of a revoked intermediate are seen only when they are cut.
	settleTime = 250 * time.Millisecond
)

// Revoked is a revocation that was written, of which the servers are to take notice.
type Revoked struct {
	// What is revoked.
	What identity.Revocation
	// Version is the policy's with the revocation in it.
	Version string
	// Time is when it was written.
	Time time.Time
}

// matches reports whether a connection is one that has to be cut.
func (r Revoked) matches(c *adminv1.Connection) bool {
	switch {
	case !r.What.ID.IsZero():
		return c.GetPeerId() == r.What.ID.String()
	case r.What.Serial != "":
		return c.GetPeerSerial() == r.What.Serial
	default:
		return c.GetPeerAuthority() == r.What.Authority
	}
}

// Outcome is what one server did about a revocation.
type Outcome struct {
	// InForce is how long after it was written the server was seen to have it in force.
	InForce time.Duration
	// Cuts are the connections that the server has cut since, for whatever reason: a service whose own authority is revoked cuts all.
	Cuts []*adminv1.Cut
	// Err is why the revocation is not known to have come into force.
	Err error

	inForce bool
}

// Follow asks a server until it has the revocation in force and has cut all that it has to, or ctx ends. A server that does not answer may
// only be starting again: it is asked on. One that does not let this caller ask is not.
func (r Revoked) Follow(ctx context.Context, conn grpc.ClientConnInterface) Outcome {
	ticker := time.NewTicker(askInterval)
	defer ticker.Stop()
	var o Outcome
	for {
		var done bool
		if done, o.Err = r.look(ctx, conn, &o); done {
			return o
		}
		select {
		case <-ctx.Done():
			return o
		case <-ticker.C:
		}
	}
}

// look asks once. Its error says what was still missing when ctx ended.
func (r Revoked) look(ctx context.Context, conn grpc.ClientConnInterface, o *Outcome) (done bool, missing error) {
	response, err := adminv1.NewAdminServiceClient(conn).ListCuts(ctx, &adminv1.ListCutsRequest{Since: timestamppb.New(r.Time)})
	if err != nil {
		return final(err), o.keep(err)
	}
	if got := response.GetPolicyVersion(); got != r.Version {
		return false, fmt.Errorf("it still has the policy %s in force", got)
	}
	if !o.inForce {
		o.inForce, o.InForce = true, time.Since(r.Time)
	}
	o.Cuts = response.GetCuts()
	live, err := Connections(ctx, conn)
	if err != nil {
		return final(err), o.keep(err)
	}
	left := 0
	for _, c := range live {
		if r.matches(c) {
			left++
		}
	}
	if left > 0 {
		return false, fmt.Errorf("it has the policy in force and %d connections that it should have cut", left)
	}
	return time.Since(r.Time) >= o.InForce+settleTime, nil
}

// keep returns why a server could not be asked; when ctx has ended meanwhile, what was known before says more.
func (o *Outcome) keep(err error) error {
	if status.Code(err) == codes.DeadlineExceeded && (o.Err != nil || o.inForce) {
		return o.Err
	}
	return err
}

// final reports whether asking again makes no sense.
func final(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented, codes.Canceled:
		return true
	default:
		return false
	}
}

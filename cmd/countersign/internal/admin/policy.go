package admin

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// Policy is how the policy of a server stands.
type Policy struct {
	// Version is the version in force.
	Version string
	// Failure is why the file as it is now is not in force; empty when it is, and when the server does not say.
	Failure string
}

// PolicyOf asks a server how its policy stands. One that was built before there was GetPolicy is asked for the version alone.
func PolicyOf(ctx context.Context, conn grpc.ClientConnInterface) (Policy, error) {
	client := adminv1.NewAdminServiceClient(conn)
	response, err := client.GetPolicy(ctx, &adminv1.GetPolicyRequest{})
	if err == nil {
		return Policy{Version: response.GetPolicyVersion(), Failure: response.GetFailure()}, nil
	}
	if status.Code(err) != codes.Unimplemented {
		return Policy{}, err
	}
	cuts, err := client.ListCuts(ctx, &adminv1.ListCutsRequest{Since: timestamppb.Now()}) // no cut is asked for
	if err != nil {
		return Policy{}, err
	}
	return Policy{Version: cuts.GetPolicyVersion()}, nil
}

// RefusedError means that a server keeps the policy that it has, and why it does not take the file's.
type RefusedError struct{ Policy }

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("it does not take the file as it is and keeps the policy %s in force: %s", e.Version, e.Failure)
}

// Written is a policy that was written, which the servers are to have in force.
type Written struct {
	Version string
	// Restored says that the file had this text before. That a server does not take the file may then still be about what came in between.
	Restored bool
}

// Follow asks a server until it has the policy in force, or refuses it, or ctx ends. A server that does not answer may only be starting again: it
// is asked on. One that does not let this caller ask is not.
func (w Written) Follow(ctx context.Context, conn grpc.ClientConnInterface) error {
	ticker := time.NewTicker(askInterval)
	defer ticker.Stop()
	var missing error
	for {
		done, err := w.look(ctx, conn)
		if missing == nil || status.Code(err) != codes.DeadlineExceeded { // which says less than what was missing before
			missing = err
		}
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return missing
		case <-ticker.C:
		}
	}
}

// look asks once. Its error says what was still missing when ctx ended.
func (w Written) look(ctx context.Context, conn grpc.ClientConnInterface) (done bool, missing error) {
	now, err := PolicyOf(ctx, conn)
	switch {
	case err != nil:
		return final(err), err
	case now.Failure != "":
		return !w.Restored, &RefusedError{now}
	case now.Version != w.Version:
		return false, fmt.Errorf("it still has the policy %s in force", now.Version)
	default:
		return true, nil
	}
}

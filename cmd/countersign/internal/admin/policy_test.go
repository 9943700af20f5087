package admin_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// teller is an AdminService without a network, which tells how its policy stands.
type teller struct {
	grpc.ClientConnInterface
	begin  time.Time
	policy func(after time.Duration) (*adminv1.GetPolicyResponse, error)
	cuts   string // the version that ListCuts tells
}

func (s *teller) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	var response proto.Message = &adminv1.ListCutsResponse{PolicyVersion: s.cuts}
	if _, ok := args.(*adminv1.GetPolicyRequest); ok {
		var err error
		if response, err = s.policy(time.Since(s.begin)); err != nil {
			return err
		}
	}
	proto.Merge(reply.(proto.Message), response) //nolint:errcheck,forcetypeassert // it is one of two responses
	return nil
}

func TestAServerIsFollowedUntilAPolicyIsInForce(t *testing.T) {
	t.Parallel()
	const bound = 5 * time.Second
	inForce := func(version string) (*adminv1.GetPolicyResponse, error) {
		return &adminv1.GetPolicyResponse{PolicyVersion: version}, nil
	}
	refused := &adminv1.GetPolicyResponse{PolicyVersion: "old", Failure: "p.yaml:3: no such method"}
	for name, test := range map[string]struct {
		policy   func(after time.Duration) (*adminv1.GetPolicyResponse, error)
		cuts     string
		restored bool
		took     time.Duration // at most
		err      string
		refused  bool
	}{
		"it has it at once": {
			policy: func(time.Duration) (*adminv1.GetPolicyResponse, error) { return inForce("new") },
		},
		"it takes a second": {
			policy: func(after time.Duration) (*adminv1.GetPolicyResponse, error) {
				if after < time.Second {
					return inForce("old")
				}
				return inForce("new")
			},
			took: 1100 * time.Millisecond,
		},
		"it is starting again": {
			policy: func(after time.Duration) (*adminv1.GetPolicyResponse, error) {
				if after < time.Second {
					return nil, status.Error(codes.Unavailable, "connection refused")
				}
				return inForce("new")
			},
			took: 1100 * time.Millisecond,
		},
		"it never has it": {
			policy: func(time.Duration) (*adminv1.GetPolicyResponse, error) { return inForce("old") },
			took:   bound, err: "it still has the policy old in force",
		},
		"it refuses it": {
			policy: func(time.Duration) (*adminv1.GetPolicyResponse, error) { return refused, nil },
			err:    "it does not take the file as it is and keeps the policy old in force: p.yaml:3: no such method", refused: true,
		},
		"it has refused what stood there before the text was put back": {
			policy: func(after time.Duration) (*adminv1.GetPolicyResponse, error) {
				if after < time.Second {
					return &adminv1.GetPolicyResponse{PolicyVersion: "new", Failure: "p.yaml:3: no such method"}, nil
				}
				return inForce("new")
			},
			restored: true, took: 1100 * time.Millisecond,
		},
		"it refuses what was put back too": {
			policy:   func(time.Duration) (*adminv1.GetPolicyResponse, error) { return refused, nil },
			restored: true, took: bound, err: "it does not take the file", refused: true,
		},
		"it does not let us ask": {
			policy: func(time.Duration) (*adminv1.GetPolicyResponse, error) {
				return nil, status.Error(codes.PermissionDenied, "permission denied")
			},
			err: "permission denied",
		},
		"it was built before there was GetPolicy": {
			policy: func(time.Duration) (*adminv1.GetPolicyResponse, error) {
				return nil, status.Error(codes.Unimplemented, "unknown")
			},
			cuts: "new",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				begin := time.Now()
				err := admin.Written{Version: "new", Restored: test.restored}.Follow(ctx, &teller{begin: begin, policy: test.policy, cuts: test.cuts})
				if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
					t.Errorf("the error is %v, want %q", err, test.err)
				}
				if refusal := new(admin.RefusedError); errors.As(err, &refusal) != test.refused {
					t.Errorf("refused is %v, want %v: %v", !test.refused, test.refused, err)
				}
				if took := time.Since(begin); took > test.took {
					t.Errorf("it took %v, want %v at most", took, test.took)
				}
			})
		})
	}
}

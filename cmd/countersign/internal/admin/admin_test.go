package admin_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/pkg/identity"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// server is an AdminService without a network. It has a life: what it answers depends on how long ago the revocation was written.
type server struct {
	grpc.ClientConnInterface
	begin time.Time
	cuts  func(after time.Duration) (*adminv1.ListCutsResponse, error)
	pages func(after time.Duration, token string) (*adminv1.ListConnectionsResponse, error)
	asked int
}

func (s *server) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	after := time.Since(s.begin)
	var response proto.Message
	var err error
	if request, ok := args.(*adminv1.ListConnectionsRequest); ok {
		response, err = s.pages(after, request.GetPageToken())
	} else {
		s.asked++
		response, err = s.cuts(after)
	}
	if err == nil {
		proto.Merge(reply.(proto.Message), response) //nolint:errcheck,forcetypeassert // it is one of two responses
	}
	return err
}

var risk = spiffeid.RequireFromString("spiffe://bank.test/risk")

// nobody is connected.
func nobody(time.Duration, string) (*adminv1.ListConnectionsResponse, error) {
	return &adminv1.ListConnectionsResponse{}, nil
}

func TestConnectionsReadsEveryPage(t *testing.T) {
	t.Parallel()
	s := &server{pages: func(_ time.Duration, token string) (*adminv1.ListConnectionsResponse, error) {
		next := map[string]string{"": "two", "two": "three"}[token]
		return &adminv1.ListConnectionsResponse{Connections: []*adminv1.Connection{{RemoteAddress: "page " + token}}, NextPageToken: next}, nil
	}}
	got, err := admin.Connections(t.Context(), s)
	want := []*adminv1.Connection{{RemoteAddress: "page "}, {RemoteAddress: "page two"}, {RemoteAddress: "page three"}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v, want (-) and got (+):\n%s", err, diff)
	}
}

func TestFollowAsksUntilTheRevocationIsHeeded(t *testing.T) {
	t.Parallel()
	const bound = 5 * time.Second
	version := func(v string, cuts ...*adminv1.Cut) (*adminv1.ListCutsResponse, error) {
		return &adminv1.ListCutsResponse{PolicyVersion: v, Cuts: cuts}, nil
	}
	cut := &adminv1.Cut{Reason: adminv1.CutReason_CUT_REASON_REVOKED}
	for name, test := range map[string]struct {
		cuts  func(after time.Duration) (*adminv1.ListCutsResponse, error)
		pages func(after time.Duration, token string) (*adminv1.ListConnectionsResponse, error)
		// inForce and took are how long it may at most be until the server is seen to heed it and until Follow returns.
		inForce, took time.Duration
		asked         int // at most, when it is not 0
		ncuts         int
		err           string
	}{
		"it heeds it at once": {
			cuts:  func(time.Duration) (*adminv1.ListCutsResponse, error) { return version("new", cut) },
			pages: nobody, inForce: time.Millisecond, took: 500 * time.Millisecond, ncuts: 1,
		},
		"it cuts a moment later what only it knows of, by way of an intermediate": {
			cuts: func(after time.Duration) (*adminv1.ListCutsResponse, error) {
				if after < 200*time.Millisecond {
					return version("new")
				}
				return version("new", cut, cut)
			},
			pages: nobody, inForce: time.Millisecond, took: 500 * time.Millisecond, ncuts: 2,
		},
		"it takes its time": {
			cuts: func(after time.Duration) (*adminv1.ListCutsResponse, error) {
				if after < time.Second {
					return version("old")
				}
				return version("new", cut)
			},
			pages: nobody, inForce: 1100 * time.Millisecond, took: 1500 * time.Millisecond, ncuts: 1,
		},
		"it is starting again": {
			cuts: func(after time.Duration) (*adminv1.ListCutsResponse, error) {
				if after < time.Second {
					return nil, status.Error(codes.Unavailable, "connection refused")
				}
				return version("new")
			},
			pages: nobody, inForce: 1100 * time.Millisecond, took: 1500 * time.Millisecond,
		},
		"it stays with the old policy": {
			cuts:  func(time.Duration) (*adminv1.ListCutsResponse, error) { return version("old") },
			pages: nobody, took: bound, err: "it still has the policy old in force",
		},
		"it does not answer": {
			cuts: func(time.Duration) (*adminv1.ListCutsResponse, error) {
				return nil, status.Error(codes.Unavailable, "connection refused")
			},
			pages: nobody, took: bound, err: "connection refused",
		},
		"it leaves a connection as it is": {
			cuts: func(time.Duration) (*adminv1.ListCutsResponse, error) { return version("new", cut) },
			pages: func(time.Duration, string) (*adminv1.ListConnectionsResponse, error) {
				return &adminv1.ListConnectionsResponse{Connections: []*adminv1.Connection{{PeerId: risk.String()}, {PeerId: "spiffe://bank.test/ledger"}}}, nil
			},
			inForce: time.Millisecond, took: bound, ncuts: 1, err: "1 connections that it should have cut",
		},
		"it does not let this caller ask": {
			cuts: func(time.Duration) (*adminv1.ListCutsResponse, error) {
				return nil, status.Error(codes.PermissionDenied, "permission denied")
			},
			pages: nobody, took: time.Millisecond, asked: 1, err: "permission denied",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				s := &server{begin: time.Now(), cuts: test.cuts, pages: test.pages}
				o := admin.Revoked{What: identity.Revocation{ID: risk}, Version: "new", Time: s.begin}.Follow(ctx, s)
				if (o.Err == nil) != (test.err == "") || o.Err != nil && !strings.Contains(o.Err.Error(), test.err) {
					t.Errorf("the error is %v, want %q", o.Err, test.err)
				}
				if took := time.Since(s.begin); took > test.took || o.InForce > test.inForce {
					t.Errorf("it was seen in force after %v and took %v, want %v and %v at most", o.InForce, took, test.inForce, test.took)
				}
				if len(o.Cuts) != test.ncuts || test.asked > 0 && s.asked > test.asked {
					t.Errorf("it has %d cuts, after it was asked %d times", len(o.Cuts), s.asked)
				}
			})
		})
	}
}

func TestFollowKnowsWhichConnectionsHaveToGo(t *testing.T) {
	t.Parallel()
	c := &adminv1.Connection{PeerId: risk.String(), PeerSerial: "4f", PeerAuthority: "9c"}
	for name, test := range map[string]struct {
		what identity.Revocation
		goes bool
	}{
		"its ID":            {identity.Revocation{ID: risk}, true},
		"another ID":        {identity.Revocation{ID: spiffeid.RequireFromString("spiffe://bank.test/ris")}, false},
		"its serial":        {identity.Revocation{Serial: "4f"}, true},
		"another serial":    {identity.Revocation{Serial: "9c"}, false},
		"its authority":     {identity.Revocation{Authority: "9c"}, true},
		"another authority": {identity.Revocation{Authority: "4f"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				s := &server{
					begin: time.Now(),
					cuts: func(time.Duration) (*adminv1.ListCutsResponse, error) {
						return &adminv1.ListCutsResponse{PolicyVersion: "new"}, nil
					},
					pages: func(time.Duration, string) (*adminv1.ListConnectionsResponse, error) {
						return &adminv1.ListConnectionsResponse{Connections: []*adminv1.Connection{c}}, nil
					},
				}
				o := admin.Revoked{What: test.what, Version: "new", Time: s.begin}.Follow(ctx, s)
				if (o.Err != nil) != test.goes {
					t.Errorf("the error is %v", o.Err)
				}
			})
		})
	}
}

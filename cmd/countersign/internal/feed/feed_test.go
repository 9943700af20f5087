package feed_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/feed"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is an audit service whose feeds end after two records with the codes in ends, one after another, and then never.
type service struct {
	auditv1.AuditServiceClient
	last     int64
	ends     []codes.Code
	requests []*auditv1.WatchDecisionsRequest
}

func (s *service) ListDecisions(_ context.Context, r *auditv1.ListDecisionsRequest, _ ...grpc.CallOption) (*auditv1.ListDecisionsResponse, error) {
	if s.last == 0 || r.GetPageSize() != 1 {
		return &auditv1.ListDecisionsResponse{}, nil
	}
	return &auditv1.ListDecisionsResponse{Records: []*auditv1.StoredRecord{{Position: s.last}}}, nil
}

func (s *service) WatchDecisions(ctx context.Context, r *auditv1.WatchDecisionsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[auditv1.WatchDecisionsResponse], error) {
	s.requests = append(s.requests, r)
	end := codes.OK
	if len(s.ends) > 0 {
		end, s.ends = s.ends[0], s.ends[1:]
	}
	return &stream{ctx: ctx, next: r.GetAfterPosition() + 1, left: 2, last: s.last, end: end}, nil
}

type stream struct {
	grpc.ClientStream
	ctx        context.Context
	next, last int64
	left       int
	end        codes.Code
}

func (s *stream) Recv() (*auditv1.WatchDecisionsResponse, error) {
	if s.end != codes.OK && s.left == 0 {
		return nil, status.Error(s.end, "ends")
	}
	if s.next > s.last {
		<-s.ctx.Done()
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
	s.left--
	s.next++
	return &auditv1.WatchDecisionsResponse{Record: &auditv1.StoredRecord{Position: s.next - 1}}, nil
}

func TestAFeedGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{last: 9, ends: []codes.Code{codes.ResourceExhausted, codes.Unavailable, codes.Unavailable}}
		filter := &auditv1.DecisionFilter{Method: "/m"}
		var got, broken []int64
		f := feed.Feed{Client: s, Filter: filter, Broken: func(_ error, position int64) { broken = append(broken, position) }}
		err := f.Follow(t.Context(), 0, func(r *auditv1.StoredRecord) error {
			if got = append(got, r.GetPosition()); r.GetPosition() == 9 {
				return io.EOF
			}
			return nil
		})
		if !errors.Is(err, io.EOF) || !slices.Equal(got, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9}) {
			t.Errorf("read %v, %v", got, err)
		}
		if len(s.requests) != 4 {
			t.Fatalf("%d requests, want 4", len(s.requests))
		}
		for i, want := range []int64{0, 2, 4, 6} {
			if r := s.requests[i]; r.GetAfterPosition() != want || r.GetFromStart() != (want == 0) || r.GetFilter() != filter {
				t.Errorf("request %d is %v, want one after %d with the filter", i, r, want)
			}
		}
		// The first end is in order; those that follow at once are worth a word.
		if !slices.Equal(broken, []int64{4, 6}) {
			t.Errorf("told of breaks after %v, want 4 and 6", broken)
		}
	})
}

func TestAFeedThatCannotGoOnEnds(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Internal} {
		s := &service{last: 5, ends: []codes.Code{code}}
		err := feed.Feed{Client: s}.Follow(t.Context(), 2, func(*auditv1.StoredRecord) error { return nil })
		if status.Code(err) != code || len(s.requests) != 1 {
			t.Errorf("%v: ended with %v after %d requests", code, err, len(s.requests))
		}
	}
}

func TestAServiceThatIsAwayIsAskedEverMoreSeldomUntilTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{last: 1 << 40, ends: slices.Repeat([]codes.Code{codes.Unavailable}, 1000)}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Minute, io.ErrUnexpectedEOF)
		defer cancel()
		err := feed.Feed{Client: s}.Follow(ctx, 2, func(*auditv1.StoredRecord) error { return nil })
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(s.requests) < 100 || len(s.requests) > 140 {
			t.Errorf("%d requests in ten minutes, want one in 5 s; ended with %v", len(s.requests), err)
		}
	})
}

func TestTheHeadIsThatOfTheNewestRecord(t *testing.T) {
	t.Parallel()
	for _, want := range []int64{0, 7} {
		if got, err := feed.Head(t.Context(), &service{last: want}); err != nil || got != want {
			t.Errorf("head %d, %v; want %d", got, err, want)
		}
	}
}

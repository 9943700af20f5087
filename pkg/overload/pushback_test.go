package overload_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

// trailers is the part of a server's transport that a trailer goes to.
type trailers struct {
	grpc.ServerTransportStream
	trailer metadata.MD
}

func (s *trailers) SetTrailer(md metadata.MD) error {
	s.trailer = metadata.Join(s.trailer, md)
	return nil
}

// told calls through a gate, as a unary call and as a stream, and returns what the client is told of retries, which is the same for both.
func told(t *testing.T, gate *overload.Gate, ctx context.Context, handler error) (pushback []string, err error) { //nolint:revive // t first
	t.Helper()
	var unary, streamed trailers
	err = call(grpc.NewContextWithServerTransportStream(ctx, &unary), gate, func() error { return handler })
	again := gate.Stream()(new(int), trailing{stream{ctx: ctx}, &streamed}, streamInfo, func(any, grpc.ServerStream) error { return handler }) //nolint:contextcheck // it is the stream's
	const name = "grpc-retry-pushback-ms"
	one, other := unary.trailer.Get(name), streamed.trailer.Get(name)
	if status.Code(err) != status.Code(again) || len(one) != len(other) {
		t.Errorf("a unary call is told %v by %v, a stream %v by %v", err, one, again, other)
	}
	return one, err
}

type trailing struct {
	stream
	to *trailers
}

func (s trailing) SetTrailer(md metadata.MD) { _ = s.to.SetTrailer(md) } // never fails

func asking(t *testing.T, code codes.Code, delay time.Duration) error {
	t.Helper()
	st, err := status.New(code, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// What a person reads in RetryInfo, gRPC's client reads in the trailer, also where the answer is a service's own.
func TestTheTrailerSaysWhatTheErrorSays(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{})
	for name, test := range map[string]struct {
		handler error
		left    time.Duration
		want    []string
	}{
		"no error":                               {nil, 0, nil},
		"an error without a delay":               {status.Error(codes.ResourceExhausted, "busy"), 0, nil},
		"an error that is no status":             {errors.New("no"), 0, nil},
		"a delay":                                {asking(t, codes.ResourceExhausted, 1500*time.Millisecond), 0, []string{"1500"}},
		"a delay of less than a millisecond":     {asking(t, codes.Unavailable, time.Microsecond), 0, []string{"1"}},
		"no delay before a retry":                {asking(t, codes.Unavailable, 0), 0, []string{"0"}},
		"a delay that the deadline has room for": {asking(t, codes.ResourceExhausted, time.Second), time.Hour, []string{"1000"}},
		"a delay beyond the deadline":            {asking(t, codes.ResourceExhausted, 2*time.Hour), time.Hour, []string{"-1"}},
		"a delay that leaves too little of it":   {asking(t, codes.ResourceExhausted, time.Hour-overload.LeastDeadline), time.Hour, []string{"-1"}},
	} {
		ctx, cancel := from(t, "/payments"), func() {}
		if test.left > 0 {
			ctx, cancel = context.WithTimeout(ctx, test.left)
		}
		got, err := told(t, gate, ctx, test.handler)
		cancel()
		if fmt.Sprint(got) != fmt.Sprint(test.want) || !errors.Is(err, test.handler) {
			t.Errorf("%s: the trailer says %v, want %v, beside %v", name, got, test.want, err)
		}
	}
}

func TestARefusalSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Rate: rate.NewLimiter(0, 0)})
	got, err := told(t, gate, from(t, "/payments"), nil)
	_, retry := details(err)
	delay := retry.GetRetryDelay().AsDuration()
	if delay < 5*time.Second || delay > 10*time.Second {
		t.Errorf("the delay of a server that takes nothing is %v", delay)
	}
	if want := strconv.FormatInt(delay.Milliseconds()+1, 10); len(got) != 1 || got[0] != want && got[0] != strconv.FormatInt(delay.Milliseconds(), 10) {
		t.Errorf("the trailer says %v beside a delay of %v", got, delay)
	}
	short, cancel := context.WithTimeout(from(t, "/payments"), 4*time.Second)
	defer cancel()
	if got, _ := told(t, gate, short, nil); len(got) != 1 || got[0] != "-1" {
		t.Errorf("with less of the deadline left than that, the trailer says %v", got)
	}
	late, cancel := context.WithDeadline(from(t, "/payments"), time.Now())
	defer cancel()
	got, err = told(t, gate, late, nil)
	if len(got) != 1 || got[0] != "-1" || status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("of a deadline that has passed, the trailer says %v beside %v", got, err)
	}
}

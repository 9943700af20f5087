package overload_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

func TestRetryDelayIsReadFromTheError(t *testing.T) {
	t.Parallel()
	with := func(code codes.Code, delay *durationpb.Duration) error {
		st, err := status.New(code, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: delay})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for name, test := range map[string]struct {
		err  error
		want time.Duration
		ok   bool
	}{
		"no error":                         {nil, 0, false},
		"an error that is no status":       {errors.New("no"), 0, false},
		"a status without details":         {status.Error(codes.ResourceExhausted, "busy"), 0, false},
		"a delay":                          {with(codes.ResourceExhausted, durationpb.New(time.Second)), time.Second, true},
		"a delay in a wrapped error":       {fmt.Errorf("pay: %w", with(codes.Unavailable, durationpb.New(time.Second))), time.Second, true},
		"a delay below zero":               {with(codes.ResourceExhausted, durationpb.New(-time.Second)), 0, true},
		"a delay that is none":             {with(codes.ResourceExhausted, nil), 0, false},
		"a delay that is no valid message": {with(codes.ResourceExhausted, &durationpb.Duration{Seconds: 1, Nanos: -1}), 0, false},
	} {
		if got, ok := overload.RetryDelay(test.err); got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %t, want %v, %t", name, got, ok, test.want, test.ok)
		}
	}
}

// A flood of refusals is one line, and a count.
func TestRefusalsAreLoggedOnceInAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		gate, err := overload.New(overload.Limits{Rate: rate.NewLimiter(0, 0)}, overload.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		refuse := func() {
			for range 1000 {
				wantRefused(t, "a call", call(from(t, "/payments"), gate, nothing), "rate")
			}
		}
		refuse()
		<-time.After(10 * time.Second) // of the bubble
		refuse()
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "refused_so_far=1001") {
			t.Errorf("%d lines:\n%s", n, &log)
		}
	})
}

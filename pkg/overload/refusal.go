package overload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// reason is why a call is refused.
type reason int

const (
	full reason = iota
	share
	exceeded
	deadline
	// reasons is how many there are; admitted is none of them.
	reasons
	admitted = reasons
)

// String is the reason as a metric has it.
func (r reason) String() string { return [...]string{"full", "share", "rate", "deadline", "none"}[r] }

// info is the reason as the caller is told it.
func (r reason) info() *errdetails.ErrorInfo {
	name := [...]string{"SERVER_FULL", "PEER_SHARE_TAKEN", "RATE_EXCEEDED", "DEADLINE_TOO_SHORT"}[r]
	return &errdetails.ErrorInfo{Domain: errorDomain, Reason: name}
}

const (
	errorDomain = "countersign"
	// pushbackTrailer tells a gRPC client after how many milliseconds to retry. A negative number is: not at all (gRFC A6).
	pushbackTrailer = "grpc-retry-pushback-ms"
	noRetry         = "-1"
	never           = time.Duration(-1)
)

// refusal is the error of a call that was refused here, and not by what stands behind.
type refusal struct {
	reason reason
	status *status.Status
	delay  time.Duration // until it is to come back; never says not at all
}

// Error implements error.
func (r *refusal) Error() string { return r.status.String() }

// GRPCStatus is what gRPC answers.
func (r *refusal) GRPCStatus() *status.Status { return r.status }

// ReasonOf returns why a Gate of this process has refused a call, in the words of its metrics, and nothing when err is not a refusal.
func ReasonOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason.String()
	}
	return ""
}

// tooShort refuses a call that has so little time left.
func tooShort(least time.Duration) *refusal {
	return newRefusal(deadline, never, codes.DeadlineExceeded, fmt.Sprintf("less than %v of the deadline is left", least))
}

// tooMany refuses a call that is to come back after a delay.
func tooMany(r reason, delay time.Duration) *refusal {
	text := [...]string{
		full:     "the server is full",
		share:    "the server has as many calls of this peer as it takes at once",
		exceeded: "calls come faster than the server takes them",
	}[r]
	return newRefusal(r, delay, codes.ResourceExhausted, text)
}

func newRefusal(r reason, delay time.Duration, code codes.Code, text string) *refusal {
	// Status.WithDetails copies the status for each detail, and a server that refuses calls is busy.
	st := &spb.Status{Code: int32(code), Message: text + ": nothing was done", Details: packed(nil, r.info())} //nolint:gosec // one of seventeen
	if delay != never {
		st.Details = packed(st.Details, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}
	return &refusal{r, status.FromProto(st), delay}
}

// packed adds a detail, unless it cannot be marshalled: the code alone is still true.
func packed(details []*anypb.Any, detail proto.Message) []*anypb.Any {
	if one, err := anypb.New(detail); err == nil {
		details = append(details, one)
	}
	return details
}

// RetryDelay returns how long a server has asked to wait before the call is sent again, by the google.rpc.RetryInfo of its error. A service that
// cannot do its own work for that puts the delay into its own error: a Gate sets the trailer.
//
// That a server refused a call says nothing of earlier attempts at it. gRPC's own retries, of UNAVAILABLE say, are attempts of which
// only the last one's error is seen. So only what is safe to send twice is sent again without looking first.
func RetryDelay(err error) (delay time.Duration, ok bool) {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return 0, false
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && info.GetRetryDelay().CheckValid() == nil {
			return max(0, info.GetRetryDelay().AsDuration()), true
		}
	}
	return 0, false
}

// pushback is the trailer of an error, if it has one. A delay that leaves less of the deadline than a call needs is no use to its client, which would
// wait for that long and fail then; it is told at once.
func (g *Gate) pushback(ctx context.Context, err error) metadata.MD {
	var delay time.Duration
	if r, ok := errors.AsType[*refusal](err); ok {
		delay = r.delay
	} else if delay, ok = RetryDelay(err); !ok {
		return nil
	}
	until, limited := ctx.Deadline()
	if delay < 0 || limited && time.Until(until)-delay < g.limits.LeastDeadline {
		return metadata.Pairs(pushbackTrailer, noRetry)
	}
	return metadata.Pairs(pushbackTrailer, strconv.FormatInt((delay+time.Millisecond-1).Milliseconds(), 10))
}

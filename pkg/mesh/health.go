package mesh

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/overload"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

const (
	// watchHealth is the method by which clients follow whether a server is to be called. What does so is in gRPC's package health, which server.go imports.
	watchHealth = policy.WatchHealth
	// watchAll watches a server as a whole.
	watchAll = `{"serviceName": ""}`
)

// unwatchedError is why a client does not get to watch a server's health.
//
// gRPC's clients hold a server for unhealthy when the watch fails, and call nothing there, however much they are allowed to: a rule for health that is taken out of the
// policy would be an outage. UNIMPLEMENTED alone is for them no more than it says, that there is no health to be had (gRFC A17): they go on without. It
// gives nothing away, as every server answers so, and what was decided is recorded and counted as what it is; gRPC's own metrics count it as Unimplemented.
//
// A client that was once answered so does not try again on that connection: it watches, when it may by then or finds room, from the next one on, which is
// there when this one is renewed at the latest.
type unwatchedError struct{ error }

// GRPCStatus is what gRPC answers: all that the refusal has, with another code.
func (e *unwatchedError) GRPCStatus() *status.Status {
	as := status.Convert(e.error).Proto()
	as.Code = int32(codes.Unimplemented)
	return status.FromProto(as)
}

// Unwrap returns the refusal.
func (e *unwatchedError) Unwrap() error { return e.error }

// unwatched is what a caller is told of a refusal.
func unwatched(fullMethod string, refusal error) error {
	if fullMethod != watchHealth {
		return refusal
	}
	return &unwatchedError{refusal}
}

// unwatchedStream has those who find no room to watch health call all the same.
func unwatchedStream(limit grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		err := limit(srv, ss, info, handler)
		if overload.ReasonOf(err) == "" {
			return err
		}
		return unwatched(info.FullMethod, err)
	}
}

package workload

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
)

// The reasons for which a call is not answered.
var (
	errHeader     = errors.New(`the metadata must hold "workload.spiffe.io: true", once`)
	errRequest    = errors.New("malformed request")
	errNoIdentity = errors.New("no registration entry")
	errStopping   = errors.New("the authority is stopping")
	errUnknown    = errors.New("the Workload API does not have this method")
)

// requireHeader is SPIFFE Workload Endpoint §3: a caller that was tricked into making a request, by server-side request forgery say,
// cannot set the header.
func requireHeader(ctx context.Context) error {
	values := metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io")
	if len(values) != 1 || values[0] != "true" {
		return errHeader
	}
	return nil
}

func requireHeaderUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := requireHeader(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func requireHeaderStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := requireHeader(stream.Context()); err != nil {
		return err
	}
	return handler(srv, stream)
}

func unknownMethod(any, grpc.ServerStream) error { return errUnknown }

func (s *Server) answerUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if s.isStopping() {
		return nil, s.status(ctx, info.FullMethod, errStopping)
	}
	response, err := handler(ctx, req)
	if err != nil {
		return nil, s.status(ctx, info.FullMethod, err)
	}
	return response, nil
}

func (s *Server) answerStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := errStopping
	if !s.isStopping() {
		err = handler(srv, stream)
	}
	if err != nil {
		return s.status(stream.Context(), info.FullMethod, err)
	}
	return nil
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// status is the answer that an error becomes, with the codes of SPIFFE Workload Endpoint §6. Who gets no identity is not told
// why: the log is.
func (s *Server) status(ctx context.Context, method string, err error) error {
	switch {
	case errors.Is(err, errHeader), errors.Is(err, errRequest), errors.Is(err, ca.ErrToken):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, errNoIdentity), errors.Is(err, attest.ErrNoProcess):
		return status.Error(codes.PermissionDenied, "no identity issued")
	case errors.Is(err, errUnknown), status.Code(err) == codes.Unimplemented:
		return status.Error(codes.Unimplemented, errUnknown.Error())
	case errors.Is(err, ca.ErrNotReady), errors.Is(err, errStopping):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if st, ok := status.FromError(err); ok { // the stream's own
		return st.Err()
	}
	s.log.ErrorContext(ctx, "a call failed", "method", method, "error", err)
	return status.Error(codes.Internal, "internal error")
}

// recovered makes an error of a panic. The stack goes to the log with it.
func (s *Server) recovered(_ context.Context, p any) error {
	return fmt.Errorf("panic: %v\n%s", p, debug.Stack())
}

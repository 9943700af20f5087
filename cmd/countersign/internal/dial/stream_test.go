package dial_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// ended is a connection on which every stream has ended, denied, before its request could be sent. A real one does that when
// the server is quicker than the client.
type ended struct{ grpc.ClientConnInterface }

func (ended) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return endedStream{ctx: ctx}, nil
}

type endedStream struct {
	grpc.ClientStream
	ctx context.Context
}

func (s endedStream) Context() context.Context   { return s.ctx }
func (endedStream) Header() (metadata.MD, error) { return metadata.MD{}, nil }
func (endedStream) Trailer() metadata.MD         { return nil }
func (endedStream) CloseSend() error             { return nil }
func (endedStream) SendMsg(any) error            { return io.EOF }
func (endedStream) RecvMsg(any) error {
	return status.Error(codes.PermissionDenied, "permission denied")
}

// broken is a connection on which no stream can be opened.
type broken struct{ grpc.ClientConnInterface }

func (broken) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unavailable, "connection refused")
}

func TestAStreamThatCannotBeOpenedIsNoSuccess(t *testing.T) {
	t.Parallel()
	err := dial.Call(t.Context(), broken{}, "bank.payments.v1.PaymentService/WatchPayments", strings.NewReader("{}"), io.Discard)
	if status.Code(err) != codes.Unavailable {
		t.Errorf("Call = %v, want UNAVAILABLE", err)
	}
}

func TestAStreamThatWasDeniedBeforeItsRequestIsNoSuccess(t *testing.T) {
	t.Parallel()
	err := dial.Call(t.Context(), ended{}, "bank.payments.v1.PaymentService/WatchPayments", strings.NewReader("{}"), io.Discard)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("Call = %v, want PERMISSION_DENIED", err)
	}
}

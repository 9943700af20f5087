package mesh

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errStopping ends the streams of a server that drains: a watcher never ends by itself, and its client is better off at
// another server.
var errStopping = status.Error(codes.Unavailable, "the server is stopping")

// streams knows every open stream of a server, so that all can be ended at once, idle ones too.
type streams struct {
	ctx    context.Context //nolint:containedctx // the life of all streams, which belongs to no call
	cancel context.CancelCauseFunc
	// receivers counts the goroutines that wait for a message.
	receivers sync.WaitGroup
}

func newStreams() *streams {
	s := &streams{}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// end ends every open stream with err, which is what the callers see, and every later one at once.
func (s *streams) end(err error) { s.cancel(err) }

// wait waits for what the streams started. Call it after the gRPC server has stopped.
func (s *streams) wait() {
	s.cancel(errStopping)
	s.receivers.Wait()
}

// intercept gives the handler a stream whose context and messages end when the streams are ended.
func (s *streams) intercept(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stop()
	err := handler(srv, &endableStream{ServerStream: ss, ctx: ctx, receivers: &s.receivers})
	// A handler that was ended may say so in its own way; one that had its own reason to fail keeps it.
	if s.ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		return context.Cause(s.ctx)
	}
	return err
}

// endableStream is a stream whose context can end before the connection does.
type endableStream struct {
	grpc.ServerStream
	ctx       context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	receivers *sync.WaitGroup
}

// Context ends when the stream is ended or the caller goes away.
func (s *endableStream) Context() context.Context { return s.ctx }

// RecvMsg waits for the next message or the end. gRPC has no other way to leave a stream that nothing arrives on than to return
// from its handler; the goroutine that still waits then ends with the stream.
func (s *endableStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	s.receivers.Go(func() { received <- s.ServerStream.RecvMsg(m) })
	select {
	case err := <-received:
		return err
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// SendMsg sends unless the stream was ended.
func (s *endableStream) SendMsg(m any) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return s.ServerStream.SendMsg(m)
}

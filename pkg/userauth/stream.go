package userauth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// boundStream is a stream that lasts no longer than its token. The token is looked at again at each message, and when nothing moves: at its end, and when
// revocations or keys change, of which every stream is told by one channel.
type boundStream struct {
	grpc.ServerStream
	verifier  *Verifier
	principal *Principal
	method    string
	ctx       context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	end       context.CancelCauseFunc
	// refusal is what ended the stream; nil while it is good.
	refusal atomic.Pointer[error]
}

func newBoundStream(ss grpc.ServerStream, v *Verifier, p *Principal, method string) *boundStream {
	s := &boundStream{ServerStream: ss, verifier: v, principal: p, method: method}
	s.ctx, s.end = context.WithCancelCause(NewContext(ss.Context(), p))
	return s
}

// Context carries the Principal. It ends with the stream, and when the token is no longer good.
func (s *boundStream) Context() context.Context { return s.ctx }

// RecvMsg gives the handler a message only while the token is good.
func (s *boundStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.recheck()
}

// SendMsg gives the caller a message only while the token is good.
func (s *boundStream) SendMsg(m any) error {
	if err := s.recheck(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *boundStream) recheck() error {
	if refusal := s.refusal.Load(); refusal != nil {
		return *refusal
	}
	err := s.verifier.Recheck(s.ctx, s.principal)
	if err != nil && s.ctx.Err() == nil {
		s.finish(err)
	}
	return err
}

// changing is what a Keys may have: see there.
type changing interface{ Changed() <-chan struct{} }

// follow watches over the stream until the function that it returns is called, which waits for the watch to end.
func (s *boundStream) follow() (unfollow func()) {
	var following sync.WaitGroup
	following.Go(s.watch)
	return func() {
		s.end(nil)
		following.Wait()
	}
}

func (s *boundStream) watch() {
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	for {
		var revoked, keys <-chan struct{} // nil where there is nothing to wait for
		if s.verifier.revoked != nil {
			revoked = s.verifier.revoked.Changed()
		}
		if k, ok := s.verifier.keys.(changing); ok {
			keys = k.Changed()
		}
		if s.recheck() != nil {
			return
		}
		expiry.Reset(s.principal.until(s.verifier.leeway).Sub(s.verifier.now()))
		select {
		case <-s.ctx.Done():
			return
		case <-revoked:
		case <-keys:
		case <-expiry.C:
		}
	}
}

// finish ends the stream for its caller and for its handler, whatever the handler is doing: one that waits in SendMsg for a client that reads nothing
// would not see the end of its context.
func (s *boundStream) finish(err error) {
	if !s.refusal.CompareAndSwap(nil, &err) {
		return
	}
	s.verifier.refuse(s.ctx, s.method, err)
	s.end(err)
	if w, ok := grpc.ServerTransportStreamFromContext(s.ServerStream.Context()).(statusWriter); ok {
		_ = w.WriteStatus(status.Convert(err)) // it fails only when the connection is closed
	}
}

// statusWriter is what gRPC's own stream has beside the methods of grpc.ServerTransportStream. It ends the stream, like a handler that returns; a status
// that comes later is dropped.
type statusWriter interface {
	WriteStatus(st *status.Status) error
}

// result is what the caller is told: the refusal, whatever the handler made of it.
func (s *boundStream) result(handlerErr error) error {
	if refusal := s.refusal.Load(); refusal != nil {
		return *refusal
	}
	return handlerErr
}

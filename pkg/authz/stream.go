package authz

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// guardedStream asks again once another policy is in force: at each message, and when nothing moves too. While the policy is
// the one that let the stream in, a message costs one comparison: the same policy says the same of the same peer and method.
type guardedStream struct {
	grpc.ServerStream
	guard  *Guard
	method string
	ctx    context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	end    context.CancelCauseFunc
	// policy let the stream in last. A stream is sent to, received from and followed by several goroutines at once.
	policy atomic.Pointer[Policy]
	// denial is the error that ended the stream; nil while it is allowed.
	denial atomic.Pointer[error]
	// deciding is held while the policy is asked, so that each stream is decided on, and that recorded, once a policy.
	deciding sync.Mutex
}

func newGuardedStream(ss grpc.ServerStream, guard *Guard, method string, policy *Policy) *guardedStream {
	s := &guardedStream{ServerStream: ss, guard: guard, method: method}
	s.ctx, s.end = context.WithCancelCause(ss.Context())
	s.policy.Store(policy)
	return s
}

// follow watches for changes of the policy until the function that it returns is called, which waits for the watch to end.
func (s *guardedStream) follow() (unfollow func()) {
	var following sync.WaitGroup
	following.Go(func() {
		for {
			changed := s.guard.policies.Changed()
			if s.recheck() != nil {
				return
			}
			select {
			case <-changed:
			case <-s.ctx.Done():
				return
			}
		}
	})
	return func() {
		s.end(nil)
		following.Wait()
	}
}

// Context ends with the stream, and when the stream is no longer allowed.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg gives the handler a message only while the peer is allowed to send it.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.recheck()
}

// SendMsg gives the peer a message only while it is allowed to have it.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.recheck(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// recheck asks again if another policy is in force than the one that let the stream in last.
func (s *guardedStream) recheck() error {
	if settled, err := s.settled(); settled {
		return err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if settled, err := s.settled(); settled { // by another goroutine meanwhile
		return err
	}
	policy, err := s.guard.check(s.ServerStream.Context(), s.method)
	if err != nil {
		s.deny(err)
		return err
	}
	s.policy.Store(policy)
	return nil
}

// settled reports whether the stream was decided on by the policy in force or for good, and the error if it was denied.
func (s *guardedStream) settled() (settled bool, err error) {
	if denial := s.denial.Load(); denial != nil {
		return true, *denial
	}
	return s.guard.policies.Policy() == s.policy.Load(), nil
}

// deny ends the stream with err, for its caller and for its handler, whatever the handler is doing: one that waits in SendMsg for a client that
// reads nothing would not see the end of its context, and one that does not look would hold the caller's stream open.
func (s *guardedStream) deny(err error) {
	s.denial.Store(&err)
	s.end(err)
	if w, ok := grpc.ServerTransportStreamFromContext(s.ServerStream.Context()).(statusWriter); ok {
		_ = w.WriteStatus(status.Convert(err)) // it fails only when the connection is closed
	}
}

// statusWriter is what gRPC's own stream has beside the methods of grpc.ServerTransportStream. It ends the stream, like a handler that returns;
// a status that comes later is dropped.
type statusWriter interface {
	WriteStatus(st *status.Status) error
}

// result is what the caller is told: the denial, whatever the handler made of it.
func (s *guardedStream) result(handlerErr error) error {
	if denial := s.denial.Load(); denial != nil {
		return *denial
	}
	return handlerErr
}

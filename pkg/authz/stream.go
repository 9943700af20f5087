package authz

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// errReopen ends a stream of which another policy asks what is not to be had any more: the content of its messages, which are gone; a user, whom its handler would have
// had to know of from the start; a user's token that has not expired. It is no denial: opened again, the stream is decided on from its first message.
var errReopen = status.Error(codes.Unavailable, "the policy has changed; open the stream again")

// errTooEarly is why a stream that depends on its messages is sent nothing before one of them was judged.
var errTooEarly = errors.New("the server was about to answer before a message of the caller was judged")

// guardedStream asks again at each message that the policy asks for the content of, and once another policy is in force: at each message, and when
// nothing moves too. Where the policy is the one that let the stream in and asks for nothing more, a message costs one comparison: the same
// policy says the same of the same peer and method.
type guardedStream struct {
	grpc.ServerStream
	guard  *Guard
	method string
	// single says that one message is all that the caller sends. It is kept then, as request, to be judged by another policy too.
	single bool
	ctx    context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	end    context.CancelCauseFunc
	// standing is how the stream stands. It is sent to, received from and followed by several goroutines at once.
	standing atomic.Pointer[standing]
	// received is whether the caller has sent a message.
	received atomic.Bool
	// denial is the error that ended the stream; nil while it is allowed.
	denial atomic.Pointer[error]

	// deciding is held while the policy is asked, so that each stream is decided on, and that recorded, once a policy and message.
	deciding sync.Mutex
	request  proto.Message
	recorded recorded
	user     streamUser
	// opened is whether the handler has its context.
	opened bool
}

// standing is how a stream stands under one policy. It is immutable.
type standing struct {
	policy *policy.Policy
	// conditional says that the policy asks for the content of each message.
	conditional bool
	// open says that the stream is let in: always, unless it is conditional and no message was judged yet.
	open bool
}

// recorded is what was last recorded of a stream. It is recorded again when that changes, and not for each message.
type recorded struct {
	policy       *policy.Policy
	rule, shadow *policy.Rule
}

func newGuardedStream(ss grpc.ServerStream, guard *Guard, info *grpc.StreamServerInfo) *guardedStream {
	s := &guardedStream{ServerStream: ss, guard: guard, method: info.FullMethod, single: !info.IsClientStream}
	s.ctx, s.end = context.WithCancelCause(ss.Context())
	return s
}

// open decides on the stream by its headers. It fails for one that is denied.
func (s *guardedStream) open() error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	defer func() { s.opened = true }()
	return s.decide()
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
	s.received.Store(true)
	if now := s.current(); !s.single && now != nil && !now.conditional {
		return s.denied()
	}
	return s.judge(m)
}

// SendMsg gives the peer a message only while it is allowed to have it.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.recheck(); err != nil {
		return err
	}
	if !s.standing.Load().open {
		if err := s.refuseEarlyAnswer(); err != nil {
			return err
		}
	}
	return s.ServerStream.SendMsg(m)
}

// current returns how the stream stands if the policy in force is the one that says so, and nil otherwise.
func (s *guardedStream) current() *standing {
	if now := s.standing.Load(); now.policy == s.guard.policies.Policy() {
		return now
	}
	return nil
}

// denied returns the error that ended the stream.
func (s *guardedStream) denied() error {
	if denial := s.denial.Load(); denial != nil {
		return *denial
	}
	return nil
}

// recheck asks again if another policy is in force than the one that was asked last.
func (s *guardedStream) recheck() error {
	if err := s.denied(); err != nil || s.current() != nil {
		return err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if err := s.denied(); err != nil || s.current() != nil { // by another goroutine meanwhile
		return err
	}
	return s.decide()
}

// ask asks the policy in force about the stream without its messages. The caller holds deciding.
func (s *guardedStream) ask() decision {
	d := s.guard.begin(s.ServerStream.Context(), s.method)
	d.user = s.user.under(d.policy, s.guard.now())
	if d = d.on(nil); !d.verdict.NeedsUser {
		return d
	}
	ctx, user := s.guard.find(s.ctx)
	user.enforced = d.verdict.Undecided
	s.user = streamUser{found: user, policy: d.policy, late: s.opened}
	d.user = user
	d = d.on(nil)
	if plain := d.verdict.Allowed && d.verdict.Rule.User == ""; !s.opened && !plain {
		s.ctx = ctx // and not where a rule in shadow alone asked for the user: it changes nothing
	}
	return d
}

// decide asks the policy in force about the stream, with its request where that is the only one, and else without. The caller holds deciding.
func (s *guardedStream) decide() error {
	d := s.ask()
	conditional := d.asks()
	if conditional && s.request != nil {
		d = d.on(s.request)
	}
	if !d.verdict.Undecided {
		return s.settle(d, conditional)
	}
	if s.received.Load() {
		s.finish(errReopen)
		return errReopen
	}
	s.standing.Store(&standing{policy: d.policy, conditional: conditional})
	return nil
}

// judge decides on a message of the caller by its content.
func (s *guardedStream) judge(m any) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if err := s.denied(); err != nil {
		return err
	}
	if message, ok := m.(proto.Message); ok && s.single {
		s.request = proto.Clone(message) // before the handler has it, and may change it
	}
	if now := s.current(); now != nil && !now.conditional {
		return nil
	}
	d := s.ask()
	return s.settle(d.on(m), d.asks())
}

// settle ends the stream if it is denied, and records the decision if it is another than the last. The caller holds deciding.
func (s *guardedStream) settle(d decision, conditional bool) error {
	if s.user.outlived(d) || s.user.unseen(d) {
		s.finish(errReopen)
		return errReopen
	}
	this := recorded{d.policy, d.verdict.Rule, d.verdict.Shadow.Rule}
	if !d.verdict.Allowed || s.recorded != this {
		if err := s.guard.settle(s.ServerStream.Context(), d); err != nil {
			s.finish(err)
			return err
		}
	}
	s.recorded = this
	s.standing.Store(&standing{policy: d.policy, conditional: conditional, open: true})
	return nil
}

// refuseEarlyAnswer ends a stream whose handler sends before the policy could let the caller in.
func (s *guardedStream) refuseEarlyAnswer() error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	now := s.standing.Load()
	if err := s.denied(); err != nil || now.open { // by another goroutine meanwhile
		return err
	}
	d := s.guard.begin(s.ServerStream.Context(), s.method)
	d.policy, d.user = now.policy, s.user.found
	d = d.on(nil)
	d.verdict.Reason += "; " + errTooEarly.Error()
	err := s.guard.settle(s.ServerStream.Context(), d)
	s.finish(err)
	return err
}

// finish ends the stream with err, for its caller and for its handler, whatever the handler is doing: one that waits in SendMsg for a client that
// reads nothing would not see the end of its context, and one that does not look would hold the caller's stream open.
func (s *guardedStream) finish(err error) {
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
	if err := s.denied(); err != nil {
		return err
	}
	return handlerErr
}

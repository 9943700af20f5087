package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echo is a service with a method of each kind. What a call does stands in a place, which its header names; without one it
// answers each message with the same.
type echo struct {
	mu     sync.Mutex
	places map[string]*place
	// accepted, if there is one, is told of each message that a handler got.
	accepted func(ctx context.Context)
	// closed ends the handlers that ignore their context.
	closed chan struct{}
	once   sync.Once
}

func newEcho() *echo { return &echo{places: make(map[string]*place), closed: make(chan struct{})} }

func (e *echo) close() { e.once.Do(func() { close(e.closed) }) }

// place is one call, seen from both ends.
type place struct {
	call call
	// taken is closed when the call is where the test wants it, left when its handler has returned.
	taken, left chan struct{}
	once        sync.Once
	// moved counts the messages that were sent.
	moved  atomic.Int64
	closed chan struct{}
	// fault is what the handler found that should not have been.
	fault atomic.Pointer[error]
}

// take says that the call is where the test wants it.
func (p *place) take() { p.once.Do(func() { close(p.taken) }) }

func (p *place) fail(err error) { p.fault.CompareAndSwap(nil, &err) }

// leave says that the handler has returned.
func (p *place) leave() { close(p.left) }

const placeHeader = "place"

func (e *echo) place(ctx context.Context) *place {
	md, _ := metadata.FromIncomingContext(ctx)
	names := md.Get(placeHeader)
	if len(names) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.places[names[0]]
}

func (e *echo) accept(ctx context.Context) {
	if e.accepted != nil {
		e.accepted(ctx)
	}
}

func (e *echo) unary(ctx context.Context, message any) (any, error) {
	e.accept(ctx)
	p := e.place(ctx)
	if p == nil {
		return message, nil
	}
	defer p.leave()
	return message, p.call.unary(ctx, p)
}

func (e *echo) stream(_ any, ss grpc.ServerStream) error {
	if p := e.place(ss.Context()); p != nil {
		defer p.leave()
		return p.call.serve(ss, p)
	}
	message := new(wrapperspb.BytesValue)
	for {
		if err := ss.RecvMsg(message); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		e.accept(ss.Context())
		if err := ss.SendMsg(message); err != nil {
			return err
		}
	}
}

const (
	unaryMethod = "/test.v1.Echo/Unary"
	downMethod  = "/test.v1.Echo/Down"
	upMethod    = "/test.v1.Echo/Up"
	bothMethod  = "/test.v1.Echo/Both"
)

// descs says which way the messages of each streaming method go.
var descs = map[string]*grpc.StreamDesc{
	downMethod: {StreamName: "Down", ServerStreams: true},
	upMethod:   {StreamName: "Up", ClientStreams: true},
	bothMethod: {StreamName: "Both", ServerStreams: true, ClientStreams: true},
}

// service describes the service to gRPC.
func (e *echo) service() *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{
		ServiceName: "test.v1.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: e.handle}},
	}
	for _, d := range descs {
		stream := *d
		stream.Handler = e.stream
		desc.Streams = append(desc.Streams, stream)
	}
	return desc
}

// handle does what generated code does for a unary method.
func (e *echo) handle(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's signature
	message := new(wrapperspb.BytesValue)
	if err := decode(message); err != nil {
		return nil, err
	}
	if interceptor == nil {
		return e.unary(ctx, message)
	}
	return interceptor(ctx, message, &grpc.UnaryServerInfo{Server: srv, FullMethod: unaryMethod}, e.unary)
}

// say makes a unary call that is answered at once.
func say(ctx context.Context, conn *grpc.ClientConn) error {
	return conn.Invoke(ctx, unaryMethod, &wrapperspb.BytesValue{Value: []byte("hello")}, new(wrapperspb.BytesValue))
}

// talk opens a stream on which each message is answered.
func talk(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, descs[bothMethod], bothMethod)
}

// exchange sends a message and waits for its answer.
func exchange(stream grpc.ClientStream) error {
	message := &wrapperspb.BytesValue{Value: []byte("hello")}
	if err := stream.SendMsg(message); err != nil && !errors.Is(err, io.EOF) { // at EOF RecvMsg says what was wrong
		return err
	}
	return stream.RecvMsg(message)
}

// end is how a call ended for its caller, and when.
type end struct {
	err error
	at  time.Time
	// fault is what its handler found that should not have been.
	fault error
}

// start makes a call, waits until it is where it should be, and returns what tells of its end.
func (e *echo) start(ctx context.Context, conn *grpc.ClientConn, name string, c call) (<-chan end, error) {
	p := &place{call: c, taken: make(chan struct{}), left: make(chan struct{}), closed: e.closed}
	e.mu.Lock()
	e.places[name] = p
	e.mu.Unlock()
	ended := make(chan end, 1)
	go func() {
		err := c.make(metadata.AppendToOutgoingContext(ctx, placeHeader, name), conn, p)
		over := end{err: err, at: time.Now()}
		if fault := p.fault.Load(); fault != nil {
			over.fault = *fault
		}
		ended <- over
	}()
	select {
	case <-p.taken:
		return ended, nil
	case over := <-ended:
		return nil, fmt.Errorf("%s ended before it was where it should be: %w", name, over.err)
	case <-time.After(15 * time.Second):
		return nil, fmt.Errorf("%s did not come where it should be", name)
	}
}

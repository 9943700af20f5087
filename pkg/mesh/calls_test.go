package mesh_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// call is a call in some state: what its handler does, and what its caller.
type call struct {
	method string
	// unary is the handler of a unary call, serve that of a stream, use what the caller does with a stream until it has ended.
	unary func(ctx context.Context, p *place) error
	serve func(ss grpc.ServerStream, p *place) error
	use   func(cs grpc.ClientStream, p *place) error
	// unread says that the status cannot arrive: it waits at the server behind messages for which there is no room in the stream's window (RFC 9113
	// §5.2), and the caller, which waits to send, does not read until the socket is closed. gRPC calls that UNAVAILABLE.
	unread bool
}

// make makes the call and returns its end.
func (c call) make(ctx context.Context, conn *grpc.ClientConn, p *place) error {
	if c.unary != nil {
		return conn.Invoke(ctx, c.method, small(), new(wrapperspb.BytesValue))
	}
	stream, err := conn.NewStream(ctx, descs[c.method], c.method)
	if err != nil {
		return err
	}
	return c.use(stream, p)
}

func small() *wrapperspb.BytesValue { return &wrapperspb.BytesValue{Value: []byte("hello")} }

// large is a quarter of a stream's window (RFC 9113 §6.9.2).
func large() *wrapperspb.BytesValue { return &wrapperspb.BytesValue{Value: make([]byte, 16<<10)} }

// calls are calls of every kind and in every state that the end of an identity can find them in.
func calls() map[string]call {
	return map[string]call{
		"a unary call whose handler waits":               {method: unaryMethod, unary: waitUnary},
		"a unary call whose handler is about to answer":  {method: unaryMethod, unary: answerAtTheEnd},
		"a unary call whose handler ignores its context": {method: unaryMethod, unary: ignoreUnary},
		"a stream whose handler ignores its context":     {method: bothMethod, serve: ignoreStream, use: sayAndReceive},
		"an idle stream from the server":                 {method: downMethod, serve: idle, use: sayAndReceive},
		"an idle stream from the client":                 {method: upMethod, serve: idle, use: sayAndReceive},
		"an idle stream both ways":                       {method: bothMethod, serve: idle, use: sayAndReceive},
		"a stream that waits for a message":              {method: bothMethod, serve: receiveHard, use: sayAndReceive},
		"a stream on which the server sends hard":        {method: downMethod, serve: sendHard, use: sayAndReceive},
		"a stream on which the client sends hard":        {method: upMethod, serve: receiveHard, use: sendAndReceive},
		"a stream on which both send hard":               {method: bothMethod, serve: sendAndReceiveHard, use: sendAndReceive},
		"a stream whose client does not keep up":         {method: downMethod, serve: sendUntilStuck, use: receiveLate},
		"a stream whose server does not keep up":         {method: upMethod, serve: receiveNothing, use: sendUntilStuckAndReceive},
		"a stream on which nobody keeps up":              {method: bothMethod, serve: sendUntilStuck, use: sendUntilStuckAndReceiveLate, unread: true},
	}
}

func waitUnary(ctx context.Context, p *place) error {
	p.take()
	<-ctx.Done()
	return ctx.Err()
}

func answerAtTheEnd(ctx context.Context, p *place) error {
	_ = waitUnary(ctx, p)
	return nil
}

func ignoreUnary(_ context.Context, p *place) error {
	p.take()
	<-p.closed
	return nil
}

func ignoreStream(ss grpc.ServerStream, p *place) error {
	if err := ss.RecvMsg(small()); err != nil {
		return err
	}
	return ignoreUnary(ss.Context(), p)
}

// idle waits for the end, and finds that nothing can be sent or received after it.
func idle(ss grpc.ServerStream, p *place) error {
	if err := ss.RecvMsg(small()); err != nil {
		return err
	}
	p.take()
	<-ss.Context().Done()
	if err := ss.SendMsg(small()); err == nil {
		p.fail(errors.New("a message was sent after the end of the context"))
	}
	if err := ss.RecvMsg(small()); err == nil {
		p.fail(errors.New("a message was received after the end of the context"))
	}
	return context.Cause(ss.Context())
}

// hard is how many messages go by before a stream counts as one that is used hard.
const hard = 20

func sendHard(ss grpc.ServerStream, p *place) error {
	for n := 0; ; n++ {
		if err := ss.SendMsg(large()); err != nil {
			return err
		}
		if n == hard {
			p.take()
		}
	}
}

func receiveHard(ss grpc.ServerStream, p *place) error {
	if p.call.method == bothMethod {
		p.take()
	}
	for n := 0; ; n++ {
		if err := ss.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			return err
		}
		if n == hard {
			p.take()
		}
	}
}

func sendAndReceiveHard(ss grpc.ServerStream, p *place) error {
	var receiving sync.WaitGroup
	defer receiving.Wait()
	receiving.Go(func() { _ = receiveAll(ss) })
	return sendHard(ss, p)
}

// sendUntilStuck sends into a window that nobody opens: the end finds it in the middle of SendMsg.
func sendUntilStuck(ss grpc.ServerStream, p *place) error {
	if p.call.method == downMethod {
		go p.takeWhenStuck()
	}
	for {
		if err := ss.SendMsg(large()); err != nil {
			return err
		}
		p.moved.Add(1)
	}
}

func receiveNothing(ss grpc.ServerStream, _ *place) error {
	<-ss.Context().Done()
	return context.Cause(ss.Context())
}

// receiveAll receives until the stream ends.
func receiveAll(stream interface{ RecvMsg(m any) error }) error {
	for {
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			return err
		}
	}
}

// sayAndReceive says one thing and listens until the stream ends.
func sayAndReceive(cs grpc.ClientStream, _ *place) error {
	if err := cs.SendMsg(small()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return receiveAll(cs)
}

// sendAndReceive sends as fast as it can, and listens, until the stream ends.
func sendAndReceive(cs grpc.ClientStream, p *place) error {
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		for cs.SendMsg(large()) == nil {
			p.moved.Add(1)
		}
	})
	return receiveAll(cs)
}

// receiveLate reads nothing until the handler has returned.
func receiveLate(cs grpc.ClientStream, p *place) error {
	if err := cs.SendMsg(small()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	<-p.left
	return receiveAll(cs)
}

// sendUntilStuckAndReceive sends into a window that nobody opens.
func sendUntilStuckAndReceive(cs grpc.ClientStream, p *place) error {
	go p.takeWhenStuck()
	for cs.SendMsg(large()) == nil {
		p.moved.Add(1)
	}
	return receiveAll(cs)
}

func sendUntilStuckAndReceiveLate(cs grpc.ClientStream, p *place) error {
	go p.takeWhenStuck()
	for cs.SendMsg(large()) == nil {
		p.moved.Add(1)
	}
	<-p.left
	return receiveAll(cs)
}

// takeWhenStuck waits until nothing moves any more.
func (p *place) takeWhenStuck() {
	const still = 10
	for looks, last := 0, int64(0); looks < still; looks++ {
		<-time.After(2 * time.Millisecond)
		if now := p.moved.Load(); now != last || now == 0 {
			looks, last = 0, now
		}
	}
	p.take()
}

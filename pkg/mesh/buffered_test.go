package mesh_test

import (
	"context"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
)

// buffered is how many messages a server sends that nobody reads. They fit into the stream's window.
const buffered = 50

// sendAll sends all that is to lie at the client, and leaves the stream open.
func sendAll(ss grpc.ServerStream, p *place) error {
	if err := ss.RecvMsg(small()); err != nil {
		return err
	}
	for range buffered {
		if err := ss.SendMsg(small()); err != nil {
			return err
		}
	}
	p.take()
	<-ss.Context().Done()
	return context.Cause(ss.Context())
}

// answerOnce gives the one answer of a stream from the client, and leaves the stream open.
func answerOnce(ss grpc.ServerStream, p *place) error {
	if err := ss.RecvMsg(small()); err != nil {
		return err
	}
	if err := ss.SendMsg(small()); err != nil {
		return err
	}
	p.take()
	<-ss.Context().Done()
	return context.Cause(ss.Context())
}

// ATTACKS 37: what a server had sent before it was cut lies in gRPC's buffers at the client. The client does not accept it any more.
func TestNothingIsAcceptedFromAServerOnceItIsCut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		method string
		serve  func(ss grpc.ServerStream, p *place) error
		read   int // before the cut
	}{
		{"a stream from the server", downMethod, sendAll, 1},
		{"a stream both ways", bothMethod, sendAll, 1},
		{"a stream of which nothing was read", bothMethod, sendAll, 0},
		{"the only answer of a stream from the client", upMethod, answerOnce, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, doomedAndGood)
			c := w.caller(t, w.ca.SVID(t, "/good"))
			heeded := newRules(t, echoPolicy(doomedAndGood))
			c.conns.Heed(heeded.file)
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // for a message that never comes
			opened, done := make(chan grpc.ClientStream, 1), make(chan struct{})
			defer cancel()
			defer close(done)
			_, err := w.echo.start(ctx, c.conn, test.name, call{
				method: test.method, serve: test.serve, use: func(cs grpc.ClientStream, _ *place) error {
					err := cs.SendMsg(small())
					opened <- cs
					<-done
					return err
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			cs := <-opened
			receive := func() error { return cs.RecvMsg(new(wrapperspb.BytesValue)) }
			for range test.read {
				if err := receive(); err != nil {
					t.Fatal(err)
				}
			}
			for range buffered { // what the server sent before it answered these is with the client, whichever stream is written first
				if err := say(t.Context(), c.conn); err != nil {
					t.Fatal(err)
				}
			}
			c.cut(t, heeded)
			first := receive()
			accepted := 0
			for err := first; err == nil; err = receive() {
				accepted++
			}
			if status.Code(first) != codes.Unauthenticated {
				t.Errorf("%d messages of a server that was cut were accepted; the first RecvMsg = %v", accepted, first)
			}
			if err := receive(); err == nil {
				t.Error("a message was accepted after the end of the stream")
			}
		})
	}
}

// cut makes a client revoke the server, and waits until it has cut it.
func (c *caller) cut(t *testing.T, heeded *rules) {
	t.Helper()
	heeded.replace(t, echoPolicy(doomedAndGood, "id: /ledger"))
	eventually(t, "the server is cut", func() bool { return len(c.conns.Cuts()) == 1 })
}

// The same for a unary call: its answer has come, and the server is cut before the caller has it.
func TestNoAnswerIsAcceptedFromAServerOnceItIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	c := w.caller(t, w.ca.SVID(t, "/good"))
	heeded := newRules(t, echoPolicy(doomedAndGood))
	c.conns.Heed(heeded.file)
	creds := c.conns.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger"))
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(creds)) // not Dial's, whose interceptor is called below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	answered := func(then func()) grpc.UnaryInvoker {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			err := cc.Invoke(ctx, method, req, reply, opts...)
			if err != nil {
				t.Errorf("the answer has not come: %v", err)
			}
			then()
			return err
		}
	}
	if err := mesh.LiveCall(t.Context(), unaryMethod, small(), small(), conn, answered(func() {})); err != nil {
		t.Fatalf("a server that is good: %v", err)
	}
	err = mesh.LiveCall(t.Context(), unaryMethod, small(), small(), conn, answered(func() { c.cut(t, heeded) }))
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the answer of a server that was cut: %v", err)
	}
}

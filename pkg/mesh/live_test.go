package mesh_test

import (
	"context"
	"net"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// ATTACKS 37: from the moment of the cut a server takes nothing from the peer and gives nothing to it. transport.Bind ends the calls too, but on a
// goroutine of its own, which comes later; here it does not come at all, as there is no gRPC stream to end.

func TestNothingIsAcceptedFromAPeerOnceItIsCut(t *testing.T) {
	t.Parallel()
	p := connectedPeer(t)
	stream := &fakeStream{ctx: p.ctx}
	err := mesh.LiveStream(nil, stream, nil, func(_ any, ss grpc.ServerStream) error {
		for range 2 {
			if err := ss.RecvMsg(nil); err != nil {
				t.Errorf("a peer that is good: RecvMsg = %v", err)
			}
			if err := ss.SendMsg(nil); err != nil {
				t.Errorf("a peer that is good: SendMsg = %v", err)
			}
		}
		p.cut(t)
		if err := ss.RecvMsg(nil); status.Code(err) != codes.Unauthenticated {
			t.Errorf("a message that gRPC has buffered is handed to the handler: %v", err)
		}
		if err := ss.SendMsg(nil); status.Code(err) != codes.Unauthenticated {
			t.Errorf("SendMsg = %v", err)
		}
		return nil
	})
	if stream.sent != 2 {
		t.Errorf("%d messages were sent, want those two from before the cut", stream.sent)
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stream whose handler is content: %v", err)
	}
}

func TestNoAnswerIsGivenToAPeerOnceItIsCut(t *testing.T) {
	t.Parallel()
	p := connectedPeer(t)
	handler := func(context.Context, any) (any, error) { return "answer", nil }
	if answer, err := mesh.LiveUnary(p.ctx, nil, nil, handler); answer != "answer" || err != nil {
		t.Fatalf("a peer that is good: %v, %v", answer, err)
	}
	answer, err := mesh.LiveUnary(p.ctx, nil, nil, func(ctx context.Context, req any) (any, error) {
		p.cut(t)
		return handler(ctx, req)
	})
	if answer != nil || status.Code(err) != codes.Unauthenticated {
		t.Errorf("cut while its handler was about to answer: %v, %v", answer, err)
	}
	answer, err = mesh.LiveUnary(p.ctx, nil, nil, func(context.Context, any) (any, error) {
		t.Error("the handler of a call on a connection that was cut is asked")
		return nil, nil
	})
	if answer != nil || status.Code(err) != codes.Unauthenticated {
		t.Errorf("cut before it called: %v, %v", answer, err)
	}
}

// connected is a peer on a connection to a server, without gRPC.
type connected struct {
	ctx    context.Context
	server *owner
	conns  *transport.Registry
}

// cut takes the peer's authority from the server, and waits until that has noticed.
func (c *connected) cut(t *testing.T) {
	t.Helper()
	c.server.trust(meshtest.NewCA(t, "bank.test").Bundle())
	eventually(t, "the peer is cut", func() bool { return len(c.conns.Cuts()) == 1 })
}

func connectedPeer(t *testing.T) *connected {
	t.Helper()
	ca := meshtest.NewCA(t, "bank.test")
	c := &connected{server: newOwner(ca.SVID(t, "/ledger"), ca.Bundle())}
	c.conns = newRegistry(t, c.server)
	dialling := newRegistry(t, newOwner(ca.SVID(t, "/payments"), ca.Bundle()))
	near, far := net.Pipe()
	dialled := make(chan error, 1)
	go func() {
		_, _, err := dialling.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger")).ClientHandshake(context.Background(), "ledger:1", far)
		dialled <- err
	}()
	_, info, err := c.conns.Server().ServerHandshake(near)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-dialled; err != nil {
		t.Fatal(err)
	}
	c.ctx = callOf(t.Context(), info)
	return c
}

// callOf is the context of a call on the connection that info is about.
func callOf(ctx context.Context, info credentials.AuthInfo) context.Context {
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: info})
}

// fakeStream is a stream from which there is always something to receive, and to which everything can be sent.
type fakeStream struct {
	grpc.ServerStream
	ctx  context.Context
	sent int
}

func (s *fakeStream) Context() context.Context { return s.ctx }
func (*fakeStream) RecvMsg(any) error          { return nil }
func (s *fakeStream) SendMsg(any) error        { s.sent++; return nil }

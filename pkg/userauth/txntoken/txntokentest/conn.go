package txntokentest

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// Conn returns a connection over which each call is made with the token that content returns for it, and without one where that is nil. The request of a stream
// is nil: it is not known when the stream begins. A context that has a token keeps it. conn must send tokens (mesh.WithTransactionTokens).
func (i *Issuer) Conn(t testing.TB, conn grpc.ClientConnInterface, content func(method string, request any) *txntoken.Token) grpc.ClientConnInterface {
	t.Helper()
	return tokenConn{conn, i, t, content}
}

type tokenConn struct {
	grpc.ClientConnInterface
	issuer  *Issuer
	t       testing.TB
	content func(method string, request any) *txntoken.Token
}

// Invoke implements grpc.ClientConnInterface.
func (c tokenConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(c.with(ctx, method, args), method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (c tokenConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(c.with(ctx, method, nil), desc, method, opts...)
}

func (c tokenConn) with(ctx context.Context, method string, request any) context.Context {
	if _, ok := txntoken.FromContext(ctx); ok {
		return ctx
	}
	token := c.content(method, request)
	if token == nil {
		return ctx
	}
	// Not that of the call, which may be over: a test means to make it all the same.
	verified, err := c.issuer.Verifier().Verify(context.WithoutCancel(ctx), c.issuer.Token(c.t, *token, 0))
	if err != nil {
		c.t.Errorf("verify a transaction token: %v", err)
		return ctx
	}
	return txntoken.NewContext(ctx, verified)
}

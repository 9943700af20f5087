package transport

import (
	"context"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// authInfo is what gRPC knows of a connection. It implements credentials.AuthInfo and credentials.AuthorityValidator.
type authInfo struct {
	credentials.CommonAuthInfo
	peer *identity.Peer
	// ended is why the connection is not good any more; nil while it is.
	ended atomic.Pointer[ending]
	calls atomic.Uint64
	// ctx ends with the connection, and so do the calls on it: see Bind.
	ctx context.Context //nolint:containedctx // the life of the connection, which belongs to no call
	end context.CancelCauseFunc
}

// AuthType implements credentials.AuthInfo.
func (*authInfo) AuthType() string { return "spiffe-x509" }

// Peer returns the verified peer; package identity looks for it.
func (a *authInfo) Peer() *identity.Peer { return a.peer }

// ValidateAuthority lets a call name only an authority that is in the server's certificate.
func (a *authInfo) ValidateAuthority(authority string) error {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	return a.peer.Chain[0].VerifyHostname(host)
}

// CheckLive fails when the connection of the call that ctx belongs to was cut, or was not secured by this package. The status is
// UNAUTHENTICATED when the peer is no longer good, and UNAVAILABLE when the fault is at this end or the connection is only to be
// renewed. It is one atomic load.
func CheckLive(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "the call has no peer")
	}
	info, ok := p.AuthInfo.(*authInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "the connection is not secured by a SPIFFE identity")
	}
	if e := info.ended.Load(); e != nil {
		return e.status
	}
	return nil
}

// Enter is CheckLive for a call that arrives; it also counts the call.
func Enter(ctx context.Context) error {
	if err := CheckLive(ctx); err != nil {
		return err
	}
	p, _ := peer.FromContext(ctx)
	p.AuthInfo.(*authInfo).calls.Add(1) //nolint:errcheck,forcetypeassert // CheckLive has seen it
	return nil
}

// Leave is for a call that this process made, when it has ended with err on the connection of p (grpc.Peer, which may be nil or empty). It counts
// the call, and returns what the caller should be told: gRPC knows that the connection was closed (UNAVAILABLE), but not that it was cut, nor why;
// and it has answers that came before the cut.
func Leave(p *peer.Peer, err error) error {
	if p == nil {
		return err
	}
	info, ok := p.AuthInfo.(*authInfo)
	if !ok {
		return err
	}
	info.calls.Add(1)
	if e := info.ended.Load(); e != nil && (err == nil || status.Code(err) == codes.Unavailable) {
		return e.status
	}
	return err
}

// Bind is CheckLive for a call that a server is about to handle, and holds from then on: when the connection is cut, the call ends with the
// status that CheckLive has then. Its caller is told at once, its handler's context ends, and what the handler still sends or returns
// goes nowhere, whether it heeds its context or not. The caller of Bind calls release when the handler has returned.
//
// It does not end the call by its context alone: a handler that waits in SendMsg or RecvMsg would then make gRPC itself answer CANCELED.
func Bind(ctx context.Context) (release func() bool, err error) {
	if err := CheckLive(ctx); err != nil {
		return nil, err
	}
	p, _ := peer.FromContext(ctx)
	info := p.AuthInfo.(*authInfo) //nolint:errcheck,forcetypeassert // CheckLive has seen it
	stream, ok := grpc.ServerTransportStreamFromContext(ctx).(statusWriter)
	if !ok { // the call ends with the socket then, half a second later
		return func() bool { return true }, nil
	}
	return context.AfterFunc(info.ctx, func() { //nolint:contextcheck // it is the connection's that ends the call
		if e := info.ended.Load(); e != nil { // nil when the connection was closed and not cut
			_ = stream.WriteStatus(status.Convert(e.status)) // it fails only when the connection is closed
		}
	}), nil
}

// statusWriter is what gRPC's own stream has beside the methods of grpc.ServerTransportStream. It ends the stream, like a handler that returns;
// a status that comes later is dropped.
type statusWriter interface {
	WriteStatus(st *status.Status) error
}

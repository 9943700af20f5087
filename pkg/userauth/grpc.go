package userauth

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// UnaryServerInterceptor lets a call in only with a good access token, and puts its Principal into the context of the handler.
//
// Where the context has a Principal already, put there by an outer layer of this process such as Middleware, that one is looked at again, and no
// token is read.
func UnaryServerInterceptor(v *Verifier) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		p, err := v.admit(ctx)
		if err != nil {
			v.refuse(ctx, info.FullMethod, err)
			return nil, err
		}
		return handler(NewContext(ctx, p), req)
	}
}

// StreamServerInterceptor does the same for a stream, and ends the stream within a second when the token expires or is revoked, whatever its handler
// is doing. A client opens it again with a new token.
func StreamServerInterceptor(v *Verifier) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := ss.Context()
		p, err := v.admit(ctx)
		if err != nil {
			v.refuse(ctx, info.FullMethod, err)
			return err
		}
		s := newBoundStream(ss, v, p, info.FullMethod)
		unfollow := s.follow()
		defer unfollow()
		return s.result(handler(srv, s))
	}
}

// admit finds out whom a call is made for.
func (v *Verifier) admit(ctx context.Context) (*Principal, error) {
	if p, ok := FromContext(ctx); ok {
		if err := v.Recheck(ctx, p); err != nil {
			return nil, err
		}
		return p, nil
	}
	// Not metadata.ValueFromIncomingContext: it is for names in any case, and looks at all of them.
	md, _ := metadata.FromIncomingContext(ctx)
	token, err := bearer(md["authorization"])
	if err != nil {
		return nil, err
	}
	return v.Verify(ctx, token, certificateOf(ctx))
}

// bearer returns the token of the Authorization fields of a request (RFC 6750 §2.1). Of two fields, each part of a system may look at another one.
func bearer(fields []string) (string, error) {
	switch len(fields) {
	case 0:
		return "", absent("there is no access token")
	case 1:
	default:
		return "", invalid("there are %d authorization values", len(fields))
	}
	scheme, token, ok := strings.Cut(fields[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 6750 §3.1: an unsupported method, which is told as little as one who did not try
		return "", absent("the authorization is not of the Bearer scheme")
	}
	if !ok {
		return "", invalid("the authorization has no token")
	}
	return token, nil
}

// certificateOf returns the certificate that the other end of the connection has proven to have the key of, or nil.
func certificateOf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || !info.State.HandshakeComplete || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// refuse logs why a call is refused.
func (v *Verifier) refuse(ctx context.Context, what string, err error) {
	e, ok := FromError(err)
	if !ok || !v.lines.Allow() {
		return
	}
	v.log.LogAttrs(ctx, slog.LevelInfo, "a call with an access token is refused", slog.String("call", what), slog.String("reason", e.Reason()))
}

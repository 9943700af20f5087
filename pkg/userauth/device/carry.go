package device

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// PerRPC adds the session's token to gRPC calls, over TLS only. A call for which there is none fails with UNAUTHENTICATED once the session has ended (log in
// again), with UNAVAILABLE when it could not be renewed now (call again), and with the code of its context when that is done.
func (s *Session) PerRPC() credentials.PerRPCCredentials { return perRPC{s} }

type perRPC struct{ session *Session }

// GetRequestMetadata implements credentials.PerRPCCredentials. An error is a status: gRPC takes any other for UNAUTHENTICATED or INTERNAL, and a
// caller who had run out of time, or found the authorization server away, would log in again for nothing.
func (p perRPC) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := p.session.Token(ctx)
	switch {
	case err == nil:
		return map[string]string{"authorization": "Bearer " + token}, nil
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, ErrEnded):
		return nil, status.Error(codes.Unauthenticated, err.Error())
	default: // nothing was sent, and the next call tries again
		return nil, status.Error(codes.Unavailable, err.Error())
	}
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (perRPC) RequireTransportSecurity() bool { return true }

// Transport adds the session's token to HTTP requests, over TLS only. base has to present the device's certificate (TLS).
func (s *Session) Transport(base http.RoundTripper) http.RoundTripper { return transport{s, base} }

type transport struct {
	session *Session
	base    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := "", error(nil)
	if r.URL.Scheme != "https" {
		err = errors.New("a token is not sent over a connection without TLS")
	} else {
		token, err = t.session.Token(r.Context())
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as RoundTrip must, also when it fails
		}
		return nil, err
	}
	with := r.Clone(r.Context())
	with.Header.Set("Authorization", "Bearer "+token)
	return t.base.RoundTrip(with)
}

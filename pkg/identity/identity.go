// Package identity says who this process is and who a peer is.
//
// Source is this process's own X.509-SVID and the bundles of the trust domains it trusts, kept fresh from the SPIFFE
// Workload API. Verifier decides whether a certificate chain is an X.509-SVID that may be believed. A Peer is the answer,
// and FromContext finds it in the context of a gRPC call.
package identity

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/peer"
)

// Peer is the verified identity of the other end of a connection. It is immutable.
type Peer struct {
	// ID is the SPIFFE ID in the leaf's only URI SAN.
	ID spiffeid.ID
	// Serial is the leaf's serial number in lower-case hexadecimal.
	Serial string
	// NotAfter is the moment from which the chain verifies no more: the earliest expiry in it.
	NotAfter time.Time
	// Chain is the chain that was verified, leaf first, its authority last.
	Chain []*x509.Certificate

	// presented is the chain as the peer sent it, for Reverify.
	presented []*x509.Certificate
}

// authenticated is what the AuthInfo of a connection secured by package transport offers.
type authenticated interface{ Peer() *Peer }

// FromContext returns the peer of the gRPC call that ctx belongs to. It reports false when the connection was not secured
// by package transport; a caller must then treat the peer as nobody.
func FromContext(ctx context.Context) (*Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(authenticated)
	if !ok {
		return nil, false
	}
	return info.Peer(), true
}

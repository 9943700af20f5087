package mesh

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// What one peer may take of a server, said and not left to defaults (the default for streams a connection is no limit).
const (
	maxStreamsPerConnection = 1000
	maxHeaderBytes          = 16 << 10
	maxMessageBytes         = 4 << 20
	handshakeTimeout        = 10 * time.Second
	keepaliveTime           = 30 * time.Second
	keepaliveTimeout        = 10 * time.Second
	// minPingInterval is the least time between a client's pings.
	minPingInterval = 10 * time.Second
	// maxConnectionAge bounds a connection's age where SVIDs live for hours.
	maxConnectionAge = 30 * time.Minute
	// minConnectionAge keeps a mesh with SVIDs of seconds from doing nothing but handshakes.
	minConnectionAge = time.Second
	// stopTimeout is how long handlers may take to notice that they were cut.
	stopTimeout = 5 * time.Second
)

// serverLimits bounds what a peer may take. A connection is asked to end, with GOAWAY, at age, and ended half of that later:
// without the grace an open stream would keep it for ever.
func serverLimits(age time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreamsPerConnection),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      age,
			MaxConnectionAgeGrace: age / 2,
			Time:                  keepaliveTime,
			Timeout:               keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             minPingInterval,
			PermitWithoutStream: true,
		}),
	}
}

// connectionAge returns how old a connection may get. Both ends cut it when the other's SVID expires, so it must have been
// renewed before. SVIDs are replaced at half of their life, so each end has nearly half of it left when a connection opens. A
// fifth, the tenth of that which gRPC adds at random, and half of it as grace make less than a third.
//
// It knows the own SVID only. In a mesh whose SVIDs live for very different times set WithConnectionAge to less than a fifth of
// the shortest.
func connectionAge(conns *transport.Registry) (time.Duration, error) {
	svid, err := conns.Identity().GetX509SVID()
	if err != nil {
		return 0, fmt.Errorf("own identity: %w", err)
	}
	leaf := svid.Certificates[0]
	// What is left, not NotAfter-NotBefore: authorities date NotBefore back, and that is no life.
	return max(minConnectionAge, min(time.Until(leaf.NotAfter)/5, maxConnectionAge)), nil
}

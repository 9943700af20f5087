package mesh

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
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
	// maxConnectionAge bounds a connection's age where SVIDs live for hours; with shorter ones package transport renews it earlier.
	maxConnectionAge = 30 * time.Minute
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

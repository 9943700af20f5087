package mesh_test

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// BenchmarkUnary is one unary call over loopback: bare plaintext gRPC, go-spiffe's mutual TLS, and the whole chain.
func BenchmarkUnary(b *testing.B) {
	m := meshtest.New(b, "bank.test", policy)
	source, client := m.Identity(b, "/risk"), m.Identity(b, "/payments")
	for name, conn := range map[string]*grpc.ClientConn{
		"plaintext": bare(b, insecure.NewCredentials(), insecure.NewCredentials()),
		"go-spiffe": bare(b,
			grpccredentials.MTLSServerCredentials(source, source, tlsconfig.AuthorizeAny()),
			grpccredentials.MTLSClientCredentials(client, client, tlsconfig.AuthorizeAny())),
		"mesh": m.Dial(b, "/payments", "/risk",
			m.Serve(b, "/risk", (&risk{}).register, mesh.WithLogger(slog.New(slog.DiscardHandler)), mesh.WithRateLimit(1e9, 1e9))),
	} {
		b.Run(name, func(b *testing.B) {
			client := riskv1.NewRiskServiceClient(conn)
			b.Run("callers=1", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					assess(b, client)
				}
			})
			b.Run("callers=32", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(16) // times GOMAXPROCS
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						assess(b, client)
					}
				})
			})
		})
	}
}

func assess(b *testing.B, client riskv1.RiskServiceClient) {
	if _, err := client.AssessPayment(context.Background(), request()); err != nil {
		b.Error(err)
	}
}

// bare is a connection to a server that has nothing but credentials.
func bare(b *testing.B, server, client credentials.TransportCredentials) *grpc.ClientConn {
	b.Helper()
	s := grpc.NewServer(grpc.Creds(server))
	(&risk{}).register(s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(client))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return conn
}

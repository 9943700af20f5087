package mesh_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// BenchmarkLive is what it costs a unary call that it ends with its connection: the interceptors of both ends, and the same call
// without them, by turns on the same machine at the same time.
func BenchmarkLive(b *testing.B) {
	ca := meshtest.NewCA(b, "bank.test")
	server := newRegistry(b, newOwner(ca.SVID(b, "/ledger"), ca.Bundle()))
	client := newRegistry(b, newOwner(ca.SVID(b, "/payments"), ca.Bundle()))
	connect := func(serverOpts []grpc.ServerOption, dialOpts ...grpc.DialOption) *grpc.ClientConn {
		s := grpc.NewServer(append(serverOpts, grpc.Creds(server.Server()))...)
		e := newEcho()
		s.RegisterService(e.service(), e)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(listener) })
		creds := grpc.WithTransportCredentials(client.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger")))
		conn, err := grpc.NewClient(listener.Addr().String(), append(dialOpts, creds)...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = conn.Close()
			s.Stop()
			serving.Wait()
		})
		return conn
	}
	with := connect([]grpc.ServerOption{grpc.UnaryInterceptor(mesh.LiveUnary)}, grpc.WithUnaryInterceptor(mesh.LiveCall))
	without := connect(nil)
	const turn = 100
	calls := func(conn *grpc.ClientConn) time.Duration {
		begin := time.Now()
		for range turn {
			if err := say(b.Context(), conn); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	calls(with)
	calls(without)
	var tookWith, tookWithout time.Duration
	n := 0
	for b.Loop() {
		tookWith += calls(with)
		tookWithout += calls(without)
		n += turn
	}
	b.ReportMetric(float64(tookWith.Nanoseconds())/float64(n), "ns/call-with")
	b.ReportMetric(float64(tookWithout.Nanoseconds())/float64(n), "ns/call-without")
	b.ReportMetric(float64(tookWith)/float64(tookWithout), "ratio")
}

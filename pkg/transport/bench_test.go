package transport_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// BenchmarkCheckLive is the check that each call and each message of a stream goes through.
func BenchmarkCheckLive(b *testing.B) {
	w := newWorld(b)
	info, _, err := pair(b, w.inbound.Server(), w.outbound.Client(w.id("/ledger")))
	if err != nil {
		b.Fatal(err)
	}
	ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info})
	b.ReportAllocs()
	for b.Loop() {
		if err := transport.CheckLive(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandshake is a whole handshake over loopback TCP, both ends, beside go-spiffe's own. The two take turns, so that whatever else the machine
// does hits both alike; ns/op is for one of each.
func BenchmarkHandshake(b *testing.B) {
	w := newWorld(b)
	stockServer, stockClient := ordinary(w)
	kinds := []struct {
		server, client credentials.TransportCredentials
		took           []time.Duration
	}{{server: w.inbound.Server(), client: w.outbound.Client(w.id("/ledger"))}, {server: stockServer, client: stockClient}}
	for turn := 0; b.Loop(); turn++ {
		for i := range kinds {
			k := &kinds[(turn+i)%2]
			start := time.Now()
			if _, _, err := pair(b, k.server, k.client); err != nil {
				b.Fatal(err)
			}
			k.took = append(k.took, time.Since(start))
		}
	}
	median := func(took []time.Duration) float64 {
		slices.Sort(took)
		return float64(took[len(took)/2])
	}
	ours, stock := median(kinds[0].took), median(kinds[1].took)
	b.ReportMetric(ours/1e3, "ours-µs")
	b.ReportMetric(stock/1e3, "go-spiffe-µs")
	b.ReportMetric(ours/stock, "ratio")
}

// BenchmarkVerify is the verification of one peer, beside go-spiffe's own.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	chain, v := w.client.svid.Certificates, identity.NewVerifier(w.server)
	for _, c := range []struct {
		name   string
		verify func() error
	}{
		{"ours", func() error { _, err := v.Verify(chain); return err }},
		{"go-spiffe", func() error { _, _, err := x509svid.Verify(chain, w.server); return err }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.verify(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// pair makes one handshake over loopback TCP and closes the connection.
func pair(tb testing.TB, server, client credentials.TransportCredentials) (inbound, outbound credentials.AuthInfo, err error) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	type end struct {
		info credentials.AuthInfo
		err  error
	}
	accepted := make(chan end, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			accepted <- end{err: err}
			return
		}
		conn, info, err := server.ServerHandshake(raw)
		if err == nil {
			err = conn.Close()
		}
		accepted <- end{info, err}
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	conn, outbound, err := client.ClientHandshake(context.Background(), "ledger:1", raw)
	if err != nil {
		return nil, nil, err
	}
	other := <-accepted
	if other.err != nil {
		return nil, nil, other.err
	}
	return other.info, outbound, conn.Close()
}

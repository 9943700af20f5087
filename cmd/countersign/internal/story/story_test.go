package story

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// named gives a server's SVID the name that a stock client verifies.
func named(c *x509.Certificate) { c.DNSNames = []string{"ledger"} }

// onStage is a player with the operator's identity in a mesh of one ledger, which is at address when that is given.
func onStage(t *testing.T, address string) (*player, *meshtest.Mesh, *bytes.Buffer) {
	t.Helper()
	policy, err := os.ReadFile("../../../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := meshtest.New(t, "bank.test", string(policy))
	if address == "" {
		address = m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) {
			ledgerv1.RegisterLedgerServiceServer(s, ledgerv1.UnimplementedLedgerServiceServer{})
		}, meshtest.WithoutUsers())
		m.Rotate(t, "/ledger", named)
	}
	operator, err := dial.Open(t.Context(), m.API(t, "/operator").Addr(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := operator.Close(); err != nil {
			t.Error(err)
		}
	})
	var out bytes.Buffer
	return &player{
		out: console.New(&out, nil), operator: operator,
		settings: Settings{Mesh: site.Site{TrustDomain: operator.ID().TrustDomain(), Services: []site.Service{
			{Name: "ledger", Target: dial.Target{Address: address, ID: spiffeid.RequireFromString("spiffe://bank.test/ledger")}},
		}}},
	}, m, &out
}

func TestStrangersAreRefusedInTheHandshake(t *testing.T) {
	t.Parallel()
	p, _, out := onStage(t, "")
	if err := p.strangers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.checks != 4 || p.differences != 0 {
		t.Errorf("%d of %d checks differ:\n%s", p.differences, p.checks, out)
	}
}

// A story that cannot fail tells nothing: a server that asks for a certificate and believes any must be found out.
func TestAServerThatBelievesAnyCertificateIsFoundOut(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	address := lax(t, ca)
	p, m, out := onStage(t, address)
	m.API(t, "/operator").Grant(t, ca.SVID(t, "/operator"), ca.Bundle())
	waitFor(t, p, ca)
	if err := p.strangers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.checks != 4 || p.differences != 3 {
		t.Errorf("%d of %d checks differ, want 3 of 4:\n%s", p.differences, p.checks, out)
	}
	if !strings.Contains(out.String(), "✗ a caller with no certificate") {
		t.Errorf("it is not said which:\n%s", out)
	}
}

// waitFor waits until the operator trusts an authority.
func waitFor(t *testing.T, p *player, ca *meshtest.CA) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		changed := p.operator.Changed()
		bundle, err := p.operator.GetX509BundleForTrustDomain(ca.TrustDomain())
		if err == nil && bundle.HasX509Authority(ca.Bundle().X509Authorities()[0]) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the new bundle never came")
		}
	}
}

// lax serves TLS that lets everybody in, until the test ends.
func lax(t *testing.T, ca *meshtest.CA) string {
	t.Helper()
	svid := ca.SVID(t, "/ledger", named)
	cert := tls.Certificate{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("settings")) // the client looks at the first byte
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return listener.Addr().String()
}

func TestAServerThatIsAwayDoesNotCountAsARefusal(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	p, _, out := onStage(t, address)
	if err := p.strangers(t.Context()); err == nil {
		t.Errorf("nobody was at home and the story went on:\n%s", out)
	}
}

func TestADifferenceIsCountedAndShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &player{out: console.New(&out, nil)}
	expect(p, "Bob has 25.00 EUR", 2500, 2500)
	expect(p, "Alice has 975.00 EUR", 97500, 97400)
	if p.checks != 2 || p.differences != 1 {
		t.Errorf("%d of %d differ", p.differences, p.checks)
	}
	if want := "   ✓ Bob has 25.00 EUR\n   ✗ Alice has 975.00 EUR\n     got 97400, want 97500\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestAmountsHaveTwoDecimals(t *testing.T) {
	t.Parallel()
	for minor, want := range map[int64]string{0: "0.00 EUR", 5: "0.05 EUR", -2500: "-25.00 EUR", 100_00: "100.00 EUR"} {
		if got := customer.Amount(euros(minor)); got != want {
			t.Errorf("%d: got %s, want %s", minor, got, want)
		}
	}
}

func TestAMeshWithoutAServiceIsAClearError(t *testing.T) {
	t.Parallel()
	p := &player{}
	if _, err := p.target("gateway"); err == nil || !strings.Contains(err.Error(), `no service "gateway"`) {
		t.Errorf("the error is %v", err)
	}
	if !errors.Is(notRefused("here", io.ErrClosedPipe), io.ErrClosedPipe) {
		t.Error("a failure that is no refusal is taken for one")
	}
}

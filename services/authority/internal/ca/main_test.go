package ca

import (
	"crypto/x509"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	bankTD = spiffeid.RequireTrustDomainFromString("bank.test")
	ledger = spiffeid.RequireFromPath(bankTD, "/ledger")
)

// clock is a clock under the test's control.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func bankConfig() Config {
	return Config{TrustDomain: bankTD, AuthorityTTL: 24 * time.Hour, SVIDTTL: time.Hour, JWTTTL: 5 * time.Minute}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t testing.TB, dir string, config Config, now func() time.Time) *CA {
	t.Helper()
	c, err := Open(dir, config, WithClock(now), WithLogger(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // some tests close it themselves, to open it again
	return c
}

func newCA(t testing.TB, config Config, now func() time.Time) *CA {
	t.Helper()
	return open(t, t.TempDir()+"/state", config, now)
}

func certificates(t testing.TB, der []byte) []*x509.Certificate {
	t.Helper()
	certs, err := x509.ParseCertificates(der)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// verifies reports whether a strict verifier that holds this bundle believes the SVID at that moment.
func verifies(t testing.TB, svid, bundle []byte, at time.Time) error {
	t.Helper()
	roots := x509.NewCertPool()
	for _, cert := range certificates(t, bundle) {
		roots.AddCert(cert)
	}
	_, err := certificates(t, svid)[0].Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

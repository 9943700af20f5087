package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

var bankTest = spiffeid.RequireTrustDomainFromString("bank.test")

// ruleOf returns the name of the rule that an error says was broken; "" if it says none.
func ruleOf(err error) string {
	if broken, ok := errors.AsType[*identity.RuleError](err); ok {
		return broken.Rule
	}
	return ""
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not come about: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// clock is a clock that a test sets.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// fixture is one workload and the Workload API that it has.
type fixture struct {
	ca     *meshtest.CA
	api    *meshtest.WorkloadAPI
	log    *journal
	clock  *clock
	source *identity.Source
}

// newFixture returns a workload whose Workload API has granted it /payments.
func newFixture(t testing.TB, opts ...identity.Option) *fixture {
	t.Helper()
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{}}
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	f.open(t, opts...)
	return f
}

func (f *fixture) open(t testing.TB, opts ...identity.Option) {
	t.Helper()
	standard := []identity.Option{identity.WithSocket(f.api.Addr()), identity.WithLogger(f.log.logger()), identity.WithSourceClock(f.clock.now)}
	source, err := identity.New(t.Context(), append(standard, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	f.source = source
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (f *fixture) serial() string { return f.source.Status().Serial }

func serialOf(svid *x509svid.SVID) string {
	return fmt.Sprintf("%x", svid.Certificates[0].SerialNumber)
}

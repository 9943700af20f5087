package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// Source is what go-spiffe's own parts take too.
var (
	_ x509svid.Source   = (*identity.Source)(nil)
	_ x509bundle.Source = (*identity.Source)(nil)
)

func TestSourceRotates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.serial()
	next := f.ca.SVID(t, "/payments")
	changed := f.source.Changed()
	f.api.Grant(t, next, f.ca.Bundle())
	<-changed
	got, err := f.source.GetX509SVID()
	if err != nil || serialOf(got) != serialOf(next) {
		t.Fatalf("GetX509SVID = %v, %v; want serial %s", got, err, serialOf(next))
	}
	if st := f.source.Status(); st.State != identity.StateFresh || st.Rotations != 1 || st.Err != nil || !st.NotAfter.Equal(next.Certificates[0].NotAfter) {
		t.Errorf("status = %+v", st)
	}
	want := fmt.Sprintf("old_serial=%s serial=%s", first, serialOf(next))
	if log := f.log.String(); !strings.Contains(log, want) {
		t.Errorf("log lacks %q:\n%s", want, log)
	}
}

// ATTACKS 32: no private key in a log, of a good response or a bad one.
func TestSourceLogsNoKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	svid := f.ca.SVID(t, "/payments")
	_, key, err := svid.MarshalRaw()
	if err != nil {
		t.Fatal(err)
	}
	resp := meshtest.Response(t, f.ca.Bundle(), nil, svid)
	resp.Svids[0].SpiffeId = "spiffe://bank.test/ledger"
	resp.Svids = append(resp.Svids, &workload.X509SVID{SpiffeId: "spiffe://bank.test/payments", X509Svid: []byte("x"), X509SvidKey: key})
	f.api.Send(resp)
	eventually(t, "the response is refused", func() bool { return strings.Contains(f.log.String(), "response refused") })
	for _, form := range []string{string(key), fmt.Sprintf("%x", key), fmt.Sprintf("%v", key), fmt.Sprintf("%q", key)} {
		if strings.Contains(f.log.String(), form) {
			t.Errorf("the private key is in the log:\n%s", f.log)
		}
	}
}

// ATTACKS 26: whatever the API answers, the source comes back. go-spiffe's gives up for good on CANCELED and INVALID_ARGUMENT.
func TestSourceSurvivesEveryCode(t *testing.T) {
	t.Parallel()
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.api.FailOnce(t, status.Error(code, "once"))
			eventually(t, "a new stream", func() bool { return f.api.Streams() == 2 })
			next := f.ca.SVID(t, "/payments")
			f.api.Grant(t, next, f.ca.Bundle())
			eventually(t, "the rotation arrives", func() bool { return f.serial() == serialOf(next) })
			if st := f.source.Status(); st.State != identity.StateFresh {
				t.Errorf("status = %+v", st)
			}
		})
	}
}

// ATTACKS 22: a withdrawn identity is not used any more; it is taken up again when it is granted again.
func TestSourceStopsUsingWithdrawnIdentity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		withdraw func(*testing.T, *fixture)
	}{
		{"by PERMISSION_DENIED", func(_ *testing.T, f *fixture) { f.api.Fail(status.Error(codes.PermissionDenied, "no identity issued")) }},
		{"by a response that grants another", func(t *testing.T, f *fixture) { f.api.Grant(t, f.ca.SVID(t, "/risk"), f.ca.Bundle()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			c.withdraw(t, f)
			eventually(t, "the identity is withdrawn", func() bool { return f.source.Status().State == identity.StateWithdrawn })
			if svid, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrWithdrawn) {
				t.Errorf("GetX509SVID = %v, %v; want ErrWithdrawn", svid, err)
			}
			if got := f.source.ID().Path(); got != "/payments" {
				t.Errorf("the ID became %s", got)
			}
			f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
			eventually(t, "the identity is granted again", func() bool { _, err := f.source.GetX509SVID(); return err == nil })
		})
	}
}

// ATTACKS 27: while the API is away the SVID is used until it expires, and no longer.
func TestSourceEndsAtExpiryWhenAPIIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.Stop()
	eventually(t, "the API is seen to be away", func() bool { return f.source.Status().State == identity.StateStale })
	if _, err := f.source.GetX509SVID(); err != nil {
		t.Errorf("before expiry: %v", err)
	}
	f.clock.jump(time.Hour - time.Minute)
	if _, err := f.source.GetX509SVID(); err != nil {
		t.Errorf("a minute before expiry: %v", err)
	}
	f.clock.jump(time.Minute)
	if svid, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("GetX509SVID = %v, %v; want ErrExpired", svid, err)
	}
	if st := f.source.Status(); st.State != identity.StateExpired || st.Err == nil {
		t.Errorf("status = %+v", st)
	}
}

// ATTACKS 38: a machine that slept longer than its SVID lives comes back without hands, though the stream never broke.
func TestSourceComesBackAfterSleep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	next := f.ca.SVID(t, "/payments", meshtest.Lifetime(12*time.Hour))
	f.clock.jump(2 * time.Hour)
	if _, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("after the sleep: %v, want ErrExpired", err)
	}
	eventually(t, "a new stream", func() bool { return f.api.Streams() > 1 })
	f.api.Grant(t, next, f.ca.Bundle())
	eventually(t, "the new SVID is used", func() bool { _, err := f.source.GetX509SVID(); return err == nil })
}

// The expiry is announced when it comes, so that connections can be cut in time.
func TestSourceAnnouncesExpiry(t *testing.T) {
	t.Parallel()
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{}}
	f.api.Grant(t, f.ca.SVID(t, "/payments", meshtest.Lifetime(2*time.Second)), f.ca.Bundle())
	f.open(t)
	f.api.Stop()
	for f.source.Status().State != identity.StateExpired {
		changed := f.source.Changed()
		late := time.NewTimer(time.Until(f.source.Status().NotAfter) + time.Second)
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("not announced a second later, state %v", f.source.Status().State)
		}
		late.Stop()
	}
}

// ATTACKS 28: the clients of an API that restarts do not come back at once, nor late.
func TestBackoffIsSpreadAndBounded(t *testing.T) {
	t.Parallel()
	slots := make(map[time.Duration]int)
	for range 50 {
		first := identity.Backoff(0)
		if first > 250*time.Millisecond {
			t.Fatalf("first retry after %v", first)
		}
		slots[first/(20*time.Millisecond)]++
	}
	if len(slots) < 6 {
		t.Errorf("50 clients come back in %d slots of 20 ms: %v", len(slots), slots)
	}
	for attempt := range 100 {
		if d := identity.Backoff(attempt); d <= 0 || d > 2*time.Second {
			t.Errorf("attempt %d after %v", attempt, d)
		}
	}
}

func TestSourceClose(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	changed := f.source.Changed()
	for range 2 {
		if err := f.source.Close(); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	if _, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrClosed) {
		t.Errorf("GetX509SVID = %v, want ErrClosed", err)
	}
	if _, err := f.source.GetX509BundleForTrustDomain(f.ca.TrustDomain()); !errors.Is(err, identity.ErrClosed) {
		t.Errorf("GetX509BundleForTrustDomain = %v, want ErrClosed", err)
	}
}

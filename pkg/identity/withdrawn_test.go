package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 22: a withdrawn identity is not used any more; it is taken up again when it is granted again. go-spiffe's goes on with it.
func TestSourceStopsUsingWithdrawnIdentity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		withdraw func(*testing.T, *fixture)
	}{
		{"by PERMISSION_DENIED", func(_ *testing.T, f *fixture) { f.api.Fail(status.Error(codes.PermissionDenied, "no identity issued")) }},
		{"by a response that grants another", func(t *testing.T, f *fixture) { f.api.Grant(t, f.ca.SVID(t, "/risk"), f.ca.Bundle()) }},
	} {
		t.Run("ATTACKS 22: "+c.name, func(t *testing.T) {
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
	t.Run("ATTACKS 22: ordinary", func(t *testing.T) {
		t.Parallel()
		ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
		api.Grant(t, ca.SVID(t, "/payments"), ca.Bundle())
		stock := ordinary(t, api)
		api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
		eventually(t, "go-spiffe was told, and asked again", func() bool { return api.Streams() > 2 })
		if svid, err := stock.GetX509SVID(); err != nil || svid.ID.Path() != "/payments" {
			t.Errorf("ordinary: go-spiffe hands out %v, %v; it used to be the withdrawn SVID", svid, err)
		}
	})
}

// withdraw makes the Workload API grant another identity only, and waits until that is known.
func (f *fixture) withdraw(t *testing.T) {
	t.Helper()
	f.api.Grant(t, f.ca.SVID(t, "/risk"), f.ca.Bundle())
	eventually(t, "the identity is withdrawn", func() bool { return f.source.Status().State == identity.StateWithdrawn })
}

// reason fails unless the status still says that the identity was withdrawn, and why.
func (f *fixture) reason(t *testing.T) {
	t.Helper()
	if st := f.source.Status(); st.State != identity.StateWithdrawn || st.Err == nil || !strings.Contains(st.Err.Error(), "not among those granted") {
		t.Errorf("status = %+v, want withdrawn because it is not among those granted", st)
	}
}

func TestAWithdrawnIdentityThatExpiresStaysWithdrawn(t *testing.T) {
	t.Parallel()
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{}}
	f.api.Grant(t, f.ca.SVID(t, "/payments", meshtest.Lifetime(2*time.Second)), f.ca.Bundle())
	f.open(t)
	f.withdraw(t)
	eventually(t, "the expiry is noted", func() bool { return strings.Contains(f.log.String(), "identity expired") })
	// The stream would end at that same moment.
	for end := time.After(time.Second); ; {
		select {
		case <-end:
			return
		case <-time.After(20 * time.Millisecond):
		}
		f.reason(t)
		if got := f.api.Streams(); got != 1 || t.Failed() {
			t.Fatalf("%d streams, want the first to go on", got)
		}
	}
}

func TestAWithdrawnIdentityKeepsItsReasonWhileTheAPIIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.withdraw(t)
	f.api.Stop()
	eventually(t, "the API is seen to be away", func() bool { return strings.Contains(f.log.String(), "Workload API is away") })
	f.reason(t)
}

// An API that withdraws the identity and hangs up each time is asked ever less often (ATTACKS 28).
func TestAnAPIThatWithdrawsAndHangsUpIsAskedLessOften(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.withdraw(t)
	start := time.Now()
	const times = 5
	for i := range times {
		streams, logged := f.api.Streams(), strings.Count(f.log.String(), "is away")
		f.api.FailOnce(t, status.Errorf(codes.Unavailable, "restarting, %d", i))
		eventually(t, "the end is noted", func() bool { return strings.Count(f.log.String(), "is away") > logged })
		eventually(t, "a new stream", func() bool { return f.api.Streams() > streams })
	}
	// At least a fifth of 250 ms, 500 ms and so on; without growth it is 1.25 s at most.
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("%d retries in %v", times, took)
	}
	f.reason(t)
}

package identity_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// everyCode is each code that the API can answer, and one that gRPC does not know.
func everyCode() []codes.Code {
	var all []codes.Code
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		all = append(all, code)
	}
	return append(all, 99)
}

// ATTACKS 26: whatever the API answers, and however often, the source comes back. go-spiffe's gives up for good on CANCELED and
// INVALID_ARGUMENT.
func TestSourceSurvivesEveryCode(t *testing.T) {
	t.Parallel()
	for _, code := range everyCode() {
		t.Run(fmt.Sprintf("ATTACKS 26: %s", code), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			const times = 3
			for i := range times {
				f.api.FailOnce(t, status.Errorf(code, "time %d", i))
				next := f.ca.SVID(t, "/payments")
				f.api.Grant(t, next, f.ca.Bundle())
				eventually(t, "the rotation arrives", func() bool { return f.serial() == serialOf(next) })
			}
			if st := f.source.Status(); st.State != identity.StateFresh || st.Failures != times || f.api.Streams() != times+1 {
				t.Errorf("%d streams, status %+v", f.api.Streams(), st)
			}
		})
		t.Run(fmt.Sprintf("ATTACKS 26: %s, ordinary", code), func(t *testing.T) {
			t.Parallel()
			ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
			api.Grant(t, ca.SVID(t, "/payments"), ca.Bundle())
			_ = ordinary(t, api)
			api.FailOnce(t, status.Error(code, "once"))
			back := func() bool { return api.Streams() > 1 }
			if code == codes.Canceled || code == codes.InvalidArgument {
				never(t, "go-spiffe asks again", back)
			} else {
				eventually(t, "go-spiffe asks again", back)
			}
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

// ATTACKS 27, 36: the expiry is announced when it comes, so that connections are cut in time. go-spiffe's goes on with the expired SVID.
func TestSourceAnnouncesExpiry(t *testing.T) {
	t.Parallel()
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{}}
	f.api.Grant(t, f.ca.SVID(t, "/payments", meshtest.Lifetime(2*time.Second)), f.ca.Bundle())
	f.open(t)
	stock := ordinary(t, f.api)
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
	if svid, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("GetX509SVID = %v, %v; want ErrExpired", svid, err)
	}
	svid, err := stock.GetX509SVID()
	if err != nil || time.Now().Before(svid.Certificates[0].NotAfter) {
		t.Errorf("ordinary: go-spiffe hands out %v, %v; it used to be the expired SVID", svid, err)
	}
}

// An API that is back is asked again soon, however long it was away: no pause is longer than the ceiling.
func TestSourceComesBackSoonAfterALongOutage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.Stop()
	eventually(t, "retries are at their slowest", func() bool { return f.source.Status().Failures >= 6 })
	next := f.ca.SVID(t, "/payments")
	f.api.Grant(t, next, f.ca.Bundle())
	f.api.Start(t)
	start := time.Now()
	eventually(t, "the new SVID arrives", func() bool { return f.serial() == serialOf(next) })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("back after %v, want 5 s at most", took)
	}
}

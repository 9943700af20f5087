package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestStatusTellsLifetimeAndAuthorities(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	partner := meshtest.NewCA(t, "partner.test", meshtest.Lifetime(2*time.Hour))
	f.ca.NewRoot(t, meshtest.Lifetime(12*time.Hour))
	next := f.ca.SVID(t, "/payments", valid(-time.Minute, time.Hour))
	changed := f.source.Changed()
	f.api.Grant(t, next, f.ca.Bundle(), partner.Bundle())
	<-changed
	st := f.source.Status()
	if want := next.Certificates[0].NotAfter.Sub(next.Certificates[0].NotBefore); st.Lifetime != want {
		t.Errorf("lifetime %s, want %s", st.Lifetime, want)
	}
	authority := func(b *x509bundle.Bundle, i int) identity.Authority {
		cert := b.X509Authorities()[i]
		return identity.Authority{TrustDomain: b.TrustDomain(), SubjectKeyID: identity.AuthorityOf(cert), NotAfter: cert.NotAfter}
	}
	// By trust domain and expiry: the new root, which expires first, stands before the old one.
	want := []identity.Authority{authority(f.ca.Bundle(), 1), authority(f.ca.Bundle(), 0), authority(partner.Bundle(), 0)}
	if diff := cmp.Diff(want, st.Authorities, cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b })); diff != "" {
		t.Errorf("authorities (-want +got):\n%s", diff)
	}
	st.Authorities[0] = identity.Authority{}
	if f.source.Status().Authorities[0] == (identity.Authority{}) {
		t.Error("a caller can change the source's own list")
	}
}

func TestStatusCountsFailuresAndKnowsWhetherTheWatchIsOpen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if st := f.source.Status(); !st.Connected || st.Failures != 0 {
		t.Fatalf("at first: %+v", st)
	}
	const times = 3
	for range times {
		streams := f.api.Streams()
		f.api.FailOnce(t, status.Error(codes.Unavailable, "restarting"))
		eventually(t, "a new stream", func() bool { return f.api.Streams() > streams && f.source.Status().Connected })
	}
	if st := f.source.Status(); st.Failures != times {
		t.Errorf("%d failures, want %d", st.Failures, times)
	}
	// An API that grants another identity only withdraws ours and is there all the same.
	f.withdraw(t)
	if st := f.source.Status(); !st.Connected || st.Failures != times {
		t.Errorf("withdrawn by a response: %+v", st)
	}
	f.api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	eventually(t, "the watch is down", func() bool { return !f.source.Status().Connected })
	if err := f.source.Close(); err != nil {
		t.Fatal(err)
	}
	if st := f.source.Status(); st.Connected || st.State != identity.StateWithdrawn || !errors.Is(st.Err, identity.ErrClosed) {
		t.Errorf("closed: %+v", st)
	}
}

func TestReadySaysInOneLineWhyNot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*testing.T, *fixture)
		state  identity.State
		want   error
		says   []string
	}{
		{"fresh", func(*testing.T, *fixture) {}, identity.StateFresh, nil, []string{"fresh: SVID ", " expires "}},
		{
			"stale",
			func(_ *testing.T, f *fixture) { f.api.Fail(status.Error(codes.Unavailable, "starting\nup")) },
			identity.StateStale, nil,
			[]string{"stale: SVID ", " expires ", "last answer: ", "starting up"},
		},
		{
			"expired",
			func(t *testing.T, f *fixture) {
				f.api.Fail(status.Error(codes.Unavailable, "starting"))
				eventually(t, "the API is seen to be away", func() bool { return !f.source.Status().Connected })
				f.clock.jump(2 * time.Hour)
			},
			identity.StateExpired, identity.ErrExpired,
			[]string{"expired: SVID ", " expired ", "last answer: ", "starting"},
		},
		{
			"withdrawn",
			func(_ *testing.T, f *fixture) { f.api.Fail(status.Error(codes.PermissionDenied, "no identity issued")) },
			identity.StateWithdrawn, identity.ErrWithdrawn,
			[]string{"withdrawn: SVID ", "last answer: ", "no identity issued"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			c.change(t, f)
			eventually(t, "the state", func() bool { return f.source.Status().State == c.state })
			err := f.source.Ready(t.Context())
			if !errors.Is(err, c.want) {
				t.Fatalf("Ready = %v, want %v", err, c.want)
			}
			lines := []string{f.source.Status().String()}
			if err != nil {
				lines = append(lines, err.Error())
			}
			for _, line := range lines {
				if strings.Contains(line, "\n") {
					t.Errorf("not one line: %q", line)
				}
				for _, want := range append(c.says, f.serial()) {
					if !strings.Contains(line, want) {
						t.Errorf("%q lacks %q", line, want)
					}
				}
			}
		})
	}
}

package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

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
	eventually(t, "the log has "+want, func() bool { return strings.Contains(f.log.String(), want) })
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

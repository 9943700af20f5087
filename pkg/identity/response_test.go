package identity_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// A response that is not in order changes nothing: the SVID at hand goes on.
func TestSourceRefusesResponse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse)
		want   string
		taken  bool // by go-spiffe
	}{
		{"ATTACKS 29: said to be for another identity than its certificate", func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse) {
			certs, key, _ := f.ca.SVID(t, "/ledger").MarshalRaw()
			resp.Svids[0].X509Svid, resp.Svids[0].X509SvidKey = certs, key
		}, "its certificate is for", true},
		{"ATTACKS 29: whose chosen entry claims our ID, though another entry holds our certificate", func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids = meshtest.Response(t, f.ca.Bundle(), nil, f.ca.SVID(t, "/ledger"), f.ca.SVID(t, "/payments")).Svids
			resp.Svids[0].SpiffeId, resp.Svids[1].SpiffeId = resp.Svids[1].SpiffeId, resp.Svids[0].SpiffeId
		}, "its certificate is for", true},
		{"with another certificate's key", func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse) {
			_, resp.Svids[0].X509SvidKey, _ = f.ca.SVID(t, "/payments").MarshalRaw()
		}, "does not match private key", false},
		{"without a key", func(_ *testing.T, _ *fixture, resp *workload.X509SVIDResponse) { resp.Svids[0].X509SvidKey = nil }, "parse", false},
		{"whose SVID its own bundle does not vouch for", func(t *testing.T, _ *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids[0].Bundle = meshtest.NewCA(t, "bank.test").Bundle().X509Authorities()[0].Raw
		}, "rule path", true},
		{"with an empty bundle", func(_ *testing.T, _ *fixture, resp *workload.X509SVIDResponse) { resp.Svids[0].Bundle = nil }, "rule bundle", true},
		{"ATTACKS 11: whose bundle has a certificate that is no CA", func(_ *testing.T, _ *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids[0].Bundle = append(resp.Svids[0].Bundle, resp.Svids[0].X509Svid...)
		}, "bundle refused", true},
		{"with an SVID that has expired", func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids = meshtest.Response(t, f.ca.Bundle(), nil, f.ca.SVID(t, "/payments", valid(-time.Hour, -time.Second))).Svids
		}, "rule validity", true},
		{"with an SVID that peers would refuse", func(t *testing.T, f *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids = meshtest.Response(t, f.ca.Bundle(), nil, f.ca.SVID(t, "/payments", extUsage(x509.ExtKeyUsageServerAuth))).Svids
		}, "rule leaf-extended-key-usage", true},
		{"with no SVID", func(_ *testing.T, _ *fixture, resp *workload.X509SVIDResponse) { resp.Svids = nil }, "holds no SVID", false},
		{"with garbage", func(_ *testing.T, _ *fixture, resp *workload.X509SVIDResponse) {
			resp.Svids[0].X509Svid = []byte("garbage")
		}, "parse SVID", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			before := f.serial()
			resp := meshtest.Response(t, f.ca.Bundle(), nil, f.ca.SVID(t, "/payments"))
			c.change(t, f, resp)
			stock := ordinary(t, f.api)
			streams := f.api.Streams()
			f.api.Send(resp)
			eventually(t, "the response is refused", func() bool { return f.source.Status().Err != nil })
			if st := f.source.Status(); st.State != identity.StateStale || st.Serial != before || !strings.Contains(st.Err.Error(), c.want) {
				t.Errorf("status = %+v, want the old SVID and an error with %q", st, c.want)
			}
			if _, err := f.source.GetX509SVID(); err != nil {
				t.Errorf("the SVID at hand is not used: %v", err)
			}
			if c.taken {
				eventually(t, "ordinary: go-spiffe takes it", func() bool { return handsOut(stock, resp) })
			} else {
				eventually(t, "ordinary: go-spiffe asks again", func() bool { return f.api.Streams() > streams+1 })
				if handsOut(stock, resp) {
					t.Error("ordinary: go-spiffe takes it")
				}
			}
			next := f.ca.SVID(t, "/payments")
			f.api.Grant(t, next, f.ca.Bundle())
			eventually(t, "a good response is taken", func() bool { return f.serial() == serialOf(next) })
		})
	}
}

// handsOut reports whether go-spiffe hands out the first SVID of a response.
func handsOut(stock *workloadapi.X509Source, resp *workload.X509SVIDResponse) bool {
	svid, err := stock.GetX509SVID()
	return err == nil && len(resp.GetSvids()) > 0 && bytes.Equal(svid.Certificates[0].Raw, resp.GetSvids()[0].GetX509Svid())
}

// ATTACKS 23: each message is complete; a federated bundle that is no longer sent is dropped.
func TestSourceFederatedBundles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	partner, other := meshtest.NewCA(t, "partner.test"), meshtest.NewCA(t, "other.test")
	trusts := func(ca *meshtest.CA) bool {
		_, err := f.source.GetX509BundleForTrustDomain(ca.TrustDomain())
		return err == nil
	}
	grant := func(federated ...*x509bundle.Bundle) {
		changed := f.source.Changed()
		f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle(), federated...)
		<-changed
	}
	if !trusts(f.ca) || trusts(partner) {
		t.Error("at first only the own trust domain is to be trusted")
	}
	grant(partner.Bundle(), other.Bundle())
	if !trusts(partner) || !trusts(other) {
		t.Error("federated bundles were not taken")
	}
	grant(other.Bundle())
	if trusts(partner) || !trusts(other) {
		t.Error("a bundle that is no longer sent is still trusted")
	}
	spoiled := partner.Bundle()
	spoiled.AddX509Authority(partner.SVID(t, "/x").Certificates[0])
	grant(spoiled, other.Bundle())
	if trusts(partner) || !trusts(other) {
		t.Error("a federated bundle with a certificate that is no CA must be left out, and it alone")
	}
	grant(meshtest.NewCA(t, "bank.test").Bundle())
	bundle, err := f.source.GetX509BundleForTrustDomain(f.ca.TrustDomain())
	if err != nil || !bundle.Equal(f.ca.Bundle()) {
		t.Errorf("a federated bundle took the own one's place: %v", err)
	}
}

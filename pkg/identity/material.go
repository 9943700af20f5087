package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// material is what one response of the Workload API gave to this process. It is immutable.
type material struct {
	svid     *x509svid.SVID
	serial   string
	notAfter time.Time
	bundles  map[spiffeid.TrustDomain]*x509bundle.Bundle
	// authorities are those of the bundles.
	authorities []Authority
	// refused holds the federated bundles that were left out, and why.
	refused []error
}

// errNotGranted says that a response is in order but grants only identities that are not ours.
var errNotGranted = errors.New("this identity is not among those granted")

// choice is which SVID of a response is ours. Once a first one was received, id is set and stays.
type choice struct {
	id   spiffeid.ID
	hint string
}

// pick returns the chosen SVID of a response.
func (c choice) pick(svids []*workload.X509SVID) (*workload.X509SVID, error) {
	var fallback *workload.X509SVID
	var offered []string
	for _, svid := range svids {
		offered = append(offered, svid.GetSpiffeId())
		if !c.id.IsZero() && svid.GetSpiffeId() != c.id.String() {
			continue
		}
		// A server must not set the same hint twice; the first is taken when one does (Workload API §5.2.1).
		if c.hint == "" || svid.GetHint() == c.hint {
			return svid, nil
		}
		if fallback == nil && !c.id.IsZero() {
			fallback = svid
		}
	}
	if fallback != nil {
		return fallback, nil
	}
	return nil, fmt.Errorf("%w: asked for ID %q hint %q, offered %q", errNotGranted, c.id, c.hint, offered)
}

// parseResponse checks a response as strictly as a peer will check us: what would be refused there is better refused here,
// while an SVID that works is still at hand.
func parseResponse(resp *workload.X509SVIDResponse, choice choice, now time.Time) (*material, error) {
	if len(resp.GetSvids()) == 0 {
		return nil, errors.New("it holds no SVID (Workload API §5.2.1)")
	}
	chosen, err := choice.pick(resp.GetSvids())
	if err != nil {
		return nil, err
	}
	// ParseRaw also checks that the key belongs to the certificate. Its errors do not quote the key.
	svid, err := x509svid.ParseRaw(chosen.GetX509Svid(), chosen.GetX509SvidKey())
	if err != nil {
		return nil, fmt.Errorf("parse SVID of %q: %w", chosen.GetSpiffeId(), err)
	}
	if svid.ID.String() != chosen.GetSpiffeId() {
		return nil, fmt.Errorf("it is said to be for %q, its certificate is for %q", chosen.GetSpiffeId(), svid.ID)
	}
	svid.Hint = chosen.GetHint()
	bundle, err := parseBundle(svid.ID.TrustDomain(), chosen.GetBundle())
	if err != nil {
		return nil, err
	}
	// How long an SVID may live is for those to say who are shown it.
	verifier := NewVerifier(bundle, WithMaxLifetime(0), WithClock(func() time.Time { return now }))
	peer, err := verifier.Verify(svid.Certificates)
	if err != nil {
		return nil, fmt.Errorf("SVID of %q does not verify: %w", svid.ID, err)
	}
	m := &material{
		svid:     svid,
		serial:   peer.Serial,
		notAfter: peer.NotAfter,
		bundles:  map[spiffeid.TrustDomain]*x509bundle.Bundle{bundle.TrustDomain(): bundle},
	}
	m.addFederated(resp.GetFederatedBundles())
	m.authorities = authoritiesOf(m.bundles)
	return m, nil
}

// addFederated takes the bundles of other trust domains. One that is damaged is left out, so that its domain is not trusted; it
// does not take the others down with it.
func (m *material) addFederated(federated map[string][]byte) {
	own := m.svid.ID.TrustDomain()
	for name, der := range federated {
		td, err := spiffeid.TrustDomainFromString(name)
		if err == nil && td == own {
			err = errors.New("it is for the own trust domain, whose bundle comes with the SVID")
		}
		var bundle *x509bundle.Bundle
		if err == nil {
			bundle, err = parseBundle(td, der)
		}
		if err != nil {
			m.refused = append(m.refused, fmt.Errorf("federated bundle %q: %w", name, err))
			continue
		}
		m.bundles[td] = bundle
	}
}

func parseBundle(td spiffeid.TrustDomain, der []byte) (*x509bundle.Bundle, error) {
	bundle, err := x509bundle.ParseRaw(td, der)
	if err != nil {
		return nil, fmt.Errorf("parse bundle of trust domain %q: %w", td, err)
	}
	if err := checkAuthorities(bundle.X509Authorities()); err != nil {
		return nil, fmt.Errorf("trust domain %q: %w", td, err)
	}
	return bundle, nil
}

// sameBundles reports whether two responses trust the same authorities.
func (m *material) sameBundles(other *material) bool {
	if len(m.bundles) != len(other.bundles) {
		return false
	}
	for td, bundle := range m.bundles {
		o, ok := other.bundles[td]
		if !ok || !slices.EqualFunc(bundle.X509Authorities(), o.X509Authorities(), (*x509.Certificate).Equal) {
			return false
		}
	}
	return true
}

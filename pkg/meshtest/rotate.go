package meshtest

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Rotate sends a workload a new SVID and the bundles as they are now, and waits until it uses them.
func (m *Mesh) Rotate(t testing.TB, workload string, templates ...Template) {
	t.Helper()
	m.rotate(t, m.process(t, workload), templates...)
}

// RotateAuthority gives the mesh's own trust domain a new authority: every workload is sent the bundle with the new root, and only then
// SVIDs that it signed (SPIFFE Trust Domain and Bundle §4). The roots before it stay in the bundle until CA.Retire and the next Rotate of
// each workload that is to know.
func (m *Mesh) RotateAuthority(t testing.TB, templates ...Template) {
	t.Helper()
	m.ca.NewRoot(t, templates...)
	processes := m.snapshot()
	for _, w := range processes {
		m.publish(t, w)
	}
	for _, w := range processes {
		if w.id.TrustDomain() == m.ca.TrustDomain() {
			m.rotate(t, w)
		}
	}
}

// Federate makes the mesh's own trust domain and another trust each other's authority, waits until every workload of both knows, and
// returns the other's. Until then its workloads are strangers.
func (m *Mesh) Federate(t testing.TB, trustDomain string) *CA {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("trust domain %q: %v", trustDomain, err)
	}
	m.mu.Lock()
	m.federated[td] = true
	ca := m.caOf(t, td)
	m.mu.Unlock()
	for _, w := range m.snapshot() {
		m.publish(t, w)
	}
	return ca
}

func (m *Mesh) rotate(t testing.TB, w *process, templates ...Template) {
	t.Helper()
	m.mu.Lock()
	ca := m.caOf(t, w.id.TrustDomain())
	m.mu.Unlock()
	w.mu.Lock()
	w.svid = ca.SVID(t, w.id.Path(), templates...)
	w.mu.Unlock()
	m.publish(t, w)
}

// publish sends a workload its SVID and the bundles as they are now, and waits until it uses them.
func (m *Mesh) publish(t testing.TB, w *process) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	m.mu.Lock()
	own, others := m.bundles(t, w.id.TrustDomain())
	m.mu.Unlock()
	w.api.Grant(t, w.svid, own, others...)
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		changed := w.source.Changed()
		if w.uses(append(others, own)) {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("%s did not take its new SVID and bundles into use; its identity is %s", w.id, w.source.Status())
		}
	}
}

// uses reports whether a workload has its SVID and these bundles. The caller holds mu.
func (w *process) uses(bundles []*x509bundle.Bundle) bool {
	svid, err := w.source.GetX509SVID()
	if err != nil || !svid.Certificates[0].Equal(w.svid.Certificates[0]) {
		return false
	}
	for _, want := range bundles {
		if got, err := w.source.GetX509BundleForTrustDomain(want.TrustDomain()); err != nil || !got.Equal(want) {
			return false
		}
	}
	return true
}

// snapshot returns the workloads that there are.
func (m *Mesh) snapshot() []*process {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*process
	for _, w := range m.processes {
		all = append(all, w)
	}
	return all
}

// caOf returns the authority of a trust domain, made at its first use. The caller holds mu.
func (m *Mesh) caOf(t testing.TB, td spiffeid.TrustDomain) *CA {
	t.Helper()
	if _, ok := m.cas[td]; !ok {
		m.cas[td] = NewCA(t, td.Name())
	}
	return m.cas[td]
}

// bundles returns what a workload of a trust domain is sent: its own domain's bundle, and those of the domains that it is federated
// with. The caller holds mu.
func (m *Mesh) bundles(t testing.TB, td spiffeid.TrustDomain) (own *x509bundle.Bundle, others []*x509bundle.Bundle) {
	t.Helper()
	for other := range m.federated {
		if td == m.ca.TrustDomain() {
			others = append(others, m.caOf(t, other).Bundle())
		}
		if td == other {
			others = append(others, m.ca.Bundle())
		}
	}
	return m.caOf(t, td).Bundle(), others
}

package story

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const knockTimeout = 5 * time.Second

// strangers: who has no SVID of this trust domain is told nothing, and gets no chance to say which method it wants.
func (p *player) strangers(ctx context.Context) error {
	target, err := p.target("ledger")
	if err != nil {
		return err
	}
	svid, err := p.operator.GetX509SVID()
	if err != nil {
		return err
	}
	selfSigned, foreign, err := forgeries(p.id("payments"))
	if err != nil {
		return err
	}
	own := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	for _, caller := range []struct {
		who  string
		cert *tls.Certificate
		let  bool
	}{
		{"the operator, to show that this knocks at the right door,", &own, true},
		{"a caller with no certificate", nil, false},
		{"a self-signed certificate that claims " + p.id("payments"), &selfSigned, false},
		{"a certificate of another trust domain's authority, spiffe://evil.test/payments,", &foreign, false},
	} {
		let, how, err := p.knock(ctx, target.Address, caller.cert)
		if err != nil {
			return err
		}
		verdict := "is refused in the handshake"
		if caller.let {
			verdict = "is let in"
		}
		p.check(let == caller.let, caller.who+" "+verdict, how)
		if !let {
			p.note("%s", how)
		}
	}
	return nil
}

// knock opens a TLS connection to a server as a stock client does, and reports whether the server let it in and what it said. In TLS
// 1.3 a client ends its part of the handshake before the server has seen its certificate (RFC 8446 §2), so only what comes
// next tells: the first bytes of HTTP/2, or an alert.
func (p *player) knock(ctx context.Context, address string, cert *tls.Certificate) (let bool, how string, err error) {
	bundle, err := p.operator.GetX509BundleForTrustDomain(p.operator.ID().TrustDomain())
	if err != nil {
		return false, "", err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: "ledger", RootCAs: x509.NewCertPool()}
	for _, authority := range bundle.X509Authorities() {
		config.RootCAs.AddCert(authority)
	}
	if cert != nil {
		// A stock client would hold back a certificate that the server does not ask for; an attacker does not.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(knockTimeout)) // a connection that has no deadlines would fail to read too
		_, err = io.ReadFull(conn, make([]byte, 1))
		err = errors.Join(err, ignoreClosed(conn.Close()))
	}
	if err == nil {
		return true, "the server speaks HTTP/2", nil
	}
	return false, err.Error(), notRefused(address, err)
}

// notRefused returns an error unless err is the server's refusal: its alert, or the end of the connection that follows one.
func notRefused(address string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return fmt.Errorf("knock at %s: %w", address, err)
}

// ignoreClosed leaves out that a connection which the server ended cannot say goodbye.
func ignoreClosed(err error) error {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return nil
	}
	return err
}

// forgeries makes, in memory, what an attacker can make: a certificate for id that vouches for itself, and an authority of
// another trust domain with a certificate of its own.
func forgeries(id string) (selfSigned, foreign tls.Certificate, err error) {
	selfSigned, err = issue(id, nil)
	if err != nil {
		return selfSigned, foreign, err
	}
	authority, err := issue("spiffe://evil.test", nil)
	if err != nil {
		return selfSigned, foreign, err
	}
	foreign, err = issue("spiffe://evil.test/payments", &authority)
	return selfSigned, foreign, err
}

// issue makes a certificate for id. Without an issuer it signs itself; for an ID without a path it is an authority's.
func issue(id string, issuer *tls.Certificate) (tls.Certificate, error) {
	subject, err := spiffeid.FromString(id)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "attacker"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{subject.URL()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if subject.Path() == "" {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// Package edge is the TLS of a mesh's edge, where the devices of customers connect, over gRPC or HTTP: with certificates of a device authority, which has
// nothing to do with the identities of workloads.
//
// TLSConfig verifies them, Conns knows the connections of each, and cuts those of a device that is revoked. CertFile is the edge's own certificate.
package edge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

type options struct {
	optional bool
	conns    *Conns
	revoked  Revocations
}

// Option changes a default of TLSConfig.
type Option func(*options)

// WithOptionalCertificate lets clients in that have no certificate, such as those that are to get their first one. One that they show is verified all the
// same.
func WithOptionalCertificate() Option { return func(o *options) { o.optional = true } }

// WithConns has a Conns know whose connections its listener has accepted.
func WithConns(c *Conns) Option { return func(o *options) { o.conns = c } }

// WithRevocations refuses devices whose certificates are revoked.
func WithRevocations(r Revocations) Option { return func(o *options) { o.revoked = r } }

// Revocations is a set of certificates that are not believed any more. A *userauth.Revocations is one.
type Revocations interface {
	// Certificate reports whether a certificate is revoked, by its serial number in lower-case hexadecimal.
	Certificate(serial string) bool
	// Changed returns a channel that is closed when the set changes.
	Changed() <-chan struct{}
}

// TLSConfig returns the TLS of the edge, for gRPC and HTTP. server is the edge's own certificate, clients are the authorities of devices; both are asked
// at each handshake. While clients returns nil no client with a certificate is let in.
//
// Versions below 1.3 are not spoken, and no session is resumed: the other end is verified at each connection, and proves that it has the key.
func TLSConfig(server func() (*tls.Certificate, error), clients func() *x509.CertPool, opts ...Option) *tls.Config {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return server() },
		// It is never used: GetConfigForClient has another one for each handshake. Nil would be the authorities of the web.
		ClientCAs: x509.NewCertPool(),
	}
	if o.optional {
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	handshake := config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		this := handshake.Clone()
		if authorities := clients(); authorities != nil {
			this.ClientCAs = authorities
		}
		this.VerifyConnection = func(state tls.ConnectionState) error { return o.verify(hello, state) }
		return this, nil
	}
	return config
}

// verify looks at what crypto/tls leaves open. When it runs, the client has not proven yet that it has the key of the certificate: what it
// notes of the connection serves only to cut it.
func (o *options) verify(hello *tls.ClientHelloInfo, state tls.ConnectionState) error {
	if state.Version != tls.VersionTLS13 || state.DidResume {
		return errors.New("the connection is not a new one of TLS 1.3")
	}
	if len(state.PeerCertificates) == 0 && o.optional {
		return nil
	}
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return errors.New("the client's certificate was not verified")
	}
	cert := state.PeerCertificates[0]
	if err := checkLeaf(cert); err != nil {
		return fmt.Errorf("the client's certificate: %w", err)
	}
	if o.conns != nil {
		o.conns.identify(hello.Conn, cert)
	}
	// Looked at last: what is revoked from now on finds the connection in conns.
	if o.revoked != nil && o.revoked.Certificate(serialOf(cert)) {
		return errors.New("the client's certificate is revoked")
	}
	return nil
}

// checkLeaf fails for a certificate that is not one of a device. To crypto/x509, one that names no use is good for all.
func checkLeaf(cert *x509.Certificate) error {
	switch {
	case cert.IsCA:
		return errors.New("it is an authority's")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return errors.New("its extended key usage is not clientAuth (RFC 5280 §4.2.1.12)")
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage is not digitalSignature (RFC 5280 §4.2.1.3)")
	case cert.SerialNumber.Sign() <= 0:
		return errors.New("its serial number is not positive (RFC 5280 §4.1.2.2)")
	}
	return nil
}

// serialOf is a serial number in lower-case hexadecimal.
func serialOf(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }

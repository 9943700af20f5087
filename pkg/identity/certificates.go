package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// checkAuthorities fails when one of a bundle's certificates is no signing certificate.
func checkAuthorities(roots []*x509.Certificate) error {
	for i, cert := range roots {
		if err := checkAuthority(cert); err != nil {
			return fmt.Errorf("bundle refused, certificate %d: %w", i, err)
		}
	}
	return nil
}

func checkAuthority(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return errors.New("is not a CA")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("is a CA without keyCertSign")
	}
	return nil
}

func hasUsage(cert *x509.Certificate, usage x509.ExtKeyUsage) bool {
	return slices.Contains(cert.ExtKeyUsage, usage)
}

// uriNames returns the URI SANs of a certificate byte for byte as they were signed (RFC 5280 §4.2.1.6).
func uriNames(cert *x509.Certificate) ([]string, error) {
	const uriTag = 6
	var uris []string
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil {
			return nil, fmt.Errorf("parse subject alternative name: %w", err)
		} else if len(rest) != 0 {
			return nil, errors.New("parse subject alternative name: trailing data")
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

func earliestExpiry(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The extensions whose form the standard lays down, by their number under id-ce (RFC 5280 §4.2.1.3 and §4.2.1.6).
const (
	keyUsageExtension        = 15
	alternativeNameExtension = 17
)

// checkAuthorities fails when one of a bundle's certificates is no signing certificate, or is one that names a workload.
func checkAuthorities(roots []*x509.Certificate) error {
	for i, cert := range roots {
		err := checkAuthority(cert)
		if err == nil {
			err = checkNamesNoWorkload(cert)
		}
		if err != nil {
			return fmt.Errorf("bundle refused, certificate %d: %w", i, err)
		}
	}
	return nil
}

// checkNamesNoWorkload fails when a signing certificate has a SPIFFE ID with a path. The standard's own example has the root path
// (Trust Domain and Bundle, appendix A), which names no workload either.
func checkNamesNoWorkload(cert *x509.Certificate) error {
	for _, uri := range cert.URIs {
		if uri.Scheme == "spiffe" && uri.Path != "" && uri.Path != "/" {
			return fmt.Errorf("is a CA whose ID %q has a path", uri)
		}
	}
	return nil
}

func checkAuthority(cert *x509.Certificate) error {
	switch {
	case cert == nil:
		return errors.New("is missing")
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

// markedCritical reports whether a certificate's extension, if it is there, is marked critical.
func markedCritical(cert *x509.Certificate, number int) bool {
	for _, ext := range cert.Extensions {
		if isExtension(ext.Id, number) {
			return ext.Critical
		}
	}
	return true
}

// isExtension reports whether an identifier is that of an extension of RFC 5280, which are all under id-ce.
func isExtension(id asn1.ObjectIdentifier, number int) bool {
	return len(id) == 4 && id[0] == 2 && id[1] == 5 && id[2] == 29 && id[3] == number
}

// uriNames returns the URI SANs of a certificate byte for byte as they were signed (RFC 5280 §4.2.1.6).
func uriNames(cert *x509.Certificate) ([]string, error) {
	const uriTag = 6
	var uris []string
	for _, ext := range cert.Extensions {
		if !isExtension(ext.Id, alternativeNameExtension) {
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

package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"time"
)

// issued is a certificate with its authority and its key.
type issued struct {
	root, leaf, key []byte
	end             time.Time
}

// issue makes an authority, has it sign one certificate, and forgets its key: whoever comes to read what is in the directory can show that one
// certificate, and make no other. What it may sign is bounded too (RFC 5280 §4.2.1.10), for those who put it among the roots of a whole browser.
func issue(now time.Time) (issued, error) {
	hosts, addresses := names()
	end := now.Add(lifetime)
	authority := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Countersign edge " + now.UTC().Format(time.DateOnly)}, NotBefore: now.Add(-backdate), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: hosts, PermittedIPRanges: single(addresses),
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway.bank.test"}, NotBefore: authority.NotBefore, NotAfter: end, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: hosts, IPAddresses: addresses,
	}
	made, err := sign(authority, leaf)
	if err != nil {
		return issued{}, fmt.Errorf("issue the edge's certificate: %w", err)
	}
	made.end = end
	return made, nil
}

func sign(authority, leaf *x509.Certificate) (issued, error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued{}, err
	}
	// Without a serial number crypto/x509 chooses one (RFC 5280 §4.1.2.2).
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	if err != nil {
		return issued{}, err
	}
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		return issued{}, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	if err != nil {
		return issued{}, err
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return issued{}, err
	}
	return issued{root: root, leaf: cert, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})}, nil
}

// single are the ranges that have one address each.
func single(addresses []net.IP) []*net.IPNet {
	var ranges []*net.IPNet
	for _, ip := range addresses {
		if four := ip.To4(); four != nil {
			ip = four
		}
		bits := 8 * len(ip)
		ranges = append(ranges, &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)})
	}
	return ranges
}
